// RUN: iam-opt %s --iam-policy-projection --split-input-file --verify-diagnostics | FileCheck %s
// Idempotent.
// RUN: iam-opt %s --iam-policy-projection --split-input-file 2>/dev/null > %t
// RUN: iam-opt %t --iam-policy-projection --split-input-file 2>/dev/null | diff %t -

// CHECK-LABEL: func.func @one_pass
// CHECK-SAME: %[[H:.*]]: tensor<?x4xf32>, %[[V:.*]]: tensor<4xf32>, %[[W:.*]]: tensor<4xf32>, %[[S:.*]]: f32, %[[B:.*]]: f32
// CHECK: %[[E:.*]] = tensor.empty() : tensor<3x4xf32>
// CHECK: %[[D0:.*]] = tensor.insert_slice %[[V]] into %[[E]][0, 0] [1, 4] [1, 1]
// CHECK: %[[D1:.*]] = tensor.insert_slice %[[W]] into %[[D0]][1, 0] [1, 4] [1, 1]
// CHECK: %[[D2:.*]] = tensor.insert_slice %[[V]] into %[[D1]][2, 0] [1, 4] [1, 1]
// CHECK: %[[A:.*]] = tensor.from_elements %[[S]], %[[S]], %[[B]]
// CHECK: iam.policy.sequence add, ablate, halfspace %[[H]], %[[D2]], %[[A]] : tensor<?x4xf32>, tensor<3x4xf32>, tensor<3xf32>
// CHECK-NEXT: return
func.func @one_pass(%h: tensor<?x4xf32>, %v: tensor<4xf32>, %w: tensor<4xf32>, %s: f32, %b: f32) -> tensor<?x4xf32> {
  %0 = iam.policy.steer add %h, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %1 = iam.policy.steer ablate %0, %w, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  // expected-remark @below {{runs 3 steps in one pass over the activations}}
  %2 = iam.policy.project halfspace %1, %v, %b : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  return %2 : tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @alone
// CHECK: iam.policy.steer clamp
// CHECK-NOT: iam.policy.sequence
func.func @alone(%h: tensor<?x4xf32>, %v: tensor<4xf32>, %s: f32) -> tensor<?x4xf32> {
  %0 = iam.policy.steer clamp %h, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  return %0 : tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @additions
// CHECK-COUNT-2: iam.policy.steer add
// CHECK-NOT: iam.policy.sequence
func.func @additions(%h: tensor<?x4xf32>, %v: tensor<4xf32>, %s: f32) -> tensor<?x4xf32> {
  %0 = iam.policy.steer add %h, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %1 = iam.policy.steer add %0, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  return %1 : tensor<?x4xf32>
}

// -----

// Something else reads what is between.
// CHECK-LABEL: func.func @read_between
// CHECK-COUNT-2: iam.policy.steer ablate
// CHECK-NOT: iam.policy.sequence
func.func @read_between(%h: tensor<?x4xf32>, %v: tensor<4xf32>, %s: f32) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %0 = iam.policy.steer ablate %h, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %1 = iam.policy.steer ablate %0, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  return %0, %1 : tensor<?x4xf32>, tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @open_width
// CHECK-NOT: iam.policy.sequence
func.func @open_width(%h: tensor<?x?xf32>, %v: tensor<?xf32>, %s: f32) -> tensor<?x?xf32> {
  %0 = iam.policy.steer ablate %h, %v, %s : tensor<?x?xf32>, tensor<?xf32>, f32
  %1 = iam.policy.steer clamp %0, %v, %s : tensor<?x?xf32>, tensor<?xf32>, f32
  return %1 : tensor<?x?xf32>
}

// -----

// CHECK-LABEL: func.func @other_block
// CHECK-NOT: iam.policy.sequence
func.func @other_block(%h: tensor<?x4xf32>, %v: tensor<4xf32>, %s: f32, %c: i1) -> tensor<?x4xf32> {
  %0 = iam.policy.steer ablate %h, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %1 = scf.if %c -> tensor<?x4xf32> {
    %2 = iam.policy.steer clamp %0, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
    scf.yield %2 : tensor<?x4xf32>
  } else {
    scf.yield %h : tensor<?x4xf32>
  }
  return %1 : tensor<?x4xf32>
}

// -----

// A ball is no half-space: two sequences.
// CHECK-LABEL: func.func @around_a_ball
// CHECK: iam.policy.sequence ablate, clamp
// CHECK: iam.policy.project ball
// CHECK: iam.policy.steer ablate
func.func @around_a_ball(%h: tensor<?x4xf32>, %v: tensor<4xf32>, %s: f32) -> tensor<?x4xf32> {
  %0 = iam.policy.steer ablate %h, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  // expected-remark @below {{runs 2 steps in one pass}}
  %1 = iam.policy.steer clamp %0, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %2 = iam.policy.project ball %1, %v, %s : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  %3 = iam.policy.steer ablate %2, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  return %3 : tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @larger_ball
// CHECK: %[[P:.*]] = iam.policy.project ball
// CHECK-NEXT: return %[[P]]
func.func @larger_ball(%h: tensor<?x4xf32>, %c: tensor<4xf32>) -> tensor<?x4xf32> {
  %one = arith.constant 1.0 : f32
  %two = arith.constant 2.0 : f32
  %0 = iam.policy.project ball %h, %c, %one : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  // expected-remark @below {{is not computed: the projection before it ends inside of its set}}
  %1 = iam.policy.project ball %0, %c, %two : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  return %1 : tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @smaller_ball
// CHECK-COUNT-2: iam.policy.project ball
func.func @smaller_ball(%h: tensor<?x4xf32>, %c: tensor<4xf32>) -> tensor<?x4xf32> {
  %one = arith.constant 1.0 : f32
  %two = arith.constant 2.0 : f32
  %0 = iam.policy.project ball %h, %c, %two : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  %1 = iam.policy.project ball %0, %c, %one : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  return %1 : tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @box_in_box
// CHECK-SAME: %[[H:.*]]: tensor<?x2xf32>
// CHECK: iam.policy.project box %[[H]]
// CHECK-NOT: iam.policy.project
func.func @box_in_box(%h: tensor<?x2xf32>) -> tensor<?x2xf32> {
  %l = arith.constant dense<[-2.0, -3.0]> : tensor<2xf32>
  %u = arith.constant dense<[2.0, 3.0]> : tensor<2xf32>
  %a = arith.constant dense<[-1.0, -3.0]> : tensor<2xf32>
  %b = arith.constant dense<[2.0, 1.0]> : tensor<2xf32>
  // expected-remark @below {{is not computed: the box that is projected onto next is inside of it}}
  %0 = iam.policy.project box %h, %l, %u : (tensor<?x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %1 = iam.policy.project box %0, %a, %b : (tensor<?x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  return %1 : tensor<?x2xf32>
}
