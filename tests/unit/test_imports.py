"""Imports: cheap, lazy, in any order."""

import json
import subprocess
import sys

import pytest

import iam


def run(code: str) -> str:
    """Run ``code`` in a clean interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_nothing_heavy_and_is_fast():
    code = """
import json, sys, time
start = time.perf_counter()
import iam
took = time.perf_counter() - start
dir(iam)
heavy = sorted(set(sys.modules) & {"torch", "transformers", "matplotlib", "gguf", "safetensors", "numpy", "click", "rich"})
print(json.dumps({"heavy": heavy, "took": took}))
"""
    results = [json.loads(run(code)) for _ in range(3)]
    assert results[0]["heavy"] == []
    assert min(r["took"] for r in results) < 0.5


def test_core_names_load_no_torch():
    code = """
import sys
import iam
iam.SAE, iam.SAEConfig, iam.SparseFeatures, iam.Site, iam.steer, iam.reference, iam.errors, iam.formats, iam.__version__
print(sorted(set(sys.modules) & {"torch", "transformers"}))
"""
    assert run(code) == "[]"


def test_numpy_call_loads_no_torch():
    code = """
import sys
import numpy as np
import iam
cfg = iam.SAEConfig(architecture="topk", d_in=2, d_sae=3, k=1)
sae = iam.SAE(cfg, W_enc=np.ones((2, 3)), b_enc=np.zeros(3), W_dec=np.ones((3, 2)), b_dec=np.zeros(2))
print(sae(np.array([[1.0, 1.0]], dtype=np.float32)).tolist(), "torch" in sys.modules)
"""
    assert run(code) == "[[2.0, 2.0]] False"


@pytest.mark.parametrize("order", ["import torch, iam", "import iam, torch"])
def test_both_import_orders_with_torch(order):
    pytest.importorskip("torch")
    code = f"""
{order}
import numpy as np
cfg = iam.SAEConfig(architecture="topk", d_in=2, d_sae=3, k=1)
sae = iam.SAE(cfg, W_enc=np.ones((2, 3)), b_enc=np.zeros(3), W_dec=np.ones((3, 2)), b_dec=np.zeros(2))
y = sae(torch.ones(4, 2))
print(type(y).__name__, (torch.ones(64, 64) @ torch.ones(64, 64)).sum().item(), y.sum().item())
"""
    assert run(code) == "Tensor 262144.0 16.0"


def test_all_is_sorted_and_every_name_is_there():
    # constants, classes, then the rest: the order that ruff keeps (RUF022)
    assert iam.__all__ == sorted(iam.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    assert dir(iam) == sorted(iam.__all__)
    for name in iam.__all__:
        assert getattr(iam, name) is not None


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(AttributeError, match="SparseFeatures"):
        iam.SparseFeature  # noqa: B018


def test_missing_native_part_is_explained():
    code = """
import sys
sys.modules["iam._runtime"] = None
import numpy as np
import iam
try:
    iam.steer(np.ones((1, 2)), np.ones(2), 1.0)
except ImportError as error:
    print(type(error).__name__, error.code, "pip install" in str(error))
"""
    assert run(code) == "MissingDependencyError native-missing True"


def test_missing_torch_names_the_extra():
    code = """
import sys
sys.modules["torch"] = None
import numpy as np
import iam
try:
    iam.SparseFeatures.from_dense(np.ones((1, 2))).to_torch_sparse()
except iam.errors.MissingDependencyError as error:
    print(error)
"""
    assert "models]" in run(code)
