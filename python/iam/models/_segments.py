"""Segments: a model run from one site to another, on one prompt.

A segment is a function of the activation at the site where it starts. The model below that site does not run: its blocks are
called one by one with what they were given besides the activations (positions, masks), which one pass of the model over
stand-ins for its blocks records, at the price of an embedding.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from iam.core.errors import ArgumentError, ShapeError, SiteError
from iam.core.lazy import native
from iam.core.sites import Site
from iam.models._hooks import StopForward

if TYPE_CHECKING:
    import torch

    from iam.models._language_model import LanguageModel

__all__ = ["LOGITS", "Prompt", "Tape"]

LOGITS = "logits"
"""The target after the last site: what the model says of the next token."""

_LOCKS: weakref.WeakKeyDictionary[Any, threading.RLock] = weakref.WeakKeyDictionary()
"""One for each model: its forward passes follow each other."""

_PROMPTS: weakref.WeakValueDictionary[int, Prompt] = weakref.WeakValueDictionary()
"""By the number that compiled programs know them by."""

_NUMBERS = itertools.count(1)


def _prompt(handle: int) -> Prompt:
    found = _PROMPTS.get(handle)
    if found is None:
        raise ArgumentError(f"iam.model.run: expected a model that is alive, got number {handle}")
    return found


def _matrix(y: Any) -> Any:
    """A torch result as the float32 matrix that programs take."""
    return y.detach().to("cpu").contiguous().numpy()


class _Host:
    """What compiled programs call."""

    @staticmethod
    def run(handle: int, h: Any, start: str, end: str, tokens: Any, positions: Any) -> Any:
        prompt = _prompt(handle)
        return _matrix(prompt.segment(prompt.seen(h), start, end, tokens, positions, tape=False))

    @staticmethod
    def linearize(handle: int, h: Any, start: str, end: str, tokens: Any, positions: Any) -> tuple[Any, Tape]:
        prompt = _prompt(handle)
        y, tape = prompt.segment(prompt.seen(h), start, end, tokens, positions, tape=True)
        return _matrix(y), tape

    @staticmethod
    def pullback(tape: Tape, dy: Any) -> Any:
        return _matrix(tape.pullback(dy))

    @staticmethod
    def rows(handle: int, given: int, positions: Any) -> int:
        prompt = _prompt(handle)
        length = prompt.shape[1]
        rows = prompt.rows if given < 0 else given
        return rows if positions is None else rows // length * len(positions)


class Tape:
    """A segment that ran with gradients recorded: any number of pullbacks."""

    __slots__ = ("_h", "_prompt", "_y")

    def __init__(self, prompt: Prompt, h: Any, y: Any) -> None:
        self._prompt = prompt
        self._h = h
        self._y = y

    def pullback(self, dy: Any) -> Any:
        """The transposed Jacobian of the segment times ``dy [rows, width]``: ``[rows, width]`` at its start."""
        torch = self._prompt._torch
        cotangent = self._prompt.seen(dy).reshape(self._y.shape).to(self._y)
        with self._prompt._lock, torch.enable_grad():
            (found,) = torch.autograd.grad(self._y, self._h, cotangent, retain_graph=True, allow_unused=True)
        if found is None:
            found = torch.zeros_like(self._h)
        return found.reshape(-1, found.shape[-1]).float()


class Prompt:
    """A language model together with a prompt: what :meth:`LanguageModel.on` returns.

    Give it to a function under :func:`iam.jit`, which then runs parts of the model, or call :meth:`run` yourself.
    """

    def __init__(self, model: LanguageModel, ids: torch.Tensor, mask: torch.Tensor) -> None:
        self._model = model
        self._torch = model._torch
        self._ids = ids
        self._mask = mask
        self._kept = mask != 0
        self._blocks: list[tuple[tuple[Any, ...], dict[str, Any]]] | None = None
        self._entries: dict[int, Any] = {}
        self._last: list[Any] = []
        self._lock = _LOCKS.setdefault(model.model, threading.RLock())
        self._handle: int | None = None
        self._weights: tuple[Any, ...] | None = None

    @property
    def model(self) -> LanguageModel:
        """The model."""
        return self._model

    @property
    def tokens(self) -> torch.Tensor:
        """Token ids ``[batch, position]``."""
        return self._ids

    @property
    def rows(self) -> int:
        """Positions of all sequences: the rows of an activation."""
        return int(self._ids.numel())

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(batch, position, d_model)``."""
        return (int(self._ids.shape[0]), int(self._ids.shape[1]), self._model.d_model)

    # What iam.jit asks of an argument that is a prompt.

    def __iam_handle__(self) -> int:
        """The number by which compiled programs know it."""
        if self._handle is None:
            native().set_model_host(_Host.run, _Host.linearize, _Host.pullback, _Host.rows)
            self._handle = next(_NUMBERS)
            _PROMPTS[self._handle] = self
        return self._handle

    @property
    def signature(self) -> tuple[Any, ...]:
        """Equal for prompts that programs can take for each other: those of models of one shape."""
        model = self._model
        widths = tuple((site.kind, model.width(site)) for site in model.sites() if site.layer == 0)
        return (model.family.name, model.n_layers, model.d_model, int(model._config.vocab_size), widths)

    @property
    def like(self) -> Any:
        """A tensor of the kind that results are."""
        return self._torch.empty(0)

    def seen(self, memory: Any) -> Any:
        """A program's memory as a tensor, without a copy; the program's, so it is only read."""
        if memory is None:
            return None
        return self._torch.from_numpy(np.asarray(memory))

    def __repr__(self) -> str:
        return f"Prompt({self._model.name!r}, {self.shape[0]} x {self.shape[1]} tokens)"

    # ------------------------------------------------------------------------------------------------------------- run

    def run(
        self,
        h: Any = None,
        *,
        from_: Site | str | None = None,
        to: Site | str,
        tokens: Sequence[int] | None = None,
        positions: Sequence[int] | None = None,
    ) -> Any:
        """The activation at `to`, when the activation at `from_` is `h`.

        Args:
            h: ``[batch, position, width]``, or ``[n·batch, position, width]`` for n variants of the prompt. Without it the
                model runs from the tokens.
            from_: The site of `h`. What the model computes before it stays as the prompt makes it: from ``mlp_out.3``, the
                residual stream that block 3 adds to is the prompt's.
            to: A site after it, or ``"logits"``.
            tokens: Of the logits, these columns only: no other is computed.
            positions: These tokens of each text only; negative ones count from its end. Padding does not count.

        Returns:
            ``[n·batch, position, width]`` float32; zero at padding. Differentiable in `h`, if it records gradients. In a
            function under :func:`iam.jit` the step is recorded, with activations as ``[rows, width]``.

        Raises:
            SiteError: a site that the model does not have, or `to` does not come after `from_`.
            ShapeError: `h` does not fit the prompt.
            ArgumentError: a token or position out of range, or a program is attached to the model.

        >>> prompt = LanguageModel("smollm2").on("The capital of France is")              # doctest: +SKIP
        >>> h = prompt.run(to="resid_post.20")                                            # doctest: +SKIP
        >>> prompt.run(h, from_="resid_post.20", to="logits", positions=[-1]).argmax()    # doctest: +SKIP
        """
        trace = getattr(h, "__iam_trace__", None)
        if trace is not None:
            return trace.run_segment(self, h, from_=from_, to=to, tokens=tokens, positions=positions)
        start, end, tokens, positions = self.check(h is not None, from_, to, tokens, positions)
        if h is None:
            return self._run(None, None, end, tokens, positions, grad=False)
        h = self._torch.as_tensor(h)
        grad = bool(h.requires_grad) and self._torch.is_grad_enabled()
        return self._run(self._batched(h, start), start, end, tokens, positions, grad=grad)

    def check(
        self,
        has_input: bool,
        from_: Site | str | None,
        to: Site | str,
        tokens: Sequence[int] | None,
        positions: Sequence[int] | None,
    ) -> tuple[Site | None, Site | None, list[int] | None, list[int] | None]:
        """The arguments of :meth:`run`, checked: start, end (None: the logits), tokens, positions."""
        start = None if from_ is None else self._model.site(from_)
        end = None if to == LOGITS else self._model.site(to)
        if has_input != (start is not None):
            raise ArgumentError(
                "Prompt.run: expected an activation h together with its site from_, or neither of them, got "
                + (f"from_={start} without h" if start is not None else "h without from_")
            )
        if start is not None and end is not None and not start < end:
            raise SiteError(f"Prompt.run: expected to={end} to come after from_={start}")
        if tokens is not None:
            if end is not None:
                raise ArgumentError(f'Prompt.run: tokens choose columns of the logits; expected to="logits", got {end}')
            tokens = [int(token) for token in tokens]
            vocabulary = int(self._model._config.vocab_size)
            wrong = [token for token in tokens if not 0 <= token < vocabulary]
            if wrong or not tokens:
                raise ArgumentError(f"Prompt.run: expected tokens in 0..{vocabulary - 1}, got {wrong or 'none'}")
        if positions is not None:
            positions = [int(position) for position in positions]
            shortest = int(self._kept.sum(1).min())
            wrong = [position for position in positions if not -shortest <= position < shortest]
            if wrong or not positions:
                raise ArgumentError(
                    f"Prompt.run: expected positions in {-shortest}..{shortest - 1} (tokens of the shortest text), got "
                    f"{wrong or 'none'}"
                )
        return start, end, tokens, positions

    def width_at(self, end: Site | None, tokens: Sequence[int] | None) -> int:
        """Number of columns of a result."""
        if end is not None:
            return self._model.width(end)
        return int(self._model._config.vocab_size) if tokens is None else len(tokens)

    def _batched(self, h: Any, start: Site | None) -> Any:
        """``h`` as ``[n·batch, position, width]``."""
        assert start is not None
        batch, length, _ = self.shape
        width = self._model.width(start)
        if h.dim() == 2 and h.shape[0] and h.shape[0] % (batch * length) == 0:
            h = h.reshape(-1, length, h.shape[1])
        if h.dim() != 3 or h.shape[1] != length or h.shape[2] != width or h.shape[0] % batch or not h.shape[0]:
            raise ShapeError(
                f"Prompt.run: expected h of shape [n·{batch}, {length}, {width}] at {start}, got {tuple(h.shape)}"
            )
        return h

    # ---------------------------------------------------------------------------------------------- called by programs

    def segment(self, h: Any, start: str, end: str, tokens: Any, positions: Any, *, tape: bool) -> Any:
        """What compiled programs call: `h` and the result are ``[rows, width]``; with `tape` also a :class:`Tape`."""
        site, to, tokens, positions = self.check(h is not None, start or None, end, tokens, positions)
        if h is None:
            y = self._run(None, None, to, tokens, positions, grad=False)
            return y.reshape(-1, y.shape[-1])
        h = self._batched(h, site)
        if not tape:
            y = self._run(h, site, to, tokens, positions, grad=False)
            return y.reshape(-1, y.shape[-1])
        h = h.detach().clone().requires_grad_()
        with self._lock, self._frozen():
            y = self._run(h, site, to, tokens, positions, grad=True)
        # The tape keeps its own: the program may write over what it is given.
        return y.detach().clone().reshape(-1, y.shape[-1]), Tape(self, h, y)

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        """Nobody asks for derivatives by weights: what these need is not kept."""
        weights = [p for p in self._model.model.parameters() if p.requires_grad]
        try:
            for weight in weights:
                weight.requires_grad_(False)
            yield
        finally:
            for weight in weights:
                weight.requires_grad_(True)

    # ----------------------------------------------------------------------------------------------------- one segment

    def _run(self, h: Any, start: Site | None, end: Site | None, tokens: Any, positions: Any, *, grad: bool) -> Any:
        torch = self._torch
        with self._lock, ExitStack() as stack:
            model = self._model
            if model._hooks.editing:
                raise ArgumentError(
                    "Prompt.run: programs are attached to this model, and segments run the model as it is. Leave the `with "
                    "model.attach(...)` block first"
                )
            if model.model.training:
                model.model.eval()
                stack.callback(model.model.train)
            stack.enter_context(torch.set_grad_enabled(grad))
            weights = tuple((p.data_ptr(), p._version) for p in model.model.parameters())
            if weights != self._weights:  # what was kept is of older ones
                self._weights = weights
                self._blocks = None
                self._entries.clear()
            y = self._through(self._entry(0), 0, end) if h is None else self._from_site(h, start, end)
            if positions is not None:
                y = self._at(y, positions)
            y = self._unembed(y, tokens) if end is None else y.float()
            if positions is None:
                y = self._without_padding(y)
            # From one block's end to the next one's start nothing is computed. A result is new memory nevertheless: programs
            # write over it.
            if h is not None and y.untyped_storage().data_ptr() == h.untyped_storage().data_ptr():
                y = y.clone()
            return y

    def _from_site(self, h: Any, start: Site | None, end: Site | None) -> Any:
        assert start is not None
        body = next(self._model._body.parameters())
        h = h.to(device=body.device, dtype=body.dtype)
        if not bool(self._kept.all()):
            copies = h.shape[0] // self._ids.shape[0]
            h = h * self._kept.repeat(copies, 1)[..., None].to(h)
        if start.kind == "resid_pre":
            return self._through(h, start.layer, end)
        if start.kind == "resid_post":
            return self._through(h, start.layer + 1, end)
        # Inside of a block: the block runs on what the prompt gives it, with the activation replaced.
        entry = self._entry(start.layer)
        copies = h.shape[0] // entry.shape[0]
        entry = entry.repeat(copies, 1, 1)
        module, where = self._model._locate(start)
        done = False

        def swap(value: Any) -> Any:
            nonlocal done
            if done:
                return value
            done = True
            return h

        if where.end == "output":

            def after(_module: Any, _args: Any, output: Any) -> Any:
                return (swap(output[0]), *output[1:]) if isinstance(output, tuple) else swap(output)

            handle = module.register_forward_hook(after)
        else:

            def before(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                hidden = args[0] if args else kwargs["hidden_states"]
                if where.in_place:
                    hidden.copy_(swap(hidden))
                    return None
                if args:
                    return (swap(hidden), *args[1:]), kwargs
                return args, {**kwargs, "hidden_states": swap(hidden)}

            handle = module.register_forward_pre_hook(before, with_kwargs=True)
        try:
            return self._through(entry, start.layer, end)
        finally:
            handle.remove()

    def _through(self, hidden: Any, first: int, end: Site | None) -> Any:
        """From the input of block `first` to `end`; None: to the last block's output."""
        model = self._model
        if end is not None and end.kind == "resid_pre" and end.layer == first:
            return hidden
        found: list[Any] = []
        handle = None
        last = len(model._blocks) - 1
        if end is not None:
            last = end.layer - 1 if end.kind == "resid_pre" else end.layer
            if end.kind not in ("resid_pre", "resid_post"):
                module, where = model._locate(end)

                def stop(value: Any) -> None:
                    found.append(value)
                    raise StopForward

                if where.end == "output":
                    handle = module.register_forward_hook(
                        lambda _module, _args, output: stop(output[0] if isinstance(output, tuple) else output)
                    )
                else:
                    handle = module.register_forward_pre_hook(
                        lambda _module, args, kwargs: stop(args[0] if args else kwargs["hidden_states"]),
                        with_kwargs=True,
                    )
        try:
            for layer in range(first, last + 1):
                hidden = self._call(layer, hidden)
        except StopForward:
            return found[0]
        finally:
            if handle is not None:
                handle.remove()
        return hidden

    def _call(self, layer: int, hidden: Any) -> Any:
        """One block."""
        others, keywords = self._recorded()[layer]
        batch = int(self._ids.shape[0])
        copies = hidden.shape[0] // batch
        if copies > 1 and batch > 1:  # batches of 1 are broadcast
            others, keywords = self._repeated((others, keywords), batch, copies)
        output = self._model._blocks[layer](hidden, *others, **keywords)
        return output[0] if isinstance(output, tuple) else output

    def _repeated(self, value: Any, batch: int, copies: int) -> Any:
        if isinstance(value, self._torch.Tensor):
            if value.dim() > 1 and value.shape[0] == batch:
                return value.repeat(copies, *[1] * (value.dim() - 1))
            return value
        if isinstance(value, (tuple, list)):
            return type(value)(self._repeated(item, batch, copies) for item in value)
        if isinstance(value, dict):
            return {name: self._repeated(item, batch, copies) for name, item in value.items()}
        return value

    def _entry(self, layer: int) -> Any:
        """What the prompt gives block `layer`: ``[batch, position, d_model]``; kept."""
        self._recorded()
        if layer not in self._entries:
            below = max(known for known in self._entries if known <= layer)
            with self._torch.no_grad():
                hidden = self._entries[below]
                for number in range(below, layer):
                    hidden = self._call(number, hidden)
            self._entries[layer] = hidden
        # blocks may write into what they are given
        return self._entries[layer].clone()

    def _recorded(self) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """What each block is given besides activations: one pass over stand-ins for the blocks."""
        if self._blocks is not None:
            return self._blocks
        torch = self._torch
        model = self._model
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        entered: list[Any] = []
        is_tuple: list[bool] = []

        class StandIn(torch.nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self, block: Any) -> None:
                super().__init__()
                object.__setattr__(self, "block", block)

            def __getattr__(self, name: str) -> Any:  # models ask their blocks for types of attention
                return getattr(object.__getattribute__(self, "block"), name)

            def forward(self, *args: Any, **keywords: Any) -> Any:
                hidden, others = (args[0], args[1:]) if args else (keywords.pop("hidden_states"), ())
                calls.append((others, dict(keywords)))
                if len(calls) == 1:
                    entered.append(hidden)
                    # once for real: whether blocks return a tensor or a tuple differs
                    is_tuple.append(isinstance(self.block(hidden.clone(), *others, **keywords), tuple))
                return (hidden,) if is_tuple[0] else hidden

        after: list[Any] = []
        blocks = list(model._blocks)
        handles = []
        for child in model._body.children():
            if child is not model._blocks:

                def note(module: Any, _args: Any) -> None:
                    if len(calls) == len(blocks):
                        after.append(module)

                handles.append(child.register_forward_pre_hook(note))
        try:
            for i, block in enumerate(blocks):
                model._blocks[i] = StandIn(block)
            with torch.no_grad():
                model._body(**model._arguments(self._ids, self._mask))
        finally:
            for i, block in enumerate(blocks):
                model._blocks[i] = block
            for handle in handles:
                handle.remove()
        self._last = after
        self._entries[0] = entered[0].detach()
        self._blocks = calls
        return calls

    def _unembed(self, y: Any, tokens: Any) -> Any:
        """Logits of the last block's output."""
        self._recorded()
        for module in self._last:
            y = module(y)
        head = self._model.model.get_output_embeddings()
        if tokens is None:
            logits = head(y).float()
        else:
            weight = head.weight[tokens]
            bias = None if getattr(head, "bias", None) is None else head.bias[tokens]
            logits = self._torch.nn.functional.linear(y, weight, bias).float()
        cap = getattr(self._model._config, "final_logit_softcapping", None)
        return logits if cap is None else self._torch.tanh(logits / cap) * cap

    def _at(self, y: Any, positions: Sequence[int]) -> Any:
        """These positions of each text; padding does not count."""
        torch = self._torch
        counts = self._kept.sum(1, keepdim=True)
        wanted = torch.tensor(positions, device=counts.device)[None]
        wanted = torch.where(wanted < 0, counts + wanted, wanted)  # [batch, positions]: which token
        order = torch.argsort((~self._kept).to(torch.int8), dim=1, stable=True)  # tokens first
        columns = order.gather(1, wanted).repeat(y.shape[0] // counts.shape[0], 1).to(y.device)
        return y.gather(1, columns[..., None].expand(-1, -1, y.shape[-1]))

    def _without_padding(self, y: Any) -> Any:
        if bool(self._kept.all()):
            return y
        return y * self._kept.repeat(y.shape[0] // self._kept.shape[0], 1)[..., None].to(y)
