// Expected errors pass, missing and unexpected ones fail.
// RUN: iam-opt %s --verify-diagnostics
// RUN: not iam-opt %s 2>&1 | FileCheck %s --check-prefix=PLAIN
// RUN: not iam-opt %S/Inputs/no_error.txt --verify-diagnostics 2>&1 | FileCheck %s --check-prefix=MISSING
// PLAIN: verify_diagnostics.mlir:10:8: error: 'iam.clt.topk' op expected k to be at most
// MISSING: no_error.txt:1:4: error: expected error "something" was not produced

func.func @k_above_width(%pre: tensor<3x8xf32>) {
  // expected-error @below {{expected k to be at most}}
  %f = iam.clt.topk %pre, k = 9 : tensor<3x8xf32> -> !iam.features<3x8xf32, k = 9>
  return
}
