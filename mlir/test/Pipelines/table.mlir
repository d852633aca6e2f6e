// The passes of each pipeline exist, and the pipelines are what the table in mlir/lib/Pipelines/Pipelines.cpp says.
// RUN: iam-opt %s --iam-fuse --dump-pass-pipeline -o /dev/null 2>&1 | FileCheck %s --check-prefix=FUSE
// RUN: iam-opt %s --iam-attribute --dump-pass-pipeline -o /dev/null 2>&1 | FileCheck %s --check-prefix=ATTRIBUTE
// RUN: iam-opt %s --iam-to-loops --dump-pass-pipeline -o /dev/null 2>&1 | FileCheck %s --check-prefix=LOOPS
// RUN: iam-opt %s --iam-loops-to-llvm --dump-pass-pipeline -o /dev/null 2>&1 | FileCheck %s --check-prefix=LLVM
// RUN: iam-opt %s --iam-to-llvm --dump-pass-pipeline -o /dev/null 2>&1 | FileCheck %s --check-prefixes=FUSE,ATTRIBUTE,HOIST,LOOPS,LLVM
// RUN: iam-opt %s --iam-export-stablehlo --dump-pass-pipeline -o /dev/null 2>&1 | FileCheck %s --check-prefixes=FUSE,STABLEHLO
// As text, in a pipeline of somebody else's.
// RUN: iam-opt %s --pass-pipeline='builtin.module(iam-fuse,canonicalize)' --dump-pass-pipeline -o /dev/null 2>&1 | FileCheck %s --check-prefix=FUSE

// FUSE: inline
// FUSE: symbol-dce
// FUSE: canonicalize
// FUSE: cse
// FUSE: iam-verify-discharge
// FUSE: iam-clt-fusion
// FUSE: canonicalize
// FUSE: cse
// FUSE: iam-demand-driven-encode

// ATTRIBUTE: iam-differentiate
// ATTRIBUTE: symbol-dce
// ATTRIBUTE: loop-invariant-code-motion
// ATTRIBUTE: cse
// ATTRIBUTE: iam-attribution-cache
// HOIST: iam-hoist-weights

// LOOPS: iam-to-linalg
// LOOPS: convert-elementwise-to-linalg
// LOOPS: linalg-fuse-elementwise-ops
// LOOPS: iam-reuse-operands
// LOOPS: iam-to-runtime
// LOOPS: iam-prepare-entry-points
// LOOPS: one-shot-bufferize{{.*}}bufferize-function-boundaries=true
// LOOPS: ownership-based-buffer-deallocation
// LOOPS: iam-simplify-deallocations
// LOOPS: buffer-deallocation-simplification
// LOOPS: iam-prepare-for-llvm
// LOOPS: bufferization-lower-deallocations
// LOOPS: iam-linalg-to-loops
// LOOPS: canonicalize

// LLVM: expand-strided-metadata
// LLVM: convert-scf-to-cf
// LLVM: finalize-memref-to-llvm{{.*}}use-generic-functions=true
// LLVM: convert-func-to-llvm
// LLVM: reconcile-unrealized-casts

// STABLEHLO: iam-to-stablehlo
// STABLEHLO: cse
module {}
