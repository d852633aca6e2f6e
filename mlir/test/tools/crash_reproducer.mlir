// A failing pipeline leaves a file that fails in the same way.
// RUN: not iam-opt %s --iam-to-llvm --mlir-pass-pipeline-crash-reproducer=%t.mlir 2>&1 | FileCheck %s --check-prefixes=ERROR,WHERE
// RUN: FileCheck %s --input-file=%t.mlir
// RUN: not iam-opt %t.mlir --run-reproducer 2>&1 | FileCheck %s --check-prefix=ERROR

// ERROR: error: 'iam.attr.circuit' op is not lowered yet
// WHERE: reproducer generated at
// CHECK: mlir_reproducer
// CHECK: pipeline: "builtin.module({{.*}}iam-to-runtime
func.func @circuit(%f: tensor<5xf32>, %W_dec: tensor<5x4xf32>, %W_enc: tensor<4x3xf32>) -> tensor<5x3xf32> {
  %0 = iam.attr.circuit %f, %W_dec, %W_enc : (tensor<5xf32>, tensor<5x4xf32>, tensor<4x3xf32>) -> tensor<5x3xf32>
  return %0 : tensor<5x3xf32>
}
