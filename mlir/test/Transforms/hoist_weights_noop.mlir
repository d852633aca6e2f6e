// What stays, and why.
// RUN: iam-opt %s --iam-hoist-weights --split-input-file --verify-diagnostics | FileCheck %s
// RUN: iam-opt %s --iam-hoist-weights='min-elements=1 max-growth=100' --split-input-file 2>/dev/null | FileCheck %s --check-prefix=MORE

// No argument is a weight.
// CHECK-LABEL: func.func @no_weights(
// CHECK: iam.policy.compose
// CHECK-NOT: .init
func.func @no_weights(%v: tensor<2x4xf32>, %s: tensor<2xf32>) -> tensor<4xf32> {
  %d = iam.policy.compose sum %v, %s : tensor<2x4xf32>, tensor<2xf32> -> tensor<4xf32>
  return %d : tensor<4xf32>
}

// -----

// CHECK-LABEL: func.func @another_operand(
// CHECK: iam.policy.compose
// CHECK-NOT: .init
func.func @another_operand(%v: tensor<2x4xf32> {iam.weight}, %s: tensor<2xf32>) -> tensor<4xf32> {
  %d = iam.policy.compose sum %v, %s : tensor<2x4xf32>, tensor<2xf32> -> tensor<4xf32>
  return %d : tensor<4xf32>
}

// -----

// CHECK-LABEL: func.func @free(
// CHECK: tensor.extract_slice
// CHECK: tensor.extract
// CHECK-NOT: .init
func.func @free(%v: tensor<2x4xf32> {iam.weight}) -> (tensor<4xf32>, f32) {
  %c0 = arith.constant 0 : index
  %row = tensor.extract_slice %v[1, 0] [1, 4] [1, 1] : tensor<2x4xf32> to tensor<4xf32>
  %n = tensor.extract %v[%c0, %c0] : tensor<2x4xf32>
  %m = arith.addf %n, %n : f32
  return %row, %m : tensor<4xf32>, f32
}

// -----

// CHECK-LABEL: func.func @small(
// CHECK: arith.mulf
// CHECK-NOT: .init
// MORE: func.func @small.init(
func.func @small(%x: tensor<4xf32>, %v: tensor<4xf32> {iam.weight}) -> tensor<4xf32> {
  // expected-remark @below {{arith.mulf of weights is computed at every call: 4 elements are fewer than min-elements = 4096}}
  %w = arith.mulf %v, %v : tensor<4xf32>
  %y = arith.addf %x, %w : tensor<4xf32>
  return %y : tensor<4xf32>
}

// -----

// CHECK-LABEL: func.func @large(
// CHECK: linalg.generic
// CHECK-NOT: .init
// MORE: func.func @large.init(
func.func @large(%v: tensor<16xf32> {iam.weight}) -> tensor<16x16xf32> {
  %e = tensor.empty() : tensor<16x16xf32>
  // expected-remark @below {{linalg.generic of weights is computed at every call: its 1024 bytes are more than max-growth = 4 times the 64 of the weights}}
  %w = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i)>, affine_map<(i, j) -> (j)>, affine_map<(i, j) -> (i, j)>],
      iterator_types = ["parallel", "parallel"]}
      ins(%v, %v : tensor<16xf32>, tensor<16xf32>) outs(%e : tensor<16x16xf32>) {
  ^bb0(%a: f32, %b: f32, %o: f32):
    %p = arith.mulf %a, %b : f32
    linalg.yield %p : f32
  } -> tensor<16x16xf32>
  return %w : tensor<16x16xf32>
}

// -----

// CHECK-LABEL: func.func @size_not_known(
// CHECK: tensor.pad
// CHECK-NOT: .init
func.func @size_not_known(%v: tensor<4xf32> {iam.weight}, %n: tensor<1xi64> {iam.weight}) -> tensor<?xf32> {
  %c0 = arith.constant 0 : index
  %i = tensor.extract %n[%c0] : tensor<1xi64>
  %size = arith.index_cast %i : i64 to index
  %zero = arith.constant 0.0 : f32
  // expected-remark @below {{tensor.pad of weights is computed at every call: how much memory its result would take is not known}}
  %p = tensor.pad %v low[0] high[%size] {
  ^bb0(%k: index):
    tensor.yield %zero : f32
  } : tensor<4xf32> to tensor<?xf32>
  return %p : tensor<?xf32>
}

// -----

// CHECK-LABEL: func.func @guarded(
// CHECK: scf.if
// CHECK: iam.policy.compose
// CHECK-NOT: .init
func.func @guarded(%c: i1, %v: tensor<2x4xf32> {iam.weight}, %s: tensor<2xf32> {iam.weight}, %z: tensor<4xf32>) -> tensor<4xf32> {
  %y = scf.if %c -> tensor<4xf32> {
    %d = iam.policy.compose sum %v, %s : tensor<2x4xf32>, tensor<2xf32> -> tensor<4xf32>
    scf.yield %d : tensor<4xf32>
  } else {
    scf.yield %z : tensor<4xf32>
  }
  return %y : tensor<4xf32>
}

// -----

// An assertion is checked at every call.
// CHECK-LABEL: func.func @effect(
// CHECK: iam.policy.verify
// CHECK-NOT: .init
func.func @effect(%v: tensor<?x4xf32> {iam.weight}, %n: tensor<4xf32> {iam.weight}, %b: f32) {
  %m = iam.policy.verify halfspace %v, %n, %b message "below" : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
  return
}

// -----

// expected-remark @below {{@called computes what depends on weights at every call: it is called in this module}}
func.func @called(%v: tensor<2x4xf32> {iam.weight}, %s: tensor<2xf32> {iam.weight}) -> tensor<4xf32> {
  %d = iam.policy.compose sum %v, %s : tensor<2x4xf32>, tensor<2xf32> -> tensor<4xf32>
  return %d : tensor<4xf32>
}
// expected-remark @below {{@private computes what depends on weights at every call: it is private}}
func.func private @private(%v: tensor<2x4xf32> {iam.weight}, %s: tensor<2xf32> {iam.weight}) -> tensor<4xf32> {
  %d = call @called(%v, %s) : (tensor<2x4xf32>, tensor<2xf32>) -> tensor<4xf32>
  return %d : tensor<4xf32>
}
// CHECK-LABEL: func.func @called(
// CHECK: iam.policy.compose
// CHECK-NOT: .init
