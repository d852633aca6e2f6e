// A failing pipeline leaves a file that fails in the same way.
// RUN: not iam-opt %s --iam-to-llvm --mlir-pass-pipeline-crash-reproducer=%t.mlir 2>&1 | FileCheck %s --check-prefixes=ERROR,WHERE
// RUN: FileCheck %s --input-file=%t.mlir
// RUN: not iam-opt %t.mlir --run-reproducer 2>&1 | FileCheck %s --check-prefix=ERROR

// ERROR: error: 'iam.attr.select' op is not lowered yet
// WHERE: reproducer generated at
// CHECK: mlir_reproducer
// CHECK: pipeline: "builtin.module({{.*}}iam-to-runtime
func.func @select(%scores: tensor<?x64xf32>) -> tensor<?x10xi32> {
  %i, %t = iam.attr.select %scores, n = 10 : tensor<?x64xf32> -> tensor<?x10xi32>, tensor<?x10xf32>
  return %i : tensor<?x10xi32>
}
