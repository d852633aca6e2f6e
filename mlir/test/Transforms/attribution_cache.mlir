// iam-attribution-cache: one forward pass for what runs and derivatives have in common. Twice gives what once gives.
// RUN: iam-opt %s --iam-attribution-cache 2>/dev/null | FileCheck %s
// RUN: iam-opt %s --pass-pipeline='builtin.module(iam-attribution-cache,iam-attribution-cache)' 2>/dev/null | FileCheck %s
// RUN: iam-opt %s --iam-attribution-cache -o /dev/null 2>&1 | FileCheck %s --check-prefix=REMARK
// RUN: iam-opt %s --pass-pipeline='builtin.module(iam-attribution-cache,iam-attribution-cache)' --mlir-pass-statistics --mlir-pass-statistics-display=pipeline -o /dev/null 2>&1 | FileCheck %s --check-prefix=COUNT

// COUNT: (S) 0 num-given-up
// COUNT: (S) 3 num-hoisted
// COUNT: (S) 1 num-loops-fused
// COUNT: (S) 7 num-prefixes
// COUNT: (S) 1 num-runs-shared
// COUNT: (S) 8 num-tokens-merged
// COUNT: (S) 0 num-hoisted
// COUNT: (S) 0 num-loops-fused

// REMARK-DAG: remark: continues from resid_post.2, which is kept: 1024 bytes for 64 rows
// REMARK-DAG: remark: is not computed: the derivative of this segment has its value
// REMARK-DAG: remark: shares one forward pass with the segments for other tokens of this input
// REMARK-DAG: remark: joins the loop before, which goes over the same points
// REMARK-DAG: remark: is computed before the loop: it does not change in it
// REMARK-DAG: remark: is computed before the choice: both branches need it

// CHECK-LABEL: func.func @prefix(
// CHECK-NEXT: %[[A:.*]] = iam.model.run %{{.*}} to "resid_post.2"
// CHECK-NEXT: %[[B:.*]] = iam.model.run %{{.*}}, %[[A]] from "resid_post.2" to "mlp_out.5"
// CHECK-NEXT: return %[[A]], %[[B]]
func.func @prefix(%m: !iam.model) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %a = iam.model.run %m to "resid_post.2" : (!iam.model) -> tensor<?x4xf32>
  %b = iam.model.run %m to "mlp_out.5" : (!iam.model) -> tensor<?x4xf32>
  return %a, %b : tensor<?x4xf32>, tensor<?x4xf32>
}

// The first site may come last; each run continues from the latest one, in a chain.
// CHECK-LABEL: func.func @chain_in_any_order(
// CHECK-NEXT: %[[A:.*]] = iam.model.run %{{.*}} to "resid_pre.1"
// CHECK-NEXT: %[[B:.*]] = iam.model.run %{{.*}}, %[[A]] from "resid_pre.1" to "resid_post.3"
// CHECK-NEXT: %[[C:.*]] = iam.model.run %{{.*}}, %[[B]] from "resid_post.3" to "logits" tokens [7] positions [-1]
// CHECK-NEXT: return %[[C]], %[[B]], %[[A]]
func.func @chain_in_any_order(%m: !iam.model) -> (tensor<?x1xf32>, tensor<?x4xf32>, tensor<?x4xf32>) {
  %c = iam.model.run %m to "logits" tokens [7] positions [-1] : (!iam.model) -> tensor<?x1xf32>
  %b = iam.model.run %m to "resid_post.3" : (!iam.model) -> tensor<?x4xf32>
  %a = iam.model.run %m to "resid_pre.1" : (!iam.model) -> tensor<?x4xf32>
  return %c, %b, %a : tensor<?x1xf32>, tensor<?x4xf32>, tensor<?x4xf32>
}

// From an input of one's own.
// CHECK-LABEL: func.func @from_a_site(
// CHECK: %[[B:.*]] = iam.model.run %{{.*}}, %[[H:.*]] from "mlp_in.1" to "resid_post.2"
// CHECK-NEXT: iam.model.run %{{.*}}, %[[B]] from "resid_post.2" to "resid_post.4"
func.func @from_a_site(%m: !iam.model, %h: tensor<?x4xf32>) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %b = iam.model.run %m, %h from "mlp_in.1" to "resid_post.2" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  %c = iam.model.run %m, %h from "mlp_in.1" to "resid_post.4" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  return %b, %c : tensor<?x4xf32>, tensor<?x4xf32>
}

// What continues by hand is the same as what is found.
// CHECK-LABEL: func.func @by_hand(
// CHECK-NEXT: %[[A:.*]] = iam.model.run %{{.*}} to "resid_post.2"
// CHECK-NEXT: %[[B:.*]] = iam.model.run %{{.*}}, %[[A]] from "resid_post.2" to "resid_post.5"
// CHECK-NEXT: return %[[B]], %[[B]]
func.func @by_hand(%m: !iam.model) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %a = iam.model.run %m to "resid_post.2" : (!iam.model) -> tensor<?x4xf32>
  %b = iam.model.run %m, %a from "resid_post.2" to "resid_post.5" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  %c = iam.model.run %m to "resid_post.5" : (!iam.model) -> tensor<?x4xf32>
  return %b, %c : tensor<?x4xf32>, tensor<?x4xf32>
}

// A run in a branch continues from one outside of it.
// CHECK-LABEL: func.func @nested(
// CHECK-NEXT: %[[A:.*]] = iam.model.run %{{.*}} to "resid_post.2"
// CHECK: scf.if
// CHECK-NEXT: iam.model.run %{{.*}}, %[[A]] from "resid_post.2" to "resid_post.3"
func.func @nested(%m: !iam.model, %c: i1) -> tensor<?x4xf32> {
  %a = iam.model.run %m to "resid_post.2" : (!iam.model) -> tensor<?x4xf32>
  %y = scf.if %c -> tensor<?x4xf32> {
    %b = iam.model.run %m to "resid_post.3" : (!iam.model) -> tensor<?x4xf32>
    scf.yield %b : tensor<?x4xf32>
  } else {
    scf.yield %a : tensor<?x4xf32>
  }
  return %y : tensor<?x4xf32>
}

// The value of the derivative is that of the run, which may come first; later runs continue from it.
// CHECK-LABEL: func.func @run_and_linearize(
// CHECK-NEXT: %[[Y:.*]], %[[T:.*]] = iam.model.linearize
// CHECK-NEXT: %[[G:.*]] = iam.model.pullback %[[T]], %[[Y]]
// CHECK-NEXT: %[[Z:.*]] = iam.model.run %{{.*}}, %[[Y]] from "resid_post.3" to "resid_post.4"
// CHECK-NEXT: return %[[Y]], %[[G]], %[[Z]]
func.func @run_and_linearize(%m: !iam.model, %h: tensor<?x4xf32>) -> (tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>) {
  %r = iam.model.run %m, %h from "resid_post.1" to "resid_post.3" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  %y, %t = iam.model.linearize %m, %h from "resid_post.1" to "resid_post.3" : (!iam.model, tensor<?x4xf32>) -> (tensor<?x4xf32>, !iam.tape)
  %g = iam.model.pullback %t, %r : (!iam.tape, tensor<?x4xf32>) -> tensor<?x4xf32>
  %z = iam.model.run %m, %h from "resid_post.1" to "resid_post.4" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  return %r, %g, %z : tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>
}

// CHECK-LABEL: func.func @tokens(
// CHECK: %[[Y:.*]], %[[T:.*]] = iam.model.linearize %{{.*}}, %{{.*}} from "resid_post.1" to "logits" tokens [1, 2, 3, 4, 5] positions [-1]
// CHECK-NOT: iam.model.linearize
// CHECK-DAG: tensor.extract_slice %[[Y]][0, 2] [%{{.*}}, 3] [1, 1]
// CHECK-DAG: %[[D1:.*]] = tensor.insert_slice %{{.*}} into %{{.*}}[0, 0] [%{{.*}}, 2] [1, 1] : tensor<?x2xf32> into tensor<?x5xf32>
// CHECK-DAG: iam.model.pullback %[[T]], %[[D1]] : (!iam.tape, tensor<?x5xf32>) -> tensor<?x4xf32>
// CHECK-DAG: %[[D2:.*]] = tensor.insert_slice %{{.*}} into %{{.*}}[0, 2] [%{{.*}}, 3] [1, 1] : tensor<?x3xf32> into tensor<?x5xf32>
// CHECK-DAG: iam.model.pullback %[[T]], %[[D2]]
func.func @tokens(%m: !iam.model, %h: tensor<?x4xf32>, %d: tensor<?x2xf32>) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %y, %t = iam.model.linearize %m, %h from "resid_post.1" to "logits" tokens [1, 2] positions [-1] : (!iam.model, tensor<?x4xf32>) -> (tensor<?x2xf32>, !iam.tape)
  %g = iam.model.pullback %t, %d : (!iam.tape, tensor<?x2xf32>) -> tensor<?x4xf32>
  %z, %u = iam.model.linearize %m, %h from "resid_post.1" to "logits" tokens [3, 4, 5] positions [-1] : (!iam.model, tensor<?x4xf32>) -> (tensor<?x3xf32>, !iam.tape)
  %e = iam.model.pullback %u, %z : (!iam.tape, tensor<?x3xf32>) -> tensor<?x4xf32>
  return %g, %e : tensor<?x4xf32>, tensor<?x4xf32>
}

// Runs alone, too.
// CHECK-LABEL: func.func @tokens_of_runs(
// CHECK: %[[Y:.*]] = iam.model.run %{{.*}} to "logits" tokens [8, 9] : (!iam.model) -> tensor<?x2xf32>
// CHECK-DAG: tensor.extract_slice %[[Y]][0, 0] [%{{.*}}, 1] [1, 1]
// CHECK-DAG: tensor.extract_slice %[[Y]][0, 1] [%{{.*}}, 1] [1, 1]
func.func @tokens_of_runs(%m: !iam.model) -> (tensor<?x1xf32>, tensor<?x1xf32>) {
  %a = iam.model.run %m to "logits" tokens [8] : (!iam.model) -> tensor<?x1xf32>
  %b = iam.model.run %m to "logits" tokens [9] : (!iam.model) -> tensor<?x1xf32>
  return %a, %b : tensor<?x1xf32>, tensor<?x1xf32>
}

// Two attributions of one path: one loop, one forward pass at each point. What the second loop needs moves before.
// CHECK-LABEL: func.func @two_attributions(
// CHECK: scf.for
// CHECK: iam.model.linearize {{.*}} to "logits" tokens [{{.*}}, {{.*}}] :
// CHECK-NOT: iam.model.linearize
// CHECK-COUNT-2: iam.model.pullback
// CHECK: scf.yield
// CHECK-NOT: scf.for
// CHECK: return
func.func @two_attributions(%m: !iam.model, %points: tensor<20x?x4xf32>, %zero: tensor<?x4xf32>) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c20 = arith.constant 20 : index
  %one = arith.constant 1.0 : f32
  %rows = tensor.dim %zero, %c0 : tensor<?x4xf32>
  %dy = tensor.splat %one[%rows] : tensor<?x1xf32>
  %first = scf.for %i = %c0 to %c20 step %c1 iter_args(%sum = %zero) -> tensor<?x4xf32> {
    %x = tensor.extract_slice %points[%i, 0, 0] [1, %rows, 4] [1, 1, 1] : tensor<20x?x4xf32> to tensor<?x4xf32>
    %y, %t = iam.model.linearize %m, %x from "resid_post.1" to "logits" tokens [1] : (!iam.model, tensor<?x4xf32>) -> (tensor<?x1xf32>, !iam.tape)
    %g = iam.model.pullback %t, %dy : (!iam.tape, tensor<?x1xf32>) -> tensor<?x4xf32>
    %next = arith.addf %sum, %g : tensor<?x4xf32>
    scf.yield %next : tensor<?x4xf32>
  }
  %two = arith.constant 2.0 : f32
  %dz = tensor.splat %two[%rows] : tensor<?x1xf32>
  %end = arith.constant 20 : index
  %second = scf.for %i = %c0 to %end step %c1 iter_args(%sum = %zero) -> tensor<?x4xf32> {
    %x = tensor.extract_slice %points[%i, 0, 0] [1, %rows, 4] [1, 1, 1] : tensor<20x?x4xf32> to tensor<?x4xf32>
    %y, %t = iam.model.linearize %m, %x from "resid_post.1" to "logits" tokens [2] : (!iam.model, tensor<?x4xf32>) -> (tensor<?x1xf32>, !iam.tape)
    %g = iam.model.pullback %t, %dz : (!iam.tape, tensor<?x1xf32>) -> tensor<?x4xf32>
    %next = arith.addf %sum, %g : tensor<?x4xf32>
    scf.yield %next : tensor<?x4xf32>
  }
  return %first, %second : tensor<?x4xf32>, tensor<?x4xf32>
}

// CHECK-LABEL: func.func @loop_invariant(
// CHECK-NEXT: arith.constant
// CHECK-NEXT: arith.constant
// CHECK-NEXT: %[[A:.*]] = iam.model.run
// CHECK-NEXT: iam.clt.encode %[[A]]
// CHECK-NEXT: scf.for
func.func @loop_invariant(%m: !iam.model, %n: index, %W: tensor<4x8xf32>, %b: tensor<8xf32>, %z: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %y = scf.for %i = %c0 to %n step %c1 iter_args(%sum = %z) -> tensor<?x8xf32> {
    %a = iam.model.run %m to "resid_post.2" : (!iam.model) -> tensor<?x4xf32>
    %e = iam.clt.encode %a, %W, %b : (tensor<?x4xf32>, tensor<4x8xf32>, tensor<8xf32>) -> tensor<?x8xf32>
    %next = arith.addf %sum, %e : tensor<?x8xf32>
    scf.yield %next : tensor<?x8xf32>
  }
  return %y : tensor<?x8xf32>
}

// CHECK-LABEL: func.func @both_branches(
// CHECK-NEXT: iam.clt.encode
// CHECK-NEXT: scf.if
// CHECK-NOT: iam.clt.encode
// CHECK: return
func.func @both_branches(%x: tensor<?x4xf32>, %W: tensor<4x8xf32>, %b: tensor<8xf32>, %c: i1) -> tensor<?x8xf32> {
  %y = scf.if %c -> tensor<?x8xf32> {
    %e = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x8xf32>, tensor<8xf32>) -> tensor<?x8xf32>
    %n = arith.negf %e : tensor<?x8xf32>
    scf.yield %n : tensor<?x8xf32>
  } else {
    %e = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x8xf32>, tensor<8xf32>) -> tensor<?x8xf32>
    scf.yield %e : tensor<?x8xf32>
  }
  return %y : tensor<?x8xf32>
}

// Together: the value of the run is a column of the derivative's.
// CHECK-LABEL: func.func @run_of_another_token(
// CHECK: %[[Y:.*]], %{{.*}} = iam.model.linearize {{.*}} tokens [1, 2]
// CHECK-NOT: iam.model.run
// CHECK: return
func.func @run_of_another_token(%m: !iam.model, %h: tensor<?x4xf32>) -> (tensor<?x4xf32>, tensor<?x1xf32>) {
  %r = iam.model.run %m, %h from "resid_post.1" to "logits" tokens [1] : (!iam.model, tensor<?x4xf32>) -> tensor<?x1xf32>
  %y, %t = iam.model.linearize %m, %h from "resid_post.1" to "logits" tokens [2] : (!iam.model, tensor<?x4xf32>) -> (tensor<?x1xf32>, !iam.tape)
  %g = iam.model.pullback %t, %y : (!iam.tape, tensor<?x1xf32>) -> tensor<?x4xf32>
  return %g, %r : tensor<?x4xf32>, tensor<?x1xf32>
}
