// Every clt op round-trips: custom form, generic form, bytecode.
// RUN: iam-opt %s | iam-opt | FileCheck %s
// RUN: iam-opt %s --mlir-print-op-generic | iam-opt | FileCheck %s
// RUN: iam-opt %s --emit-bytecode | iam-opt | FileCheck %s

// CHECK-LABEL: func.func private @features_types(
// CHECK-SAME: !iam.features<?x24576xf32, k = 32>, !iam.features<4x16xf32>, !iam.features<0x1xf32, k = 1>
func.func private @features_types(!iam.features<?x24576xf32, k = 32>, !iam.features<4x16xf32>, !iam.features<0x1xf32, k = 1>)

// CHECK-LABEL: func.func @encode
func.func @encode(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %b_dec: tensor<4xf32>)
    -> (tensor<?x16xf32>, tensor<?x16xf32>) {
  // CHECK: iam.clt.encode %{{.*}}, %{{.*}}, %{{.*}} : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  %0 = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  // CHECK: iam.clt.encode %{{.*}}, %{{.*}}, %{{.*}}, subtract %{{.*}} : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4xf32>) -> tensor<?x16xf32>
  %1 = iam.clt.encode %x, %W, %b, subtract %b_dec
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4xf32>) -> tensor<?x16xf32>
  return %0, %1 : tensor<?x16xf32>, tensor<?x16xf32>
}

// CHECK-LABEL: func.func @activations
func.func @activations(%pre: tensor<?x16xf32>, %other: tensor<?x16xf32>, %t: tensor<16xf32>) {
  // CHECK: iam.clt.topk %{{.*}}, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  %0 = iam.clt.topk %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  // CHECK: iam.clt.abstopk %{{.*}}, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  %5 = iam.clt.abstopk %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  // CHECK: iam.clt.groupmax %{{.*}}, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  %6 = iam.clt.groupmax %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  // CHECK: iam.clt.batch_topk %{{.*}}, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32>
  %1 = iam.clt.batch_topk %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32>
  // CHECK: iam.clt.jumprelu %{{.*}}, %{{.*}} : tensor<?x16xf32>, tensor<16xf32> -> !iam.features<?x16xf32>
  %2 = iam.clt.jumprelu %pre, %t : tensor<?x16xf32>, tensor<16xf32> -> !iam.features<?x16xf32>
  // CHECK: iam.clt.relu %{{.*}} : tensor<?x16xf32> -> !iam.features<?x16xf32>
  %3 = iam.clt.relu %pre : tensor<?x16xf32> -> !iam.features<?x16xf32>
  // CHECK: iam.clt.gate %{{.*}}, %{{.*}} : tensor<?x16xf32>, tensor<?x16xf32> -> !iam.features<?x16xf32>
  %4 = iam.clt.gate %pre, %other : tensor<?x16xf32>, tensor<?x16xf32> -> !iam.features<?x16xf32>
  return
}

// k may be the whole dictionary, and rows may be static or 0.
// CHECK-LABEL: func.func @topk_of_everything
func.func @topk_of_everything(%pre: tensor<0x16xf32>) -> !iam.features<0x16xf32, k = 16> {
  // CHECK: k = 16
  %0 = iam.clt.topk %pre, k = 16 : tensor<0x16xf32> -> !iam.features<0x16xf32, k = 16>
  return %0 : !iam.features<0x16xf32, k = 16>
}

// CHECK-LABEL: func.func @encode_sparse
func.func @encode_sparse(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %b_dec: tensor<4xf32>,
                         %t: tensor<16xf32>) {
  // CHECK: iam.clt.encode_sparse topk %{{.*}}, %{{.*}}, %{{.*}} k = 2 : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32, k = 2>
  %0 = iam.clt.encode_sparse topk %x, %W, %b k = 2
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32, k = 2>
  // CHECK: iam.clt.encode_sparse topk %{{.*}}, %{{.*}}, %{{.*}} subtract %{{.*}} k = 2 :
  %1 = iam.clt.encode_sparse topk %x, %W, %b subtract %b_dec k = 2
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4xf32>) -> !iam.features<?x16xf32, k = 2>
  // CHECK: iam.clt.encode_sparse jumprelu %{{.*}}, %{{.*}}, %{{.*}} threshold %{{.*}} :
  %2 = iam.clt.encode_sparse jumprelu %x, %W, %b threshold %t
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  // CHECK: iam.clt.encode_sparse jumprelu %{{.*}}, %{{.*}}, %{{.*}} subtract %{{.*}} threshold %{{.*}} :
  %3 = iam.clt.encode_sparse jumprelu %x, %W, %b subtract %b_dec threshold %t
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  // CHECK: iam.clt.encode_sparse abstopk %{{.*}}, %{{.*}}, %{{.*}} k = 2 : (
  %5 = iam.clt.encode_sparse abstopk %x, %W, %b k = 2
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32, k = 2>
  // CHECK: iam.clt.encode_sparse groupmax %{{.*}}, %{{.*}}, %{{.*}} subtract %{{.*}} k = 4 : (
  %6 = iam.clt.encode_sparse groupmax %x, %W, %b subtract %b_dec k = 4
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4xf32>) -> !iam.features<?x16xf32, k = 4>
  // CHECK: iam.clt.encode_sparse relu %{{.*}}, %{{.*}}, %{{.*}} : (
  %4 = iam.clt.encode_sparse relu %x, %W, %b
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  // CHECK: iam.clt.encode_sparse batch_topk %{{.*}}, %{{.*}}, %{{.*}} k = 4 : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  %9 = iam.clt.encode_sparse batch_topk %x, %W, %b k = 4
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  // CHECK: iam.clt.encode_sparse gate %{{.*}}, %{{.*}}, %{{.*}} subtract %{{.*}} magnitude %{{.*}}, %{{.*}} only [3] :
  %10 = iam.clt.encode_sparse gate %x, %W, %b subtract %b_dec magnitude %W, %t only [3]
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  // CHECK: iam.clt.encode_sparse relu %{{.*}}, %{{.*}}, %{{.*}} only [0, 15] : (
  %7 = iam.clt.encode_sparse relu %x, %W, %b only [0, 15]
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  // CHECK: iam.clt.encode_sparse jumprelu %{{.*}}, %{{.*}}, %{{.*}} subtract %{{.*}} threshold %{{.*}} only [7] :
  %8 = iam.clt.encode_sparse jumprelu %x, %W, %b subtract %b_dec threshold %t only [7]
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  return
}

// CHECK-LABEL: func.func @matching_pursuit
func.func @matching_pursuit(%x: tensor<?x4xf32>, %W: tensor<16x4xf32>, %b: tensor<4xf32>) {
  // CHECK: iam.clt.matching_pursuit %{{.*}}, %{{.*}} residual_threshold = 0.000000e+00 max_iterations = 1 : (tensor<?x4xf32>, tensor<16x4xf32>) -> !iam.features<?x16xf32>
  %0 = iam.clt.matching_pursuit %x, %W residual_threshold = 0.0 max_iterations = 1
      : (tensor<?x4xf32>, tensor<16x4xf32>) -> !iam.features<?x16xf32>
  // CHECK: iam.clt.matching_pursuit %{{.*}}, %{{.*}}, subtract %{{.*}} residual_threshold = 5.000000e-01 max_iterations = 4 stop_on_duplicate_support : (tensor<?x4xf32>, tensor<16x4xf32>, tensor<4xf32>) -> !iam.features<?x16xf32>
  %1 = iam.clt.matching_pursuit %x, %W, subtract %b residual_threshold = 0.5 max_iterations = 4 stop_on_duplicate_support
      : (tensor<?x4xf32>, tensor<16x4xf32>, tensor<4xf32>) -> !iam.features<?x16xf32>
  return
}

// CHECK-LABEL: func.func @decode
func.func @decode(%f: !iam.features<?x16xf32, k = 2>, %g: !iam.features<?x16xf32>, %W: tensor<16x4xf32>,
                  %b: tensor<4xf32>) {
  // CHECK: iam.clt.decode %{{.*}}, %{{.*}}, bias %{{.*}} : (!iam.features<?x16xf32, k = 2>, tensor<16x4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  %0 = iam.clt.decode %f, %W, bias %b
      : (!iam.features<?x16xf32, k = 2>, tensor<16x4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  // CHECK: iam.clt.decode %{{.*}}, %{{.*}} : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %1 = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  // CHECK: iam.clt.densify %{{.*}} : !iam.features<?x16xf32> -> tensor<?x16xf32>
  %2 = iam.clt.densify %g : !iam.features<?x16xf32> -> tensor<?x16xf32>
  return
}

// CHECK-LABEL: func.func @residual
func.func @residual(%y: tensor<?x6xf32>, %x: tensor<?x4xf32>, %W: tensor<4x6xf32>) {
  // CHECK: iam.clt.residual %{{.*}}, %{{.*}} : (tensor<?x6xf32>, tensor<?x6xf32>) -> tensor<?x6xf32>
  %0 = iam.clt.residual %y, %y : (tensor<?x6xf32>, tensor<?x6xf32>) -> tensor<?x6xf32>
  // CHECK: iam.clt.residual %{{.*}}, %{{.*}}, skip %{{.*}} : (tensor<?x6xf32>, tensor<?x4xf32>, tensor<4x6xf32>) -> tensor<?x6xf32>
  %1 = iam.clt.residual %y, %x, skip %W : (tensor<?x6xf32>, tensor<?x4xf32>, tensor<4x6xf32>) -> tensor<?x6xf32>
  return
}

// CHECK-LABEL: func.func @edit
func.func @edit(%f: !iam.features<?x64xf32, k = 8>, %g: !iam.features<?x64xf32>, %a: tensor<2xf32>, %b: tensor<2xf32>) {
  // CHECK: iam.clt.edit set %{{.*}} features [7, 19] by %{{.*}} : (!iam.features<?x64xf32, k = 8>, tensor<2xf32>) -> !iam.features<?x64xf32, k = 10>
  %0 = iam.clt.edit set %f features [7, 19] by %a
      : (!iam.features<?x64xf32, k = 8>, tensor<2xf32>) -> !iam.features<?x64xf32, k = 10>
  // CHECK: iam.clt.edit scale %{{.*}} features [7, 19] by %{{.*}} : {{.*}} -> !iam.features<?x64xf32, k = 8>
  %1 = iam.clt.edit scale %f features [7, 19] by %a
      : (!iam.features<?x64xf32, k = 8>, tensor<2xf32>) -> !iam.features<?x64xf32, k = 8>
  // CHECK: iam.clt.edit clamp %{{.*}} features [7, 19] by %{{.*}}, %{{.*}} : {{.*}} -> !iam.features<?x64xf32, k = 10>
  %2 = iam.clt.edit clamp %f features [7, 19] by %a, %b
      : (!iam.features<?x64xf32, k = 8>, tensor<2xf32>, tensor<2xf32>) -> !iam.features<?x64xf32, k = 10>
  // CHECK: iam.clt.edit ablate %{{.*}} features [63] : {{.*}} -> !iam.features<?x64xf32, k = 8>
  %3 = iam.clt.edit ablate %f features [63] : (!iam.features<?x64xf32, k = 8>) -> !iam.features<?x64xf32, k = 8>
  // CHECK: iam.clt.edit set %{{.*}} : (!iam.features<?x64xf32>, tensor<2xf32>) -> !iam.features<?x64xf32>
  %4 = iam.clt.edit set %g features [7, 19] by %a : (!iam.features<?x64xf32>, tensor<2xf32>) -> !iam.features<?x64xf32>
  // CHECK: iam.clt.edit ablate %{{.*}} features [] :
  %5 = iam.clt.edit ablate %g features [] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32>
  return
}

// CHECK-LABEL: func.func @delta
func.func @delta(%f: !iam.features<?x64xf32, k = 8>, %g: !iam.features<?x64xf32>, %a: tensor<2xf32>) {
  // CHECK: iam.clt.delta scale %{{.*}} features [7, 19] by %{{.*}} : (!iam.features<?x64xf32, k = 8>, tensor<2xf32>) -> !iam.features<?x64xf32, k = 2>
  %0 = iam.clt.delta scale %f features [7, 19] by %a
      : (!iam.features<?x64xf32, k = 8>, tensor<2xf32>) -> !iam.features<?x64xf32, k = 2>
  // CHECK: iam.clt.delta ablate %{{.*}} features [7] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 1>
  %1 = iam.clt.delta ablate %g features [7] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 1>
  return
}

// CHECK-LABEL: func.func @sub
func.func @sub(%f1: !iam.features<?x64xf32, k = 8>, %f2: !iam.features<?x64xf32, k = 2>, %g: !iam.features<?x64xf32>) {
  // CHECK: iam.clt.sub %{{.*}}, %{{.*}} : !iam.features<?x64xf32, k = 8>, !iam.features<?x64xf32, k = 2> -> !iam.features<?x64xf32, k = 10>
  %0 = iam.clt.sub %f1, %f2
      : !iam.features<?x64xf32, k = 8>, !iam.features<?x64xf32, k = 2> -> !iam.features<?x64xf32, k = 10>
  // CHECK: iam.clt.sub %{{.*}}, %{{.*}} : !iam.features<?x64xf32>, !iam.features<?x64xf32> -> !iam.features<?x64xf32>
  %1 = iam.clt.sub %g, %g : !iam.features<?x64xf32>, !iam.features<?x64xf32> -> !iam.features<?x64xf32>
  return
}

// CHECK-LABEL: func.func @adjoints
func.func @adjoints(%f: !iam.features<?x16xf32, k = 2>, %c: !iam.features<?x16xf32>, %W: tensor<16x4xf32>, %dy: tensor<?x4xf32>,
                    %dd: tensor<?x16xf32>, %two: tensor<?x2xf32>, %a: tensor<1xf32>) {
  // CHECK: iam.clt.decode_adjoint %{{.*}}, %{{.*}}, %{{.*}} : !iam.features<?x16xf32, k = 2>, tensor<16x4xf32>, tensor<?x4xf32>
  %0 = iam.clt.decode_adjoint %f, %W, %dy : !iam.features<?x16xf32, k = 2>, tensor<16x4xf32>, tensor<?x4xf32>
  // CHECK: iam.clt.densify_adjoint %{{.*}}, %{{.*}} : !iam.features<?x16xf32>, tensor<?x16xf32>
  %1 = iam.clt.densify_adjoint %c, %dd : !iam.features<?x16xf32>, tensor<?x16xf32>
  // CHECK: iam.clt.densify_adjoint %{{.*}}, %{{.*}} columns [3, 7] : !iam.features<?x16xf32>, tensor<?x2xf32>
  %2 = iam.clt.densify_adjoint %c, %two columns [3, 7] : !iam.features<?x16xf32>, tensor<?x2xf32>
  // CHECK: iam.clt.edit_adjoint set %{{.*}}, %{{.*}} features [7] : (!iam.features<?x16xf32, k = 2>, !iam.features<?x16xf32>) -> !iam.features<?x16xf32, k = 2>
  %3 = iam.clt.edit_adjoint set %f, %c features [7] : (!iam.features<?x16xf32, k = 2>, !iam.features<?x16xf32>) -> !iam.features<?x16xf32, k = 2>
  // CHECK: iam.clt.edit_adjoint delta clamp %{{.*}}, %{{.*}} features [7] by %{{.*}}, %{{.*}} :
  %4 = iam.clt.edit_adjoint delta clamp %c, %f features [7] by %a, %a
      : (!iam.features<?x16xf32>, !iam.features<?x16xf32, k = 2>, tensor<1xf32>, tensor<1xf32>) -> !iam.features<?x16xf32>
  return
}
