// iam-to-linalg: elementwise ops become arith and linalg; the rest waits for the runtime. Twice gives what once gives.
// RUN: iam-opt %s --iam-to-linalg | FileCheck %s
// RUN: iam-opt %s --iam-to-linalg --iam-to-linalg | FileCheck %s

// CHECK-DAG: #[[ALL:.*]] = affine_map<(d0, d1) -> (d0, d1)>
// CHECK-DAG: #[[COLUMN:.*]] = affine_map<(d0, d1) -> (d1)>
// CHECK-DAG: #[[SCALAR:.*]] = affine_map<(d0, d1) -> ()>

// CHECK-LABEL: func.func @residual(
// CHECK-SAME: %[[Y:.*]]: tensor<?x4xf32>, %[[X:.*]]: tensor<?x4xf32>)
func.func @residual(%y: tensor<?x4xf32>, %x: tensor<?x4xf32>) -> tensor<?x4xf32> {
  // CHECK-NEXT: %[[Z:.*]] = arith.addf %[[Y]], %[[X]] : tensor<?x4xf32>
  // CHECK-NEXT: return %[[Z]]
  %z = iam.clt.residual %y, %x : (tensor<?x4xf32>, tensor<?x4xf32>) -> tensor<?x4xf32>
  return %z : tensor<?x4xf32>
}

// CHECK-LABEL: func.func @residual_with_skip_stays(
// CHECK-NEXT: iam.clt.residual
func.func @residual_with_skip_stays(%y: tensor<?x4xf32>, %x: tensor<?x4xf32>, %S: tensor<4x4xf32>) -> tensor<?x4xf32> {
  %z = iam.clt.residual %y, %x, skip %S : (tensor<?x4xf32>, tensor<?x4xf32>, tensor<4x4xf32>) -> tensor<?x4xf32>
  return %z : tensor<?x4xf32>
}

// An addition needs one type: the runtime checks rows that are not known yet.
// CHECK-LABEL: func.func @residual_with_other_static_rows_stays(
// CHECK-NEXT: iam.clt.residual
func.func @residual_with_other_static_rows_stays(%y: tensor<?x4xf32>, %x: tensor<3x4xf32>) -> tensor<3x4xf32> {
  %z = iam.clt.residual %y, %x : (tensor<?x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
  return %z : tensor<3x4xf32>
}

// h + s * v, v read by column
// CHECK-LABEL: func.func @steer_add(
// CHECK-SAME: %[[H:.*]]: tensor<?x4xf32>, %[[V:.*]]: tensor<4xf32>, %[[S:.*]]: f32)
func.func @steer_add(%h: tensor<?x4xf32>, %v: tensor<4xf32>, %s: f32) -> tensor<?x4xf32> {
  // CHECK: %[[ROWS:.*]] = tensor.dim %[[H]], %c0
  // CHECK: %[[EMPTY:.*]] = tensor.empty(%[[ROWS]]) : tensor<?x4xf32>
  // CHECK: %[[R:.*]] = linalg.generic {indexing_maps = [#[[ALL]], #[[COLUMN]], #[[SCALAR]], #[[ALL]]], iterator_types = ["parallel", "parallel"]}
  // CHECK-SAME: ins(%[[H]], %[[V]], %[[S]] : tensor<?x4xf32>, tensor<4xf32>, f32) outs(%[[EMPTY]] : tensor<?x4xf32>)
  // CHECK-NEXT: ^bb0(%[[HE:.*]]: f32, %[[VE:.*]]: f32, %[[SE:.*]]: f32, %{{.*}}: f32):
  // CHECK-NEXT: %[[DOSE:.*]] = arith.mulf %[[SE]], %[[VE]] : f32
  // CHECK-NEXT: %[[SUM:.*]] = arith.addf %[[HE]], %[[DOSE]] : f32
  // CHECK-NEXT: linalg.yield %[[SUM]]
  // CHECK: return %[[R]]
  %r = iam.policy.steer add %h, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  return %r : tensor<?x4xf32>
}

// CHECK-LABEL: func.func @steer_with_a_dot_product_stays(
// CHECK-NEXT: iam.policy.steer ablate
// CHECK-NEXT: iam.policy.steer clamp
func.func @steer_with_a_dot_product_stays(%h: tensor<?x4xf32>, %v: tensor<4xf32>, %s: f32) -> tensor<?x4xf32> {
  %0 = iam.policy.steer ablate %h, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %1 = iam.policy.steer clamp %0, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  return %1 : tensor<?x4xf32>
}

// CHECK-LABEL: func.func @splat(
// CHECK-SAME: %[[S:.*]]: f32, %[[N:.*]]: index)
// CHECK-NEXT: %[[EMPTY:.*]] = tensor.empty(%[[N]]) : tensor<?x4xf32>
// CHECK-NEXT: linalg.fill ins(%[[S]] : f32) outs(%[[EMPTY]] : tensor<?x4xf32>)
func.func @splat(%s: f32, %n: index) -> tensor<?x4xf32> {
  %r = tensor.splat %s[%n] : tensor<?x4xf32>
  return %r : tensor<?x4xf32>
}

// Nodes and weights are constants.
// CHECK-LABEL: func.func @path
// CHECK-SAME: %[[X:.*]]: tensor<?x4xf32>, %[[B:.*]]: tensor<?x4xf32>
func.func @path(%x: tensor<?x4xf32>, %b: tensor<?x4xf32>) -> (tensor<2x?x4xf32>, tensor<2xf32>) {
  // CHECK-DAG: %[[NODES:.*]] = arith.constant dense<[2.500000e-01, 7.500000e-01]> : tensor<2xf32>
  // CHECK-DAG: %[[WEIGHTS:.*]] = arith.constant dense<5.000000e-01> : tensor<2xf32>
  // CHECK: %[[POINTS:.*]] = linalg.generic {{.*}} ins(%[[NODES]], %[[X]], %[[B]] :
  // CHECK: arith.subf
  // CHECK: arith.mulf
  // CHECK: arith.addf
  %p, %w = iam.attr.path midpoint %x, %b, steps = 2 : tensor<?x4xf32>, tensor<?x4xf32> -> tensor<2x?x4xf32>, tensor<2xf32>
  // CHECK: return %[[POINTS]], %[[WEIGHTS]]
  return %p, %w : tensor<2x?x4xf32>, tensor<2xf32>
}

// One entry along an axis has no stride: the views that bufferization makes of others cannot be told apart.
// CHECK-LABEL: func.func @stride_along_one(
func.func @stride_along_one(%x: tensor<1x5xf32>, %y: tensor<1x1xf32>) -> (tensor<1xf32>, tensor<1x3xf32>, tensor<1x5xf32>) {
  // CHECK: tensor.extract_slice %{{.*}}[0, 1] [1, 1] [1, 1]
  %a = tensor.extract_slice %x[0, 1] [1, 1] [2147483647, 1] : tensor<1x5xf32> to tensor<1xf32>
  // CHECK: tensor.extract_slice %{{.*}}[0, 0] [1, 3] [1, 2]
  %b = tensor.extract_slice %x[0, 0] [1, 3] [1, 2] : tensor<1x5xf32> to tensor<1x3xf32>
  // CHECK: tensor.insert_slice %{{.*}} into %{{.*}}[0, 2] [1, 1] [1, 1]
  %c = tensor.insert_slice %y into %x[0, 2] [1, 1] [7, 3] : tensor<1x1xf32> into tensor<1x5xf32>
  return %a, %b, %c : tensor<1xf32>, tensor<1x3xf32>, tensor<1x5xf32>
}

// CHECK-LABEL: func.func @stride_that_is_not_known(
func.func @stride_that_is_not_known(%x: tensor<1x5xf32>, %s: index) -> tensor<1x1xf32> {
  // CHECK: tensor.extract_slice %{{.*}}[0, 1] [1, 1] [%{{.*}}, 1]
  %a = tensor.extract_slice %x[0, 1] [1, 1] [%s, 1] : tensor<1x5xf32> to tensor<1x1xf32>
  return %a : tensor<1x1xf32>
}
