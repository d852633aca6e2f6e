// iam-clt-fusion, family 1: where it holds back. The reasons that match failures give: clt_fusion_reasons.mlir.
// RUN: iam-opt %s --iam-clt-fusion | FileCheck %s --implicit-check-not=encode_sparse

// The pre-activations are returned as well: fusing would compute them twice.
// CHECK-LABEL: func.func @pre_activations_have_another_use
func.func @pre_activations_have_another_use(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>)
    -> (!iam.features<?x16xf32, k = 2>, tensor<?x16xf32>) {
  // CHECK-NEXT: %[[PRE:.*]] = iam.clt.encode
  // CHECK-NEXT: iam.clt.topk %[[PRE]]
  %pre = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  %f = iam.clt.topk %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  return %f, %pre : !iam.features<?x16xf32, k = 2>, tensor<?x16xf32>
}

// CHECK-LABEL: func.func @pre_activations_of_groups_have_another_use
func.func @pre_activations_of_groups_have_another_use(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>)
    -> (!iam.features<?x16xf32, k = 2>, !iam.features<?x16xf32, k = 2>) {
  // CHECK-NEXT: %[[PRE:.*]] = iam.clt.encode
  // CHECK-NEXT: iam.clt.groupmax %[[PRE]]
  // CHECK-NEXT: iam.clt.abstopk %[[PRE]]
  %pre = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  %f = iam.clt.groupmax %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  %g = iam.clt.abstopk %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  return %f, %g : !iam.features<?x16xf32, k = 2>, !iam.features<?x16xf32, k = 2>
}

// CHECK-LABEL: func.func @two_activations_of_one_encode
func.func @two_activations_of_one_encode(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>)
    -> (!iam.features<?x16xf32, k = 2>, !iam.features<?x16xf32>) {
  // CHECK-NEXT: %[[PRE:.*]] = iam.clt.encode
  // CHECK-NEXT: iam.clt.topk %[[PRE]]
  // CHECK-NEXT: iam.clt.relu %[[PRE]]
  %pre = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  %f = iam.clt.topk %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  %g = iam.clt.relu %pre : tensor<?x16xf32> -> !iam.features<?x16xf32>
  return %f, %g : !iam.features<?x16xf32, k = 2>, !iam.features<?x16xf32>
}

// CHECK-LABEL: func.func @pre_activations_from_elsewhere
func.func @pre_activations_from_elsewhere(%pre: tensor<?x16xf32>, %t: tensor<16xf32>) -> !iam.features<?x16xf32> {
  // CHECK-NEXT: iam.clt.jumprelu
  %f = iam.clt.jumprelu %pre, %t : tensor<?x16xf32>, tensor<16xf32> -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// CHECK-LABEL: func.func @gate_of_two_activations
func.func @gate_of_two_activations(%x: tensor<?x4xf32>, %y: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>)
    -> !iam.features<?x16xf32> {
  // CHECK-NEXT: iam.clt.encode
  // CHECK-NEXT: iam.clt.encode
  // CHECK-NEXT: iam.clt.gate
  %gate = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  %size = iam.clt.encode %y, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  %f = iam.clt.gate %gate, %size : tensor<?x16xf32>, tensor<?x16xf32> -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// CHECK-LABEL: func.func @gate_with_another_centre
func.func @gate_with_another_centre(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %d: tensor<4xf32>)
    -> !iam.features<?x16xf32> {
  // CHECK-NEXT: iam.clt.encode
  // CHECK-NEXT: iam.clt.encode
  // CHECK-NEXT: iam.clt.gate
  %gate = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  %size = iam.clt.encode %x, %W, %b, subtract %d : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4xf32>) -> tensor<?x16xf32>
  %f = iam.clt.gate %gate, %size : tensor<?x16xf32>, tensor<?x16xf32> -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// CHECK-LABEL: func.func @gate_of_which_a_path_has_another_use
func.func @gate_of_which_a_path_has_another_use(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %c: tensor<16xf32>)
    -> (!iam.features<?x16xf32>, tensor<?x16xf32>) {
  // CHECK-NEXT: iam.clt.encode
  // CHECK-NEXT: iam.clt.encode
  // CHECK-NEXT: iam.clt.gate
  %gate = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  %size = iam.clt.encode %x, %W, %c : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  %f = iam.clt.gate %gate, %size : tensor<?x16xf32>, tensor<?x16xf32> -> !iam.features<?x16xf32>
  return %f, %size : !iam.features<?x16xf32>, tensor<?x16xf32>
}

// The encode runs once, before the loop; fused it would run in every iteration.
// CHECK-LABEL: func.func @encode_outside_the_loop
func.func @encode_outside_the_loop(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>,
                                   %t: tensor<16xf32>, %D: tensor<16x4xf32>, %n: index) -> tensor<?x4xf32> {
  %0 = arith.constant 0 : index
  %1 = arith.constant 1 : index
  // CHECK: iam.clt.encode
  // CHECK-NEXT: scf.for
  // CHECK-NEXT: iam.clt.jumprelu
  %pre = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  %r:2 = scf.for %i = %0 to %n step %1 iter_args(%h = %x, %s = %t) -> (tensor<?x4xf32>, tensor<16xf32>) {
    %f = iam.clt.jumprelu %pre, %s : tensor<?x16xf32>, tensor<16xf32> -> !iam.features<?x16xf32>
    %y = iam.clt.decode %f, %D : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
    %u = arith.addf %s, %s : tensor<16xf32>
    scf.yield %y, %u : tensor<?x4xf32>, tensor<16xf32>
  }
  return %r#0 : tensor<?x4xf32>
}
