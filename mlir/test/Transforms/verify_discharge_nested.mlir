// RUN: iam-opt %s --iam-verify-discharge --split-input-file --verify-diagnostics | FileCheck %s
// Sets inside of sets.

// CHECK-LABEL: func.func @smaller_ball
// CHECK-NOT: iam.policy.verify
func.func @smaller_ball(%h: tensor<?x2xf32>, %v: tensor<2xf32>, %w: tensor<2xf32>, %x: f32) -> tensor<?x2xf32> {
  %one = arith.constant 1.0 : f32
  %two = arith.constant 2.0 : f32
  // expected-note @below {{the projection is here}}
  %p = iam.policy.project ball %h, %v, %one : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?x2xf32>
  // expected-remark @below {{"in" is proved and not checked: its set is around the one projected onto}}
  %m = iam.policy.verify ball %p, %v, %two message "in" : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?xf32>
  return %p : tensor<?x2xf32>
}

// -----

// CHECK-LABEL: func.func @equal_bounds_of_two_constants
// CHECK-NOT: iam.policy.verify
func.func @equal_bounds_of_two_constants(%h: tensor<?x2xf32>, %v: tensor<2xf32>, %w: tensor<2xf32>, %x: f32) -> tensor<?x2xf32> {
  %a = arith.constant 2.0 : f32
  %two = arith.constant 2.0 : f32
  // expected-note @below {{the projection is here}}
  %p = iam.policy.project ball %h, %v, %a : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?x2xf32>
  // expected-remark @below {{"in" is proved and not checked: its set is around the one projected onto}}
  %m = iam.policy.verify ball %p, %v, %two message "in" : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?xf32>
  return %p : tensor<?x2xf32>
}

// -----

// CHECK-LABEL: func.func @tighter_halfspace
// CHECK-NOT: iam.policy.verify
func.func @tighter_halfspace(%h: tensor<?x2xf32>, %v: tensor<2xf32>, %w: tensor<2xf32>, %x: f32) -> tensor<?x2xf32> {
  %one = arith.constant 1.0 : f32
  %two = arith.constant 2.0 : f32
  // expected-note @below {{the projection is here}}
  %p = iam.policy.project halfspace %h, %v, %one : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?x2xf32>
  // expected-remark @below {{"in" is proved and not checked: its set is around the one projected onto}}
  %m = iam.policy.verify halfspace %p, %v, %two message "in" : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?xf32>
  return %p : tensor<?x2xf32>
}

// -----

// CHECK-LABEL: func.func @unbounded_halfspace
// CHECK-NOT: iam.policy.verify
func.func @unbounded_halfspace(%h: tensor<?x2xf32>, %v: tensor<2xf32>, %w: tensor<2xf32>, %x: f32) -> tensor<?x2xf32> {
  %one = arith.constant 1.0 : f32
  %inf = arith.constant 0x7F800000 : f32
  // expected-note @below {{the projection is here}}
  %p = iam.policy.project halfspace %h, %v, %one : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?x2xf32>
  // expected-remark @below {{"in" is proved and not checked: its set is around the one projected onto}}
  %m = iam.policy.verify halfspace %p, %v, %inf message "in" : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?xf32>
  return %p : tensor<?x2xf32>
}

// -----

// CHECK-LABEL: func.func @box_in_box
// CHECK-NOT: iam.policy.verify
func.func @box_in_box(%h: tensor<?x2xf32>, %v: tensor<2xf32>, %w: tensor<2xf32>, %x: f32) -> tensor<?x2xf32> {
  %l = arith.constant dense<[-1.0, -2.0]> : tensor<2xf32>
  %u = arith.constant dense<[1.0, 2.0]> : tensor<2xf32>
  %ll = arith.constant dense<[-1.0, -3.0]> : tensor<2xf32>
  %uu = arith.constant dense<2.0> : tensor<2xf32>
  // expected-note @below {{the projection is here}}
  %p = iam.policy.project box %h, %l, %u : (tensor<?x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-remark @below {{"in" is proved and not checked: its set is around the one projected onto}}
  %m = iam.policy.verify box %p, %ll, %uu message "in" : (tensor<?x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<?xf32>
  return %p : tensor<?x2xf32>
}

// -----

// The lower bounds are the same value, which need not be constant.
// CHECK-LABEL: func.func @box_with_a_shared_side
// CHECK-NOT: iam.policy.verify
func.func @box_with_a_shared_side(%h: tensor<?x2xf32>, %v: tensor<2xf32>, %w: tensor<2xf32>, %x: f32) -> tensor<?x2xf32> {
  %l = arith.constant dense<[-1.0, -2.0]> : tensor<2xf32>
  %u = arith.constant dense<[1.0, 2.0]> : tensor<2xf32>
  %ll = arith.constant dense<[-1.0, -3.0]> : tensor<2xf32>
  %uu = arith.constant dense<2.0> : tensor<2xf32>
  // expected-note @below {{the projection is here}}
  %p = iam.policy.project box %h, %v, %u : (tensor<?x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-remark @below {{"in" is proved and not checked: its set is around the one projected onto}}
  %m = iam.policy.verify box %p, %v, %uu message "in" : (tensor<?x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<?xf32>
  return %p : tensor<?x2xf32>
}

// -----

// The margins are the work.
// CHECK-LABEL: func.func @margins_are_read
// CHECK: iam.policy.verify ball
func.func @margins_are_read(%h: tensor<?x2xf32>, %v: tensor<2xf32>, %w: tensor<2xf32>, %x: f32) -> tensor<?xf32> {
  %one = arith.constant 1.0 : f32
  %two = arith.constant 2.0 : f32
  %p = iam.policy.project ball %h, %v, %one : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?x2xf32>
  %m = iam.policy.verify ball %p, %v, %two message "in" : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?xf32>
  return %m : tensor<?xf32>
}

// -----

// CHECK-LABEL: func.func @larger_ball
// CHECK: iam.policy.verify ball
func.func @larger_ball(%h: tensor<?x2xf32>, %v: tensor<2xf32>, %w: tensor<2xf32>, %x: f32) -> tensor<?x2xf32> {
  %one = arith.constant 1.0 : f32
  %two = arith.constant 2.0 : f32
  // expected-note @below {{the projection is here}}
  %p = iam.policy.project ball %h, %v, %two : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?x2xf32>
  // expected-remark @below {{"in" is checked at every call: constants do not show that the set projected onto is inside of it}}
  %m = iam.policy.verify ball %p, %v, %one message "in" : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?xf32>
  return %p : tensor<?x2xf32>
}

// -----

// CHECK-LABEL: func.func @looser_halfspace
// CHECK: iam.policy.verify halfspace
func.func @looser_halfspace(%h: tensor<?x2xf32>, %v: tensor<2xf32>, %w: tensor<2xf32>, %x: f32) -> tensor<?x2xf32> {
  %one = arith.constant 1.0 : f32
  %two = arith.constant 2.0 : f32
  // expected-note @below {{the projection is here}}
  %p = iam.policy.project halfspace %h, %v, %two : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?x2xf32>
  // expected-remark @below {{"in" is checked at every call: constants do not show that the set projected onto is inside of it}}
  %m = iam.policy.verify halfspace %p, %v, %one message "in" : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?xf32>
  return %p : tensor<?x2xf32>
}

// -----

// CHECK-LABEL: func.func @bound_is_an_argument
// CHECK: iam.policy.verify ball
func.func @bound_is_an_argument(%h: tensor<?x2xf32>, %v: tensor<2xf32>, %w: tensor<2xf32>, %x: f32) -> tensor<?x2xf32> {
  %one = arith.constant 1.0 : f32
  %two = arith.constant 2.0 : f32
  // expected-note @below {{the projection is here}}
  %p = iam.policy.project ball %h, %v, %x : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?x2xf32>
  // expected-remark @below {{"in" is checked at every call: constants do not show that the set projected onto is inside of it}}
  %m = iam.policy.verify ball %p, %v, %two message "in" : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?xf32>
  return %p : tensor<?x2xf32>
}

// -----

// The assertion is an error at run time.
// CHECK-LABEL: func.func @nan_is_not_ordered
// CHECK: iam.policy.verify halfspace
func.func @nan_is_not_ordered(%h: tensor<?x2xf32>, %v: tensor<2xf32>, %w: tensor<2xf32>, %x: f32) -> tensor<?x2xf32> {
  %one = arith.constant 1.0 : f32
  %nan = arith.constant 0x7FC00000 : f32
  // expected-note @below {{the projection is here}}
  %p = iam.policy.project halfspace %h, %v, %one : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?x2xf32>
  // expected-remark @below {{"in" is checked at every call: constants do not show that the set projected onto is inside of it}}
  %m = iam.policy.verify halfspace %p, %v, %nan message "in" : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?xf32>
  return %p : tensor<?x2xf32>
}

// -----

// CHECK-LABEL: func.func @one_side_of_the_box_sticks_out
// CHECK: iam.policy.verify box
func.func @one_side_of_the_box_sticks_out(%h: tensor<?x2xf32>, %v: tensor<2xf32>, %w: tensor<2xf32>, %x: f32) -> tensor<?x2xf32> {
  %l = arith.constant dense<[-1.0, -2.0]> : tensor<2xf32>
  %u = arith.constant dense<[1.0, 2.0]> : tensor<2xf32>
  %ll = arith.constant dense<[-1.0, -3.0]> : tensor<2xf32>
  %uu = arith.constant dense<2.0> : tensor<2xf32>
  // expected-note @below {{the projection is here}}
  %p = iam.policy.project box %h, %ll, %u : (tensor<?x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-remark @below {{"in" is checked at every call: constants do not show that the set projected onto is inside of it}}
  %m = iam.policy.verify box %p, %l, %uu message "in" : (tensor<?x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<?xf32>
  return %p : tensor<?x2xf32>
}

// -----

// CHECK-LABEL: func.func @box_bounds_are_arguments
// CHECK: iam.policy.verify box
func.func @box_bounds_are_arguments(%h: tensor<?x2xf32>, %v: tensor<2xf32>, %w: tensor<2xf32>, %x: f32) -> tensor<?x2xf32> {
  %l = arith.constant dense<[-1.0, -2.0]> : tensor<2xf32>
  %u = arith.constant dense<[1.0, 2.0]> : tensor<2xf32>
  %ll = arith.constant dense<[-1.0, -3.0]> : tensor<2xf32>
  %uu = arith.constant dense<2.0> : tensor<2xf32>
  // expected-note @below {{the projection is here}}
  %p = iam.policy.project box %h, %v, %u : (tensor<?x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  // expected-remark @below {{"in" is checked at every call: constants do not show that the set projected onto is inside of it}}
  %m = iam.policy.verify box %p, %w, %uu message "in" : (tensor<?x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<?xf32>
  return %p : tensor<?x2xf32>
}

// -----

// Nothing is said of a set with another centre.
// CHECK-LABEL: func.func @other_centre
// CHECK: iam.policy.verify ball
func.func @other_centre(%h: tensor<?x2xf32>, %v: tensor<2xf32>, %w: tensor<2xf32>, %x: f32) -> tensor<?x2xf32> {
  %one = arith.constant 1.0 : f32
  %two = arith.constant 2.0 : f32
  %p = iam.policy.project ball %h, %v, %one : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?x2xf32>
  %m = iam.policy.verify ball %p, %w, %two message "in" : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?xf32>
  return %p : tensor<?x2xf32>
}
