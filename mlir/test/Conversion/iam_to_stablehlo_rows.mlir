// iam-to-stablehlo: open sizes stay open, or are fixed by the option; then no type has one.
// RUN: iam-opt %s --iam-to-stablehlo --cse | FileCheck %s --check-prefixes=CHECK,OPEN
// RUN: iam-opt %s --iam-to-stablehlo=rows=3 --cse | FileCheck %s --check-prefixes=CHECK,FIXED
// RUN: iam-opt %s --iam-to-stablehlo=rows=3 | FileCheck %s --check-prefix=NONE
// RUN: not iam-opt %s --iam-to-stablehlo=rows=-1 2>&1 | FileCheck %s --check-prefix=NEGATIVE
// NONE-NOT: ?
// NEGATIVE: error: iam-to-stablehlo: expected rows >= 0

// CHECK-LABEL: func.func @encode(
// OPEN-SAME: %[[X:.*]]: tensor<?x4xf32>, %[[W:.*]]: tensor<4x16xf32>, %[[B:.*]]: tensor<16xf32>) -> tensor<?x16xf32>
// FIXED-SAME: %[[X:.*]]: tensor<3x4xf32>, %[[W:.*]]: tensor<4x16xf32>, %[[B:.*]]: tensor<16xf32>) -> tensor<3x16xf32>
func.func @encode(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) -> tensor<?x16xf32> {
  // OPEN-NEXT: %[[DOT:.*]] = "stablehlo.dot_general"(%[[X]], %[[W]]) <{dot_dimension_numbers = #stablehlo.dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [0]>, precision_config = [#stablehlo<precision HIGHEST>, #stablehlo<precision HIGHEST>]}> : (tensor<?x4xf32>, tensor<4x16xf32>) -> tensor<?x16xf32>
  // OPEN-NEXT: %[[N:.*]] = "stablehlo.get_dimension_size"(%[[DOT]]) <{dimension = 0 : i64}> : (tensor<?x16xf32>) -> tensor<i32>
  // OPEN-NEXT: %[[ROWS:.*]] = "stablehlo.reshape"(%[[N]]) : (tensor<i32>) -> tensor<1xi32>
  // OPEN-NEXT: %[[WIDTH:.*]] = "stablehlo.constant"() <{value = dense<16> : tensor<1xi32>}> : () -> tensor<1xi32>
  // OPEN-NEXT: %[[SHAPE:.*]] = "stablehlo.concatenate"(%[[ROWS]], %[[WIDTH]]) <{dimension = 0 : i64}>
  // OPEN-NEXT: %[[BIAS:.*]] = "stablehlo.dynamic_broadcast_in_dim"(%[[B]], %[[SHAPE]]) <{broadcast_dimensions = array<i64: 1>}> : (tensor<16xf32>, tensor<2xi32>) -> tensor<?x16xf32>
  // FIXED-NEXT: %[[DOT:.*]] = "stablehlo.dot_general"(%[[X]], %[[W]])
  // FIXED-NEXT: %[[BIAS:.*]] = "stablehlo.broadcast_in_dim"(%[[B]]) <{broadcast_dimensions = array<i64: 1>}> : (tensor<16xf32>) -> tensor<3x16xf32>
  // CHECK-NEXT: %[[PRE:.*]] = "stablehlo.add"(%[[DOT]], %[[BIAS]])
  // CHECK-NEXT: return %[[PRE]]
  %pre = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  return %pre : tensor<?x16xf32>
}

// Numbers are tensors of rank 0; features are values and indices, or dense.
// CHECK-LABEL: func.func @components(
// OPEN-SAME: tensor<f32>, %{{.*}}: tensor<?x2xf32>, %{{.*}}: tensor<?x2xi32>, %{{.*}}: tensor<?x16xf32>) -> (tensor<?x2xf32>, tensor<?x2xi32>, tensor<?x16xf32>)
// FIXED-SAME: tensor<f32>, %{{.*}}: tensor<3x2xf32>, %{{.*}}: tensor<3x2xi32>, %{{.*}}: tensor<3x16xf32>) -> (tensor<3x2xf32>, tensor<3x2xi32>, tensor<3x16xf32>)
func.func @components(%s: f32, %f: !iam.features<?x16xf32, k = 2>, %g: !iam.features<?x16xf32>)
    -> (!iam.features<?x16xf32, k = 2>, !iam.features<?x16xf32>) {
  return %f, %g : !iam.features<?x16xf32, k = 2>, !iam.features<?x16xf32>
}

// A size that one operand knows is known.
// CHECK-LABEL: func.func @known_by_one(
// CHECK: "stablehlo.add"(%{{.*}}, %{{.*}}) : (tensor<{{[?3]}}x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
func.func @known_by_one(%y: tensor<?x4xf32>, %x: tensor<3x4xf32>) -> tensor<?x4xf32> {
  %z = iam.clt.residual %y, %x : (tensor<?x4xf32>, tensor<3x4xf32>) -> tensor<?x4xf32>
  return %z : tensor<?x4xf32>
}
