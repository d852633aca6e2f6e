// From iam to StableHLO: calls are inlined, work is removed first, and nothing of another dialect is left.
// RUN: iam-opt %s --iam-export-stablehlo | FileCheck %s

// An edit that is decoded and subtracted costs the edited row of W_dec: one gather of one row, no product with the dictionary.
// CHECK-NOT: func.func private
// CHECK-LABEL: func.func @edit(
// CHECK-NOT: {{iam\.|arith\.|tensor\.|linalg\.|call}}
// CHECK: "stablehlo.dot_general"{{.*}} : (tensor<?x4xf32>, tensor<4x1xf32>) -> tensor<?x1xf32>
// CHECK-NOT: "stablehlo.dot_general"
// CHECK: "stablehlo.gather"{{.*}} -> tensor<?x1x4xf32>
// CHECK-NOT: {{iam\.|arith\.|tensor\.|linalg\.|call|stablehlo.dot_general}}
// CHECK: return
func.func private @decode(%f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>) -> tensor<?x4xf32> {
  %y = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}
func.func @edit(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>) -> tensor<?x4xf32> {
  %pre = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  %f = iam.clt.relu %pre : tensor<?x16xf32> -> !iam.features<?x16xf32>
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %before = func.call @decode(%f, %D) : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %after = func.call @decode(%g, %D) : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %d = arith.subf %after, %before : tensor<?x4xf32>
  %y = arith.addf %x, %d : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}
