# Configuration of the lit tests: `lit -v mlir/test` in an environment where iam is installed.
#
# IAM_OPT and FILECHECK name other binaries than those found. Tests that run compiled code load the runtime as
# %iam_runtime; they are skipped where `mlir-runner` is not installed.
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
config.test_source_root = os.path.dirname(__file__)
config.test_exec_root = os.path.join(os.environ.get("IAM_LIT_OUT", tempfile.gettempdir()), f"iam-lit-{os.getuid()}")


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
runner = next((c for c in [shutil.which("mlir-runner"), *(os.path.join(p, "mlir", "bin", "mlir-runner") for p in packages)] if c and os.path.exists(c)), None)
if runner:
    config.available_features.add("mlir-runner")
    config.substitutions.append(("mlir-runner", runner))
if root:
    suffix = "dylib" if sys.platform == "darwin" else "so"
    config.substitutions.append(("%iam_runtime", str(root / "lib" / f"libiam_runtime.{suffix}")))
    config.environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
