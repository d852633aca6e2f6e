// An assertion that a later edit breaks is an error that names the edit.
// RUN: iam-opt %s --iam-verify-discharge --split-input-file --verify-diagnostics

func.func @pushed_out(%h: tensor<?x4xf32>, %n: tensor<4xf32>, %b: f32) -> tensor<?x4xf32> {
  %s = arith.constant 0.5 : f32
  %p = iam.policy.project halfspace %h, %n, %b : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  // expected-note @below {{the edit is here}}
  %e = iam.policy.steer add %p, %n, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  // expected-error @below {{'iam.policy.verify' op "below" is refuted: iam.policy.steer moves every row that was projected onto the border out of the half-space; project after it, or assert before it}}
  %m = iam.policy.verify halfspace %e, %n, %b message "below" : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
  return %e : tensor<?x4xf32>
}

// -----

// Pulled in: checked at run time.
func.func @pulled_in(%h: tensor<?x4xf32>, %n: tensor<4xf32>, %v: tensor<4xf32>, %b: f32, %t: f32) {
  %s = arith.constant -0.5 : f32
  // expected-note @below {{the projection is here}}
  %p = iam.policy.project halfspace %h, %n, %b : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  // expected-note @below {{the change is here}}
  %0 = iam.policy.steer add %p, %n, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  // expected-remark @below {{is checked at every call}}
  %m = iam.policy.verify halfspace %0, %n, %b message "in" : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
  return
}

// -----

// By a strength that a call gives: checked at run time.
func.func @strength_is_given(%h: tensor<?x4xf32>, %n: tensor<4xf32>, %v: tensor<4xf32>, %b: f32, %t: f32) {
  // expected-note @below {{the projection is here}}
  %p = iam.policy.project halfspace %h, %n, %b : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  // expected-note @below {{the change is here}}
  %0 = iam.policy.steer add %p, %n, %t : tensor<?x4xf32>, tensor<4xf32>, f32
  // expected-remark @below {{is checked at every call}}
  %m = iam.policy.verify halfspace %0, %n, %b message "in" : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
  return
}

// -----

// With a tolerance: checked at run time.
func.func @tolerated(%h: tensor<?x4xf32>, %n: tensor<4xf32>, %v: tensor<4xf32>, %b: f32, %t: f32) {
  %s = arith.constant 0.5 : f32
  // expected-note @below {{the projection is here}}
  %p = iam.policy.project halfspace %h, %n, %b : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  // expected-note @below {{the change is here}}
  %0 = iam.policy.steer add %p, %n, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  // expected-remark @below {{is checked at every call}}
  %m = iam.policy.verify halfspace %0, %n, %b tolerance 10.0 message "in" : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
  return
}

// -----

// Along another direction: checked at run time.
func.func @aside(%h: tensor<?x4xf32>, %n: tensor<4xf32>, %v: tensor<4xf32>, %b: f32, %t: f32) {
  %s = arith.constant 0.5 : f32
  // expected-note @below {{the projection is here}}
  %p = iam.policy.project halfspace %h, %n, %b : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  // expected-note @below {{the change is here}}
  %0 = iam.policy.steer add %p, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  // expected-remark @below {{is checked at every call}}
  %m = iam.policy.verify halfspace %0, %n, %b message "in" : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
  return
}
