// iam-to-runtime: features are their components wherever a value can stand.
// RUN: iam-opt %s --iam-to-runtime | FileCheck %s --implicit-check-not='iam.features'

// CHECK-LABEL: func.func private @declared(tensor<?x2xf32>, tensor<?x2xi32>, tensor<?xf32>, tensor<?xi32>, tensor<?xi64>, f32) -> (tensor<?xf32>, tensor<?xi32>, tensor<?xi64>)
func.func private @declared(!iam.features<?x16xf32, k = 2>, !iam.features<?x16xf32>, f32) -> !iam.features<?x16xf32>

// The rows of compressed rows are not in the types of their components.
// CHECK-LABEL: func.func @arguments_and_results(
// CHECK-SAME: %[[V:.*]]: tensor<3x2xf32>, %[[I:.*]]: tensor<3x2xi32>, %[[CV:.*]]: tensor<?xf32>, %[[CI:.*]]: tensor<?xi32>, %[[CO:.*]]: tensor<?xi64>)
// CHECK-SAME: -> (tensor<?xf32>, tensor<?xi32>, tensor<?xi64>, tensor<3x2xf32>, tensor<3x2xi32>)
func.func @arguments_and_results(%f: !iam.features<3x16xf32, k = 2>, %g: !iam.features<3x16xf32>)
    -> (!iam.features<3x16xf32>, !iam.features<3x16xf32, k = 2>) {
  // CHECK-NEXT: return %[[CV]], %[[CI]], %[[CO]], %[[V]], %[[I]]
  return %g, %f : !iam.features<3x16xf32>, !iam.features<3x16xf32, k = 2>
}

// CHECK-LABEL: func.func @call(
// CHECK-SAME: %[[V:.*]]: tensor<?x2xf32>, %[[I:.*]]: tensor<?x2xi32>, %[[CV:.*]]: tensor<?xf32>, %[[CI:.*]]: tensor<?xi32>, %[[CO:.*]]: tensor<?xi64>, %[[S:.*]]: f32)
func.func @call(%f: !iam.features<?x16xf32, k = 2>, %g: !iam.features<?x16xf32>, %s: f32) -> !iam.features<?x16xf32> {
  // CHECK-NEXT: %[[R:.*]]:3 = call @declared(%[[V]], %[[I]], %[[CV]], %[[CI]], %[[CO]], %[[S]])
  // CHECK-NEXT: return %[[R]]#0, %[[R]]#1, %[[R]]#2
  %r = call @declared(%f, %g, %s) : (!iam.features<?x16xf32, k = 2>, !iam.features<?x16xf32>, f32) -> !iam.features<?x16xf32>
  return %r : !iam.features<?x16xf32>
}

// CHECK-LABEL: func.func @for_loop(
// CHECK: scf.for {{.*}} iter_args(%[[V:.*]] = %arg0, %[[I:.*]] = %arg1) -> (tensor<?x2xf32>, tensor<?x2xi32>)
// CHECK: call @iam_rt_edit_k
// CHECK: scf.yield %{{.*}}, %{{.*}} : tensor<?x2xf32>, tensor<?x2xi32>
func.func @for_loop(%f: !iam.features<?x16xf32, k = 2>, %l: index, %u: index, %s: index) -> !iam.features<?x16xf32, k = 2> {
  %r = scf.for %i = %l to %u step %s iter_args(%h = %f) -> !iam.features<?x16xf32, k = 2> {
    %e = iam.clt.edit ablate %h features [7] : (!iam.features<?x16xf32, k = 2>) -> !iam.features<?x16xf32, k = 2>
    scf.yield %e : !iam.features<?x16xf32, k = 2>
  }
  return %r : !iam.features<?x16xf32, k = 2>
}

// CHECK-LABEL: func.func @if_else(
// CHECK: %[[R:.*]]:3 = scf.if %{{.*}} -> (tensor<?xf32>, tensor<?xi32>, tensor<?xi64>)
// CHECK: return %[[R]]#0, %[[R]]#1, %[[R]]#2
func.func @if_else(%c: i1, %f: !iam.features<?x16xf32>) -> !iam.features<?x16xf32> {
  %r = scf.if %c -> !iam.features<?x16xf32> {
    %e = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
    scf.yield %e : !iam.features<?x16xf32>
  } else {
    scf.yield %f : !iam.features<?x16xf32>
  }
  return %r : !iam.features<?x16xf32>
}

// CHECK-LABEL: func.func @while_loop(
// CHECK: scf.while (%{{.*}} = %arg1, %{{.*}} = %arg2) : (tensor<?x2xf32>, tensor<?x2xi32>) -> (tensor<?x2xf32>, tensor<?x2xi32>)
// CHECK: scf.condition(%{{.*}}) %{{.*}}, %{{.*}} : tensor<?x2xf32>, tensor<?x2xi32>
func.func @while_loop(%c: i1, %f: !iam.features<?x16xf32, k = 2>) -> !iam.features<?x16xf32, k = 2> {
  %r = scf.while (%a = %f) : (!iam.features<?x16xf32, k = 2>) -> !iam.features<?x16xf32, k = 2> {
    scf.condition(%c) %a : !iam.features<?x16xf32, k = 2>
  } do {
  ^bb0(%a: !iam.features<?x16xf32, k = 2>):
    scf.yield %a : !iam.features<?x16xf32, k = 2>
  }
  return %r : !iam.features<?x16xf32, k = 2>
}

// What canonicalisation makes of an scf.if that computes nothing.
// CHECK-LABEL: func.func @select(
// CHECK-SAME: %[[C:.*]]: i1, %[[V:.*]]: tensor<?x2xf32>, %[[I:.*]]: tensor<?x2xi32>, %[[W:.*]]: tensor<?x2xf32>, %[[J:.*]]: tensor<?x2xi32>)
func.func @select(%c: i1, %f: !iam.features<?x16xf32, k = 2>, %g: !iam.features<?x16xf32, k = 2>) -> !iam.features<?x16xf32, k = 2> {
  // CHECK-NEXT: %[[SV:.*]] = arith.select %[[C]], %[[V]], %[[W]] : tensor<?x2xf32>
  // CHECK-NEXT: %[[SI:.*]] = arith.select %[[C]], %[[I]], %[[J]] : tensor<?x2xi32>
  // CHECK-NEXT: return %[[SV]], %[[SI]]
  %r = arith.select %c, %f, %g : !iam.features<?x16xf32, k = 2>
  return %r : !iam.features<?x16xf32, k = 2>
}

// CHECK-LABEL: func.func @branches(
// CHECK: cf.cond_br %{{.*}}, ^[[A:.*]](%arg1, %arg2, %arg3 : tensor<?xf32>, tensor<?xi32>, tensor<?xi64>), ^[[B:.*]]
// CHECK: ^[[A]](%[[V:.*]]: tensor<?xf32>, %[[I:.*]]: tensor<?xi32>, %[[O:.*]]: tensor<?xi64>):
// CHECK: return %[[V]], %[[I]], %[[O]]
// CHECK: ^[[B]]:
// CHECK: cf.br ^[[A]](
func.func @branches(%c: i1, %f: !iam.features<?x16xf32>) -> !iam.features<?x16xf32> {
  cf.cond_br %c, ^a(%f : !iam.features<?x16xf32>), ^b
^a(%g: !iam.features<?x16xf32>):
  return %g : !iam.features<?x16xf32>
^b:
  %e = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  cf.br ^a(%e : !iam.features<?x16xf32>)
}

// Programs without iam are left alone.
// CHECK-LABEL: func.func @nothing_to_do(
// CHECK-NEXT: arith.addf
// CHECK-NEXT: return
func.func @nothing_to_do(%x: tensor<?xf32>) -> tensor<?xf32> {
  %y = arith.addf %x, %x : tensor<?xf32>
  return %y : tensor<?xf32>
}
