# Configuration of the lit tests: `lit -v mlir/test` in an environment where iam is installed.
#
# IAM_OPT, FILECHECK and MLIR_RUNNER name other binaries than those found. Tests that run compiled code (REQUIRES:
# mlir-runner) are skipped where that program is not installed; it comes with the packages that build iam.
import glob
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import lit.formats

config.name = "iam"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir"]
config.excludes = ["Inputs"]
config.test_source_root = os.path.dirname(__file__)
out = os.path.abspath(os.environ.get("IAM_LIT_OUT", tempfile.gettempdir()))
config.test_exec_root = os.path.join(out, f"iam-lit-{os.getuid()}")


def first(what, candidates):
    for candidate in candidates:
        if candidate and os.path.exists(candidate):
            return os.path.abspath(candidate)
    lit_config.fatal(f"{what} was not found; looked in: {', '.join(c for c in candidates if c)}")


def install_root():
    """Where iam is installed; None where it is not (then IAM_OPT has to be given)."""
    try:
        from iam._tools import install_root
    except ImportError:
        return None
    try:
        return install_root()
    except ImportError:
        return None


root = install_root()
scripts = Path(sys.executable).parent
packages = dict.fromkeys(sysconfig.get_path(p) for p in ("platlib", "purelib"))
iam_opt = first(
    "iam-opt",
    [os.environ.get("IAM_OPT"), root and str(root / "bin" / "iam-opt"), shutil.which("iam-opt")],
)
# LLVM's own FileCheck, from the packages that built iam or from llvm-testing-tools.
filecheck = first(
    "FileCheck",
    [
        os.environ.get("FILECHECK"),
        *(os.path.join(p, "llvm", "bin", "FileCheck") for p in packages),
        str(scripts / "FileCheck"),
        shutil.which("FileCheck"),
        *glob.glob("/usr/lib/llvm-*/bin/FileCheck"),
    ],
)
lit_config.note(f"iam-opt: {iam_opt}; FileCheck: {filecheck}")

# Reasons of match failures are printed by builds with assertions only.
if "--debug-only" in subprocess.run([iam_opt, "--help-hidden"], capture_output=True, text=True).stdout:
    config.available_features.add("debug-output")

config.substitutions += [("iam-opt", iam_opt), ("FileCheck", filecheck)]
config.substitutions.append(("%python", sys.executable))
runner = next(
    (
        c
        for c in [
            os.environ.get("MLIR_RUNNER"),
            shutil.which("mlir-runner"),
            *(os.path.join(p, "mlir", "bin", "mlir-runner") for p in packages),
        ]
        if c and os.path.exists(c)
    ),
    None,
)
if runner and root:
    suffix = "dylib" if sys.platform == "darwin" else "so"
    beside = Path(runner).resolve().parents[1] / "lib"
    libraries = [root / "lib" / f"libiam_runtime.{suffix}"]
    libraries += [beside / f"libmlir_{name}.{suffix}" for name in ("runner_utils", "c_runner_utils")]
    if all(library.exists() for library in libraries):
        config.available_features.add("mlir-runner")
        # Runs @main, which returns nothing and may print memrefs.
        command = [runner, "-e main", "--entry-point-result=void", *(f"--shared-libs={name}" for name in libraries)]
        config.substitutions.append(("%run-main", " ".join(command)))
    else:
        lit_config.note(f"no mlir-runner: {', '.join(str(name) for name in libraries if not name.exists())} missing")
