// iam-clt-fusion, family 1: encode + activation -> encode_sparse. Twice gives what once gives.
// RUN: iam-opt %s --iam-clt-fusion | FileCheck %s
// RUN: iam-opt %s --iam-clt-fusion --iam-clt-fusion | FileCheck %s
// RUN: iam-opt %s --iam-clt-fusion -o /dev/null 2>&1 | FileCheck %s --check-prefix=REMARK
// REMARK-COUNT-10: remark: became iam.clt.encode_sparse

// CHECK-LABEL: func.func @topk(
// CHECK-SAME: %[[X:.*]]: tensor<?x4xf32>, %[[W:.*]]: tensor<4x16xf32>, %[[B:.*]]: tensor<16xf32>)
func.func @topk(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) -> !iam.features<?x16xf32, k = 2> {
  // CHECK-NEXT: %[[F:.*]] = iam.clt.encode_sparse topk %[[X]], %[[W]], %[[B]] k = 2 : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32, k = 2>
  // CHECK-NEXT: return %[[F]]
  %pre = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  %f = iam.clt.topk %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  return %f : !iam.features<?x16xf32, k = 2>
}

// CHECK-LABEL: func.func @topk_subtract(
// CHECK-SAME: %[[X:.*]]: tensor<?x4xf32>, %[[W:.*]]: tensor<4x16xf32>, %[[B:.*]]: tensor<16xf32>, %[[D:.*]]: tensor<4xf32>)
func.func @topk_subtract(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %d: tensor<4xf32>)
    -> !iam.features<?x16xf32, k = 2> {
  // CHECK-NEXT: iam.clt.encode_sparse topk %[[X]], %[[W]], %[[B]] subtract %[[D]] k = 2 :
  %pre = iam.clt.encode %x, %W, %b, subtract %d
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4xf32>) -> tensor<?x16xf32>
  %f = iam.clt.topk %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  return %f : !iam.features<?x16xf32, k = 2>
}

// CHECK-LABEL: func.func @abstopk(
// CHECK-SAME: %[[X:.*]]: tensor<?x4xf32>, %[[W:.*]]: tensor<4x16xf32>, %[[B:.*]]: tensor<16xf32>)
func.func @abstopk(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) -> !iam.features<?x16xf32, k = 2> {
  // CHECK-NEXT: iam.clt.encode_sparse abstopk %[[X]], %[[W]], %[[B]] k = 2 :
  // CHECK-NEXT: return
  %pre = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  %f = iam.clt.abstopk %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  return %f : !iam.features<?x16xf32, k = 2>
}

// CHECK-LABEL: func.func @groupmax_subtract(
// CHECK-SAME: %[[X:.*]]: tensor<?x4xf32>, %[[W:.*]]: tensor<4x16xf32>, %[[B:.*]]: tensor<16xf32>, %[[D:.*]]: tensor<4xf32>)
func.func @groupmax_subtract(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %d: tensor<4xf32>)
    -> !iam.features<?x16xf32, k = 4> {
  // CHECK-NEXT: iam.clt.encode_sparse groupmax %[[X]], %[[W]], %[[B]] subtract %[[D]] k = 4 :
  // CHECK-NEXT: return
  %pre = iam.clt.encode %x, %W, %b, subtract %d
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4xf32>) -> tensor<?x16xf32>
  %f = iam.clt.groupmax %pre, k = 4 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 4>
  return %f : !iam.features<?x16xf32, k = 4>
}

// CHECK-LABEL: func.func @jumprelu(
// CHECK-SAME: %[[X:.*]]: tensor<3x4xf32>, %[[W:.*]]: tensor<4x16xf32>, %[[B:.*]]: tensor<16xf32>, %[[T:.*]]: tensor<16xf32>)
func.func @jumprelu(%x: tensor<3x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %t: tensor<16xf32>)
    -> !iam.features<3x16xf32> {
  // CHECK-NEXT: iam.clt.encode_sparse jumprelu %[[X]], %[[W]], %[[B]] threshold %[[T]] :
  // CHECK-NEXT: return
  %pre = iam.clt.encode %x, %W, %b : (tensor<3x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<3x16xf32>
  %f = iam.clt.jumprelu %pre, %t : tensor<3x16xf32>, tensor<16xf32> -> !iam.features<3x16xf32>
  return %f : !iam.features<3x16xf32>
}

// CHECK-LABEL: func.func @relu(
// CHECK-SAME: %[[X:.*]]: tensor<?x4xf32>, %[[W:.*]]: tensor<4x16xf32>, %[[B:.*]]: tensor<16xf32>)
func.func @relu(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) -> !iam.features<?x16xf32> {
  // CHECK-NEXT: iam.clt.encode_sparse relu %[[X]], %[[W]], %[[B]] : (
  // CHECK-NEXT: return
  %pre = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  %f = iam.clt.relu %pre : tensor<?x16xf32> -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// CHECK-LABEL: func.func @batch_topk(
// CHECK-SAME: %[[X:.*]]: tensor<?x4xf32>, %[[W:.*]]: tensor<4x16xf32>, %[[B:.*]]: tensor<16xf32>)
func.func @batch_topk(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) -> !iam.features<?x16xf32> {
  // CHECK-NEXT: iam.clt.encode_sparse batch_topk %[[X]], %[[W]], %[[B]] k = 2 : (
  // CHECK-NEXT: return
  %pre = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  %f = iam.clt.batch_topk %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// Two encodes of one x; here with one W_enc, as Gated SAEs with r_mag = 0.
// CHECK-LABEL: func.func @gate(
// CHECK-SAME: %[[X:.*]]: tensor<?x4xf32>, %[[W:.*]]: tensor<4x16xf32>, %[[B:.*]]: tensor<16xf32>, %[[C:.*]]: tensor<16xf32>, %[[D:.*]]: tensor<4xf32>)
func.func @gate(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %c: tensor<16xf32>, %d: tensor<4xf32>)
    -> !iam.features<?x16xf32> {
  // CHECK-NEXT: iam.clt.encode_sparse gate %[[X]], %[[W]], %[[B]] subtract %[[D]] magnitude %[[W]], %[[C]] : (
  // CHECK-NEXT: return
  %gate = iam.clt.encode %x, %W, %b, subtract %d : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4xf32>) -> tensor<?x16xf32>
  %size = iam.clt.encode %x, %W, %c, subtract %d : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4xf32>) -> tensor<?x16xf32>
  %f = iam.clt.gate %gate, %size : tensor<?x16xf32>, tensor<?x16xf32> -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// One encode is both.
// CHECK-LABEL: func.func @gate_of_itself(
// CHECK-SAME: %[[X:.*]]: tensor<?x4xf32>, %[[W:.*]]: tensor<4x16xf32>, %[[B:.*]]: tensor<16xf32>)
func.func @gate_of_itself(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) -> !iam.features<?x16xf32> {
  // CHECK-NEXT: iam.clt.encode_sparse gate %[[X]], %[[W]], %[[B]] magnitude %[[W]], %[[B]] : (
  // CHECK-NEXT: return
  %pre = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  %f = iam.clt.gate %pre, %pre : tensor<?x16xf32>, tensor<?x16xf32> -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// Both in the loop: one fused op in the loop.
// CHECK-LABEL: func.func @inside_a_loop(
// CHECK: scf.for
// CHECK-NEXT: iam.clt.encode_sparse relu
// CHECK-NOT: iam.clt.encode
func.func @inside_a_loop(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>, %n: index)
    -> tensor<?x4xf32> {
  %0 = arith.constant 0 : index
  %1 = arith.constant 1 : index
  %r = scf.for %i = %0 to %n step %1 iter_args(%h = %x) -> tensor<?x4xf32> {
    %pre = iam.clt.encode %h, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
    %f = iam.clt.relu %pre : tensor<?x16xf32> -> !iam.features<?x16xf32>
    %y = iam.clt.decode %f, %D : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
    scf.yield %y : tensor<?x4xf32>
  }
  return %r : tensor<?x4xf32>
}
