# The pip packages' MLIR was exported by a build with LLVM_LINK_LLVM_DYLIB: each static library carries "LLVM"
# (libLLVM.so) in its link interface. Put in its place the static components that a dialect, its passes and a JIT for
# this machine need, so that what is installed depends on no other package at run time.
set(LLVM_LINK_LLVM_DYLIB OFF)
add_library(iam_llvm INTERFACE)
llvm_map_components_to_libnames(_iam_components
  support core targetparser irreader bitreader bitwriter linker passes
  orcjit orcdebugging executionengine jitlink
  frontendopenmp frontendoffloading
  native) # this machine's code generator, assembler and descriptions
target_link_libraries(iam_llvm INTERFACE ${_iam_components})
foreach(_target IN LISTS MLIR_EXPORTED_TARGETS)
  if(NOT TARGET ${_target})
    continue()
  endif()
  foreach(_property INTERFACE_LINK_LIBRARIES MLIR_AGGREGATE_DEP_LIBS_IMPORTED)
    get_target_property(_libraries ${_target} ${_property})
    if(_libraries)
      list(TRANSFORM _libraries REPLACE "^LLVM$" "iam_llvm")
      set_target_properties(${_target} PROPERTIES ${_property} "${_libraries}")
    endif()
  endforeach()
endforeach()
