//===- Pipelines.cpp - the one table of pass pipelines ------------------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "iam/Pipelines/Pipelines.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/ErrorHandling.h"

using namespace mlir;
using namespace iam;

namespace {
constexpr PipelineStep kFuse[] = {
    {"inline", "see the whole analysis: helpers become part of the function that uses them"},
    {"symbol-dce", "helpers without callers are not compiled"},
    {"canonicalize", "merge edits, drop zero biases: fewer forms for the fusion to know"},
    {"cse", "two encodes or decodes of one value are one; fusion compares SSA values"},
    {"iam-verify-discharge", "assertions that a projection proves are not checked"},
    {"iam-clt-fusion", "no dense codes, no full passes over the dictionary"},
    {"canonicalize", "encodes, edits and decodes that fusion left without use go away"},
    {"cse", "deltas of one edit at several places are one"},
    {"iam-demand-driven-encode", "what the deltas leave unread is not encoded"},
};

constexpr PipelineStep kAttribute[] = {
    {"iam-differentiate", "after the fusion: fused encodes and deltas have cheaper derivatives"},
    {"symbol-dce", "functions that were only differentiated are not compiled"},
    {"canonicalize", "what the derivative does not need of the function goes away"},
    {"loop-invariant-code-motion", "what does not depend on the point is computed once"},
    {"cse", "equal ops are one: the next pass compares SSA values"},
    {"iam-attribution-cache", "one forward pass for what runs and derivatives have in common"},
    {"iam-policy-projection", "derivatives know single steps: after them, steps go together"},
};

constexpr PipelineStep kHoist[] = {
    {"iam-hoist-weights", "after the rewrites, which may need ops of weights where they are used; "
                          "while ops still say what they mean"},
};

constexpr PipelineStep kToLoops[] = {
    {"canonicalize", "fold before lowering, while ops still say what they mean"},
    {"cse", "the last moment for it: see iam-to-runtime"},
    {"iam-to-linalg", "elementwise iam ops join the arithmetic around them"},
    {"func.func(convert-elementwise-to-linalg)", "arith on tensors -> linalg.generic"},
    {"func.func(linalg-generalize-named-ops)",
     "broadcasts and fills -> linalg.generic, so that they fuse"},
    {"linalg-fuse-elementwise-ops", "frees the generics from the destinations they were born with"},
    {"resolve-ranked-shaped-type-result-dims",
     "sizes come from inputs, so an intermediate has one use"},
    {"canonicalize", "drop sizes and empty tensors that nothing reads"},
    {"cse", "one empty tensor and one size for each shape"},
    {"linalg-fuse-elementwise-ops", "one loop for each chain of elementwise ops: no temporaries"},
    {"canonicalize", "drop what fusion left"},
    {"cse", "equal loops are one"},
    {"iam-reuse-operands", "the loop updates the runtime's result in place: no second buffer"},
    {"iam-to-runtime",
     "matrix-sized and irregular work is a call; features become their components"},
    {"iam-prepare-entry-points", "calling convention of public functions"},
    {"one-shot-bufferize{bufferize-function-boundaries=true "
     "function-boundary-type-conversion=identity-layout-map "
     "buffer-alignment=0 allow-return-allocs-from-loops=true}",
     "tensors -> memory; callers pass and get C-contiguous arrays, the runtime's pool aligns to 64 "
     "bytes"},
    {"canonicalize", "casts and views of casts fold"},
    {"cse", "safe again: reads and writes of memory are explicit now"},
    {"ownership-based-buffer-deallocation", "free everything once; a returned argument is cloned"},
    {"canonicalize", "constant ownership folds"},
    {"iam-simplify-deallocations", "no run-time alias checks for the runtime's results"},
    {"buffer-deallocation-simplification", "the same for other allocations"},
    {"iam-prepare-for-llvm", "several buffers are freed one by one, strided copies are loops: what "
                             "LLVM's conversion can take"},
    {"bufferization-lower-deallocations", "dealloc -> memref.dealloc"},
    {"canonicalize", "conditions that are constant fold"},
    {"cse", "equal views and sizes are one"},
    {"convert-bufferization-to-memref", "clones -> alloc and copy"},
    {"iam-linalg-to-loops", "few loops with stride 1, which LLVM vectorises"},
    {"canonicalize", "reads of what is only written, and maps of indices, go away"},
};

constexpr PipelineStep kLoopsToLLVM[] = {
    {"expand-strided-metadata", "address arithmetic of views becomes explicit"},
    {"lower-affine", "affine maps of that arithmetic -> arith"},
    {"convert-scf-to-cf", "loops -> branches"},
    {"finalize-memref-to-llvm{use-generic-functions=true}",
     "memory comes from the runtime's pool, which frees it too"},
    {"convert-math-to-llvm", "exp, sqrt, ... -> intrinsics"},
    {"convert-math-to-libm", "the rest -> the C library"},
    {"convert-arith-to-llvm", "arithmetic"},
    {"convert-index-to-llvm", "index arithmetic"},
    {"convert-cf-to-llvm", "branches"},
    {"convert-func-to-llvm", "functions, with the C interface that the JIT calls"},
    {"reconcile-unrealized-casts", "nothing between two type systems is left"},
};

constexpr PipelineStep kToLLVM[] = {
    {"iam-fuse", "remove work"},
    {"iam-attribute", "write out derivatives"},
    {"iam-hoist", "what depends on weights only is computed once for many calls"},
    {"iam-to-loops", "fix who computes what, and where it is stored"},
    {"iam-loops-to-llvm", "what the JIT takes"},
};

constexpr PipelineStep kExportStablehlo[] = {
    {"iam-fuse", "remove work: a delta is cheaper than two decodes there, too"},
    {"iam-to-stablehlo", "the only step that knows both dialects"},
    {"cse", "equal constants, shapes and comparisons are one"},
};

const Pipeline kPipelines[] = {
    {"iam-fuse", "remove work: what is left is still the iam dialect", kFuse},
    {"iam-attribute",
     "write out derivatives: what is left is the iam dialect, loops and arithmetic", kAttribute},
    {"iam-hoist", "work on weights only goes to an init function, where arguments say iam.weight",
     kHoist},
    {"iam-to-loops", "runtime calls and loops over memory, without fusing iam ops", kToLoops},
    {"iam-loops-to-llvm", "the result of iam-to-loops as LLVM dialect", kLoopsToLLVM},
    {"iam-to-llvm", "the whole way: from iam to the LLVM dialect that the JIT takes", kToLLVM},
    {"iam-export-stablehlo", "from iam to StableHLO, for XLA; sizes that are ? stay ?",
     kExportStablehlo},
};
} // namespace

std::string Pipeline::passes() const {
  return llvm::join(
      llvm::map_range(steps, [](const PipelineStep &step) { return step.pass.str(); }), ",");
}

ArrayRef<Pipeline> iam::pipelines() { return kPipelines; }

void iam::enumeratePipelines(function_ref<void(StringRef, StringRef, StringRef)> callback) {
  for (const Pipeline &pipeline : kPipelines)
    callback(pipeline.name, pipeline.passes(), pipeline.why);
}

void iam::registerPipelines() {
  for (const Pipeline &pipeline : kPipelines)
    PassPipelineRegistration<>(pipeline.name, pipeline.why, [&pipeline](OpPassManager &manager) {
      if (failed(parsePassPipeline(pipeline.passes(), manager)))
        llvm::report_fatal_error("iam: the table of pipelines names an unknown pass in " +
                                 pipeline.name);
    });
}
