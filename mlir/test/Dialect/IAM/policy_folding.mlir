// RUN: iam-opt %s --canonicalize | FileCheck %s

// CHECK-LABEL: func.func @adding_nothing_is_nothing
// CHECK-SAME: (%[[H:.*]]: tensor<?x4xf32>
// CHECK-NEXT: return %[[H]]
func.func @adding_nothing_is_nothing(%h: tensor<?x4xf32>, %v: tensor<4xf32>) -> tensor<?x4xf32> {
  %s = arith.constant 0.0 : f32
  %0 = iam.policy.steer add %h, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  return %0 : tensor<?x4xf32>
}

// A clamp to 0 is not nothing; an ablation by 0 still needs a direction that is not zero.
// CHECK-LABEL: func.func @other_modes_with_zero_stay
// CHECK: iam.policy.steer clamp
// CHECK: iam.policy.steer ablate
func.func @other_modes_with_zero_stay(%h: tensor<?x4xf32>, %v: tensor<4xf32>) -> tensor<?x4xf32> {
  %s = arith.constant 0.0 : f32
  %0 = iam.policy.steer clamp %h, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %1 = iam.policy.steer ablate %0, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  return %1 : tensor<?x4xf32>
}

// CHECK-LABEL: func.func @projecting_twice_is_projecting_once
// CHECK-NEXT: %[[P:.*]] = iam.policy.project ball
// CHECK-NEXT: return %[[P]]
func.func @projecting_twice_is_projecting_once(%h: tensor<?x4xf32>, %c: tensor<4xf32>, %r: f32) -> tensor<?x4xf32> {
  %0 = iam.policy.project ball %h, %c, %r : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  %1 = iam.policy.project ball %0, %c, %r : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  return %1 : tensor<?x4xf32>
}

// CHECK-LABEL: func.func @projections_onto_different_sets_stay
// CHECK: iam.policy.project ball
// CHECK-NEXT: iam.policy.project halfspace
// CHECK-NEXT: iam.policy.project halfspace
func.func @projections_onto_different_sets_stay(%h: tensor<?x4xf32>, %c: tensor<4xf32>, %r: f32, %q: f32) -> tensor<?x4xf32> {
  %0 = iam.policy.project ball %h, %c, %r : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  %1 = iam.policy.project halfspace %0, %c, %r : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  %2 = iam.policy.project halfspace %1, %c, %q : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  return %2 : tensor<?x4xf32>
}

// An assertion is not removed because nobody reads its margin.
// CHECK-LABEL: func.func @an_unused_assertion_stays
// CHECK: iam.policy.verify
func.func @an_unused_assertion_stays(%h: tensor<?x4xf32>, %v: tensor<4xf32>, %r: f32) {
  %0 = iam.policy.verify halfspace %h, %v, %r message "bounded" : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
  return
}
