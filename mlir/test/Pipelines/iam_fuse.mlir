// iam-fuse: helpers are inlined and dropped, a steering edit costs one encode and one row of W_dec. Twice gives what once gives.
// RUN: iam-opt %s --iam-fuse | FileCheck %s
// RUN: iam-opt %s --iam-fuse --iam-fuse | FileCheck %s

// CHECK-NOT: func.func private @reconstruct
func.func private @reconstruct(%f: !iam.features<?x16xf32, k = 3>, %D: tensor<16x4xf32>, %d: tensor<4xf32>) -> tensor<?x4xf32> {
  %y = iam.clt.decode %f, %D, bias %d : (!iam.features<?x16xf32, k = 3>, tensor<16x4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// The README's example: two encodes of one value are one, and both decodes are gone.
// CHECK-LABEL: func.func @steered(
// CHECK-SAME: %[[X:.*]]: tensor<?x4xf32>, %[[E:.*]]: tensor<4x16xf32>, %[[B:.*]]: tensor<16xf32>, %[[D:.*]]: tensor<16x4xf32>, %{{.*}}: tensor<4xf32>, %[[A:.*]]: tensor<1xf32>)
func.func @steered(%x: tensor<?x4xf32>, %E: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>, %d: tensor<4xf32>,
                   %a: tensor<1xf32>) -> tensor<?x4xf32> {
  // CHECK-NEXT: %[[F:.*]] = iam.clt.encode_sparse topk %[[X]], %[[E]], %[[B]] k = 2
  // CHECK-NEXT: %[[DELTA:.*]] = iam.clt.delta set %[[F]] features [7] by %[[A]]
  // CHECK-NEXT: %[[Y:.*]] = iam.clt.decode %[[DELTA]], %[[D]] :
  // CHECK-NEXT: %[[Z:.*]] = arith.addf %[[X]], %[[Y]]
  // CHECK-NEXT: return %[[Z]]
  %pre = iam.clt.encode %x, %E, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  %f = iam.clt.topk %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  %g = iam.clt.edit set %f features [7] by %a : (!iam.features<?x16xf32, k = 2>, tensor<1xf32>) -> !iam.features<?x16xf32, k = 3>
  %p = call @reconstruct(%g, %D, %d) : (!iam.features<?x16xf32, k = 3>, tensor<16x4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  %again = iam.clt.encode %x, %E, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  %h = iam.clt.topk %again, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  %m = iam.clt.decode %h, %D, bias %d : (!iam.features<?x16xf32, k = 2>, tensor<16x4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  %s = arith.addf %x, %p : tensor<?x4xf32>
  %y = arith.subf %s, %m : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}
