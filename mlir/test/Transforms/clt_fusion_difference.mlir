// iam-clt-fusion, family 3: differences of reconstructions, in every order of the terms. Twice gives what once gives.
// RUN: iam-opt %s --iam-clt-fusion --canonicalize --split-input-file | FileCheck %s --implicit-check-not=arith.constant
// RUN: iam-opt %s --iam-clt-fusion --canonicalize --iam-clt-fusion --canonicalize --split-input-file | FileCheck %s
// RUN: iam-opt %s --iam-clt-fusion --split-input-file -o /dev/null 2>&1 | FileCheck %s --check-prefix=REMARK

// REMARK: clt_fusion_difference.mlir:{{.*}}: remark: became iam.clt.decode of iam.clt.delta
// REMARK: remark: became arith.addf of iam.clt.decode of iam.clt.delta
// REMARK: remark: became arith.addf of iam.clt.decode of iam.clt.sub

// decode(edit(f)) - decode(f) -> decode(delta)
// CHECK-LABEL: func.func @edit_minus_original(
// CHECK-SAME: %[[F:.*]]: !iam.features<?x16xf32, k = 2>, %[[W:.*]]: tensor<16x4xf32>, %[[B:.*]]: tensor<4xf32>, %[[A:.*]]: tensor<1xf32>)
func.func @edit_minus_original(%f: !iam.features<?x16xf32, k = 2>, %W: tensor<16x4xf32>, %b: tensor<4xf32>,
                               %a: tensor<1xf32>) -> tensor<?x4xf32> {
  // CHECK-NEXT: %[[D:.*]] = iam.clt.delta set %[[F]] features [7] by %[[A]] : (!iam.features<?x16xf32, k = 2>, tensor<1xf32>) -> !iam.features<?x16xf32, k = 1>
  // CHECK-NEXT: %[[Y:.*]] = iam.clt.decode %[[D]], %[[W]] : (!iam.features<?x16xf32, k = 1>, tensor<16x4xf32>) -> tensor<?x4xf32>
  // CHECK-NEXT: return %[[Y]]
  %g = iam.clt.edit set %f features [7] by %a : (!iam.features<?x16xf32, k = 2>, tensor<1xf32>) -> !iam.features<?x16xf32, k = 3>
  %p = iam.clt.decode %g, %W, bias %b : (!iam.features<?x16xf32, k = 3>, tensor<16x4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W, bias %b : (!iam.features<?x16xf32, k = 2>, tensor<16x4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  %y = arith.subf %p, %m : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// (x + decode(edit(f))) - decode(f) -> x + decode(delta), here in compressed rows and without bias
// CHECK-LABEL: func.func @x_plus_edit_minus_original(
// CHECK-SAME: %[[X:.*]]: tensor<?x4xf32>, %[[F:.*]]: !iam.features<?x16xf32>, %[[W:.*]]: tensor<16x4xf32>)
func.func @x_plus_edit_minus_original(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>) -> tensor<?x4xf32> {
  // CHECK-NEXT: %[[D:.*]] = iam.clt.delta ablate %[[F]] features [7, 9] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32, k = 2>
  // CHECK-NEXT: %[[Y:.*]] = iam.clt.decode %[[D]], %[[W]]
  // CHECK-NEXT: %[[Z:.*]] = arith.addf %[[X]], %[[Y]]
  // CHECK-NEXT: return %[[Z]]
  %g = iam.clt.edit ablate %f features [7, 9] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %s = arith.addf %x, %p : tensor<?x4xf32>
  %y = arith.subf %s, %m : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @edit_plus_x_minus_original(
// CHECK: %[[D:.*]] = iam.clt.delta clamp
// CHECK-NEXT: %[[Y:.*]] = iam.clt.decode %[[D]]
// CHECK-NEXT: arith.addf %[[Y]], %arg0
// CHECK-NEXT: return
func.func @edit_plus_x_minus_original(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>,
                                      %a: tensor<1xf32>, %b: tensor<1xf32>) -> tensor<?x4xf32> {
  %g = iam.clt.edit clamp %f features [7] by %a, %b : (!iam.features<?x16xf32>, tensor<1xf32>, tensor<1xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %s = arith.addf %p, %x : tensor<?x4xf32>
  %y = arith.subf %s, %m : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// (x - decode(f)) + decode(edit(f)), the error term first
// CHECK-LABEL: func.func @error_plus_edit(
// CHECK: %[[D:.*]] = iam.clt.delta scale
// CHECK-NEXT: %[[Y:.*]] = iam.clt.decode %[[D]]
// CHECK-NEXT: arith.addf %arg0, %[[Y]]
// CHECK-NEXT: return
func.func @error_plus_edit(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32, k = 2>, %W: tensor<16x4xf32>,
                           %a: tensor<1xf32>) -> tensor<?x4xf32> {
  %g = iam.clt.edit scale %f features [7] by %a : (!iam.features<?x16xf32, k = 2>, tensor<1xf32>) -> !iam.features<?x16xf32, k = 2>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32, k = 2>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32, k = 2>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %e = arith.subf %x, %m : tensor<?x4xf32>
  %y = arith.addf %e, %p : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// decode(edit(f)) + (x - decode(f)), the error term second
// CHECK-LABEL: func.func @edit_plus_error(
// CHECK: %[[D:.*]] = iam.clt.delta ablate
// CHECK-NEXT: %[[Y:.*]] = iam.clt.decode %[[D]]
// CHECK-NEXT: arith.addf %[[Y]], %arg0
// CHECK-NEXT: return
func.func @edit_plus_error(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %e = arith.subf %x, %m : tensor<?x4xf32>
  %y = arith.addf %p, %e : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// iam.clt.residual in the place of the additions
// CHECK-LABEL: func.func @residual_minus_original(
// CHECK: %[[D:.*]] = iam.clt.delta ablate
// CHECK-NEXT: %[[Y:.*]] = iam.clt.decode %[[D]]
// CHECK-NEXT: iam.clt.residual %[[Y]], %arg0
// CHECK-NEXT: return
func.func @residual_minus_original(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %s = iam.clt.residual %p, %x : (tensor<?x4xf32>, tensor<?x4xf32>) -> tensor<?x4xf32>
  %y = arith.subf %s, %m : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @residual_of_edit_and_error(
// CHECK: %[[D:.*]] = iam.clt.delta ablate
// CHECK-NEXT: %[[Y:.*]] = iam.clt.decode %[[D]]
// CHECK-NEXT: iam.clt.residual %[[Y]], %arg0
// CHECK-NEXT: return
func.func @residual_of_edit_and_error(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %e = arith.subf %x, %m : tensor<?x4xf32>
  %y = iam.clt.residual %p, %e : (tensor<?x4xf32>, tensor<?x4xf32>) -> tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// decode(f) - decode(edit(f)) -> -decode(delta)
// CHECK-LABEL: func.func @original_minus_edit(
// CHECK: %[[D:.*]] = iam.clt.delta ablate
// CHECK-NEXT: %[[Y:.*]] = iam.clt.decode %[[D]]
// CHECK-NEXT: arith.negf %[[Y]]
// CHECK-NEXT: return
func.func @original_minus_edit(%f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %y = arith.subf %p, %m : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// (x + decode(f)) - decode(edit(f)) -> x - decode(delta)
// CHECK-LABEL: func.func @x_plus_original_minus_edit(
// CHECK: %[[D:.*]] = iam.clt.delta ablate
// CHECK-NEXT: %[[Y:.*]] = iam.clt.decode %[[D]]
// CHECK-NEXT: arith.subf %arg0, %[[Y]]
// CHECK-NEXT: return
func.func @x_plus_original_minus_edit(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %s = arith.addf %x, %p : tensor<?x4xf32>
  %y = arith.subf %s, %m : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// A chain of edits: the sum of its deltas, each of the codes that its edit got.
// CHECK-LABEL: func.func @chain_of_edits(
// CHECK-SAME: %[[X:.*]]: tensor<?x4xf32>, %[[F:.*]]: !iam.features<?x16xf32>
func.func @chain_of_edits(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>, %a: tensor<1xf32>,
                          %c: tensor<2xf32>) -> tensor<?x4xf32> {
  // CHECK-NEXT: %[[G:.*]] = iam.clt.edit scale %[[F]] features [7]
  // CHECK-NEXT: %[[D1:.*]] = iam.clt.delta scale %[[F]] features [7]
  // CHECK-NEXT: %[[Y1:.*]] = iam.clt.decode %[[D1]]
  // CHECK-NEXT: %[[D2:.*]] = iam.clt.delta set %[[G]] features [3, 4]
  // CHECK-NEXT: %[[Y2:.*]] = iam.clt.decode %[[D2]]
  // CHECK-NEXT: %[[Y:.*]] = arith.addf %[[Y1]], %[[Y2]]
  // CHECK-NEXT: arith.addf %[[X]], %[[Y]]
  // CHECK-NEXT: return
  %g = iam.clt.edit scale %f features [7] by %a : (!iam.features<?x16xf32>, tensor<1xf32>) -> !iam.features<?x16xf32>
  %h = iam.clt.edit set %g features [3, 4] by %c : (!iam.features<?x16xf32>, tensor<2xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %h, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %s = arith.addf %x, %p : tensor<?x4xf32>
  %y = arith.subf %s, %m : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// One reconstruction has another use: its decode stays, the other one is n rows instead of k.
// CHECK-LABEL: func.func @one_reconstruction_has_another_use(
// CHECK-NOT: iam.clt.edit
// CHECK: %[[M:.*]] = iam.clt.decode %arg1
// CHECK: %[[D:.*]] = iam.clt.delta ablate
// CHECK: %[[Y:.*]] = iam.clt.decode %[[D]]
// CHECK: %[[Z:.*]] = arith.addf %arg0, %[[Y]]
// CHECK: return %[[Z]], %[[M]]
func.func @one_reconstruction_has_another_use(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>)
    -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %s = arith.addf %x, %p : tensor<?x4xf32>
  %y = arith.subf %s, %m : tensor<?x4xf32>
  return %y, %m : tensor<?x4xf32>, tensor<?x4xf32>
}

// -----

// No edit leads from one to the other: one decode of the difference of codes. k-form adds the slots.
// CHECK-LABEL: func.func @unrelated_codes(
// CHECK-SAME: %[[F:.*]]: !iam.features<?x16xf32, k = 2>, %[[G:.*]]: !iam.features<?x16xf32, k = 3>, %[[W:.*]]: tensor<16x4xf32>
func.func @unrelated_codes(%f: !iam.features<?x16xf32, k = 2>, %g: !iam.features<?x16xf32, k = 3>, %W: tensor<16x4xf32>,
                           %b: tensor<4xf32>) -> tensor<?x4xf32> {
  // CHECK-NEXT: %[[D:.*]] = iam.clt.sub %[[G]], %[[F]] : !iam.features<?x16xf32, k = 3>, !iam.features<?x16xf32, k = 2> -> !iam.features<?x16xf32, k = 5>
  // CHECK-NEXT: %[[Y:.*]] = iam.clt.decode %[[D]], %[[W]] :
  // CHECK-NEXT: return %[[Y]]
  %p = iam.clt.decode %g, %W, bias %b : (!iam.features<?x16xf32, k = 3>, tensor<16x4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W, bias %b : (!iam.features<?x16xf32, k = 2>, tensor<16x4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  %y = arith.subf %p, %m : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// Two edits of one code are unrelated as well.
// CHECK-LABEL: func.func @two_edits_of_one_code(
// CHECK: %[[D:.*]] = iam.clt.sub %{{.*}}, %{{.*}} : !iam.features<?x16xf32>, !iam.features<?x16xf32> -> !iam.features<?x16xf32>
// CHECK: %[[Y:.*]] = iam.clt.decode %[[D]]
// CHECK: arith.addf %arg0, %[[Y]]
func.func @two_edits_of_one_code(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %h = iam.clt.edit ablate %f features [8] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %h, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %s = arith.addf %x, %p : tensor<?x4xf32>
  %y = arith.subf %s, %m : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// The reconstruction of a transcoder with a skip: what the skip adds stays.
// CHECK-LABEL: func.func @residual_with_skip(
// CHECK: %[[D:.*]] = iam.clt.delta ablate
// CHECK-NEXT: %[[Y:.*]] = iam.clt.decode %[[D]]
// CHECK-NEXT: iam.clt.residual %[[Y]], %arg0, skip
// CHECK-NEXT: return
func.func @residual_with_skip(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>, %S: tensor<4x4xf32>) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %s = iam.clt.residual %p, %x, skip %S : (tensor<?x4xf32>, tensor<?x4xf32>, tensor<4x4xf32>) -> tensor<?x4xf32>
  %y = arith.subf %s, %m : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// A steer of the error term: it stays where it is.
// CHECK-LABEL: func.func @steered_between(
// CHECK: %[[D:.*]] = iam.clt.delta ablate
// CHECK-NEXT: %[[Y:.*]] = iam.clt.decode %[[D]]
// CHECK-NEXT: %[[S:.*]] = iam.policy.steer add %arg0,
// CHECK-NEXT: arith.addf %[[S]], %[[Y]]
// CHECK-NEXT: return
func.func @steered_between(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>, %v: tensor<4xf32>, %s: f32) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %e = arith.subf %x, %m : tensor<?x4xf32>
  %t = iam.policy.steer add %e, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %y = arith.addf %t, %p : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// decode(edit(f)) is steered: the delta's decode is steered instead.
// CHECK-LABEL: func.func @edit_is_steered(
// CHECK: %[[D:.*]] = iam.clt.delta ablate
// CHECK-NEXT: %[[Y:.*]] = iam.clt.decode %[[D]]
// CHECK-NEXT: %[[S:.*]] = iam.policy.steer add %[[Y]],
// CHECK-NEXT: return %[[S]]
func.func @edit_is_steered(%f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>, %v: tensor<4xf32>, %s: f32) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %t = iam.policy.steer add %p, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %y = arith.subf %t, %m : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// s decode(edit(f)) - s decode(f), far from each other in a sum.
// CHECK-LABEL: func.func @scaled_and_apart(
// CHECK: %[[D:.*]] = iam.clt.delta ablate
// CHECK-NEXT: %[[Y:.*]] = iam.clt.decode %[[D]]
// CHECK-NEXT: %[[S:.*]] = arith.mulf %arg3, %[[Y]]
// CHECK-NEXT: %[[A:.*]] = arith.addf %arg0, %[[S]]
// CHECK-NEXT: %[[B:.*]] = arith.addf %[[A]], %arg4
// CHECK-NEXT: return %[[B]]
func.func @scaled_and_apart(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>, %s: tensor<?x4xf32>, %z: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %sp = arith.mulf %s, %p : tensor<?x4xf32>
  %sm = arith.mulf %m, %s : tensor<?x4xf32>
  %a = arith.addf %x, %sp : tensor<?x4xf32>
  %b = arith.addf %a, %z : tensor<?x4xf32>
  %y = arith.subf %b, %sm : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// (decode(edit(f)) - decode(f)) / s, and the sign of the whole.
// CHECK-LABEL: func.func @difference_scaled(
// CHECK: %[[D:.*]] = iam.clt.delta ablate
// CHECK-NEXT: %[[Y:.*]] = iam.clt.decode %[[D]]
// CHECK-NEXT: %[[S:.*]] = arith.divf %[[Y]], %arg3
// CHECK-NEXT: %[[N:.*]] = arith.negf %[[S]]
// CHECK-NEXT: return %[[N]]
func.func @difference_scaled(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>, %s: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %d = arith.subf %p, %m : tensor<?x4xf32>
  %q = arith.divf %d, %s : tensor<?x4xf32>
  %y = arith.negf %q : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// -decode(f) + decode(edit(f))
// CHECK-LABEL: func.func @negated_original(
// CHECK: %[[D:.*]] = iam.clt.delta ablate
// CHECK-NEXT: %[[Y:.*]] = iam.clt.decode %[[D]]
// CHECK-NEXT: return %[[Y]]
func.func @negated_original(%f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %n = arith.negf %m : tensor<?x4xf32>
  %y = arith.addf %n, %p : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// -(decode(f) - x) + decode(edit(f)): what is subtracted first leaves a negation, and here one of that.
// CHECK-LABEL: func.func @negated_error(
// CHECK: %[[D:.*]] = iam.clt.delta ablate
// CHECK-NEXT: %[[Y:.*]] = iam.clt.decode %[[D]]
// CHECK-NEXT: arith.addf %arg0, %[[Y]]
func.func @negated_error(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %e = arith.subf %m, %x : tensor<?x4xf32>
  %n = arith.negf %e : tensor<?x4xf32>
  %y = arith.addf %n, %p : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// The error term is used again: it stays, decode(f) with it, and the sum no longer needs it.
// CHECK-LABEL: func.func @error_has_another_use(
// CHECK: %[[E:.*]] = arith.subf %arg0,
// CHECK-NEXT: %[[D:.*]] = iam.clt.delta ablate
// CHECK-NEXT: %[[Y:.*]] = iam.clt.decode %[[D]]
// CHECK-NEXT: %[[S:.*]] = arith.addf %arg0, %[[Y]]
// CHECK-NEXT: return %[[S]], %[[E]]
func.func @error_has_another_use(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %e = arith.subf %x, %m : tensor<?x4xf32>
  %y = arith.addf %e, %p : tensor<?x4xf32>
  return %y, %e : tensor<?x4xf32>, tensor<?x4xf32>
}

// -----

// The error term twice: each use on its own.
// CHECK-LABEL: func.func @error_twice(
// CHECK: iam.clt.delta ablate
// CHECK: return
func.func @error_twice(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %e = arith.subf %x, %m : tensor<?x4xf32>
  %t = arith.addf %e, %e : tensor<?x4xf32>
  %y = arith.addf %t, %p : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// Codes that no edit connects; the one that would go is steered, so the other one goes.
// CHECK-LABEL: func.func @unrelated_codes_one_steered(
// CHECK: %[[D:.*]] = iam.clt.sub %arg0, %arg1
// CHECK-NEXT: %[[Y:.*]] = iam.clt.decode %[[D]]
// CHECK-NEXT: %[[S:.*]] = iam.policy.steer add %[[Y]],
// CHECK-NEXT: arith.negf %[[S]]
func.func @unrelated_codes_one_steered(%f: !iam.features<?x16xf32>, %g: !iam.features<?x16xf32>, %W: tensor<16x4xf32>, %v: tensor<4xf32>, %s: f32) -> tensor<?x4xf32> {
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %t = iam.policy.steer add %m, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %y = arith.subf %p, %t : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}
