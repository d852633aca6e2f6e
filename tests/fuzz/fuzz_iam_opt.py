"""Fuzzing of what ``iam-opt`` runs: parser, verifiers, passes, printer. Nothing may crash or hang; a refusal is an error.

    python tests/fuzz/fuzz_iam_opt.py --runs 100000 --workers 2      # the whole of it
    python tests/fuzz/fuzz_iam_opt.py --show 123                     # input 123 of this seed, and its passes
    python tests/fuzz/fuzz_iam_opt.py --minimise 123                 # the smallest part of it that still crashes

Input ``i`` of a seed is a function of (seed, i) and of the seed files alone, so a finding is two numbers. Inputs are mutated
pieces of the lit tests and of the examples in ``docs/`` (two of three), and programs written by a grammar of the dialect, with
and without mistakes (one of three). Each is parsed, verified, sent through named pipelines, single passes or random sequences
of them, printed, and what was printed is parsed again.

A process per input would cost more than the input: workers call the library that ``iam-opt`` is a ``main`` of (through
``iam.mlir``), and note the number of an input before they touch it. A worker that dies or stops names its input that way; the
input is tried again alone, and the worker goes on with the next. Workers are limited in memory, so a huge type is an error
of the allocator in the worker (counted as ``memory``), not of the machine.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import mmap
import os
import random
import re
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PARTS = ("iam-fuse", "iam-attribute", "iam-hoist", "iam-to-loops", "iam-loops-to-llvm")
UPSTREAM = ("canonicalize", "cse", "inline", "symbol-dce")
STALL_SECONDS = 60.0
"""Longer than any input takes on a busy machine; the retry alone tells slow from stuck."""
MEMORY = 6 << 30


# Inputs.


def seeds() -> list[str]:
    """The pieces of the lit tests and of the examples in the documentation."""
    pieces = []
    for path in sorted((ROOT / "mlir" / "test").rglob("*.mlir")):
        pieces += path.read_text(encoding="utf-8").split("// -----")
    for path in sorted((ROOT / "docs").rglob("*.md")):
        pieces += re.findall(r"```mlir\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    for path in sorted((ROOT / "mlir" / "include").rglob("*.td")):
        for example in re.findall(r"```mlir\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            pieces.append(f"func.func @f() {{\n{example}\nreturn\n}}\n")
    # Comments go: mutations of them find nothing.
    return [kept for piece in pieces if (kept := re.sub(r"//.*", "", piece).strip())]


TOKENS = re.compile(r'"[^"]*"|[%@#!^]?[A-Za-z_][\w.$-]*|[%@^]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|->|::|\s+|.', re.DOTALL)
NUMBERS = (
    "0", "1", "2", "-1", "16", "17", "4294967296", "2147483647", "2147483648", "-9223372036854775808", "9223372036854775807",
    "18446744073709551616", "0.0", "-0.0", "1.0e38", "1.0e-45", "0x7FC00000", "0x7F800000", "dense<0.0>", "1e999",
)  # fmt: skip
TYPES = (
    "f32", "f64", "f16", "i1", "i32", "index", "none", "tensor<f32>", "tensor<?xf32>", "tensor<0x4xf32>", "tensor<?x4xf32>",
    "tensor<*xf32>", "tensor<4x?xf32>", "tensor<?x?xf32>", "tensor<16xf32>", "tensor<4x16xf32>", "tensor<16x4xf32>",
    "vector<4xf32>", "memref<?x4xf32>", "memref<4xf32, strided<[?]>>", "tuple<f32>", "complex<f32>", "tensor<4xi32>",
    "!iam.features<?x16xf32>", "!iam.features<?x16xf32, k = 2>", "!iam.features<3x16xf32, k = 20>", "!iam.features<0x1xf32>",
    "!iam.features<?x?xf32>", "!iam.features<?x0xf32>", "!iam.features<?x16xf64>", "!iam.features<?x16xf32, k = 0>",
    "!iam.features<?x9223372036854775807xf32>", "tensor<4x16xf32, 3 : i32>", "!iam.other", "tensor<?x4xbf16>",
)  # fmt: skip


def mutate(rng: random.Random, text: str, others: list[str]) -> str:
    """One to eight changes of tokens, lines or characters."""
    for _ in range(rng.choice((1, 1, 1, 1, 1, 2, 3, 6))):
        if not text:
            break
        if (kind := rng.random()) < 0.75:
            tokens = TOKENS.findall(text)
            text = "".join(_mutate_tokens(rng, tokens, others))
        elif kind < 0.93:
            text = "\n".join(_mutate_lines(rng, text.split("\n"), others))
        else:
            at = rng.randrange(len(text))
            text = (
                text[:at]
                + rng.choice(("", "\0", "é", "\\", '"', "<", ">", "{", "}", "(", ")"))
                + text[at + rng.randrange(3) :]
            )
    return text


def _mutate_tokens(rng: random.Random, tokens: list[str], others: list[str]) -> list[str]:
    places = [i for i, token in enumerate(tokens) if not token.isspace()]
    if not places:
        return tokens
    i = rng.choice(places)
    kind = rng.randrange(8)
    if kind == 0:
        del tokens[i]
    elif kind == 1:
        tokens.insert(i, tokens[rng.choice(places)])
    elif kind == 2:
        j = rng.choice(places)
        tokens[i], tokens[j] = tokens[j], tokens[i]
    elif kind == 3:
        tokens[i] = tokens[rng.choice(places)]
    elif kind == 4:  # a number
        numeric = [p for p in places if tokens[p][:1].isdigit()]
        tokens[rng.choice(numeric or places)] = rng.choice(NUMBERS)
    elif kind == 5:  # another value, symbol, op or word of the same kind
        same = [p for p in places if tokens[p][:1] == tokens[i][:1]]
        tokens[i] = tokens[rng.choice(same)]
    elif kind == 6:
        other = TOKENS.findall(rng.choice(others))
        at = rng.randrange(len(other))
        tokens[i:i] = other[at : at + rng.randint(1, 12)]
    else:
        whole = "".join(tokens)
        found = list(re.finditer(r"(?:tensor|memref|!iam\.features)<[^<>]*>", whole))
        if found:
            spot = rng.choice(found)
            # One occurrence breaks the types; all of them may give another well-typed program.
            made = rng.choice(TYPES)
            return [
                whole.replace(spot[0], made)
                if rng.random() < 0.6
                else whole[: spot.start()] + made + whole[spot.end() :]
            ]
    return tokens


def _mutate_lines(rng: random.Random, lines: list[str], others: list[str]) -> list[str]:
    i = rng.randrange(len(lines))
    kind = rng.randrange(4)
    if kind == 0:
        del lines[i]
    elif kind == 1:
        lines.insert(rng.randrange(len(lines) + 1), lines[i])
    elif kind == 2:
        j = rng.randrange(len(lines))
        lines[i], lines[j] = lines[j], lines[i]
    else:
        lines.insert(i, rng.choice(rng.choice(others).split("\n")))
    return lines


class Grammar:
    """Writes a function over the dialect; with ``mistakes``, types, sizes and attributes are wrong now and then."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.mistakes = 0.0 if rng.random() < 0.7 else 0.06
        self.arguments: list[tuple[str, str]] = []
        self.values: list[
            tuple[str, tuple]
        ] = []  # name, ("t", rows, width) | ("f", rows, dictionary, k) | ("v", size) | ...
        self.lines: list[str] = []
        self.count = 0
        self.rows = rng.choice(("?", "?", "?", "3", "0", "1"))
        self.d = rng.choice((1, 4, 5))
        self.n = rng.choice((1, 6, 16, 16))

    def wrong(self) -> bool:
        return self.rng.random() < self.mistakes

    def number(self, value: int) -> str:
        return self.rng.choice(NUMBERS[:12]) if self.wrong() else str(value)

    def type(self, shape: tuple) -> str:
        if self.wrong():
            return self.rng.choice(TYPES)
        if shape[0] == "f":
            return f"!iam.features<{shape[1]}x{shape[2]}xf32{'' if shape[3] is None else f', k = {shape[3]}'}>"
        if shape[0] == "model":
            return "!iam.model"
        return "f32" if shape[0] == "s" else f"tensor<{'x'.join(str(n) for n in shape[1:])}xf32>"

    def argument(self, *shape: object) -> str:
        for name, known in self.values[: len(self.arguments)]:
            if known == shape and self.rng.random() < 0.6:
                return name
        name = f"%a{len(self.arguments)}"
        self.values.insert(len(self.arguments), (name, shape))
        self.arguments.append((name, self.type(shape)))
        return name

    def constant(self, *shape: object) -> str:
        """A vector or number, constant or not: folds look at constants."""
        if self.rng.random() < 0.5:
            return self.argument(*shape)
        number = self.rng.choice(("0.0", "-0.0", "1.0", "-2.5", "0x7FC00000", "1.0e30"))
        if shape[0] == "s":
            return self.emit(f"arith.constant {number if 'x' not in number else '0.0'} : f32", shape)
        text = (
            number
            if self.rng.random() < 0.5
            else "[" + ", ".join(self.rng.choices(("0.0", "1.0", "-1.0"), k=shape[-1])) + "]"
        )
        if "x" in text or len(shape) > 2:
            text = "0.0"
        return self.emit(f"arith.constant dense<{text}> : {self.type(shape)}", shape)

    def emit(self, text: str, shape: tuple) -> str:
        name = f"%v{self.count}"
        self.count += 1
        self.lines.append(f"  {name} = {text}")
        self.values.append((name, shape))
        return name

    def pick(self, kind: str, *tail: object) -> tuple[str, tuple]:
        found = [(n, s) for n, s in self.values if s[0] == kind and (not tail or s[2 : 2 + len(tail)] == tail)]
        if found:
            return self.rng.choice(found[-6:])
        shape = ("t", self.rows, *tail) if kind == "t" and tail else ("t", self.rows, self.d)
        if kind == "f":
            return self.activation()
        return self.argument(*shape), shape

    def t(self, *shapes: tuple) -> str:
        return ", ".join(self.type(s) for s in shapes)

    def activation(self) -> tuple[str, tuple]:
        rng = self.rng
        name, pre = self.pick("t", self.n) if rng.random() < 0.4 else self.encode()
        op = rng.choice(("topk", "abstopk", "groupmax", "batch_topk", "relu", "jumprelu", "gate"))
        k = rng.randint(1, self.n)
        if op == "groupmax":
            k = max(i for i in range(1, k + 1) if self.n % i == 0)
        shape = ("f", pre[1], self.n, k if op in ("topk", "abstopk", "groupmax") else None)
        if op in ("topk", "abstopk", "groupmax", "batch_topk"):
            text = f"iam.clt.{op} {name}, k = {self.number(k)} : {self.type(pre)} -> {self.type(shape)}"
        elif op == "relu":
            text = f"iam.clt.relu {name} : {self.type(pre)} -> {self.type(shape)}"
        elif op == "jumprelu":
            threshold = self.constant("v", self.n)
            text = f"iam.clt.jumprelu {name}, {threshold} : {self.t(pre, ('v', self.n))} -> {self.type(shape)}"
        else:
            other = self.pick("t", self.n)[0]
            text = f"iam.clt.gate {other}, {name} : {self.t(pre, pre)} -> {self.type(shape)}"
        return self.emit(text, shape), shape

    def encode(self) -> tuple[str, tuple]:
        x, shape = self.pick("t", self.d)
        W, b = self.argument("v", self.d, self.n), self.constant("v", self.n)
        shift = f", subtract {self.constant('v', self.d)}" if self.rng.random() < 0.5 else ""
        types = [shape, ("v", self.d, self.n), ("v", self.n), *([("v", self.d)] if shift else [])]
        result = ("t", shape[1], self.n)
        return self.emit(
            f"iam.clt.encode {x}, {W}, {b}{shift} : ({self.t(*types)}) -> {self.type(result)}", result
        ), result

    def decode(self) -> None:
        f, shape = self.pick("f")
        W = self.argument("v", self.n, self.d)
        bias = f", bias {self.constant('v', self.d)}" if self.rng.random() < 0.6 else ""
        types = [shape, ("v", self.n, self.d), *([("v", self.d)] if bias else [])]
        result = ("t", shape[1], self.d)
        self.emit(f"iam.clt.decode {f}, {W}{bias} : ({self.t(*types)}) -> {self.type(result)}", result)

    def edit(self) -> None:
        rng = self.rng
        op = "edit" if rng.random() < 0.7 else "delta"
        f, shape = self.pick("f")
        mode, count = rng.choice((("set", 1), ("scale", 1), ("clamp", 2), ("ablate", 0)))
        features = rng.sample(range(self.n), min(self.n, rng.randint(0 if op == "edit" else 1, 3)))
        n = len(features)
        listed = ", ".join(self.number(j) for j in features)
        values = [self.constant("v", n) for _ in range(count)]
        result = ("f", shape[1], self.n, n)
        if op == "edit":
            k = shape[3]
            result = (*shape[:3], k if k is None or mode in ("scale", "ablate") else k + n)
        by = f" by {', '.join(values)}" if values else ""
        types = self.t(shape, *[("v", n)] * count)
        self.emit(f"iam.clt.{op} {mode} {f} features [{listed}]{by} : ({types}) -> {self.type(result)}", result)

    def sub(self) -> None:
        (f, a), (g, b) = self.pick("f"), self.pick("f")
        if (a[3] is None) != (b[3] is None) and not self.wrong():
            g, b = f, a
        k = None if a[3] is None or b[3] is None else a[3] + b[3]
        result = (*a[:3], k)
        self.emit(f"iam.clt.sub {f}, {g} : {self.t(a, b)} -> {self.type(result)}", result)

    def densify(self) -> None:
        f, shape = self.pick("f")
        result = ("t", shape[1], self.n)
        self.emit(f"iam.clt.densify {f} : {self.type(shape)} -> {self.type(result)}", result)

    def residual(self) -> None:
        (y, a), (x, b) = self.pick("t", self.d), self.pick("t", self.d)
        skip = f", skip {self.argument('v', self.d, self.d)}" if self.rng.random() < 0.4 else ""
        types = [a, b, *([("v", self.d, self.d)] if skip else [])]
        self.emit(f"iam.clt.residual {y}, {x}{skip} : ({self.t(*types)}) -> {self.type(a)}", a)

    def steer(self) -> None:
        h, shape = self.pick("t", self.d)
        v, s = self.constant("v", self.d), self.constant("s")
        mode = self.rng.choice(("add", "ablate", "clamp"))
        self.emit(f"iam.policy.steer {mode} {h}, {v}, {s} : {self.t(shape, ('v', self.d), ('s',))}", shape)

    def arithmetic(self) -> None:
        (x, a), (y, _) = self.pick("t", self.d), self.pick("t", self.d)
        op = self.rng.choice(("addf", "subf", "mulf", "divf"))
        self.emit(f"arith.{op} {x}, {y} : {self.type(a)}", a)

    def fused(self) -> None:
        rng = self.rng
        x, shape = self.pick("t", self.d)
        name = rng.choice(("topk", "abstopk", "groupmax", "jumprelu", "relu"))
        parts, types = (
            [f"iam.clt.encode_sparse {name} {x}, {self.argument('v', self.d, self.n)}, {self.constant('v', self.n)}"],
            [],
        )
        types += [shape, ("v", self.d, self.n), ("v", self.n)]
        if rng.random() < 0.5:
            parts.append(f"subtract {self.constant('v', self.d)}")
            types.append(("v", self.d))
        k = None
        if name == "jumprelu" or self.wrong():
            parts.append(f"threshold {self.constant('v', self.n)}")
            types.append(("v", self.n))
        if name in ("topk", "abstopk", "groupmax") or self.wrong():
            k = self.n if name == "groupmax" else rng.randint(1, self.n)
            parts.append(f"k = {self.number(k)}")
        result = ("f", shape[1], self.n, k)
        self.emit(f"{' '.join(parts)} : ({self.t(*types)}) -> {self.type(result)}", result)

    def pursue(self) -> None:
        rng = self.rng
        x, shape = self.pick("t", self.d)
        shift = f", subtract {self.constant('v', self.d)}" if rng.random() < 0.5 else ""
        types = [shape, ("v", self.n, self.d), *([("v", self.d)] if shift else [])]
        result = ("f", shape[1], self.n, None)
        rule = f"residual_threshold = {rng.choice(('-1.0', '0x7FC00000') if self.wrong() else ('0.0', '1.0e-2'))} max_iterations = {self.number(3)}"
        stop = " stop_on_duplicate_support" if rng.random() < 0.5 else ""
        W = self.argument("v", self.n, self.d)
        text = f"iam.clt.matching_pursuit {x}, {W}{shift} {rule}{stop} : ({self.t(*types)}) -> {self.type(result)}"
        self.emit(text, result)

    def policy(self) -> None:
        rng = self.rng
        h, shape = self.pick("t", self.d)
        kind = rng.choice(("halfspace", "ball", "subspace", "box"))
        first_shape = ("v", 2, self.d) if kind == "subspace" else ("v", self.d)
        types, operands = [shape, first_shape], [h, self.argument(*first_shape)]
        if kind != "subspace":
            types.append(("v", self.d) if kind == "box" else ("s",))
            operands.append(self.constant(*types[-1]))
        listed, typed = ", ".join(operands), self.t(*types)
        if rng.random() < 0.6:
            self.emit(f"iam.policy.project {kind} {listed} : ({typed}) -> {self.type(shape)}", shape)
        else:
            margin = ("t", shape[1])
            tolerance, message = ("-1.0", "") if self.wrong() else (rng.choice(("0.0", "1.0")), "inside")
            text = f'iam.policy.verify {kind} {listed} tolerance {tolerance} message "{message}"'
            self.emit(f"{text} : ({typed}) -> {self.type(margin)}", ("m", *margin[1:]))

    def compose(self) -> None:
        n = self.rng.randint(0, 3)
        vectors, strengths = ("v", n, self.d), ("v", n)
        rule = self.rng.choice(("sum", "mean", "orthogonal"))
        text = f"iam.policy.compose {rule} {self.argument(*vectors)}, {self.argument(*strengths)}"
        self.emit(f"{text} : {self.t(vectors, strengths)} -> {self.type(('v', self.d))}", ("v", self.d))

    def select(self) -> None:
        x, shape = self.pick("t", self.n)
        n = self.number(self.rng.randint(1, self.n))
        text = f"iam.attr.select {x}, n = {n} : {self.type(shape)} -> tensor<{shape[1]}x{n}xi32>, tensor<{shape[1]}x{n}xf32>"
        self.lines.append(f"  %v{self.count}:2 = {text}")
        self.count += 1

    def sequence(self) -> None:
        """Steers that follow each other, or what they become."""
        rng = self.rng
        h, shape = self.pick("t", self.d)
        kinds = rng.choices(("add", "ablate", "clamp", "halfspace"), k=rng.randint(0 if self.wrong() else 1, 10))
        if rng.random() < 0.5:
            n = len(kinds)
            text = (
                f"iam.policy.sequence {', '.join(kinds)} {h}, {self.argument('v', n, self.d)}, {self.argument('v', n)}"
            )
            self.emit(f"{text} : {self.t(shape, ('v', n, self.d), ('v', n))}", shape)
            return
        for kind in kinds:
            v, s = self.constant("v", self.d), self.constant("s")
            types = self.t(shape, ("v", self.d), ("s",))
            if kind == "halfspace":
                h = self.emit(f"iam.policy.project {kind} {h}, {v}, {s} : ({types}) -> {self.type(shape)}", shape)
            else:
                h = self.emit(f"iam.policy.steer {kind} {h}, {v}, {s} : {types}", shape)

    def adjoint(self) -> None:
        rng = self.rng
        (f, a), (dy, b) = self.pick("f"), self.pick("t", self.d)
        kind = rng.randrange(4)
        if kind == 0:
            types = self.t(a, ("v", self.n, self.d), b)
            self.emit(f"iam.clt.decode_adjoint {f}, {self.argument('v', self.n, self.d)}, {dy} : {types}", a)
        elif kind == 1:
            columns = sorted(rng.sample(range(self.n), min(self.n, rng.randint(1, 3))))
            dd = self.argument("t", a[1], len(columns))
            listed = ", ".join(self.number(j) for j in columns)
            text = f"iam.clt.densify_adjoint {f}, {dd} columns [{listed}] : {self.t(a, ('t', a[1], len(columns)))}"
            self.emit(text, a)
        elif kind == 2:
            h = self.pick("t", self.d)[0]
            types = self.t(b, b, ("v", self.d), ("s",))
            operands = f"{h}, {dy}, {self.argument('v', self.d)}, {self.constant('s')}"
            self.emit(f"iam.policy.project_adjoint halfspace {operands} : ({types}) -> {self.type(b)}", b)
        else:
            first = self.emit(f"arith.constant {self.number(0)} : index", ("index",))
            self.lines.append(f"  iam.attr.check {dy}, {first} points {self.number(1)} : {self.type(b)}")

    def segment(self) -> None:
        """A part of a model, between sites of three blocks."""
        rng = self.rng
        sites = [f"{kind}.{layer}" for layer in range(3) for kind in ("resid_pre", "resid_post")]
        i = rng.randrange(-1, len(sites) - 1)
        model, start, inputs = self.argument("model"), "", "!iam.model"
        if i >= 0:
            h, shape = self.pick("t", self.d)
            start, inputs = f', {h} from "{sites[i]}"', f"!iam.model, {self.type(shape)}"
        tokens, width, to = "", self.d, rng.choice(sites[i + 1 :])
        if rng.random() < 0.4:
            to, width = "logits", rng.randint(1, 3)
            tokens = f" tokens [{', '.join(self.number(rng.randrange(9)) for _ in range(width))}]"
        if rng.random() < 0.3:
            tokens += f" positions [{self.number(rng.randint(-2, 2))}]"
        result = ("t", self.rows if i >= 0 and "positions" not in tokens else "?", width)
        self.emit(f'iam.model.run {model}{start} to "{to}"{tokens} : ({inputs}) -> {self.type(result)}', result)

    def program(self) -> str:
        steps = (
            self.activation, self.fused, self.pursue, self.decode, self.decode, self.edit, self.edit, self.sub, self.densify,
            self.residual, self.steer, self.arithmetic, self.policy, self.compose, self.sequence, self.segment, self.segment,
            self.select, self.adjoint,
        )  # fmt: skip
        usual = steps[:-2] if self.rng.random() < 0.7 else steps
        for _ in range(self.rng.randint(1, 12)):
            self.rng.choice(usual)()
        if self.rows != "0" and self.rng.random() < 0.3:  # MLIR has no slices of nothing
            return self.gradient()
        results = [v for v in self.values if v[1][0] not in ("model", "index")]
        results = self.rng.sample(results, min(len(results), self.rng.randint(0, 3)))
        arguments = ", ".join(f"{name}: {type}" for name, type in self.arguments)
        types = ", ".join(self.type(shape) for _, shape in results)
        names = ", ".join(name for name, _ in results)
        back = f"  return {names} : {types}" if results else "  return"
        return "\n".join([f"func.func @f({arguments}) -> ({types}) {{", *self.lines, back, "}"])

    def gradient(self) -> str:
        """What was written, as a function of one of its arguments, and attributions of a column of its last tensor."""
        rng = self.rng
        x = self.argument("t", self.rows, self.d)
        rest = [(name, type) for name, type in self.arguments if name != x]
        of, shape = rng.choice([(n, s) for n, s in self.values if s[0] == "t"][-3:])
        dynamic = shape[1] == "?"
        rows = "%rows" if dynamic else shape[1]
        if dynamic:
            self.lines += [
                "  %zero = arith.constant 0 : index",
                f"  %rows = tensor.dim {of}, %zero : {self.type(shape)}",
            ]
        column, vector = self.number(rng.randrange(int(shape[2]))), f"tensor<{shape[1]}xf32>"
        slice = f"tensor.extract_slice {of}[0, {column}] [{rows}, 1] [1, 1] : {self.type(shape)} to {vector}"
        given = self.type(("t", self.rows, self.d))
        parameters = "".join(f", {name}: {type}" for name, type in rest)
        rule = rng.choice(("gauss_legendre", "left", "right", "midpoint", "trapezoid"))
        steps = self.number(rng.choice((2 if rule == "trapezoid" else 1, 3, 8, 9, 20)))
        stack = f"tensor<{steps}x{self.rows}x{self.d}xf32>"
        captures = ""
        if rest:
            names, types = (", ".join(part) for part in zip(*rest, strict=True))
            captures = f" captures({names} : {types})"
        along = f"{given}, {given}, {stack}, tensor<{steps}xf32>"
        return "\n".join(
            [
                f"func.func private @metric({x}: {given}{parameters}) -> {vector} {{",
                *self.lines,
                f"  %column = {slice}",
                f"  return %column : {vector}",
                "}",
                f"func.func @f({x}: {given}, %from: {given}{parameters}) -> {given} {{",
                f"  %p, %w = iam.attr.path {rule} {x}, %from, steps = {steps} : {given}, {given} -> {stack}, tensor<{steps}xf32>",
                f"  %a = iam.attr.grad @metric({x}, %from){captures} along %p, %w : {along} -> {given}",
                f"  return %a : {given}",
                "}",
            ]
        )


def passes_of(rng: random.Random, of: Material) -> str:
    """What ``builtin.module(...)`` is given."""
    kind = rng.random()
    if kind < 0.1:
        return ""
    if kind < 0.45:
        whole = (
            "iam-fuse",
            "iam-fuse,iam-attribute",
            "iam-to-loops",
            "iam-to-llvm",
            "iam-to-llvm",
            ",".join(PARTS[3:]),
        )
        return rng.choice(whole)
    if kind < 0.75:
        return ",".join(rng.choices((*of.passes, *of.passes, *UPSTREAM), k=rng.randint(1, 4)))
    # A stretch of the real pipeline, from the start or not, with one step left out or said twice.
    steps = [step for name in PARTS for step in split_passes(of.table[name])]
    first = 0 if rng.random() < 0.5 else rng.randrange(len(steps))
    chosen = steps[first : rng.randrange(first, len(steps)) + 1]
    if kind > 0.9 and len(chosen) > 1:
        i = rng.randrange(len(chosen))
        chosen[i : i + 1] = [] if rng.random() < 0.5 else [chosen[i]] * 2
    return ",".join(chosen)


def split_passes(text: str) -> list[str]:
    """A pipeline at its commas outside of braces and parentheses."""
    parts, depth = [""], 0
    for c in text:
        depth += (c in "({") - (c in ")}")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return parts


def make(seed: int, index: int, of: Material) -> tuple[str, str]:
    """Input ``index`` of ``seed``: text and passes."""
    rng = random.Random(seed * 1_000_003 + index)
    if rng.random() < 1 / 3:
        text = Grammar(rng).program()
        if rng.random() < 0.3:
            text = mutate(rng, text, of.pieces)
    else:
        text = rng.choice(of.pieces)
        if rng.random() > 0.03:
            text = mutate(rng, text, of.pieces)
    return text, passes_of(rng, of)


# One input.


KNOWN = (
    (
        re.compile(
            r"iterator_types\s*=\s*\[(?!\s*\])(?!\s*(?:#\w[^],]*|\"\w*\")(?:\s*,\s*(?:#\w[^],]*|\"\w*\"))*\s*\])"
        ),
        "",
    ),
    (
        re.compile(
            r"linalg\.(?:broadcast|transpose|reduce)\b[^\n]*?(?:dimensions|permutation)\s*=(?!\s*\[(?:\s*-?\d{1,18}(?:\s*,\s*-?\d{1,18})*)?\s*\])"
        ),
        "",
    ),
    (re.compile(r"tensor\.from_elements\b[^\n]*(?:\D|^)\d{9,}x"), ""),
    (re.compile(r"(?:collapse|expand)_shape\b[^\n]*?\[[^\n\]]*(?:-|\d{9})\d"), ""),
    (re.compile(r"alloc_tensor\b[^\n]*tensor<\*"), ""),
    (re.compile(r"tensor\.pad\b[^\n]*-\d{9}"), ""),
    (re.compile(r'"stablehlo\.sort"'), "inline|iam-fuse|iam-to-llvm"),
    (re.compile(r"bufferization\.dealloc\b[^\n]*,"), "finalize-memref-to-llvm"),
)
"""Inputs, and passes, that crash the MLIR we build on, outside of our code, and are left out (docs/testing.md). The parser of
``linalg.generic`` takes every element of ``iterator_types`` to be a string; those of ``linalg.broadcast``, ``transpose`` and
``reduce`` go on with a list of dimensions that did not parse; that of ``tensor.from_elements`` reserves memory for as many
operands as the type has elements; reshapes take groups with dimensions that are not there; ``alloc_tensor`` copies unranked
tensors; sizes of pads overflow; the inliner asks ops that nobody registered, with regions, for their symbols; stores of i1
cannot be converted. All are assertions of LLVM."""


def run_one(text: str, passes: str) -> str:
    """What became of it: refused, failed, done, or the way in which it went wrong. Needs a context."""
    from iam.mlir import ir
    from iam.mlir.passmanager import PassManager

    if any(re.search(names, passes) and known.search(text) for known, names in KNOWN):
        return "known"
    try:
        module = ir.Module.parse(text)
    except ir.MLIRError:
        return "refused"
    try:
        if passes:
            PassManager.parse(f"builtin.module({passes})").run(module.operation)
    except ir.MLIRError:
        return "failed"
    printed = module.operation.get_asm()
    # In a context of its own: this one would give resources new names.
    with new_context() as context:
        context.allow_unregistered_dialects = True  # StableHLO is written without its dialect
        try:
            again = ir.Module.parse(printed)
        except ir.MLIRError:
            return "unreadable"
        return "done" if again.operation.get_asm() == printed else "unstable"


def new_context():
    from iam.mlir import ir

    context = ir.Context()
    context.enable_multithreading(False)
    return context


@dataclass
class Material:
    """What inputs are made of: pieces of text, the named pipelines, the passes of IAM that this build has."""

    pieces: list[str]
    table: dict[str, str]
    passes: list[str]


def material() -> Material:
    from iam.compiler._engine import pipelines
    from iam.mlir.passmanager import PassManager

    declared = "".join(
        path.read_text(encoding="utf-8") for path in sorted((ROOT / "mlir" / "include").rglob("Passes.td"))
    )
    passes = []
    with new_context():
        for name in re.findall(r'Pass<"(iam-[\w-]+)"', declared):
            with contextlib.suppress(ValueError):
                PassManager.parse(f"builtin.module({name})")
                passes.append(name)
    return Material(seeds(), {pipeline.name: pipeline.passes for pipeline in pipelines()}, passes)


def worker(seed: int, first: int, step: int, end: int, board: str, log: str) -> None:
    """Run the inputs first, first + step, ... below ``end``; the board holds the number of the present one and counts."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
    of = material()
    with open(board, "r+b") as file:
        shared = mmap.mmap(file.fileno(), 0)
    outcomes = json.loads(shared[8:].rstrip(b"\0") or b"{}")
    for uses, index in enumerate(range(first, end, step)):
        shared[:8] = struct.pack("<q", index)
        text, passes = make(seed, index, of)
        if uses % 32 == 0:  # a context costs as much as an input, but keeps every type it ever saw
            context = new_context()
        context.allow_unregistered_dialects = index % 16 == 0
        with context:
            outcome = run_one(text, passes)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if outcome in ("unreadable", "unstable"):
            outcomes.setdefault("findings", [])
            if len(outcomes["findings"]) < 100:
                outcomes["findings"].append([outcome, index])
        if index // step % 16 == 0:
            data = json.dumps(outcomes).encode()
            shared[8 : 8 + len(data)] = data
    data = json.dumps(outcomes).encode()
    shared[8 : 8 + len(data)] = data
    shared[:8] = struct.pack("<q", -1)


def alone(text: str, passes: str, *, unknown_ops: bool = False, seconds: float = 120.0) -> str:
    """One input in a process of its own: its outcome, a signal and what was said, or ``hang``."""
    code = (
        "import sys, json, resource\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import fuzz_iam_opt as fuzz\n"
        "text, passes, unknown = json.load(sys.stdin)\n"
        "with fuzz.new_context() as context:\n"
        "    context.allow_unregistered_dialects = unknown\n"
        "    print(fuzz.run_one(text, passes))\n"
    )
    given = json.dumps([text, passes, unknown_ops])
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], input=given, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return "hang"
    if done.returncode == 0:
        return done.stdout.strip()
    said = [line for line in done.stderr.splitlines() if line.strip()]
    if "bad_alloc" in done.stderr or "out of memory" in done.stderr.lower() or "MemoryError" in done.stderr:
        return "memory"
    name = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit {done.returncode}"
    return f"{name}: {said[-1][:200] if said else 'nothing said'}"


GOOD = ("refused", "failed", "done", "known")


def is_bad(outcome: str) -> bool:
    return outcome not in (*GOOD, "memory")


class Worker:
    """A process, the board it writes on, and when it last moved."""

    def __init__(self, seed: int, number: int, step: int, first: int, end: int, folder: Path) -> None:
        self.arguments = (seed, number, step, end, folder)
        self.board, self.log = folder / f"board{number}", folder / f"log{number}"
        if not self.board.exists():
            self.board.write_bytes(struct.pack("<q", first) + b"\0" * 65536)
        command = ["--worker", str(seed), str(first), str(step), str(end), str(self.board), str(self.log)]
        self.process = subprocess.Popen([sys.executable, __file__, *command], stdout=subprocess.DEVNULL)
        self.index, self.moved = first, time.monotonic()

    def present(self) -> int:
        return struct.unpack("<q", self.board.read_bytes()[:8])[0]

    def counts(self) -> dict:
        return json.loads(self.board.read_bytes()[8:].rstrip(b"\0") or b"{}")

    def stuck(self) -> bool:
        index = self.present()
        if index != self.index:
            self.index, self.moved = index, time.monotonic()
        return time.monotonic() - self.moved > STALL_SECONDS


def fuzz(seed: int, runs: int, workers: int, seconds: float) -> dict:
    """Run ``runs`` inputs or as many as fit in ``seconds``; the outcomes, and the findings as ``(outcome, index, text, passes)``."""
    of = material()
    start, findings, done = time.monotonic(), [], 0
    with tempfile.TemporaryDirectory(prefix="iam-fuzz-") as temporary:
        folder = Path(temporary)
        active = [Worker(seed, n, workers, n, runs, folder) for n in range(workers)]
        board = list(active)
        while active and time.monotonic() - start < seconds:
            time.sleep(0.2)
            for one in list(active):
                ended = one.process.poll()
                stuck = ended is None and one.stuck()
                if stuck:
                    one.process.kill()
                    one.process.wait()
                elif ended is None:
                    continue
                active.remove(one)
                index = one.present()
                if index == -1:
                    continue
                text, passes = make(seed, index, of)
                outcome = alone(text, passes, unknown_ops=index % 16 == 0)
                if not is_bad(outcome) and outcome != "memory":
                    said = one.log.read_text(errors="replace").strip().splitlines()
                    outcome = "slow" if stuck else f"only in a worker (exit {ended}: {said[-1] if said else ''})"
                findings.append((outcome, index))
                print(f"{outcome}  input {index}  passes {passes[:120]}", flush=True)
                if index + workers < runs:
                    made = Worker(seed, index % workers, workers, index + workers, runs, folder)
                    active.append(made)
                    board[index % workers] = made
        for one in active:
            one.process.kill()
            one.process.wait()
        totals: collections.Counter = collections.Counter()
        for n, one in enumerate(board):
            counts = one.counts()
            findings += [tuple(found) for found in counts.pop("findings", [])]
            totals.update(counts)
            present = one.present()
            done += len(range(n, runs, workers)) if present == -1 else len(range(n, present, workers))
    # With their text: numbers mean nothing once a file that inputs are pieces of has changed.
    found = [(outcome, index, *make(seed, index, of)) for outcome, index in findings]
    return {"runs": done, "seconds": round(time.monotonic() - start, 1), "outcomes": dict(totals), "findings": found}


def minimise(text: str, passes: str, *, unknown_ops: bool) -> tuple[str, str, str]:
    """Text and passes from which no line, pass or token can be taken without losing the finding; and what it is."""
    wanted = alone(text, passes, unknown_ops=unknown_ops)

    def same(text: str, passes: str) -> bool:
        return alone(text, passes, unknown_ops=unknown_ops, seconds=30).split(":")[0] == wanted.split(":")[0]

    table = material().table
    steps = [s for p in split_passes(passes) for s in (split_passes(table[p]) if p in table else [p])]
    steps = [s for p in steps for s in (split_passes(table[p]) if p in table else [p])]
    if same(text, ",".join(steps)):
        steps = _shrink(steps, lambda kept: same(text, ",".join(kept)))
        passes = ",".join(steps)
    text = "\n".join(_shrink(text.split("\n"), lambda kept: same("\n".join(kept), passes)))
    return text, passes, wanted


def _shrink(parts: list[str], holds) -> list[str]:
    size = max(len(parts) // 2, 1)
    while size:
        at = 0
        while at < len(parts):
            kept = parts[:at] + parts[at + size :]
            if holds(kept):
                parts = kept
            else:
                at += size
        size //= 2
    return parts


def main() -> int:
    if sys.argv[1:2] == ["--worker"]:
        seed, first, step, end = map(int, sys.argv[2:6])
        worker(seed, first, step, end, *sys.argv[6:8])
        return 0
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--show", type=int, metavar="INPUT")
    parser.add_argument("--minimise", type=int, metavar="INPUT")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    chosen = args.show if args.show is not None else args.minimise
    if chosen is not None:
        text, passes = make(args.seed, chosen, material())
        if args.minimise is not None:
            text, passes, outcome = minimise(text, passes, unknown_ops=chosen % 16 == 0)
            print(f"// {outcome}")
        print(f"// builtin.module({passes})\n{text}")
        return 0
    with contextlib.suppress(KeyboardInterrupt):
        report = fuzz(args.seed, args.runs, args.workers, args.seconds)
        print(json.dumps(report, indent=1))
        if args.json:
            args.json.write_text(json.dumps(report))
        return int(any(is_bad(outcome) for outcome, *_ in report["findings"]))
    return 1


if __name__ == "__main__":
    sys.exit(main())
