"""The oracle of a program in float64, with a bound on what float32 arithmetic may add to each number.

Values are those of ``iam.reference``. Beside each stands ``error``: how far a float32 result may be from it, whatever the order
of its sums, derived op by op (Higham 2002, Accuracy and Stability of Numerical Algorithms, sections 3.1 and 3.5: a sum of n
products is within ``γ_n Σ|a b|``, ``γ_n = n u / (1 − n u)``, ``u = 2^-24``). The compiler may reassociate additions across ops,
so every γ counts twice the terms of the op alone.

Where all terms are multiples of one ``unit`` and their sums of magnitudes stay below ``2^24`` units, float32 is exact in any
order: the error is 0, results must be equal, and ties are decided by the rule of the op. Everywhere else a choice (which features are the k
largest, which are above a threshold) may fall either way when the numbers that decide it are closer than their errors. Rows
with such a choice are *open*: what is computed from them is left out of comparisons, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iam.reference import clt, policy

U = 2.0**-24
EXACT = 2.0**24
TINY = 2.0**-120
"""Covers sums and products that are denormal in float32."""
LIMIT = 1e15
"""Programs whose numbers grow beyond this are not compared: their squares leave float32."""


class TooLargeError(Exception):
    """The program's numbers grow beyond ``LIMIT``."""


def gamma(terms: float) -> float:
    n = 2 * terms + 2
    return n * U / (1 - n * U)


def wide(array) -> np.ndarray:
    """In float64; numbers and lists of them are rounded to float32 first, as a program does with its constants."""
    array = array if isinstance(array, np.ndarray) else np.asarray(array, np.float32)
    return array.astype(np.float64)


def unit_of(array: np.ndarray) -> float | None:
    """1, 1/2, ... 1/16 if all numbers are multiples of it, else None."""
    for unit in (1.0, 0.5, 0.25, 0.125, 0.0625):
        if (np.asarray(array, np.float64) % unit == 0).all():
            return unit
    return None


def _finer(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else min(a, b)


def _product(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a * b


@dataclass
class Tensor:
    """An activation ``[rows, d]`` (or a vector ``[d]``)."""

    value: np.ndarray
    error: np.ndarray
    unit: float | None

    # So that NumPy leaves `vector - tensor` to this class.
    __array_ufunc__ = None

    @staticmethod
    def of(array) -> Tensor:
        value = wide(array)
        return Tensor(value, np.zeros_like(value), unit_of(value))

    @staticmethod
    def made(value: np.ndarray, inherited: np.ndarray, size: np.ndarray, terms: float, unit: float | None) -> Tensor:
        """The result of float32 arithmetic over ``terms`` terms whose magnitudes sum to ``size``."""
        if size.size and not np.abs(size).max() < LIMIT:
            raise TooLargeError
        if unit is not None and not inherited.any() and (not size.size or size.max() < EXACT * unit):
            return Tensor(value, np.zeros_like(value), unit)
        return Tensor(value, inherited + gamma(terms) * size + TINY, None)

    def size(self) -> np.ndarray:
        return np.abs(self.value) + self.error

    def _sum(self, other, sign: float) -> Tensor:
        other = other if isinstance(other, Tensor) else Tensor.of(other)
        value = self.value + sign * other.value
        return Tensor.made(
            value, self.error + other.error + 0 * value, self.size() + other.size(), 1, _finer(self.unit, other.unit)
        )

    def __add__(self, other) -> Tensor:
        return self._sum(other, 1.0)

    __radd__ = __add__

    def __sub__(self, other) -> Tensor:
        return self._sum(other, -1.0)

    def __rsub__(self, other) -> Tensor:
        return (-self)._sum(other, 1.0)

    def __neg__(self) -> Tensor:
        return Tensor(-self.value, self.error, self.unit)

    def __mul__(self, other) -> Tensor:
        other = other if isinstance(other, Tensor) else Tensor.of(other)
        inherited = self.error * other.size() + np.abs(self.value) * other.error
        return Tensor.made(
            self.value * other.value, inherited, self.size() * other.size(), 1, _product(self.unit, other.unit)
        )

    __rmul__ = __mul__

    def __truediv__(self, other) -> Tensor:
        other = wide(other)
        size = self.size() / np.abs(other)
        return Tensor.made(self.value / other, self.error / np.abs(other), size, 1, None)


@dataclass
class Features:
    """Features ``[rows, F]``, dense; ``k`` slots a row, or None in compressed rows."""

    value: np.ndarray
    error: np.ndarray
    unit: float | None
    k: int | None

    @property
    def n_features(self) -> int:
        return self.value.shape[1]

    def __sub__(self, other: Features) -> Features:
        return Oracle.sub(self, other)


class Oracle:
    """The ops of a program on :class:`Tensor` and :class:`Features`; ``open`` marks rows with a choice that may fall either way."""

    def __init__(self, rows: int) -> None:
        self.open = np.zeros(rows, bool)

    # Dense ops.

    @staticmethod
    def _affine(x: Tensor, W: np.ndarray, b, shift=None) -> Tensor:
        W = wide(W)
        zeros = np.zeros(W.shape[1])
        b = zeros if b is None else wide(b)
        if shift is not None:
            x = x - wide(shift)
        magnitude = x.size() @ np.abs(W) + np.abs(b)
        unit = _finer(_product(x.unit, unit_of(W)), unit_of(b))
        value = clt.encode(x.value, W, b)
        # Weights that were folded in float32 carry a rounding of their own: two more terms.
        return Tensor.made(value, x.error @ np.abs(W), magnitude, W.shape[0] + 3, unit)

    def encode_dense(self, x, W, b, shift=None) -> Tensor:
        return self._affine(x, W, b, shift)

    def residual(self, y: Tensor, x: Tensor, W_skip=None) -> Tensor:
        return y + (x if W_skip is None else self._affine(x, W_skip, None))

    def steer(self, h: Tensor, v, s: float, mode: str = "add") -> Tensor:
        v, s = wide(v), float(np.float32(s))
        value = policy.steer(h.value, v, s, mode)
        if mode == "add":
            unit = _finer(h.unit, _product(unit_of(v), unit_of(np.array(s))))
            return Tensor.made(value, h.error, h.size() + np.abs(s * v), 2, unit)
        norm, d = np.linalg.norm(v), len(v)
        # The component h·v/‖v‖ and its error; both modes take a multiple of it along v/‖v‖.
        size = (h.size() @ np.abs(v) / norm)[:, None]
        inherited = (h.error @ np.abs(v) / norm)[:, None]
        factor = abs(s) if mode == "ablate" else 1.0
        along = np.abs(v) / norm
        offset = 0.0 if mode == "ablate" else abs(s)
        magnitude = h.size() + (factor * size + offset) * along
        return Tensor.made(value, h.error + factor * inherited * along, magnitude, 2 * d + 8, None)

    def project(self, h: Tensor, kind: str, first, second=None) -> Tensor:
        """The nearest point of a half-space, a ball or a box. No point moves further apart from another by it."""
        a, b = wide(first), wide(second)
        value, d = policy.project(h.value, kind, a, b), h.value.shape[-1]
        if kind == "box":
            unit = _finer(h.unit, _finer(unit_of(a), unit_of(b)))
            return Tensor.made(value, h.error, h.size() + np.abs(a) + np.abs(b), 1, unit)
        if kind == "halfspace":
            norm = np.linalg.norm(a)
            along = np.abs(a) / norm
            inherited = h.error + (h.error @ along)[..., None] * along
            magnitude = h.size() + ((h.size() @ along)[..., None] + abs(b) / norm) * along
            # Against rounding, a row goes up to a few roundings of its norm further than to the border.
            magnitude = magnitude + np.linalg.norm(h.size(), axis=-1, keepdims=True) * along
            return Tensor.made(value, inherited, magnitude, 2 * d + 8, None)
        inherited = np.broadcast_to(np.linalg.norm(h.error, axis=-1, keepdims=True), value.shape)
        reach = np.linalg.norm(h.size() + np.abs(a), axis=-1, keepdims=True)
        return Tensor.made(value, inherited, h.size() + np.abs(a) + reach, 2 * d + 8, None)

    # Activations.

    # Near 0 it does not matter much what is chosen: `_kept` widens the error of numbers below three errors of their row, and
    # only choices above two of them open a row.

    def _choose(self, keys: np.ndarray, errors: np.ndarray, k: int) -> None:
        """Open the rows whose k largest keys are not certain."""
        if k >= keys.shape[1] or not keys.size:
            return
        order = np.argsort(-keys, axis=1, kind="stable")
        low = np.take_along_axis(keys - errors, order, axis=1)[:, :k].min(axis=1)
        high = np.take_along_axis(keys + errors, order, axis=1)[:, k:].max(axis=1)
        self.open |= (low <= high) & (high > 2 * errors.max(axis=1)) & errors.any(axis=1)

    def topk(self, pre: Tensor, k: int) -> Features:
        self._choose(pre.value, pre.error, k)
        return self._kept(clt.topk(pre.value, k=k), pre, k)

    def abstopk(self, pre: Tensor, k: int) -> Features:
        self._choose(np.abs(pre.value), pre.error, k)
        return self._kept(clt.abstopk(pre.value, k=k), pre, k)

    def groupmax(self, pre: Tensor, k: int) -> Features:
        width = pre.value.shape[1] // k
        for first in range(0, pre.value.shape[1], width):
            part = slice(first, first + width)
            self._choose(pre.value[:, part], pre.error[:, part], 1)
        return self._kept(clt.groupmax(pre.value, k=k), pre, k)

    def batch_topk(self, pre: Tensor, k: int) -> Features:
        before = self.open.any()
        if len(self.open):
            whole = Oracle(1)
            whole._choose(clt.relu(pre.value).reshape(1, -1), pre.error.reshape(1, -1), k * len(self.open))
            self.open |= before or whole.open[0]  # one open row decides for all
        whole_batch = Tensor(pre.value, np.full_like(pre.error, pre.error.max(initial=0.0)), pre.unit)
        return self._kept(clt.batch_topk(pre.value, k=k), whole_batch, None)

    def relu(self, pre: Tensor) -> Features:
        return self._kept(clt.relu(pre.value), pre, None)

    def jumprelu(self, pre: Tensor, threshold) -> Features:
        threshold = wide(threshold)
        near = (np.abs(pre.value - threshold) <= pre.error) & (pre.error > 0) & (pre.value > 2 * pre.error)
        self.open |= near.any(axis=1)
        return self._kept(clt.jumprelu(pre.value, threshold), pre, None)

    def gate(self, gate_pre: Tensor, magnitude: Tensor) -> Features:
        near = (
            (np.abs(gate_pre.value) <= gate_pre.error) & (gate_pre.error > 0) & (magnitude.value > 2 * magnitude.error)
        )
        self.open |= near.any(axis=1)
        return self._kept(clt.gate(gate_pre.value, magnitude.value), magnitude, None)

    @staticmethod
    def _kept(value: np.ndarray, pre: Tensor, k: int | None) -> Features:
        most = pre.error.max(axis=1, keepdims=True, initial=0.0)
        near = (np.abs(pre.value) <= 3 * most) & (most > 0)
        error = np.where(near, 4 * most, np.where(value == 0, 0.0, pre.error))  # what was dropped is exactly 0
        return Features(value, error, pre.unit, k)

    def matching_pursuit(
        self, x: Tensor, W_dec, b_dec=None, *, residual_threshold, max_iterations, stop=True
    ) -> Features:
        """A row is open where a step's choice or the end of the row is not certain."""
        W = wide(W_dec)
        r = x if b_dec is None else x - wide(b_dec)
        value = clt.matching_pursuit(
            r.value,
            W,
            residual_threshold=residual_threshold,
            max_iterations=max_iterations,
            stop_on_duplicate_support=stop,
        )
        error = np.zeros_like(value)
        unit, unit_W = r.unit, unit_of(W)
        for row in range(len(value)):
            left = Tensor(r.value[row : row + 1], r.error[row : row + 1], r.unit)
            found = np.zeros(len(W))
            for _ in range(max_iterations):
                fit = self._affine(left, W.T, None)
                best = int(np.argmax(fit.value))
                at, near = fit.value[0, best], fit.error[0, best]
                others = np.delete(np.arange(len(W)), best)
                if near > 0 and (at <= near or (fit.value + fit.error)[0, others].max(initial=-np.inf) >= at - near):
                    self.open[row] = True
                taken = max(at, 0.0)
                active = found[best] != 0
                found[best] += taken
                error[row, best] += near + (gamma(1) * found[best] if near else 0.0)
                step = Tensor(np.array([[taken]]), np.array([[near]]), fit.unit) * W[best]
                left = left - step
                if taken == 0 or (stop and active):
                    break
                norm = np.linalg.norm(left.value)
                if residual_threshold > 0:
                    slack = np.linalg.norm(left.error) + gamma(left.value.shape[1]) * norm
                    if abs(norm - residual_threshold) <= slack:
                        self.open[row] = True
                    if norm < residual_threshold:
                        break
            unit = _finer(unit, left.unit)
            np.testing.assert_allclose(found, value[row], rtol=1e-9, atol=1e-12)
        return Features(value, error, None if error.any() else _finer(unit, unit_W), None)

    # Features.

    def densify(self, f: Features) -> Tensor:
        return Tensor(f.value, f.error, f.unit)

    def decode_dense(self, f: Features, W_dec, b_dec=None) -> Tensor:
        W = wide(W_dec)
        b = np.zeros(W.shape[1]) if b_dec is None else wide(b_dec)
        size = (np.abs(f.value) + f.error) @ np.abs(W) + np.abs(b)
        unit = _finer(_product(f.unit, unit_of(W)), unit_of(b))
        value = clt.decode(f.value, W, b)
        terms = 3 + (int((f.error + np.abs(f.value) > 0).sum(axis=1).max()) if len(f.value) else 0)
        return Tensor.made(value, f.error @ np.abs(W), size, terms, unit)

    def edit(self, f: Features, features, mode: str, a=None, b=None) -> Features:
        numbers = [np.broadcast_to(wide(n), (len(features),)) for n in (a, b) if n is not None]
        value = clt.edit(f.value, list(features), mode, *numbers)
        error, unit = f.error.copy(), f.unit
        for n in numbers:
            unit = _finer(unit, unit_of(n)) if mode != "scale" else _product(unit, unit_of(n))
        listed = list(features)
        if mode in ("set", "ablate"):
            error[:, listed] = 0
        elif mode == "scale":
            factor = np.abs(numbers[0])
            size = (np.abs(f.value) + f.error)[:, listed] * factor
            error[:, listed] = Tensor.made(size, error[:, listed] * factor, size, 1, unit).error
        grows = mode in ("set", "clamp") and f.k is not None
        k = f.k + len(listed) if grows else f.k
        exact = unit is not None and not error.any()
        return Features(value, error, unit if exact else None, k)

    def delta(self, f: Features, features, mode: str, a=None, b=None) -> Features:
        made = self.sub(self.edit(f, features, mode, a, b), f)
        others = np.ones(f.n_features, bool)
        others[list(features)] = False
        made.value[:, others] = 0
        made.error[:, others] = 0
        return Features(made.value, made.error, made.unit, len(features))

    @staticmethod
    def sub(f: Features, g: Features) -> Features:
        size = np.abs(f.value) + f.error + np.abs(g.value) + g.error
        made = Tensor.made(clt.sub(f.value, g.value), f.error + g.error, size, 1, _finer(f.unit, g.unit))
        k = None if f.k is None or g.k is None else f.k + g.k
        return Features(made.value, made.error, made.unit, k)

    # Coders by their definition.

    def encode(self, coder, x: Tensor) -> Features:
        cfg = coder.cfg
        shift = coder.b_dec if cfg.apply_b_dec_to_input else None
        if cfg.architecture == "matching_pursuit":
            rule = {"residual_threshold": cfg.residual_threshold, "stop": cfg.stop_on_duplicate_support}
            return self.matching_pursuit(x, coder.W_dec, shift, max_iterations=cfg.max_iterations, **rule)
        if cfg.architecture == "gated":
            scale = np.exp(wide(coder.r_mag))
            # One encoder serves both paths, so the gate's error is that of the magnitude, in its scale; the sign is the same.
            gate = self._affine(x, wide(coder.W_enc) * scale, wide(coder.b_gate) * scale, shift)
            magnitude = self._affine(x, wide(coder.W_enc) * scale, coder.b_mag, shift)
            slack = np.zeros_like(gate.error) if gate.unit and magnitude.unit else magnitude.error + gate.error
            return self.gate(Tensor(gate.value, slack, gate.unit), magnitude)
        norms = np.linalg.norm(wide(coder.W_dec), axis=1) if cfg.rescale_acts_by_decoder_norm else 1.0
        pre = self._affine(x, wide(coder.W_enc) * norms, wide(coder.b_enc) * norms, shift)
        if cfg.architecture == "jumprelu":
            return self.jumprelu(pre, coder.threshold)
        if cfg.architecture == "standard":
            return self.relu(pre)
        return getattr(self, cfg.architecture)(pre, cfg.k)

    def decode(self, coder, f: Features) -> Tensor:
        cfg, W = coder.cfg, wide(coder.W_dec)
        if cfg.rescale_acts_by_decoder_norm:
            norms = np.linalg.norm(W, axis=1, keepdims=True)
            W = W / np.where(norms > 0, norms, 1)
        without = cfg.architecture == "matching_pursuit" and not cfg.apply_b_dec_to_input
        return self.decode_dense(f, W, None if without else coder.b_dec)
