// What depends on weights only moves to an init function.
// RUN: iam-opt %s --iam-hoist-weights --split-input-file --verify-diagnostics | FileCheck %s
// Idempotent.
// RUN: iam-opt %s --iam-hoist-weights --split-input-file 2>/dev/null > %t
// RUN: iam-opt %t --iam-hoist-weights --split-input-file 2>/dev/null | diff %t -

// CHECK-LABEL: func.func @main(
// CHECK-SAME: %[[X:.*]]: tensor<?x4xf32>, %{{.*}}: tensor<2x4xf32>, %[[D:.*]]: tensor<4xf32> {iam.hoisted = 0 : i64})
// CHECK-SAME: attributes {iam.init = @main.init}
// CHECK-NOT: iam.policy.compose
// CHECK: iam.policy.steer add %[[X]], %[[D]]
// CHECK: func.func @main.init(%[[V:.*]]: tensor<2x4xf32> {iam.argument = 1 : i64}) -> tensor<4xf32>
// CHECK-NEXT: %[[S:.*]] = arith.constant dense<[1.000000e+00, 2.000000e+00]>
// CHECK-NEXT: %[[E:.*]] = iam.policy.compose orthogonal %[[V]], %[[S]]
// CHECK-NEXT: return %[[E]]
func.func @main(%x: tensor<?x4xf32>, %v: tensor<2x4xf32> {iam.weight}) -> tensor<?x4xf32> {
  %one = arith.constant 1.0 : f32
  %s = arith.constant dense<[1.0, 2.0]> : tensor<2xf32>
  // expected-remark @below {{iam.policy.compose is computed once for each set of weights (16 bytes)}}
  %d = iam.policy.compose orthogonal %v, %s : tensor<2x4xf32>, tensor<2xf32> -> tensor<4xf32>
  %y = iam.policy.steer add %x, %d, %one : tensor<?x4xf32>, tensor<4xf32>, f32
  return %y : tensor<?x4xf32>
}

// -----

// A chain is one value; a view stays where it is read, its source moves.
// CHECK-LABEL: func.func @arithmetic(
// CHECK-SAME: %{{.*}}: tensor<?x64xf32>, %{{.*}}: tensor<64x64xf32>, %{{.*}}: tensor<64x64xf32>, %[[H:.*]]: tensor<64x64xf32> {iam.hoisted = 0 : i64})
// CHECK-NOT: arith.mulf
// CHECK: %[[ROW:.*]] = tensor.extract_slice %[[H]]
// CHECK: linalg.broadcast ins(%[[ROW]]
// CHECK: func.func @arithmetic.init(
// CHECK-SAME: %[[A:.*]]: tensor<64x64xf32> {iam.argument = 1 : i64}, %[[B:.*]]: tensor<64x64xf32> {iam.argument = 2 : i64})
// CHECK: %[[P:.*]] = arith.mulf %[[A]], %[[B]]
// CHECK: %[[Q:.*]] = arith.addf %[[P]], %[[B]]
// CHECK: return %[[Q]]
func.func @arithmetic(%x: tensor<?x64xf32>, %a: tensor<64x64xf32> {iam.weight}, %b: tensor<64x64xf32> {iam.weight})
    -> tensor<?x64xf32> {
  %c0 = arith.constant 0 : index
  %rows = tensor.dim %x, %c0 : tensor<?x64xf32>
  %p = arith.mulf %a, %b : tensor<64x64xf32>
  // expected-remark @below {{arith.addf is computed once for each set of weights (16384 bytes)}}
  %q = arith.addf %p, %b : tensor<64x64xf32>
  %row = tensor.extract_slice %q[3, 0] [1, 64] [1, 1] : tensor<64x64xf32> to tensor<64xf32>
  %e = tensor.empty(%rows) : tensor<?x64xf32>
  %all = linalg.broadcast ins(%row : tensor<64xf32>) outs(%e : tensor<?x64xf32>) dimensions = [0]
  %y = arith.addf %x, %all : tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// -----

// Features are a value like others; so is what is returned, and sizes that are not known but are those of weights.
// CHECK-LABEL: func.func @features(
// CHECK-SAME: %[[F:[^:]*]]: !iam.features<?x8xf32, k = 2> {iam.hoisted = 0 : i64})
// CHECK-NEXT: return %[[F]]
// CHECK: func.func @features.init(
// CHECK: iam.clt.encode_sparse topk
func.func @features(%v: tensor<?x4xf32> {iam.weight}, %w: tensor<4x8xf32> {iam.weight}, %b: tensor<8xf32> {iam.weight})
    -> !iam.features<?x8xf32, k = 2> {
  // expected-remark @below {{iam.clt.encode_sparse is computed once for each set of weights (at least 16 bytes)}}
  %f = iam.clt.encode_sparse topk %v, %w, %b k = 2
      : (tensor<?x4xf32>, tensor<4x8xf32>, tensor<8xf32>) -> !iam.features<?x8xf32, k = 2>
  return %f : !iam.features<?x8xf32, k = 2>
}

// -----

// What a branch reads is computed before it; the name is taken.
// CHECK-LABEL: func.func @branch(
// CHECK-SAME: attributes {iam.init = @branch.init_0}
// CHECK: scf.if
// CHECK-NOT: iam.policy.compose
// CHECK: func.func @branch.init_0(
// CHECK: iam.policy.compose
func.func @branch(%x: tensor<?x4xf32>, %c: i1, %s: f32, %v: tensor<2x4xf32> {iam.weight}, %w: tensor<2xf32> {iam.weight})
    -> tensor<?x4xf32> {
  // expected-remark @below {{is computed once}}
  %d = iam.policy.compose sum %v, %w : tensor<2x4xf32>, tensor<2xf32> -> tensor<4xf32>
  %y = scf.if %c -> tensor<?x4xf32> {
    %z = iam.policy.steer add %x, %d, %s : tensor<?x4xf32>, tensor<4xf32>, f32
    scf.yield %z : tensor<?x4xf32>
  } else {
    scf.yield %x : tensor<?x4xf32>
  }
  return %y : tensor<?x4xf32>
}
func.func private @branch.init()
