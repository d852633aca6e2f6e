// One size for each `?` of the arguments.
// RUN: iam-opt %s --iam-to-stablehlo=rows=2,5 | FileCheck %s
// CHECK: func.func @circuit(%{{.*}}: tensor<2xf32>, %{{.*}}: tensor<2x4xf32>, %{{.*}}: tensor<4x5xf32>) -> tensor<2x5xf32>
func.func @circuit(%f: tensor<2xf32>, %W_dec: tensor<?x4xf32>, %W_enc: tensor<4x?xf32>) -> tensor<?x?xf32> {
  %0 = iam.attr.circuit %f, %W_dec, %W_enc : (tensor<2xf32>, tensor<?x4xf32>, tensor<4x?xf32>) -> tensor<?x?xf32>
  return %0 : tensor<?x?xf32>
}
