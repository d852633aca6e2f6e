"""Programs of the dialect: hand-written ones, random ones, and how each is run and compared.

    python tests/fuzz/programs.py --random 2000 --seed 0      # the corpus, then 2,000 random programs
    python tests/fuzz/programs.py --show 17                   # random program 17 of the seed

A program is a function of ``o``, the ops, and ``e``, its inputs, coders and weights. Run with :class:`bounds.Oracle` it gives float64 values with error
bounds; recorded by ``iam.jit`` it is compiled twice, without the rewrites of ``iam-fuse`` and with them, and each is run at every CPU
level of this machine; where jax is installed, its StableHLO runs there, too. Every number must be within its bound of the oracle's, which is
*equality* for inputs of small integers (half of the random programs), where ties are everywhere.

A random program is a list of steps, each with four numbers that choose its operands among what is there, so every sublist
is a program, too: that is how failures shrink.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from bounds import Features, Oracle, Tensor, TooLargeError

import iam
from iam import ops
from iam.compiler import _engine

ARCHITECTURES = ("standard", "topk", "abstopk", "groupmax", "jumprelu", "gated", "matching_pursuit")
EDITS = ("set", "scale", "clamp", "ablate")
UNOPTIMISED = ("iam-to-loops", "iam-loops-to-llvm")
"""The pipeline without ``iam-fuse``."""


# Inputs.


@dataclass(frozen=True)
class Shape:
    """Of a program's inputs. ``k`` divides ``n`` where it is a number of groups."""

    rows: int
    d: int
    n: int
    k: int


SHAPES = (Shape(0, 3, 7, 2), Shape(1, 1, 1, 1), Shape(1, 5, 13, 13), Shape(3, 8, 64, 9), Shape(5, 7, 33, 9), Shape(17, 4, 70, 3), Shape(40, 6, 131, 5))  # fmt: skip


class Environment:
    """Coders, weights and inputs of one program; the same numbers for every way to run it.

    Args:
        integers: Small integers, for which float32 is exact and ties are everywhere; else normal numbers.
    """

    def __init__(self, shape: Shape, seed: int, *, integers: bool) -> None:
        self.shape, self.integers = shape, integers
        self.rng = np.random.default_rng(seed)
        rows, d, n = shape.rows, shape.d, shape.n
        self.x, self.h = self.draw(rows, d), self.draw(rows, d)
        self.v = self.draw(d)
        self.v[0] += 3.0
        self.w = np.where(self.rng.random(d) < 0.5, 1.0, -2.0).astype(np.float32)
        """A vector without small entries, to divide by."""
        self.s = 2.0 if integers else 0.7
        self.W_enc, self.W_dec, self.W_skip = self.draw(d, n), self.draw(n, d), self.draw(d, d)
        self.b_enc, self.b_dec = self.draw(n), self.draw(d)
        self.threshold = np.abs(self.draw(n))
        self.k = shape.k
        self.groups = max(i for i in range(1, shape.k + 1) if n % i == 0)
        self.atoms = self._atoms()
        self.short_atoms = self.atoms * np.float32(0.5)
        """A step with one of these leaves part of what it found, so that features are found again."""
        self._coders: dict[Any, Any] = {}

    def draw(self, *shape: int) -> np.ndarray:
        if self.integers:
            return self.rng.integers(-2, 3, shape).astype(np.float32)
        return self.rng.normal(size=shape).astype(np.float32)

    def _atoms(self) -> np.ndarray:
        """Rows of norm 1, for matching pursuit."""
        d, n = self.shape.d, self.shape.n
        if self.integers:
            atoms = np.zeros((n, d), np.float32)
            atoms[np.arange(n), self.rng.integers(0, d, n)] = self.rng.choice([-1.0, 1.0], n)
            return atoms
        atoms = self.rng.normal(size=(n, d))
        return (atoms / np.linalg.norm(atoms, axis=1, keepdims=True)).astype(np.float32)

    def coder(self, architecture: str, number: int = 0) -> iam.SAE:
        """A coder; ``number`` tells several of one architecture apart, odd ones do not subtract ``b_dec``.

        ``rescaled``: TopK whose features compete by decoder norm.
        """
        key = (architecture, number)
        if key not in self._coders:
            self._coders[key] = self._make(architecture, subtract=number % 2 == 0)
        return self._coders[key]

    def _make(self, architecture: str, *, subtract: bool) -> iam.SAE:
        d, n = self.shape.d, self.shape.n
        more: dict[str, Any] = {}
        weights = {"W_enc": self.draw(d, n), "b_enc": self.draw(n), "W_dec": self.draw(n, d), "b_dec": self.draw(d)}
        if architecture == "rescaled":
            architecture, more = "topk", {"rescale_acts_by_decoder_norm": True}
        if architecture in ("topk", "abstopk"):
            more["k"] = self.k
        elif architecture == "groupmax":
            more["k"] = self.groups
        elif architecture == "jumprelu":
            weights["threshold"] = np.abs(self.draw(n))
        elif architecture == "gated":
            weights.update(
                b_gate=self.draw(n),
                b_mag=self.draw(n),
                r_mag=np.zeros(n, np.float32) if self.integers else self.draw(n),
            )
            del weights["b_enc"]
        elif architecture == "matching_pursuit":
            weights = {"W_dec": self._atoms(), "b_dec": weights["b_dec"]}
            more = {"max_iterations": 3, "residual_threshold": 0.25}
        cfg = iam.SAEConfig(architecture=architecture, d_in=d, d_sae=n, apply_b_dec_to_input=subtract, **more)
        return iam.SAE(cfg, **weights)


class View:
    """An environment whose inputs are other objects: traced values, or the oracle's."""

    def __init__(self, environment: Environment, **inputs: Any) -> None:
        self.__dict__.update(environment.__dict__)
        self.coder = environment.coder
        self.__dict__.update(inputs)


class Recorded:
    """The ops as ``iam.jit`` records them."""

    encode = staticmethod(lambda coder, x: coder.encode(x))
    decode = staticmethod(lambda coder, f: coder.decode(f))
    encode_dense = staticmethod(ops.encode)
    decode_dense = staticmethod(ops.decode)
    steer, project = staticmethod(iam.steer), staticmethod(iam.project)
    topk, abstopk, groupmax, batch_topk = map(staticmethod, (ops.topk, ops.abstopk, ops.groupmax, ops.batch_topk))
    relu, jumprelu, gate = map(staticmethod, (ops.relu, ops.jumprelu, ops.gate))
    edit, delta, sub, densify, residual = map(staticmethod, (ops.edit, ops.delta, ops.sub, ops.densify, ops.residual))

    @staticmethod
    def matching_pursuit(x, W_dec, b_dec=None, *, residual_threshold, max_iterations, stop=True):
        rule = {"max_iterations": max_iterations, "stop_on_duplicate_support": stop}
        return ops.matching_pursuit(x, W_dec, b_dec, residual_threshold=residual_threshold, **rule)


Program = Callable[[Any, Any], Any]


# Running.


def as_tuple(results: Any) -> tuple:
    return results if isinstance(results, tuple) else (results,)


def by_oracle(program: Program, environment: Environment) -> tuple[tuple, np.ndarray]:
    """The results with their bounds, and which rows are open."""
    oracle = Oracle(environment.shape.rows)
    e = View(environment, x=Tensor.of(environment.x), h=Tensor.of(environment.h), s=float(np.float32(environment.s)))
    return as_tuple(program(oracle, e)), oracle.open


def recorded(program: Program, environment: Environment) -> tuple[Any, tuple]:
    """The program under ``iam.jit``, and its arguments."""

    def function(x, h, v, s):
        return program(Recorded, View(environment, x=x, h=h, v=v, s=s))

    return iam.jit(function, name="program"), (environment.x, environment.h, environment.v, environment.s)


def recording(function: Any, args: tuple) -> Any:
    """The program as it was recorded; it is not compiled for this."""
    leaves: list = []
    key = function._key(args, {}, leaves)
    return function._find(key, leaves) or function._record(key, leaves, args, {})


def text_of(function: Any, args: tuple, stage: str) -> str:
    """The recorded program as MLIR."""
    return _engine.lower_text(recording(function, args).text, stage)


@contextlib.contextmanager
def pipeline(names: tuple[str, ...]):
    """Programs compiled meanwhile go through these pipelines."""
    before = _engine.PIPELINES["llvm"]
    _engine.PIPELINES["llvm"] = names
    try:
        yield
    finally:
        _engine.PIPELINES["llvm"] = before


@contextlib.contextmanager
def cpu_level(level: str):
    from iam import _runtime

    before = _runtime.cpu_level()
    _runtime.set_cpu_level(level)
    try:
        yield
    finally:
        _runtime.set_cpu_level(before)


def levels() -> list[str]:
    from iam import _runtime

    return list(_runtime.available_cpu_levels())


def has_jax() -> bool:
    import importlib.util

    return hasattr(iam.compiler.JitFunction, "stablehlo") and importlib.util.find_spec("jax") is not None


_alive: collections.deque = collections.deque(maxlen=8)
"""The last compiled functions, so that a program on other numbers is not compiled again."""


def executions(program: Program, environment: Environment, *, jax: bool = False):
    """Each way to run the program: its name and its results."""
    for name, names in (("unoptimised", UNOPTIMISED), ("optimised", ("iam-to-llvm",))):
        function, args = recorded(program, environment)
        _alive.append(function)
        with pipeline(names):
            function.lower(*args)
        for level in levels():
            with cpu_level(level):
                yield f"{name}, {level}", as_tuple(function(*args))
    if jax:
        function, args = recorded(program, environment)
        yield "StableHLO in JAX", as_tuple(function.stablehlo(*args).to_jax()(*args))


# Comparing.


class Disagreement(AssertionError):
    """An execution is not within the bound of the oracle."""


@dataclass
class Tally:
    """What was compared: rows of results, those that were open, and equalities among the rest."""

    rows: int = 0
    open: int = 0
    exact: int = 0
    programs: int = 0
    too_large: int = 0
    executions: int = 0
    failures: list = field(default_factory=list)

    def line(self) -> str:
        return (
            f"{self.programs} programs, {self.executions} executions: {self.rows} rows of results compared, {self.exact} of them for equality; "
            f"{self.open} left out ({self.open / max(self.rows + self.open, 1):.3%}); {self.too_large} programs left out (numbers too large)"
        )


def dense(result: Any, where: str, n_features: int) -> np.ndarray:
    """A result as a dense array; the invariants of features are checked."""
    if hasattr(result, "indices") and not isinstance(result, iam.SparseFeatures):  # slots of features as JAX arrays
        values, indices = np.asarray(result.values), np.asarray(result.indices)
        result = iam.SparseFeatures(values, indices, None, n_features)
    if not isinstance(result, iam.SparseFeatures):
        return np.asarray(result)
    values, indices, offsets = result.to_numpy().components
    for row in range(result.rows):
        part = row if offsets is None else slice(offsets[row], offsets[row + 1])
        active = indices[part][values[part] != 0]
        if offsets is not None and not ((np.diff(indices[part]) > 0).all() and len(active) == len(indices[part])):
            raise Disagreement(f"{where}: row {row} is not ascending or holds zeroes: {indices[part]}, {values[part]}")
        if len(set(active.tolist())) != len(active):
            raise Disagreement(f"{where}: row {row} holds a feature twice: {indices[part]}, {values[part]}")
    return np.asarray(result.to_dense())


def compare(name: str, expected: tuple, open_rows: np.ndarray, got: tuple, tally: Tally) -> None:
    if len(expected) != len(got):
        raise Disagreement(f"{name}: {len(got)} results instead of {len(expected)}")
    for i, (want, have) in enumerate(zip(expected, got, strict=True)):
        where = f"{name}, result {i}"
        if isinstance(want, Features) and isinstance(have, iam.SparseFeatures) and want.k != have.k:
            raise Disagreement(f"{where}: k = {have.k} instead of {want.k}")
        array = dense(have, where, want.value.shape[-1])
        if array.shape != want.value.shape:
            raise Disagreement(f"{where}: shape {array.shape} instead of {want.value.shape}")
        apart = np.abs(array - want.value)
        bad = ~(apart <= want.error) & ~open_rows[:, None]
        if bad.any():
            at = tuple(int(n) for n in np.argwhere(bad)[0])
            raise Disagreement(
                f"{where}: {array[at]!r} at {at} instead of {want.value[at]!r} within {want.error[at]:.3g} "
                f"({int(bad.sum())} of {bad.size} numbers)"
            )
        tally.open += int(open_rows.sum())
        tally.rows += int((~open_rows).sum())
        tally.exact += 0 if want.error.any() else int((~open_rows).sum())


def check(program: Program, environment: Environment, tally: Tally, *, jax: bool = False) -> None:
    """Run the program in every way and compare.

    Raises:
        Disagreement: names the execution, the result and the first number that is out of its bound.
    """
    tally.programs += 1
    try:
        expected, open_rows = by_oracle(program, environment)
    except TooLargeError:
        tally.too_large += 1
        return
    for name, got in executions(program, environment, jax=jax):
        tally.executions += 1
        compare(name, expected, open_rows, got, tally)


# Random programs.

STEPS = (
    "encode", "encode", "decode", "decode", "edit", "edit", "edit", "delta", "sub", "difference", "keep_error", "activation",
    "dense", "densify", "residual", "steer", "number", "vector", "tensors", "tensors", "negate", "pursue", "scaled_difference",
    "project", "policy",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    op: str
    numbers: tuple[int, int, int, int]


@dataclass(frozen=True)
class Random:
    """A random program: shape, numbers, steps and which values it returns."""

    shape: Shape
    seed: int
    integers: bool
    steps: tuple[Step, ...]
    results: tuple[int, ...]

    def environment(self) -> Environment:
        return Environment(self.shape, self.seed, integers=self.integers)

    def __call__(self, o: Any, e: Any) -> tuple:
        machine = Machine(o, e)
        for step in self.steps:
            machine.step(step)
        everything = [*machine.activations[2:], *machine.codes] or machine.activations
        chosen = dict.fromkeys(i % len(everything) for i in self.results)
        # What was made last is always looked at.
        chosen[len(machine.activations) - 3 if len(machine.activations) > 2 else 0] = None
        return tuple(everything[i] for i in chosen)

    def smaller(self):
        """Programs with less in them."""
        n = len(self.steps)
        size = n
        while size:
            for at in range(0, n, size):
                yield dataclasses.replace(self, steps=self.steps[:at] + self.steps[at + size :])
            size //= 2
        for i in range(len(self.results)):
            yield dataclasses.replace(self, results=self.results[:i] + self.results[i + 1 :])
        for shape in SHAPES:
            if (shape.rows * shape.n, shape.d) < (self.shape.rows * self.shape.n, self.shape.d) and shape.rows:
                yield dataclasses.replace(self, shape=shape)
        for i, step in enumerate(self.steps):
            for j, number in enumerate(step.numbers):
                if number:
                    less = (*step.numbers[:j], 0, *step.numbers[j + 1 :])
                    yield dataclasses.replace(self, steps=(*self.steps[:i], Step(step.op, less), *self.steps[i + 1 :]))
        if not self.integers:
            yield dataclasses.replace(self, integers=True)


class Machine:
    """Runs steps. It keeps what was made: tensors ``[rows, d]`` and features of the one dictionary."""

    def __init__(self, o: Any, e: Any) -> None:
        self.o, self.e = o, e
        self.activations: list[Any] = [e.x, e.h]
        self.codes: list[Any] = []
        self.widths = 0
        self.coders: list[Any] = []

    def tensor(self, i: int) -> Any:
        return self.activations[-1 - i % min(len(self.activations), 5)]

    def feature(self, i: int) -> Any:
        if not self.codes:
            self.encode(i, 0, 0, 0)
        return self.codes[-1 - i % min(len(self.codes), 4)]

    def coder(self, i: int) -> Any:
        """One of three, so that programs meet a coder again."""
        architecture = (*ARCHITECTURES, "rescaled")[(i * 7 + self.e.shape.n) % 8 if i % 3 else self.e.shape.k % 8]
        return self.e.coder(architecture, i % 2)

    def step(self, step: Step) -> None:
        getattr(self, step.op)(*step.numbers)

    def put(self, made: Any) -> None:
        (self.codes if hasattr(made, "n_features") else self.activations).append(made)

    # Steps.

    def encode(self, a: int, b: int, c: int, d: int) -> None:
        self.put(self.o.encode(self.coder(b), self.tensor(a)))

    def decode(self, a: int, b: int, c: int, d: int) -> None:
        f = self.feature(a)
        if c % 4 == 0:
            self.put(self.o.decode_dense(f, self.e.W_dec, self.e.b_dec if d % 2 else None))
        else:
            self.put(self.o.decode(self.coder(b), f))

    def _edit(self, b: int, c: int, d: int) -> tuple:
        n = self.e.shape.n
        features = sorted({0, n // 2, n - 1, b % n, (b + 1) % n}, key=lambda j: (j * 31 + c) % 17)[: 1 + c % 3]
        mode = EDITS[d % 4]
        one, two = (2.0, 3.0) if self.e.integers else (0.3, 1.7)
        if mode == "ablate":
            return features, mode
        if mode == "clamp":
            return features, mode, [-one] * len(features), [two] * len(features)
        if c % 2:
            return features, mode, np.resize(np.array([one, -two, 0.0, 1.0], np.float32), len(features))
        return features, mode, one

    def edit(self, a: int, b: int, c: int, d: int) -> None:
        self.put(self.o.edit(self.feature(a), *self._edit(b, c, d)))

    def delta(self, a: int, b: int, c: int, d: int) -> None:
        self.put(self.o.delta(self.feature(a), *self._edit(b, c, d)))

    def sub(self, a: int, b: int, c: int, d: int) -> None:
        f, g = self.feature(a), self.feature(b)
        if (f.k is None) != (g.k is None):
            g = self.o.edit(f, *self._edit(b, c, d))
        self.put(self.o.sub(f, g))

    def difference(self, a: int, b: int, c: int, d: int) -> None:
        """``decode(edit(f)) − decode(f)`` of one coder."""
        f, coder = self.feature(a), self.coder(b)
        g = self.o.edit(f, *self._edit(b, c, d))
        self.put(g)
        self.put(self.o.decode(coder, g) - self.o.decode(coder, f))

    def keep_error(self, a: int, b: int, c: int, d: int) -> None:
        """``x + decode(edit(f)) − decode(f)``, in three orders."""
        f, coder, x = self.feature(a), self.coder(b), self.tensor(c)
        y, z = self.o.decode(coder, self.o.edit(f, *self._edit(b, c, d))), self.o.decode(coder, f)
        self.put((x + y - z, x + (y - z), y + (x - z), y - z + x)[d // 4 % 4])

    def scaled_difference(self, a: int, b: int, c: int, d: int) -> None:
        f, g, coder = self.feature(a), self.feature(b), self.coder(c)
        s = self.e.s if d % 2 else 0.5
        self.put(s * self.o.decode(coder, f) - self.o.decode(coder, g) * s)

    def _dense(self, a: int, b: int) -> Any:
        return self.o.encode_dense(self.tensor(a), self.e.W_enc, self.e.b_enc, self.e.b_dec if b % 2 else None)

    def _activation(self, pre: Any, other: Any, c: int) -> Any:
        o, e = self.o, self.e
        name = ("topk", "abstopk", "groupmax", "batch_topk", "relu", "jumprelu", "gate")[c % 7]
        if name == "gate":
            return o.gate(other, pre)
        if name == "jumprelu":
            return o.jumprelu(pre, e.threshold)
        return o.relu(pre) if name == "relu" else getattr(o, name)(pre, e.groups if name == "groupmax" else e.k)

    def activation(self, a: int, b: int, c: int, d: int) -> None:
        pre = self._dense(a, b)
        self.put(self._activation(pre, self._dense(d, b) if c % 7 == 6 else pre, c))

    def dense(self, a: int, b: int, c: int, d: int) -> None:
        """An activation of arithmetic of pre-activations, which nothing fuses."""
        pre = self._dense(a, b) - self._dense(d, b + 1)
        self.put(self._activation(pre, pre, c))

    def densify(self, a: int, b: int, c: int, d: int) -> None:
        made = self.o.densify(self.feature(a)) * 0.5
        self.put(self._activation(made, made, c))

    def residual(self, a: int, b: int, c: int, d: int) -> None:
        self.put(self.o.residual(self.tensor(a), self.tensor(b), self.e.W_skip if c % 2 else None))

    def steer(self, a: int, b: int, c: int, d: int) -> None:
        mode = ("add", "ablate", "clamp")[c % 3]
        v = self.e.v if d % 3 else self.e.w
        self.put(self.o.steer(self.tensor(a), v, self.e.s if d % 2 else -1.5, mode))

    def project(self, a: int, b: int, c: int, d: int) -> None:
        e, x = self.e, self.tensor(a)
        low, high = np.full(e.shape.d, -1.5, np.float32), np.abs(e.b_dec) + np.float32(0.5)
        sets = (("halfspace", e.v, -0.5 * c), ("halfspace", e.w, 1.0), ("ball", e.b_dec, 1.5), ("box", low, high))
        self.put(self.o.project(x, *sets[d % 4]))

    def policy(self, a: int, b: int, c: int, d: int) -> None:
        """Steps along directions, one after the other, up to more than go together."""
        o, e, x = self.o, self.e, self.tensor(a)
        directions = (e.v, e.w, e.b_dec + np.where(np.arange(e.shape.d) == 0, 4, 0).astype(np.float32))
        for i in range(2 + b % 9):
            kind, v = (c + i * (1 + d)) % 5, directions[(d + i) % 3]
            if kind == 4:
                x = o.project(x, "halfspace", v, 0.5 * (i - 2))
            else:
                x = o.steer(x, v, (0.5, 1.0, e.s, -1.5)[(b + i) % 4], ("add", "ablate", "clamp", "ablate")[kind])
        self.put(x)

    def number(self, a: int, b: int, c: int, d: int) -> None:
        x = self.tensor(a)
        number = (0.5, -2.0, self.e.s, 1.0, 0.0)[c % 5]
        made = (
            lambda: x + number,
            lambda: number - x,
            lambda: x * number,
            lambda: x / 2.0,
            lambda: x / -4.0,
            lambda: x - number,
        )
        self.put(made[d % 6]())

    def vector(self, a: int, b: int, c: int, d: int) -> None:
        x, v, w = self.tensor(a), self.e.v, self.e.w
        made = (lambda: x + v, lambda: v - x, lambda: x * v, lambda: x / w, lambda: w * x, lambda: x - w)
        self.put(made[d % 6]())

    def tensors(self, a: int, b: int, c: int, d: int) -> None:
        x, y = self.tensor(a), self.tensor(b)
        made = (lambda: x + y, lambda: x - y, lambda: y - x, lambda: x * 0.5 + y, lambda: x * y)
        self.widths += d % 5 == 4
        self.put(made[d % 5 if self.widths < 3 else d % 4]())

    def negate(self, a: int, b: int, c: int, d: int) -> None:
        self.put(-self.tensor(a))

    def pursue(self, a: int, b: int, c: int, d: int) -> None:
        threshold = (0.0, 0.25, 1.5)[c % 3]
        shift = self.e.b_dec if b % 2 else None
        rule = {"residual_threshold": threshold, "max_iterations": 1 + d % 3, "stop": d % 2 == 0}
        self.put(self.o.matching_pursuit(self.tensor(a), self.e.atoms, shift, **rule))


def random_program(seed: int, index: int) -> Random:
    rng = random.Random(seed * 1_000_003 + index)
    steps = tuple(
        Step(rng.choice(STEPS), tuple(rng.randrange(60) for _ in range(4)))  # type: ignore[arg-type]
        for _ in range(rng.choice((1, 2, 3, 3, 4, 4, 5, 6, 8, 10)))
    )
    results = tuple(rng.randrange(60) for _ in range(rng.randint(1, 4)))
    return Random(rng.choice(SHAPES), rng.randrange(1 << 16), rng.random() < 0.5, steps, results)


def outcome(program: Random, *, jax: bool = False) -> str | None:
    """What is wrong with it, or None."""
    try:
        check(program, program.environment(), Tally(), jax=jax)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is a finding
        return f"{type(error).__name__}: {error}"
    return None


def shrink(program: Random, fails: Callable[[Random], Any], tries: int = 400) -> Random:
    """The smallest program found that still fails."""
    while True:
        for smaller in program.smaller():
            tries -= 1
            if tries < 0:
                return program
            if fails(smaller):
                program = smaller
                break
        else:
            return program


def run_random(seed: int, count: int, *, seconds: float = float("inf"), jax: bool = False, first: int = 0) -> Tally:
    tally, start = Tally(), time.monotonic()
    for index in range(first, first + count):
        if time.monotonic() - start > seconds:
            break
        program = random_program(seed, index)
        try:
            check(program, program.environment(), tally, jax=jax)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is a finding
            tally.failures.append((index, f"{type(error).__name__}: {error}"))
            print(f"random program {index}: {tally.failures[-1][1]}", flush=True)
            if len(tally.failures) <= 5:
                kind = type(error)
                small = shrink(program, lambda p, kind=kind: (outcome(p, jax=jax) or "").startswith(kind.__name__), 150)
                print(f"  shrunk: {small!r}\n  {outcome(small, jax=jax)}", flush=True)
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--random", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--jax", action="store_true", help="StableHLO under JAX as well (needs jax)")
    parser.add_argument("--show", type=int, metavar="INDEX")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.show is not None:
        program = random_program(args.seed, args.show)
        print(program)
        function, given = recorded(program, program.environment())
        print(text_of(function, given, "iam"))
        return 0
    from corpus import run_corpus

    corpus = run_corpus(jax=args.jax)
    print("corpus:", corpus.line(), flush=True)
    tally = run_random(args.seed, args.random, seconds=args.seconds, jax=args.jax, first=args.first)
    print("random:", tally.line())
    if args.json:
        args.json.write_text(json.dumps([dataclasses.asdict(corpus), dataclasses.asdict(tally)]))
    return int(bool(corpus.failures or tally.failures))


if __name__ == "__main__":
    sys.exit(main())
