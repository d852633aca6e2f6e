# Kernels are compiled once per CPU level, each into a library of its own that exports one table: code of one level,
# templates of the standard library included, can never be linked into another. cpp/src/core/cpu.cpp loads the best one.

set(IAM_KERNEL_LEVELS "")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  set(IAM_KERNEL_LEVELS x86-64-v2 x86-64-v3 x86-64-v4 x86-64-v4-bf16)
  set(IAM_KERNEL_FLAGS_x86-64-v2 -march=x86-64-v2)
  set(IAM_KERNEL_FLAGS_x86-64-v3 -march=x86-64-v3)
  set(IAM_KERNEL_FLAGS_x86-64-v4 -march=x86-64-v4)
  set(IAM_KERNEL_FLAGS_x86-64-v4-bf16 -march=x86-64-v4 -mavx512bf16)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64|ARM64")
  set(IAM_KERNEL_LEVELS baseline)
else()
  message(FATAL_ERROR "IAM has no kernels for ${CMAKE_SYSTEM_PROCESSOR}: add a section to cpp/src/kernels/simd.h and a level here")
endif()

# iam_add_kernels(SOURCES files... OUTPUT folder DESTINATION folder): one MODULE library per level, and IAM_KERNEL_TARGETS.
function(iam_add_kernels)
  cmake_parse_arguments(arg "" "OUTPUT;DESTINATION;COMPONENT" "SOURCES" ${ARGN})
  set(targets "")
  foreach(level IN LISTS IAM_KERNEL_LEVELS)
    set(target iam_kernels_${level})
    add_library(${target} MODULE ${arg_SOURCES})
    # GCC 12 warns about its own AVX-512 headers (GCC bug 105593).
    # -ffp-contract=off: a fused multiply-add happens where the source says so, on every level.
    target_compile_options(${target} PRIVATE ${IAM_WARNINGS} -Wno-maybe-uninitialized -Wno-uninitialized
      -O3 -fno-exceptions -fno-rtti -ffp-contract=off
      ${IAM_KERNEL_FLAGS_${level}} ${IAM_SANITIZER_FLAGS})
    target_compile_definitions(${target} PRIVATE IAM_LEVEL=${level})
    target_link_options(${target} PRIVATE ${IAM_SANITIZER_FLAGS})
    if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
      target_link_options(${target} PRIVATE
        "LINKER:--version-script=${CMAKE_CURRENT_FUNCTION_LIST_DIR}/kernels.map" LINKER:--gc-sections)
    endif()
    set_target_properties(${target} PROPERTIES
      PREFIX lib SUFFIX .so
      CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
      LIBRARY_OUTPUT_DIRECTORY "${arg_OUTPUT}")
    install(TARGETS ${target} LIBRARY DESTINATION "${arg_DESTINATION}" COMPONENT "${arg_COMPONENT}")
    list(APPEND targets ${target})
  endforeach()
  set(IAM_KERNEL_TARGETS ${targets} PARENT_SCOPE)
endfunction()
