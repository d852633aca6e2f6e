# The native kernels (python/bindings/). Arrays are C-contiguous float32 unless said otherwise; rows may be strided.
# Codes: values and indices [rows, k] with offsets None, or CSR: values [nnz], indices [nnz], offsets [rows + 1].
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

_F32: TypeAlias = NDArray[np.float32]
_I32: TypeAlias = NDArray[np.int32]
_I64: TypeAlias = NDArray[np.int64]
# Training (docs/training-kernels.md): entries sorted by feature (features, offsets, order, rows); a gradient with rows for
# some features, as (features, rows [active, d]) or as the factors (group, weights, basis [rows, d]) of those rows.
_Group: TypeAlias = tuple[_I32, _I64, _I32, _I32]
_Gradient: TypeAlias = tuple[_I32, _F32] | tuple[_Group, _F32, _F32]
_Rate: TypeAlias = float | NDArray[np.float64]

def encode_dense(x: _F32, W_enc: _F32, b_enc: _F32 | None, b_dec: _F32 | None = None) -> _F32: ...
def encode_topk(x: _F32, W_enc: _F32, b_enc: _F32 | None, b_dec: _F32 | None, k: int) -> tuple[_F32, _I32]: ...
def encode_abstopk(x: _F32, W_enc: _F32, b_enc: _F32 | None, b_dec: _F32 | None, k: int) -> tuple[_F32, _I32]: ...
def encode_groupmax(x: _F32, W_enc: _F32, b_enc: _F32 | None, b_dec: _F32 | None, k: int) -> tuple[_F32, _I32]: ...
def encode_threshold(
    x: _F32, W_enc: _F32, b_enc: _F32 | None, b_dec: _F32 | None, threshold: _F32 | None
) -> tuple[_F32, _I32, _I64]: ...
def encode_threshold_only(
    x: _F32, W_enc: _F32, b_enc: _F32 | None, b_dec: _F32 | None, threshold: _F32 | None, only: _I32
) -> tuple[_F32, _I32, _I64]: ...
def encode_gate(
    x: _F32,
    W_enc: _F32,
    b_enc: _F32 | None,
    b_dec: _F32 | None,
    W_mag: _F32,
    b_mag: _F32 | None,
    only: _I32 | None = None,
) -> tuple[_F32, _I32, _I64]: ...
def encode_batch_topk(
    x: _F32, W_enc: _F32, b_enc: _F32 | None, b_dec: _F32 | None, k: int
) -> tuple[_F32, _I32, _I64]: ...
def topk(pre: _F32, k: int) -> tuple[_F32, _I32]: ...
def abstopk(pre: _F32, k: int) -> tuple[_F32, _I32]: ...
def groupmax(pre: _F32, k: int) -> tuple[_F32, _I32]: ...
def matching_pursuit(
    x: _F32,
    W_dec: _F32,
    b_dec: _F32 | None,
    residual_threshold: float,
    max_iterations: int,
    stop_on_duplicate_support: bool,
) -> tuple[_F32, _I32, _I64]: ...
def threshold(pre: _F32, threshold: _F32 | None) -> tuple[_F32, _I32, _I64]: ...
def batch_topk(pre: _F32, k: int) -> tuple[_F32, _I32, _I64]: ...
def gate(gate_pre: _F32, magnitude_pre: _F32) -> tuple[_F32, _I32, _I64]: ...
def decode(values: _F32, indices: _I32, offsets: _I64 | None, W_dec: _F32, b_dec: _F32 | None = None) -> _F32: ...
def densify(values: _F32, indices: _I32, offsets: _I64 | None, n_features: int) -> _F32: ...
def residual(y: _F32, x: _F32, W_skip: _F32 | None = None) -> _F32: ...
def edit(
    values: _F32,
    indices: _I32,
    offsets: _I64 | None,
    features: _I32,
    mode: int,
    a: _F32 | None = None,
    b: _F32 | None = None,
) -> tuple[_F32, _I32, _I64 | None]: ...
def delta(
    values: _F32,
    indices: _I32,
    offsets: _I64 | None,
    features: _I32,
    mode: int,
    a: _F32 | None = None,
    b: _F32 | None = None,
) -> tuple[_F32, _I32]: ...
def sub(
    values1: _F32, indices1: _I32, offsets1: _I64 | None, values2: _F32, indices2: _I32, offsets2: _I64 | None
) -> tuple[_F32, _I32, _I64 | None]: ...
def steer(h: _F32, v: _F32, strength: float, mode: int) -> _F32: ...
def compose(vectors: _F32, strengths: _F32, rule: int) -> _F32: ...
def project(h: _F32, kind: int, first: _F32, second: _F32 | float | None) -> _F32: ...
def verify(h: _F32, kind: int, first: _F32, second: _F32 | float | None, tolerance: float, message: str) -> _F32: ...
def train_group(values: _F32, indices: _I32, offsets: _I64 | None, n_features: int) -> _Group: ...
def train_grad_values(group: _Group, upstream: _F32, W_dec: _F32, values: _F32) -> _F32: ...
def train_grad_rows(grad: _Gradient, out: _F32 | None = None, accumulate: bool = False) -> _F32: ...
def train_grad_sums(group: _Group, weights: _F32, rows: int) -> _F32: ...
def train_column_sums(m: _F32) -> _F32: ...
def train_grad_input(W_enc: _F32, features: _I32, weights: _F32) -> _F32: ...
def train_sum_squares(grad: _F32 | _Gradient, project: _F32 | None = None) -> float: ...
def train_project_rows(rows: _F32, features: _I32, W_dec: _F32) -> None: ...
def train_normalize_rows(w: _F32, features: _I32 | None = None) -> None: ...
def train_row_norms(w: _F32) -> _F32: ...
def train_adam(
    param: _F32,
    grad: _F32,
    m: _F32,
    v: _F32,
    *,
    lr: float,
    step: int,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    scale: float = 1.0,
) -> None: ...
def train_adam_rows(
    param: _F32,
    m: _F32,
    v: _F32,
    grad: _Gradient,
    *,
    lr: _Rate,
    step: int,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    scale: float = 1.0,
    last: _I64 | None = None,
    project: bool = False,
    normalize: bool = False,
) -> None: ...
def train_adam_columns(
    param: _F32,
    m: _F32,
    v: _F32,
    grad: _Gradient,
    *,
    lr: _Rate,
    step: int,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    scale: float = 1.0,
    last: _I64 | None = None,
) -> None: ...
def train_adam_catch_up(
    param: _F32,
    m: _F32,
    v: _F32,
    last: _I64,
    features: _I32 | None = None,
    *,
    lr: NDArray[np.float64],
    step: int,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    normalize: bool = False,
    columns: bool = False,
) -> None: ...
def train_signum(
    param: _F32,
    grad: _F32,
    m: _F32 | None,
    *,
    lr: float,
    beta: float = 0.95,
    weight_decay: float = 0.0,
    scale: float = 1.0,
) -> None: ...
def train_signum_rows(
    param: _F32,
    m: _F32 | None,
    grad: _Gradient,
    *,
    lr: float,
    beta: float = 0.95,
    weight_decay: float = 0.0,
    scale: float = 1.0,
    project: bool = False,
    normalize: bool = False,
) -> None: ...
def train_signum_columns(
    param: _F32,
    m: _F32 | None,
    grad: _Gradient,
    *,
    lr: float,
    beta: float = 0.95,
    weight_decay: float = 0.0,
    scale: float = 1.0,
) -> None: ...
def train_encode_among(
    x: _F32, W_enc: _F32, b_enc: _F32 | None, b_dec: _F32 | None, among: _I32, k: int
) -> tuple[_F32, _I32]: ...
def train_encode_window(
    x: _F32, W_enc: _F32, b_enc: _F32 | None, b_dec: _F32 | None, threshold: _F32, bandwidth: float
) -> tuple[_F32, _I32, _I64]: ...
def train_batch_select(values: _F32, indices: _I32, total: int) -> tuple[_F32, _I32, _I64, bool]: ...
def train_jumprelu_grad(
    h: _F32,
    indices: _I32,
    threshold: _F32,
    bandwidth: float,
    d_f: _F32,
    d_step: _F32 | None = None,
    ste_to_input: bool = False,
) -> tuple[_F32, _F32]: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def cpu_level() -> str: ...
def available_cpu_levels() -> list[str]: ...
def set_cpu_level(name: str) -> None: ...
def pool_stats() -> dict[str, int]: ...
def pool_trim() -> int: ...
def pool_reset_peak() -> None: ...
def fingerprint(a: NDArray[Any]) -> tuple[int, int]: ...
def data_pointer(a: NDArray[Any]) -> int: ...
def set_model_host(
    run: Callable[..., Any], linearize: Callable[..., Any], pullback: Callable[..., Any], rows: Callable[..., int]
) -> None: ...
def select(scores: _F32, n: int) -> tuple[_I32, _F32]: ...

class Program:
    def __init__(self, address: int, inputs: list[tuple[str, int]], results: list[tuple[str, int]]) -> None: ...
    def __call__(self, *args: NDArray[Any] | float) -> tuple[NDArray[Any], ...]: ...
