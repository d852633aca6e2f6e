// iam-clt-fusion, family 2: matmul(densify(f), W) into zeros -> decode(f, W).
// RUN: iam-opt %s --iam-clt-fusion --canonicalize --split-input-file | FileCheck %s
// RUN: iam-opt %s --iam-clt-fusion --canonicalize --iam-clt-fusion --canonicalize --split-input-file | FileCheck %s

// CHECK-LABEL: func.func @into_zeros(
// CHECK-SAME: %[[F:.*]]: !iam.features<3x16xf32, k = 2>, %[[W:.*]]: tensor<16x4xf32>)
func.func @into_zeros(%f: !iam.features<3x16xf32, k = 2>, %W: tensor<16x4xf32>) -> tensor<3x4xf32> {
  // CHECK-NEXT: %[[Y:.*]] = iam.clt.decode %[[F]], %[[W]] : (!iam.features<3x16xf32, k = 2>, tensor<16x4xf32>) -> tensor<3x4xf32>
  // CHECK-NEXT: return %[[Y]]
  %d = iam.clt.densify %f : !iam.features<3x16xf32, k = 2> -> tensor<3x16xf32>
  %zero = arith.constant 0.0 : f32
  %empty = tensor.empty() : tensor<3x4xf32>
  %zeros = linalg.fill ins(%zero : f32) outs(%empty : tensor<3x4xf32>) -> tensor<3x4xf32>
  %y = linalg.matmul ins(%d, %W : tensor<3x16xf32>, tensor<16x4xf32>) outs(%zeros : tensor<3x4xf32>) -> tensor<3x4xf32>
  return %y : tensor<3x4xf32>
}

// -----

// The dense codes have another use and stay; the product over the dictionary goes.
// CHECK-LABEL: func.func @dense_codes_have_another_use(
// CHECK-SAME: %[[F:.*]]: !iam.features<?x16xf32>, %[[W:.*]]: tensor<16x4xf32>
func.func @dense_codes_have_another_use(%f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>, %n: index)
    -> (tensor<?x16xf32>, tensor<?x4xf32>) {
  // CHECK-NEXT: %[[D:.*]] = iam.clt.densify %[[F]]
  // CHECK-NEXT: %[[Y:.*]] = iam.clt.decode %[[F]], %[[W]]
  // CHECK-NEXT: return %[[D]], %[[Y]]
  %d = iam.clt.densify %f : !iam.features<?x16xf32> -> tensor<?x16xf32>
  %zero = arith.constant 0.0 : f32
  %empty = tensor.empty(%n) : tensor<?x4xf32>
  %zeros = linalg.fill ins(%zero : f32) outs(%empty : tensor<?x4xf32>) -> tensor<?x4xf32>
  %y = linalg.matmul ins(%d, %W : tensor<?x16xf32>, tensor<16x4xf32>) outs(%zeros : tensor<?x4xf32>) -> tensor<?x4xf32>
  return %d, %y : tensor<?x16xf32>, tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @accumulates_into_an_argument
// CHECK: iam.clt.densify
// CHECK: linalg.matmul
func.func @accumulates_into_an_argument(%f: !iam.features<3x16xf32>, %W: tensor<16x4xf32>, %y: tensor<3x4xf32>)
    -> tensor<3x4xf32> {
  %d = iam.clt.densify %f : !iam.features<3x16xf32> -> tensor<3x16xf32>
  %z = linalg.matmul ins(%d, %W : tensor<3x16xf32>, tensor<16x4xf32>) outs(%y : tensor<3x4xf32>) -> tensor<3x4xf32>
  return %z : tensor<3x4xf32>
}

// -----

// CHECK-LABEL: func.func @accumulates_into_ones
// CHECK: iam.clt.densify
// CHECK: linalg.matmul
func.func @accumulates_into_ones(%f: !iam.features<3x16xf32>, %W: tensor<16x4xf32>) -> tensor<3x4xf32> {
  %d = iam.clt.densify %f : !iam.features<3x16xf32> -> tensor<3x16xf32>
  %one = arith.constant 1.0 : f32
  %empty = tensor.empty() : tensor<3x4xf32>
  %ones = linalg.fill ins(%one : f32) outs(%empty : tensor<3x4xf32>) -> tensor<3x4xf32>
  %y = linalg.matmul ins(%d, %W : tensor<3x16xf32>, tensor<16x4xf32>) outs(%ones : tensor<3x4xf32>) -> tensor<3x4xf32>
  return %y : tensor<3x4xf32>
}

// -----

// CHECK-LABEL: func.func @not_made_by_densify
// CHECK: linalg.matmul
func.func @not_made_by_densify(%d: tensor<3x16xf32>, %W: tensor<16x4xf32>) -> tensor<3x4xf32> {
  %zero = arith.constant 0.0 : f32
  %empty = tensor.empty() : tensor<3x4xf32>
  %zeros = linalg.fill ins(%zero : f32) outs(%empty : tensor<3x4xf32>) -> tensor<3x4xf32>
  %y = linalg.matmul ins(%d, %W : tensor<3x16xf32>, tensor<16x4xf32>) outs(%zeros : tensor<3x4xf32>) -> tensor<3x4xf32>
  return %y : tensor<3x4xf32>
}

// -----

// W is read transposed: not the product that decode computes.
// CHECK-LABEL: func.func @other_indexing_maps
// CHECK: linalg.matmul
func.func @other_indexing_maps(%f: !iam.features<3x16xf32>, %W: tensor<4x16xf32>) -> tensor<3x4xf32> {
  %d = iam.clt.densify %f : !iam.features<3x16xf32> -> tensor<3x16xf32>
  %zero = arith.constant 0.0 : f32
  %empty = tensor.empty() : tensor<3x4xf32>
  %zeros = linalg.fill ins(%zero : f32) outs(%empty : tensor<3x4xf32>) -> tensor<3x4xf32>
  %y = linalg.matmul
      indexing_maps = [affine_map<(i, j, l) -> (i, l)>, affine_map<(i, j, l) -> (j, l)>, affine_map<(i, j, l) -> (i, j)>]
      ins(%d, %W : tensor<3x16xf32>, tensor<4x16xf32>) outs(%zeros : tensor<3x4xf32>) -> tensor<3x4xf32>
  return %y : tensor<3x4xf32>
}

// -----

// A product of f32 codes that accumulates in f64 is more precise than a decode.
// CHECK-LABEL: func.func @other_element_types
// CHECK: linalg.matmul
func.func @other_element_types(%f: !iam.features<3x16xf32>, %W: tensor<16x4xf64>) -> tensor<3x4xf64> {
  %d = iam.clt.densify %f : !iam.features<3x16xf32> -> tensor<3x16xf32>
  %zero = arith.constant 0.0 : f64
  %empty = tensor.empty() : tensor<3x4xf64>
  %zeros = linalg.fill ins(%zero : f64) outs(%empty : tensor<3x4xf64>) -> tensor<3x4xf64>
  %y = linalg.matmul ins(%d, %W : tensor<3x16xf32>, tensor<16x4xf64>) outs(%zeros : tensor<3x4xf64>) -> tensor<3x4xf64>
  return %y : tensor<3x4xf64>
}
