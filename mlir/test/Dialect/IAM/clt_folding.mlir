// RUN: iam-opt %s --canonicalize --split-input-file | FileCheck %s

// CHECK-LABEL: func.func @encode_drops_a_zero_bias
// CHECK-NEXT: iam.clt.encode %{{.*}}, %{{.*}}, %{{.*}} : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>)
func.func @encode_drops_a_zero_bias(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) -> tensor<?x16xf32> {
  %zero = arith.constant dense<0.0> : tensor<4xf32>
  %0 = iam.clt.encode %x, %W, %b, subtract %zero
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4xf32>) -> tensor<?x16xf32>
  return %0 : tensor<?x16xf32>
}

// CHECK-LABEL: func.func @encode_keeps_another_bias
// CHECK: subtract
func.func @encode_keeps_another_bias(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) -> tensor<?x16xf32> {
  %bias = arith.constant dense<[0.0, 0.0, 0.0, 1.0]> : tensor<4xf32>
  %0 = iam.clt.encode %x, %W, %b, subtract %bias
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4xf32>) -> tensor<?x16xf32>
  return %0 : tensor<?x16xf32>
}

// CHECK-LABEL: func.func @encode_sparse_drops_a_zero_bias
// CHECK-NOT: subtract
func.func @encode_sparse_drops_a_zero_bias(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>)
    -> !iam.features<?x16xf32, k = 2> {
  %zero = arith.constant dense<0.0> : tensor<4xf32>
  %0 = iam.clt.encode_sparse topk %x, %W, %b subtract %zero k = 2
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4xf32>) -> !iam.features<?x16xf32, k = 2>
  return %0 : !iam.features<?x16xf32, k = 2>
}

// CHECK-LABEL: func.func @matching_pursuit_drops_a_zero_bias
// CHECK-NOT: subtract
// CHECK: iam.clt.matching_pursuit %{{.*}}, %{{.*}} residual_threshold
func.func @matching_pursuit_drops_a_zero_bias(%x: tensor<?x4xf32>, %W: tensor<16x4xf32>) -> !iam.features<?x16xf32> {
  %zero = arith.constant dense<0.0> : tensor<4xf32>
  %0 = iam.clt.matching_pursuit %x, %W, subtract %zero residual_threshold = 0.5 max_iterations = 2
      : (tensor<?x4xf32>, tensor<16x4xf32>, tensor<4xf32>) -> !iam.features<?x16xf32>
  return %0 : !iam.features<?x16xf32>
}

// CHECK-LABEL: func.func @decode_drops_a_zero_bias
// CHECK-NOT: bias
// CHECK: iam.clt.decode %{{.*}}, %{{.*}} : (
func.func @decode_drops_a_zero_bias(%f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>) -> tensor<?x4xf32> {
  %zero = arith.constant dense<0.0> : tensor<4xf32>
  %0 = iam.clt.decode %f, %W, bias %zero : (!iam.features<?x16xf32>, tensor<16x4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  return %0 : tensor<?x4xf32>
}

// CHECK-LABEL: func.func @jumprelu_without_a_positive_threshold_is_relu
// CHECK: iam.clt.relu
func.func @jumprelu_without_a_positive_threshold_is_relu(%pre: tensor<?x3xf32>) -> !iam.features<?x3xf32> {
  %t = arith.constant dense<[0.0, -1.0, -0.0]> : tensor<3xf32>
  %0 = iam.clt.jumprelu %pre, %t : tensor<?x3xf32>, tensor<3xf32> -> !iam.features<?x3xf32>
  return %0 : !iam.features<?x3xf32>
}

// CHECK-LABEL: func.func @jumprelu_with_a_positive_or_nan_threshold_stays
// CHECK: iam.clt.jumprelu
// CHECK: iam.clt.jumprelu
func.func @jumprelu_with_a_positive_or_nan_threshold_stays(%pre: tensor<?x3xf32>)
    -> (!iam.features<?x3xf32>, !iam.features<?x3xf32>) {
  %t = arith.constant dense<[0.0, -1.0, 0.5]> : tensor<3xf32>
  %0 = iam.clt.jumprelu %pre, %t : tensor<?x3xf32>, tensor<3xf32> -> !iam.features<?x3xf32>
  %nan = arith.constant dense<0xFFC00000> : tensor<3xf32>
  %1 = iam.clt.jumprelu %pre, %nan : tensor<?x3xf32>, tensor<3xf32> -> !iam.features<?x3xf32>
  return %0, %1 : !iam.features<?x3xf32>, !iam.features<?x3xf32>
}

// -----

// CHECK-LABEL: func.func @edit_of_no_features_is_no_edit
// CHECK-SAME: (%[[F:.*]]: !iam.features<?x64xf32, k = 8>
// CHECK-NEXT: return %[[F]]
func.func @edit_of_no_features_is_no_edit(%f: !iam.features<?x64xf32, k = 8>, %a: tensor<0xf32>)
    -> !iam.features<?x64xf32, k = 8> {
  %0 = iam.clt.edit set %f features [] by %a
      : (!iam.features<?x64xf32, k = 8>, tensor<0xf32>) -> !iam.features<?x64xf32, k = 8>
  return %0 : !iam.features<?x64xf32, k = 8>
}

// CHECK-LABEL: func.func @ablate_again_is_dropped
// CHECK-NEXT: %[[E:.*]] = iam.clt.edit ablate %{{.*}} features [3, 5]
// CHECK-NEXT: return %[[E]]
func.func @ablate_again_is_dropped(%f: !iam.features<?x64xf32, k = 8>) -> !iam.features<?x64xf32, k = 8> {
  %0 = iam.clt.edit ablate %f features [3, 5] : (!iam.features<?x64xf32, k = 8>) -> !iam.features<?x64xf32, k = 8>
  %1 = iam.clt.edit ablate %0 features [5] : (!iam.features<?x64xf32, k = 8>) -> !iam.features<?x64xf32, k = 8>
  return %1 : !iam.features<?x64xf32, k = 8>
}

// CHECK-LABEL: func.func @ablate_of_other_features_is_merged
// CHECK-NEXT: %[[E:.*]] = iam.clt.edit ablate %arg0 features [3, 5, 9]
// CHECK-NEXT: return %[[E]]
func.func @ablate_of_other_features_is_merged(%f: !iam.features<?x64xf32>) -> !iam.features<?x64xf32> {
  %0 = iam.clt.edit ablate %f features [3, 5] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32>
  %1 = iam.clt.edit ablate %0 features [5, 9] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32>
  return %1 : !iam.features<?x64xf32>
}

// CHECK-LABEL: func.func @ablate_overwrites_a_scale
// CHECK-NEXT: %[[E:.*]] = iam.clt.edit ablate %arg0 features [3, 5]
// CHECK-NEXT: return %[[E]]
func.func @ablate_overwrites_a_scale(%f: !iam.features<?x64xf32, k = 8>, %a: tensor<1xf32>)
    -> !iam.features<?x64xf32, k = 8> {
  %0 = iam.clt.edit scale %f features [5] by %a
      : (!iam.features<?x64xf32, k = 8>, tensor<1xf32>) -> !iam.features<?x64xf32, k = 8>
  %1 = iam.clt.edit ablate %0 features [3, 5] : (!iam.features<?x64xf32, k = 8>) -> !iam.features<?x64xf32, k = 8>
  return %1 : !iam.features<?x64xf32, k = 8>
}

// CHECK-LABEL: func.func @set_overwrites_a_set
// CHECK-NEXT: %[[E:.*]] = iam.clt.edit set %arg0 features [5] by %arg2
// CHECK-NEXT: return %[[E]]
func.func @set_overwrites_a_set(%f: !iam.features<?x64xf32>, %a: tensor<1xf32>, %b: tensor<1xf32>)
    -> !iam.features<?x64xf32> {
  %0 = iam.clt.edit set %f features [5] by %a : (!iam.features<?x64xf32>, tensor<1xf32>) -> !iam.features<?x64xf32>
  %1 = iam.clt.edit set %0 features [5] by %b : (!iam.features<?x64xf32>, tensor<1xf32>) -> !iam.features<?x64xf32>
  return %1 : !iam.features<?x64xf32>
}

// What must stay: in k-form the first set adds a slot that the type of the result has.
// CHECK-LABEL: func.func @set_in_k_form_keeps_its_slots
// CHECK-COUNT-2: iam.clt.edit set
func.func @set_in_k_form_keeps_its_slots(%f: !iam.features<?x64xf32, k = 8>, %a: tensor<1xf32>)
    -> !iam.features<?x64xf32, k = 10> {
  %0 = iam.clt.edit set %f features [5] by %a
      : (!iam.features<?x64xf32, k = 8>, tensor<1xf32>) -> !iam.features<?x64xf32, k = 9>
  %1 = iam.clt.edit set %0 features [5] by %a
      : (!iam.features<?x64xf32, k = 9>, tensor<1xf32>) -> !iam.features<?x64xf32, k = 10>
  return %1 : !iam.features<?x64xf32, k = 10>
}

// What must stay: the second edit reads what the first one wrote, or leaves some of it.
// CHECK-LABEL: func.func @edits_that_do_not_overwrite_stay
// CHECK: iam.clt.edit set
// CHECK-NEXT: iam.clt.edit scale
// CHECK-NEXT: iam.clt.edit ablate %{{.*}} features [5]
func.func @edits_that_do_not_overwrite_stay(%f: !iam.features<?x64xf32>, %a: tensor<2xf32>) -> !iam.features<?x64xf32> {
  %0 = iam.clt.edit set %f features [5, 6] by %a : (!iam.features<?x64xf32>, tensor<2xf32>) -> !iam.features<?x64xf32>
  %1 = iam.clt.edit scale %0 features [5, 6] by %a : (!iam.features<?x64xf32>, tensor<2xf32>) -> !iam.features<?x64xf32>
  %2 = iam.clt.edit ablate %1 features [5] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32>
  return %2 : !iam.features<?x64xf32>
}
