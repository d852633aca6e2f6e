// iam-attribution-cache: what it leaves alone, and what it says about it.
// RUN: iam-opt %s --iam-attribution-cache --split-input-file --verify-diagnostics | FileCheck %s

// CHECK-LABEL: func.func @other_model(
// CHECK: iam.model.run %{{.*}} to "resid_post.2"
// CHECK: iam.model.run %{{.*}} to "resid_post.3"
func.func @other_model(%m: !iam.model, %n: !iam.model) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %a = iam.model.run %m to "resid_post.2" : (!iam.model) -> tensor<?x4xf32>
  %b = iam.model.run %n to "resid_post.3" : (!iam.model) -> tensor<?x4xf32>
  return %a, %b : tensor<?x4xf32>, tensor<?x4xf32>
}

// -----

// A replaced activation is another input than the tokens.
// CHECK-LABEL: func.func @other_input(
// CHECK: iam.model.run %{{.*}} to "resid_post.2"
// CHECK: iam.model.run %{{.*}}, %{{.*}} from "resid_post.2" to "resid_post.3"
// CHECK: iam.model.run %{{.*}}, %{{.*}} from "resid_post.1" to "resid_post.3"
func.func @other_input(%m: !iam.model, %h: tensor<?x4xf32>) -> (tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>) {
  %a = iam.model.run %m to "resid_post.2" : (!iam.model) -> tensor<?x4xf32>
  %s = arith.addf %a, %h : tensor<?x4xf32>
  %b = iam.model.run %m, %s from "resid_post.2" to "resid_post.3" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  %c = iam.model.run %m, %h from "resid_post.1" to "resid_post.3" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  return %a, %b, %c : tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @site_inside_a_block(
// CHECK: iam.model.run %{{.*}} to "mlp_out.2"
// CHECK: iam.model.run %{{.*}} to "resid_post.3"
func.func @site_inside_a_block(%m: !iam.model) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %a = iam.model.run %m to "mlp_out.2" : (!iam.model) -> tensor<?x4xf32>
  %b = iam.model.run %m to "resid_post.3" : (!iam.model) -> tensor<?x4xf32>
  return %a, %b : tensor<?x4xf32>, tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @some_positions_only(
// CHECK: iam.model.run %{{.*}} to "resid_post.2" positions [-1]
// CHECK: iam.model.run %{{.*}} to "resid_post.3"
func.func @some_positions_only(%m: !iam.model) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %a = iam.model.run %m to "resid_post.2" positions [-1] : (!iam.model) -> tensor<?x4xf32>
  %b = iam.model.run %m to "resid_post.3" : (!iam.model) -> tensor<?x4xf32>
  return %a, %b : tensor<?x4xf32>, tensor<?x4xf32>
}

// -----

// One branch does not compute it.
// CHECK-LABEL: func.func @not_on_every_way(
// CHECK: scf.if
// CHECK: iam.model.run %{{.*}} to "resid_post.2"
// CHECK: iam.model.run %{{.*}} to "resid_post.3"
func.func @not_on_every_way(%m: !iam.model, %c: i1, %x: tensor<?x4xf32>) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %a = scf.if %c -> tensor<?x4xf32> {
    %r = iam.model.run %m to "resid_post.2" : (!iam.model) -> tensor<?x4xf32>
    scf.yield %r : tensor<?x4xf32>
  } else {
    scf.yield %x : tensor<?x4xf32>
  }
  %b = iam.model.run %m to "resid_post.3" : (!iam.model) -> tensor<?x4xf32>
  return %a, %b : tensor<?x4xf32>, tensor<?x4xf32>
}

// -----

// The derivative of a segment is by its own input.
// CHECK-LABEL: func.func @derivative_of_a_longer_segment(
// CHECK: iam.model.run %{{.*}}, %[[H:.*]] from "resid_post.1" to "resid_post.2"
// CHECK: iam.model.linearize %{{.*}}, %[[H]] from "resid_post.1" to "resid_post.3"
func.func @derivative_of_a_longer_segment(%m: !iam.model, %h: tensor<?x4xf32>) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %a = iam.model.run %m, %h from "resid_post.1" to "resid_post.2" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  %y, %t = iam.model.linearize %m, %h from "resid_post.1" to "resid_post.3" : (!iam.model, tensor<?x4xf32>) -> (tensor<?x4xf32>, !iam.tape)
  %g = iam.model.pullback %t, %a : (!iam.tape, tensor<?x4xf32>) -> tensor<?x4xf32>
  return %a, %g : tensor<?x4xf32>, tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @all_tokens_or_other_positions(
// CHECK-COUNT-3: iam.model.run
func.func @all_tokens_or_other_positions(%m: !iam.model) -> (tensor<?x9xf32>, tensor<?x1xf32>, tensor<?x1xf32>) {
  // expected-remark @below {{has a forward pass of its own: it computes the logits of all tokens}}
  %a = iam.model.run %m to "logits" : (!iam.model) -> tensor<?x9xf32>
  %b = iam.model.run %m to "logits" tokens [1] : (!iam.model) -> tensor<?x1xf32>
  %c = iam.model.run %m to "logits" tokens [2] positions [-1] : (!iam.model) -> tensor<?x1xf32>
  return %a, %b, %c : tensor<?x9xf32>, tensor<?x1xf32>, tensor<?x1xf32>
}

// -----

func.func private @keep(!iam.tape)
// CHECK-LABEL: func.func @tape_goes_elsewhere(
// CHECK-COUNT-2: iam.model.linearize
func.func @tape_goes_elsewhere(%m: !iam.model, %h: tensor<?x4xf32>) -> (tensor<?x1xf32>, tensor<?x1xf32>) {
  // expected-remark @below {{has a forward pass of its own: its tape goes elsewhere than to pullbacks}}
  %y, %t = iam.model.linearize %m, %h from "resid_post.1" to "logits" tokens [1] : (!iam.model, tensor<?x4xf32>) -> (tensor<?x1xf32>, !iam.tape)
  func.call @keep(%t) : (!iam.tape) -> ()
  %z, %u = iam.model.linearize %m, %h from "resid_post.1" to "logits" tokens [2] : (!iam.model, tensor<?x4xf32>) -> (tensor<?x1xf32>, !iam.tape)
  return %y, %z : tensor<?x1xf32>, tensor<?x1xf32>
}

// -----

// CHECK-LABEL: func.func @other_bounds(
// CHECK-COUNT-2: scf.for
func.func @other_bounds(%m: !iam.model, %x: tensor<?x4xf32>, %n: index, %k: index) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %a = scf.for %i = %c0 to %n step %c1 iter_args(%h = %x) -> tensor<?x4xf32> {
    %y = iam.model.run %m, %h from "resid_post.1" to "resid_post.2" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
    scf.yield %y : tensor<?x4xf32>
  }
  // expected-remark @below {{is a loop of its own: its bounds are not those of the loop before}}
  %b = scf.for %i = %c0 to %k step %c1 iter_args(%h = %x) -> tensor<?x4xf32> {
    %y = iam.model.run %m, %h from "resid_post.1" to "resid_post.2" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
    scf.yield %y : tensor<?x4xf32>
  }
  return %a, %b : tensor<?x4xf32>, tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @one_loop_after_the_other(
// CHECK-COUNT-2: scf.for
func.func @one_loop_after_the_other(%m: !iam.model, %x: tensor<?x4xf32>, %n: index) -> tensor<?x4xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %a = scf.for %i = %c0 to %n step %c1 iter_args(%h = %x) -> tensor<?x4xf32> {
    %y = iam.model.run %m, %h from "resid_post.1" to "resid_post.2" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
    scf.yield %y : tensor<?x4xf32>
  }
  %s = arith.addf %a, %a : tensor<?x4xf32>
  // expected-remark @below {{is a loop of its own: it needs a result of the loop before}}
  %b = scf.for %i = %c0 to %n step %c1 iter_args(%h = %s) -> tensor<?x4xf32> {
    %y = iam.model.run %m, %h from "resid_post.1" to "resid_post.2" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
    scf.yield %y : tensor<?x4xf32>
  }
  return %b : tensor<?x4xf32>
}

// -----

func.func private @print()
// CHECK-LABEL: func.func @effect_between(
// CHECK-COUNT-2: scf.for
func.func @effect_between(%m: !iam.model, %x: tensor<?x4xf32>, %z: tensor<?x4xf32>, %n: index) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %a = scf.for %i = %c0 to %n step %c1 iter_args(%h = %x) -> tensor<?x4xf32> {
    %y = iam.model.run %m, %h from "resid_post.1" to "resid_post.2" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
    scf.yield %y : tensor<?x4xf32>
  }
  func.call @print() : () -> ()
  // expected-remark @below {{is a loop of its own: something with an effect is in it, or between it and the loop before}}
  %b = scf.for %i = %c0 to %n step %c1 iter_args(%h = %z) -> tensor<?x4xf32> {
    %y = iam.model.run %m, %h from "resid_post.1" to "resid_post.2" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
    scf.yield %y : tensor<?x4xf32>
  }
  return %a, %b : tensor<?x4xf32>, tensor<?x4xf32>
}
