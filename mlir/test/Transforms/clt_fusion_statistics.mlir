// Each rewrite counts once, and the second run counts nothing.
// RUN: iam-opt %s --pass-pipeline='builtin.module(iam-clt-fusion,canonicalize,iam-clt-fusion)' --mlir-pass-statistics --mlir-pass-statistics-display=pipeline -o /dev/null 2>&1 | FileCheck %s

// CHECK: CLTFusionPass
// CHECK-NEXT: (S) 1 num-deltas
// CHECK-NEXT: (S) 1 num-dense-decodes
// CHECK-NEXT: (S) 2 num-encodes-fused
// CHECK-NEXT: (S) 1 num-subs
// CHECK: CLTFusionPass
// CHECK-NEXT: (S) 0 num-deltas
// CHECK-NEXT: (S) 0 num-dense-decodes
// CHECK-NEXT: (S) 0 num-encodes-fused
// CHECK-NEXT: (S) 0 num-subs
func.func @everything_once(%x: tensor<3x4xf32>, %E: tensor<4x16xf32>, %b: tensor<16xf32>, %W: tensor<16x4xf32>)
    -> (tensor<3x4xf32>, tensor<3x4xf32>, tensor<3x4xf32>) {
  %pre = iam.clt.encode %x, %E, %b : (tensor<3x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<3x16xf32>
  %f = iam.clt.relu %pre : tensor<3x16xf32> -> !iam.features<3x16xf32>
  %more = arith.addf %x, %x : tensor<3x4xf32>
  %pre2 = iam.clt.encode %more, %E, %b : (tensor<3x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<3x16xf32>
  %h = iam.clt.relu %pre2 : tensor<3x16xf32> -> !iam.features<3x16xf32>
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<3x16xf32>) -> !iam.features<3x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<3x16xf32>, tensor<16x4xf32>) -> tensor<3x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<3x16xf32>, tensor<16x4xf32>) -> tensor<3x4xf32>
  %delta = arith.subf %p, %m : tensor<3x4xf32>
  %p2 = iam.clt.decode %h, %W : (!iam.features<3x16xf32>, tensor<16x4xf32>) -> tensor<3x4xf32>
  %m2 = iam.clt.decode %f, %W : (!iam.features<3x16xf32>, tensor<16x4xf32>) -> tensor<3x4xf32>
  %sub = arith.subf %p2, %m2 : tensor<3x4xf32>
  %d = iam.clt.densify %f : !iam.features<3x16xf32> -> tensor<3x16xf32>
  %zero = arith.constant 0.0 : f32
  %empty = tensor.empty() : tensor<3x4xf32>
  %zeros = linalg.fill ins(%zero : f32) outs(%empty : tensor<3x4xf32>) -> tensor<3x4xf32>
  %dense = linalg.matmul ins(%d, %W : tensor<3x16xf32>, tensor<16x4xf32>) outs(%zeros : tensor<3x4xf32>) -> tensor<3x4xf32>
  return %delta, %sub, %dense : tensor<3x4xf32>, tensor<3x4xf32>, tensor<3x4xf32>
}
