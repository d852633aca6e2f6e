"""Rows to train on: streams of activations, a cache of them on disk, and the buffer that mixes them.

A *stream* yields blocks of aligned rows, one tensor for each site, for ever or until it ends, and can be put back to where it
was. Everything follows from the seed: the order of contexts and of shards is a permutation seeded with ``[seed, pass]``, and the
position is a few integers.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from iam.core.errors import ArgumentError, FormatError, NonFiniteError, ShapeError
from iam.formats._atomic import write_atomically
from iam.training._checkpoint import write_tensors
from iam.training._config import DataSettings

if TYPE_CHECKING:
    from iam.models import LanguageModel

__all__ = [
    "ArrayStream",
    "IteratorStream",
    "ModelStream",
    "RingBuffer",
    "ShardStream",
    "Stream",
    "contexts_of",
    "flat",
    "harvest",
]

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_BLOCK = 4096
_INDEX = "index.json"

Check = Callable[[], None]
"""Called between blocks; raises to stop."""


class Stream(Protocol):
    """Blocks of aligned rows."""

    def read(self) -> list[torch.Tensor] | None:
        """The next block, a tensor `[rows, width]` for each site, all with as many rows; None at the end."""

    def state(self) -> dict[str, Any]:
        """The position, as JSON can hold it."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go back, or on, to a position."""


@functools.lru_cache(maxsize=3)
def _order(seed: int, turn: int, count: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, turn]).permutation(count)


# ------------------------------------------------------------------------------------------------------------ streams


def _rows(value: Any, what: str) -> Any:
    """A checked array or tensor; a NumPy array stays one, so that a mapped file is not read as a whole."""
    array = value if isinstance(value, np.ndarray) else torch.as_tensor(value).detach().cpu()
    floating = array.dtype.kind == "f" if isinstance(array, np.ndarray) else array.is_floating_point()
    if array.ndim != 2 or not floating or 0 in array.shape:
        raise ShapeError(f"{what}: expected floats [rows, width], got {array.dtype} {tuple(array.shape)}")
    return array


def _tensor(array: Any) -> torch.Tensor:
    if isinstance(array, torch.Tensor):
        return array
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))  # a copy: the array may be read-only


def _aligned(block: Any, what: str) -> list[Any]:
    """The arrays of a block: one, or a list of them; a list in the list counts as its arrays."""
    found = [_rows(one, what) for one in flat(block)]
    if len({len(one) for one in found}) != 1:
        shapes = [tuple(one.shape) for one in found]
        raise ShapeError(f"{what}: expected as many targets as rows, and as many at each site, got {shapes}")
    return found


def flat(block: Any) -> Iterator[Any]:
    """The arrays of a block, one after the other."""
    if isinstance(block, (tuple, list)):
        for one in block:
            yield from flat(one)
    else:
        yield block


class ArrayStream:
    """Rows that are in memory, an array `[rows, width]` for each site; a new order on each pass."""

    def __init__(self, *arrays: Any, seed: int = 0) -> None:
        self._arrays = _aligned(arrays, "train: data")
        self._seed = seed
        self._turn, self._at = 0, 0

    @property
    def rows_per_pass(self) -> int:
        """Rows until they repeat."""
        return len(self._arrays[0])

    def read(self) -> list[torch.Tensor] | None:
        if self._at >= self.rows_per_pass:
            self._turn, self._at = self._turn + 1, 0
        chosen = np.sort(_order(self._seed, self._turn, self.rows_per_pass)[self._at : self._at + _BLOCK])
        self._at += _BLOCK
        return [_tensor(one[chosen]) for one in self._arrays]

    def state(self) -> dict[str, Any]:
        return {"turn": self._turn, "at": self._at}

    def restore(self, state: dict[str, Any]) -> None:
        self._turn, self._at = int(state["turn"]), int(state["at"])


class IteratorStream:
    """Whatever yields blocks: an array `[rows, width]`, or a list of them, one for each site. It may end.

    To resume, blocks that were used are read again and dropped: give an iterable that starts from the beginning and yields
    the same.
    """

    def __init__(self, blocks: Iterable[Any]) -> None:
        self._blocks = iter(blocks)
        self._used = 0

    def read(self) -> list[torch.Tensor] | None:
        block = next(self._blocks, None)
        if block is None:
            return None
        self._used += 1
        return [_tensor(one) for one in _aligned(block, f"train: block {self._used - 1} of data")]

    def state(self) -> dict[str, Any]:
        return {"used": self._used}

    def restore(self, state: dict[str, Any]) -> None:
        while self._used < int(state["used"]):
            if self.read() is None:
                raise ArgumentError(
                    f"train: expected data to yield at least the {state['used']} blocks that were used before, got "
                    f"{self._used}; to resume, give data that starts from the beginning"
                )


class ModelStream:
    """Activations of a model over contexts of tokens, all sites from one forward pass.

    Args:
        model: The model.
        contexts: Token ids `[contexts, context]`.
        sites: Their rows, in this order, are what :meth:`read` gives.
        settings: Which positions are dropped, and how many contexts a forward pass has.
        seed: Of the order of contexts; a new order on each pass.
    """

    def __init__(
        self,
        model: LanguageModel,
        contexts: npt.NDArray[Any],
        sites: Sequence[str],
        settings: DataSettings,
        *,
        seed: int = 0,
    ) -> None:
        self._model = model
        self._contexts = contexts
        self._sites = [model.site(site) for site in sites]
        self._settings = settings
        self._seed = seed
        self._turn, self._at = 0, 0
        self.sinks = 0
        """Rows dropped as attention sinks so far."""

    @property
    def rows_per_pass(self) -> int:
        """Rows until they repeat, sinks included."""
        return len(self._contexts) * (self._contexts.shape[1] - self._settings.drop_positions)

    @property
    def turn(self) -> int:
        """Passes over the contexts that are finished."""
        return self._turn + (self._at >= len(self._contexts))

    def read(self) -> list[torch.Tensor] | None:
        if self._at >= len(self._contexts):
            self._turn, self._at = self._turn + 1, 0
        size = self._settings.model_batch
        chosen = _order(self._seed, self._turn, len(self._contexts))[self._at : self._at + size]
        self._at += size
        ids = torch.from_numpy(np.asarray(self._contexts[np.sort(chosen)], dtype=np.int64))
        found = self._model.capture(ids, self._sites)
        rows = [found[site][:, self._settings.drop_positions :].flatten(0, 1).float().cpu() for site in self._sites]
        if self._settings.sink_factor is not None:
            norms = rows[0].norm(dim=1)
            keep = norms <= self._settings.sink_factor * norms.median()
            dropped = int((~keep).sum())
            if dropped:
                self.sinks += dropped
                rows = [one[keep] for one in rows]
        return rows

    def state(self) -> dict[str, Any]:
        return {"turn": self._turn, "at": self._at, "sinks": self.sinks}

    def restore(self, state: dict[str, Any]) -> None:
        self._turn, self._at, self.sinks = int(state["turn"]), int(state["at"]), int(state["sinks"])


# ------------------------------------------------------------------------------------------------------------- tokens


def contexts_of(settings: DataSettings, model: LanguageModel) -> npt.NDArray[Any]:
    """Token ids `[contexts, context]` of the text or token file that the settings name.

    Raises:
        ArgumentError: no such file (``file-missing``), a file of another kind, or less than one context of tokens.
    """
    if settings.tokens is not None:
        return _token_file(Path(settings.tokens), settings.context)
    if not settings.text:
        raise ArgumentError("train: expected data.text or data.tokens in the configuration, got neither")
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise ArgumentError(f"train: {model.name} has no tokenizer; pass one to LanguageModel, or use data.tokens")
    end = tokenizer.eos_token_id
    bos = tokenizer.bos_token_id if settings.prepend_bos else None
    pieces: list[npt.NDArray[np.int32]] = []
    for document in _documents(settings.text):
        ids = tokenizer(document, add_special_tokens=False)["input_ids"]
        pieces.append(np.asarray([*ids, end] if end is not None else ids, dtype=np.int32))
    tokens = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int32)
    width = settings.context - (bos is not None)
    count = len(tokens) // width
    if count == 0:
        raise ArgumentError(
            f"train: expected at least {width} tokens (one context) in {', '.join(settings.text)}, got {len(tokens)}"
        )
    contexts = tokens[: count * width].reshape(count, width)
    if bos is not None:
        contexts = np.concatenate([np.full((count, 1), bos, dtype=np.int32), contexts], axis=1)
    return contexts


def _token_file(path: Path, context: int) -> npt.NDArray[Any]:
    if not path.is_file():
        raise ArgumentError(f"train: data.tokens: expected a .npy file, but there is no {path}", code="file-missing")
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise ArgumentError(f"train: data.tokens: expected a .npy file of integers: {path}: {error}") from error
    if not isinstance(tokens, np.ndarray) or tokens.dtype.kind not in "iu" or tokens.ndim not in (1, 2):
        raise ArgumentError(
            f"train: data.tokens: expected integers [tokens] or [contexts, context] in {path}, got "
            f"{getattr(tokens, 'dtype', type(tokens).__name__)} {getattr(tokens, 'shape', '')}"
        )
    if tokens.ndim == 1:
        count = len(tokens) // context
        tokens = tokens[: count * context].reshape(count, context)
    if 0 in tokens.shape:
        raise ArgumentError(
            f"train: data.tokens: expected at least one context of {context} tokens in {path}, got less"
        )
    return tokens


def _documents(files: Sequence[str]) -> Iterable[str]:
    for name in files:
        path = Path(name)
        if not path.is_file():
            raise ArgumentError(f"train: data.text: expected a file, but there is no {path}", code="file-missing")
        if path.suffix != ".jsonl":
            yield path.read_text(encoding="utf-8")
            continue
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    text = json.loads(line)["text"]
                except (json.JSONDecodeError, KeyError, TypeError) as error:
                    raise ArgumentError(f'{path}:{number}: expected JSON with a key "text": {error}') from error
                if not isinstance(text, str):
                    raise ArgumentError(f'{path}:{number}: expected "text" to be text, got {type(text).__name__}')
                yield text


# -------------------------------------------------------------------------------------------------------------- cache


def _stored(rows: torch.Tensor, dtype: str, what: str) -> torch.Tensor:
    """Rows as they are kept in memory and on disk, after a check that they fit."""
    if not bool(torch.isfinite(rows).all()):
        row, column = (~torch.isfinite(rows)).nonzero()[0].tolist()
        raise NonFiniteError(f"{what}: expected finite rows, got {float(rows[row, column])} at ({row}, {column})")
    if dtype == "float16" and float(rows.abs().max()) > 65504:
        raise ArgumentError(
            f"{what}: a value of size {float(rows.abs().max()):g} does not fit float16; set data.dtype to bfloat16"
        )
    return rows.to(DTYPES[dtype])


def _fingerprint(settings: DataSettings, model_name: str, seed: int) -> dict[str, Any]:
    """What the rows of a cache depend on."""
    files = [settings.tokens] if settings.tokens is not None else list(settings.text)
    digests = []
    for name in files:
        path = Path(name)
        if not path.is_file():
            raise ArgumentError(f"train: data: expected a file, but there is no {path}", code="file-missing")
        with path.open("rb") as file:
            digests.append(
                hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha(path)
            )
    names = ("context", "prepend_bos", "model_batch", "drop_positions", "sink_factor", "cache_rows", "dtype")
    return {"model": model_name, "files": digests, "seed": seed, **{name: getattr(settings, name) for name in names}}


def _sha(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def harvest(
    settings: DataSettings,
    model: Callable[[], LanguageModel],
    model_name: str,
    *,
    sites: Sequence[str] | None = None,
    seed: int = 0,
    check: Check | None = None,
    report: Callable[[int, int], None] | None = None,
) -> ShardStream:
    """The cache of the settings, after computing what of it is missing.

    Shards appear complete or not at all, and the index after them: whatever stops a harvest, the next one goes on behind the
    last shard. A cache that is complete is used without loading the model.

    Args:
        settings: ``cache`` names the folder.
        model: Called when the model is needed.
        model_name: What tells this model from others.
        sites: What the stream gives; by default the sites of the settings.
        seed: Of the order of contexts, and later of shards.
        check: Called after each forward pass; raises to stop.
        report: Called with rows done and rows wanted after each forward pass.

    Raises:
        ArgumentError: the folder holds a cache of other rows; the message says in what they differ.
    """
    assert settings.cache is not None
    folder = Path(settings.cache)
    sites = settings.sites if sites is None else sites
    wanted = _fingerprint(settings, model_name, seed)
    index = _read_index(folder)
    if index is None:
        stored = list(dict.fromkeys((*sites, *settings.cache_sites)))
        index = {"version": 1, "made_from": wanted, "sites": stored, "shards": [], "complete": False, "stream": None}
    made_from = index["made_from"]
    differing = [name for name in wanted if made_from.get(name) != wanted[name]]
    if differing:
        raise ArgumentError(
            f"train: data.cache: {folder} holds rows made with other settings: "
            + ", ".join(f"{name} was {made_from.get(name)!r}, is {wanted[name]!r}" for name in differing)
            + "; use another folder, or remove this one"
        )
    missing = [site for site in sites if site not in index["sites"]]
    if missing:
        raise ArgumentError(
            f"train: data.cache: {folder} holds {', '.join(index['sites'])}, not {', '.join(missing)}; use another folder, "
            "or list all sites in data.cache_sites when it is made"
        )
    if not index["complete"]:
        folder.mkdir(parents=True, exist_ok=True)
        loaded = model()
        stream = ModelStream(loaded, contexts_of(settings, loaded), index["sites"], settings, seed=seed)
        if index["stream"] is not None:
            stream.restore(index["stream"])
        total = min(settings.cache_rows or stream.rows_per_pass, stream.rows_per_pass)
        done = sum(shard["rows"] for shard in index["shards"])
        blocks: list[list[torch.Tensor]] = []
        held = 0
        while True:
            finished = stream.turn >= 1 or done + held >= total  # never more than one pass: rows would repeat
            if held and (held >= settings.shard_rows or finished):
                name = f"shard-{len(index['shards']):05d}.safetensors"
                tensors = {site: torch.cat([block[at] for block in blocks]) for at, site in enumerate(index["sites"])}
                write_tensors(folder / name, tensors)
                index["shards"].append({"file": name, "rows": held})
                index["stream"] = stream.state()
                done, held, blocks = done + held, 0, []
                _write_index(folder, index)
            if finished:
                break
            rows = stream.read()
            assert rows is not None
            blocks.append([_stored(one, settings.dtype, "train: data.cache") for one in rows])
            held += len(rows[0])
            if report is not None:
                report(done + held, total)
            if check is not None:
                check()
        index["complete"] = True
        _write_index(folder, index)
    return ShardStream(folder, sites, seed=seed)


def _write_index(folder: Path, index: dict[str, Any]) -> None:
    write_atomically(folder / _INDEX, (json.dumps(index, indent=1) + "\n").encode())


def _read_index(folder: Path) -> dict[str, Any] | None:
    path = folder / _INDEX
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            others = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))[:4]
            if others:
                raise ArgumentError(
                    f"train: data.cache: expected {folder} to be a cache or an empty folder, found {', '.join(others)}"
                )
        return None
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        shards = [(str(one["file"]), int(one["rows"])) for one in index["shards"]]
        if index["version"] != 1 or not isinstance(index["made_from"], dict) or not isinstance(index["sites"], list):
            raise ValueError("not an index of version 1")
        if any(Path(file).name != file for file, _ in shards):
            raise ValueError("a shard outside of the folder")
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: expected the index of a cache of activations: {error}") from error
    return dict(index)


class ShardStream:
    """Rows from a cache on disk; shards in a new order on each pass. Files are mapped, a block is read at a time."""

    def __init__(self, folder: Path, sites: Sequence[str], *, seed: int = 0) -> None:
        index = _read_index(folder)
        if index is None:
            raise FormatError(f"{folder}: expected a cache of activations with {_INDEX}", code="file-missing")
        self._folder, self._sites, self._seed = folder, list(sites), seed
        self._shards = [(str(one["file"]), int(one["rows"])) for one in index["shards"]]
        self._turn, self._shard, self._at = 0, 0, 0

    @property
    def rows_per_pass(self) -> int:
        """Rows until they repeat."""
        return sum(rows for _, rows in self._shards)

    def read(self) -> list[torch.Tensor] | None:
        from safetensors import SafetensorError, safe_open

        if self._shard >= len(self._shards):
            self._turn, self._shard = self._turn + 1, 0
        order = _order(self._seed, self._turn, len(self._shards))
        name, rows = self._shards[order[self._shard]]
        path = self._folder / name
        stop = min(rows, self._at + _BLOCK)
        try:
            with safe_open(path, framework="pt") as file:
                found = [file.get_slice(site)[self._at : stop] for site in self._sites]
        except (SafetensorError, OSError) as error:
            raise FormatError(f"{path}: expected a shard with {', '.join(self._sites)}: {error}") from error
        if any(len(one) != stop - self._at for one in found):
            raise FormatError(f"{path}: expected {rows} rows, got fewer", code="tensor-shape")
        self._at = stop
        if self._at >= rows:
            self._shard, self._at = self._shard + 1, 0
        return found

    def state(self) -> dict[str, Any]:
        return {"turn": self._turn, "shard": self._shard, "at": self._at}

    def restore(self, state: dict[str, Any]) -> None:
        self._turn, self._shard, self._at = int(state["turn"]), int(state["shard"]), int(state["at"])


# ------------------------------------------------------------------------------------------------------------- buffer


class RingBuffer:
    """A bounded set of rows that batches are drawn from without replacement.

    Rows lie where they were written; only an order of slots is shuffled. When a share of the slots was used, these are
    overwritten with new rows and the order of all slots is drawn anew, so old and new rows mix and nothing is copied.

    Args:
        stream: Where rows come from.
        rows: Slots.
        batch: Rows of a batch.
        refill: Share of the slots that may be used before they are refilled.
        dtype: ``bfloat16`` or ``float16``.
        seed: Of the orders.
        check: Called between blocks while filling; raises to stop, and the state stays that before the filling.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        rows: int,
        batch: int,
        refill: float = 0.5,
        dtype: str = "bfloat16",
        seed: int = 0,
        check: Check | None = None,
    ) -> None:
        self._stream, self._rows, self._batch, self._dtype = stream, rows, batch, dtype
        self._limit = min(rows, max(batch, math.ceil(rows * refill)))
        self._seed, self._check = seed, check
        self._store: list[torch.Tensor] = []
        self._pending: list[torch.Tensor] = []
        self._order = torch.empty(0, dtype=torch.long)
        self._at, self._fills, self._ended = 0, 0, False
        self._before: tuple[dict[str, Any], list[torch.Tensor]] | None = None

    def _fill(self, slots: torch.Tensor) -> int:
        """Write new rows into `slots`; how many there were."""
        done = 0
        while done < len(slots):
            if not self._pending or not len(self._pending[0]):
                block = self._stream.read()
                if block is None:
                    self._ended = True
                    break
                if not self._store:
                    self._store = [torch.zeros(self._rows, one.shape[1], dtype=DTYPES[self._dtype]) for one in block]
                widths, expected = [one.shape[1] for one in block], [one.shape[1] for one in self._store]
                if widths != expected:
                    raise ShapeError(f"train: expected blocks of width {expected} as the first, got {widths}")
                self._pending = [_stored(one, self._dtype, "train: data") for one in block]
                if self._check is not None:
                    self._check()
            take = min(len(slots) - done, len(self._pending[0]))
            for store, new in zip(self._store, self._pending, strict=True):
                store[slots[done : done + take]] = new[:take]
            self._pending = [one[take:] for one in self._pending]
            done += take
        return done

    def _refill(self) -> None:
        self._before = (self._stream.state(), list(self._pending))
        used = self._order[: self._at] if self._fills else torch.arange(self._rows)
        filled = used[: self._fill(used)]
        slots = torch.cat([self._order[self._at :], filled])
        self._order = slots[torch.from_numpy(_order(self._seed, self._fills, len(slots)))]
        self._at, self._fills, self._before = 0, self._fills + 1, None

    def prepare(self) -> None:
        """Fill it for the first time, if that was not done."""
        if not self._fills:
            self._refill()

    def sample(self, rows: int) -> list[torch.Tensor]:
        """Up to `rows` rows of those that are there, in float32; they stay."""
        self.prepare()
        return [store[self._order[:rows]].float() for store in self._store]

    def next(self) -> list[torch.Tensor] | None:
        """The next batch, float32 `[batch, width]` for each site; None when the stream ended and fewer rows are left."""
        self.prepare()
        if self._at + self._batch > self._limit and not self._ended:
            self._refill()
        if self._at + self._batch > len(self._order):
            return None
        chosen = self._order[self._at : self._at + self._batch]
        self._at += self._batch
        return [store[chosen].float() for store in self._store]

    def state(self, sites: Sequence[int] | None = None) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Position, and the rows held: for JSON and for a safetensors file. With `sites`, only the rows of these, by their
        place in a block: the state of a buffer that holds no others."""
        stream, pending = self._before or (self._stream.state(), self._pending)
        tensors = {"order": self._order}
        for name, held in (("rows", self._store), ("pending", pending)):
            chosen = held if sites is None or not held else [held[at] for at in sites]
            tensors |= {f"{name}.{at}": rows.contiguous() for at, rows in enumerate(chosen)}
        numbers = {
            "at": self._at,
            "fills": self._fills,
            "ended": self._ended and self._before is None,
            "stream": stream,
        }
        return numbers, tensors

    def restore(self, numbers: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Take the state of :meth:`state`."""

        def several(name: str) -> list[torch.Tensor]:
            count = sum(key.startswith(f"{name}.") for key in tensors)
            return [tensors[f"{name}.{at}"] for at in range(count)]

        self._store, self._pending, self._order = several("rows"), several("pending"), tensors["order"]
        self._at, self._fills, self._ended = int(numbers["at"]), int(numbers["fills"]), bool(numbers["ended"])
        self._stream.restore(numbers["stream"])
