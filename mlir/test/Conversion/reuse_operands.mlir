// iam-reuse-operands: an elementwise op writes over an operand that dies there.
// RUN: iam-opt %s --iam-reuse-operands | FileCheck %s
// RUN: iam-opt %s --iam-reuse-operands --iam-reuse-operands | FileCheck %s
// RUN: iam-opt %s --iam-reuse-operands --mlir-pass-statistics --mlir-pass-statistics-display=pipeline -o /dev/null 2>&1 | FileCheck %s --check-prefix=COUNT
// COUNT: (S) 2 num-reused

#all = affine_map<(i, j) -> (i, j)>
#column = affine_map<(i, j) -> (j)>
#transposed = affine_map<(i, j) -> (j, i)>

// CHECK-LABEL: func.func @runtime_result(
func.func @runtime_result(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>, %n: index) -> tensor<?x4xf32> {
  // CHECK: %[[Y:.*]] = iam.clt.decode
  // CHECK: linalg.generic {{.*}} ins(%{{.*}}, %[[Y]] : {{.*}}) outs(%[[Y]] : tensor<?x4xf32>)
  %y = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %e = tensor.empty(%n) : tensor<?x4xf32>
  %r = linalg.generic {indexing_maps = [#all, #all, #all], iterator_types = ["parallel", "parallel"]}
      ins(%x, %y : tensor<?x4xf32>, tensor<?x4xf32>) outs(%e : tensor<?x4xf32>) {
  ^bb0(%a: f32, %b: f32, %o: f32):
    %s = arith.addf %a, %b : f32
    linalg.yield %s : f32
  } -> tensor<?x4xf32>
  return %r : tensor<?x4xf32>
}

// Its size is read as well: that is no use of its values.
// CHECK-LABEL: func.func @size_is_read(
func.func @size_is_read(%f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>) -> tensor<?x4xf32> {
  // CHECK: %[[Y:.*]] = iam.clt.decode
  // CHECK: linalg.generic {{.*}} outs(%[[Y]] : tensor<?x4xf32>)
  %c0 = arith.constant 0 : index
  %y = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %n = tensor.dim %y, %c0 : tensor<?x4xf32>
  %e = tensor.empty(%n) : tensor<?x4xf32>
  %r = linalg.generic {indexing_maps = [#all, #all], iterator_types = ["parallel", "parallel"]}
      ins(%y : tensor<?x4xf32>) outs(%e : tensor<?x4xf32>) {
  ^bb0(%a: f32, %o: f32):
    %s = arith.negf %a : f32
    linalg.yield %s : f32
  } -> tensor<?x4xf32>
  return %r : tensor<?x4xf32>
}

// The caller's memory is not ours to write.
// CHECK-LABEL: func.func @function_argument(
// CHECK: %[[E:.*]] = tensor.empty
// CHECK: linalg.generic {{.*}} outs(%[[E]] :
func.func @function_argument(%x: tensor<3x4xf32>) -> tensor<3x4xf32> {
  %e = tensor.empty() : tensor<3x4xf32>
  %r = linalg.generic {indexing_maps = [#all, #all], iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<3x4xf32>) outs(%e : tensor<3x4xf32>) {
  ^bb0(%a: f32, %o: f32):
    %s = arith.negf %a : f32
    linalg.yield %s : f32
  } -> tensor<3x4xf32>
  return %r : tensor<3x4xf32>
}

// CHECK-LABEL: func.func @another_use(
// CHECK: %[[E:.*]] = tensor.empty
// CHECK: linalg.generic {{.*}} outs(%[[E]] :
func.func @another_use(%f: !iam.features<3x16xf32>, %W: tensor<16x4xf32>) -> (tensor<3x4xf32>, tensor<3x4xf32>) {
  %y = iam.clt.decode %f, %W : (!iam.features<3x16xf32>, tensor<16x4xf32>) -> tensor<3x4xf32>
  %e = tensor.empty() : tensor<3x4xf32>
  %r = linalg.generic {indexing_maps = [#all, #all], iterator_types = ["parallel", "parallel"]}
      ins(%y : tensor<3x4xf32>) outs(%e : tensor<3x4xf32>) {
  ^bb0(%a: f32, %o: f32):
    %s = arith.negf %a : f32
    linalg.yield %s : f32
  } -> tensor<3x4xf32>
  return %r, %y : tensor<3x4xf32>, tensor<3x4xf32>
}

// Read at another index than written, and read by column: both stay as they are.
// CHECK-LABEL: func.func @other_indices(
// CHECK: %[[E:.*]] = tensor.empty() : tensor<4x4xf32>
// CHECK: linalg.generic {{.*}} outs(%[[E]] :
// CHECK: linalg.generic {{.*}} outs(%[[E]] :
func.func @other_indices(%f: !iam.features<4x16xf32>, %W: tensor<16x4xf32>, %v: tensor<4xf32>) -> (tensor<4x4xf32>, tensor<4x4xf32>) {
  %e = tensor.empty() : tensor<4x4xf32>
  %y = iam.clt.decode %f, %W : (!iam.features<4x16xf32>, tensor<16x4xf32>) -> tensor<4x4xf32>
  %r = linalg.generic {indexing_maps = [#transposed, #all], iterator_types = ["parallel", "parallel"]}
      ins(%y : tensor<4x4xf32>) outs(%e : tensor<4x4xf32>) {
  ^bb0(%a: f32, %o: f32):
    %s = arith.negf %a : f32
    linalg.yield %s : f32
  } -> tensor<4x4xf32>
  %q = linalg.generic {indexing_maps = [#column, #all], iterator_types = ["parallel", "parallel"]}
      ins(%v : tensor<4xf32>) outs(%e : tensor<4x4xf32>) {
  ^bb0(%a: f32, %o: f32):
    linalg.yield %a : f32
  } -> tensor<4x4xf32>
  return %r, %q : tensor<4x4xf32>, tensor<4x4xf32>
}

// CHECK-LABEL: func.func @constant(
// CHECK: %[[E:.*]] = tensor.empty
// CHECK: linalg.generic {{.*}} outs(%[[E]] :
func.func @constant() -> tensor<3x4xf32> {
  %y = arith.constant dense<1.0> : tensor<3x4xf32>
  %e = tensor.empty() : tensor<3x4xf32>
  %r = linalg.generic {indexing_maps = [#all, #all], iterator_types = ["parallel", "parallel"]}
      ins(%y : tensor<3x4xf32>) outs(%e : tensor<3x4xf32>) {
  ^bb0(%a: f32, %o: f32):
    %s = arith.negf %a : f32
    linalg.yield %s : f32
  } -> tensor<3x4xf32>
  return %r : tensor<3x4xf32>
}

// Made before the loop and read in each iteration.
// CHECK-LABEL: func.func @made_in_another_block(
// CHECK: scf.for
// CHECK: %[[E:.*]] = tensor.empty
// CHECK: linalg.generic {{.*}} outs(%[[E]] :
func.func @made_in_another_block(%f: !iam.features<3x16xf32>, %W: tensor<16x4xf32>, %n: index, %x: tensor<3x4xf32>) -> tensor<3x4xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %y = iam.clt.decode %f, %W : (!iam.features<3x16xf32>, tensor<16x4xf32>) -> tensor<3x4xf32>
  %z = scf.for %i = %c0 to %n step %c1 iter_args(%h = %x) -> tensor<3x4xf32> {
    %e = tensor.empty() : tensor<3x4xf32>
    %r = linalg.generic {indexing_maps = [#all, #all, #all], iterator_types = ["parallel", "parallel"]}
        ins(%y, %h : tensor<3x4xf32>, tensor<3x4xf32>) outs(%e : tensor<3x4xf32>) {
    ^bb0(%a: f32, %b: f32, %o: f32):
      %s = arith.addf %a, %b : f32
      linalg.yield %s : f32
    } -> tensor<3x4xf32>
    scf.yield %r : tensor<3x4xf32>
  }
  return %z : tensor<3x4xf32>
}
