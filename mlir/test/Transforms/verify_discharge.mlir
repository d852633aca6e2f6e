// RUN: iam-opt %s --iam-verify-discharge --split-input-file --verify-diagnostics | FileCheck %s
// Idempotent.
// RUN: iam-opt %s --iam-verify-discharge --split-input-file 2>/dev/null > %t
// RUN: iam-opt %t --iam-verify-discharge --split-input-file 2>/dev/null | diff %t -

// CHECK-LABEL: func.func @proved
// CHECK-NEXT: %[[P:.*]] = iam.policy.project ball
// CHECK-NEXT: return %[[P]]
func.func @proved(%h: tensor<?x4xf32>, %c: tensor<4xf32>, %r: f32) -> tensor<?x4xf32> {
  // expected-note @below {{the projection is here}}
  %p = iam.policy.project ball %h, %c, %r : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  // expected-remark @below {{iam.policy.verify "small" is proved and not checked: it asserts what was projected}}
  %m = iam.policy.verify ball %p, %c, %r message "small" : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
  return %p : tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @proved_box
// CHECK-NOT: iam.policy.verify
func.func @proved_box(%h: tensor<?x4xf32>, %l: tensor<4xf32>, %u: tensor<4xf32>) -> tensor<?x4xf32> {
  // expected-note @below {{the projection is here}}
  %p = iam.policy.project box %h, %l, %u : (tensor<?x4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  // expected-remark @below {{is proved and not checked}}
  %m = iam.policy.verify box %p, %l, %u tolerance 0.5 message "in" : (tensor<?x4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<?xf32>
  return %p : tensor<?x4xf32>
}

// -----

// The margins are the work.
// CHECK-LABEL: func.func @margins_are_read
// CHECK: iam.policy.verify halfspace
func.func @margins_are_read(%h: tensor<?x4xf32>, %n: tensor<4xf32>, %b: f32) -> tensor<?xf32> {
  %p = iam.policy.project halfspace %h, %n, %b : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  %m = iam.policy.verify halfspace %p, %n, %b message "below" : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
  return %m : tensor<?xf32>
}

// -----

// CHECK-LABEL: func.func @changed_after_the_projection
// CHECK: iam.policy.verify halfspace
func.func @changed_after_the_projection(%h: tensor<?x4xf32>, %n: tensor<4xf32>, %b: f32) -> tensor<?x4xf32> {
  // expected-note @below {{the projection is here}}
  %p = iam.policy.project halfspace %h, %n, %b : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  %q = arith.addf %h, %p : tensor<?x4xf32>
  // expected-note @below {{the change is here}}
  %e = iam.policy.steer add %q, %n, %b : tensor<?x4xf32>, tensor<4xf32>, f32
  // expected-remark @below {{iam.policy.verify "below" is checked at every call: after the projection onto its set, iam.policy.steer changed the activations}}
  %m = iam.policy.verify halfspace %e, %n, %b message "below" : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
  return %e : tensor<?x4xf32>
}

// -----

// A projection onto another set is a change.
// CHECK-LABEL: func.func @projected_away
// CHECK: iam.policy.verify ball
func.func @projected_away(%h: tensor<?x4xf32>, %n: tensor<4xf32>, %b: f32) -> tensor<?x4xf32> {
  // expected-note @below {{the projection is here}}
  %p = iam.policy.project ball %h, %n, %b : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  // expected-note @below {{the change is here}}
  %q = iam.policy.project halfspace %p, %n, %b : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  // expected-remark @below {{after the projection onto its set, iam.policy.project changed the activations}}
  %m = iam.policy.verify ball %q, %n, %b message "near" : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
  return %q : tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @a_subspace_has_no_inside
// CHECK: iam.policy.verify subspace
func.func @a_subspace_has_no_inside(%h: tensor<?x4xf32>, %b: tensor<2x4xf32>) -> tensor<?x4xf32> {
  // expected-note @below {{the projection is here}}
  %p = iam.policy.project subspace %h, %b : (tensor<?x4xf32>, tensor<2x4xf32>) -> tensor<?x4xf32>
  // expected-remark @below {{a subspace has no inside}}
  %m = iam.policy.verify subspace %p, %b tolerance 0.1 message "in" : (tensor<?x4xf32>, tensor<2x4xf32>) -> tensor<?xf32>
  return %p : tensor<?x4xf32>
}

// -----

// Nothing is said of sets that were not projected onto: no projection, an argument.
// CHECK-LABEL: func.func @other_sets
// CHECK-COUNT-3: iam.policy.verify
func.func @other_sets(%h: tensor<?x4xf32>, %c: tensor<4xf32>, %r: f32, %s: f32) -> tensor<?x4xf32> {
  // expected-note @below {{the projection is here}}
  %p = iam.policy.project ball %h, %c, %r : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  // expected-remark @below {{"small" is checked at every call: constants do not show that the set projected onto is inside of it}}
  %0 = iam.policy.verify ball %p, %c, %s message "small" : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
  %1 = iam.policy.verify halfspace %p, %c, %r message "below" : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
  %2 = iam.policy.verify ball %h, %c, %r message "small" : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
  return %p : tensor<?x4xf32>
}
