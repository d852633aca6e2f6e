// iam-attribution-cache: runs of one segment on several inputs go through the model together. Twice gives what once gives.
// RUN: iam-opt %s --iam-attribution-cache 2>/dev/null | FileCheck %s
// RUN: iam-opt %s --pass-pipeline='builtin.module(iam-attribution-cache,iam-attribution-cache)' 2>/dev/null | FileCheck %s
// RUN: iam-opt %s --iam-attribution-cache -o /dev/null 2>&1 | FileCheck %s --check-prefix=REMARK
// RUN: iam-opt %s --iam-attribution-cache='budget=2048 assumed-rows=64' 2>/dev/null | FileCheck %s --check-prefix=BUDGET
// RUN: iam-opt %s --iam-attribution-cache='budget=1024 assumed-rows=64' 2>/dev/null | FileCheck %s --check-prefix=NONE

// REMARK-COUNT-3: remark: goes through the model with other inputs of this segment, 3 together
// NONE-LABEL: func.func @three(
// NONE-NOT: tensor.insert_slice
// NONE: return

// Two inputs of 64 rows, 4 numbers each, fit into 2,048 bytes: the three go in parts of one and two.
// BUDGET-LABEL: func.func @three(
// BUDGET: iam.model.run %{{.*}}, %[[A:.*]] from "resid_post.2"
// BUDGET-COUNT-2: tensor.insert_slice
// BUDGET-NOT: tensor.insert_slice
// BUDGET: iam.model.run
// BUDGET: return

// The second and the third input are computed before the run that needs the first. Each takes its share of the result, whatever
// the number of positions.
// CHECK-LABEL: func.func @three(
// CHECK-SAME: %[[M:.*]]: !iam.model, %[[X:.*]]: tensor<?x4xf32>, %[[V:.*]]: tensor<4xf32>
// CHECK: %[[A:.*]] = iam.policy.steer add
// CHECK: %[[B:.*]] = iam.policy.steer ablate
// CHECK: tensor.dim %[[X]], %c0
// CHECK: %[[R1:.*]] = tensor.dim %[[A]], %c0
// CHECK: %[[R01:.*]] = arith.addi %{{.*}}, %[[R1]] : index
// CHECK: tensor.empty
// CHECK: %[[S0:.*]] = tensor.insert_slice %[[X]] into %{{.*}}[%c0, 0]
// CHECK: %[[S1:.*]] = tensor.insert_slice %[[A]] into %[[S0]][{{.*}}, 0]
// CHECK: %[[S2:.*]] = tensor.insert_slice %[[B]] into %[[S1]][%[[R01]], 0]
// CHECK: %[[Y:.*]] = iam.model.run %[[M]], %[[S2]] from "resid_post.2" to "logits" tokens [3, 5] positions [-1]
// CHECK-NOT: iam.model.run
// CHECK: %[[TOTAL:.*]] = tensor.dim %[[Y]], %c0
// CHECK: arith.muli %{{.*}}, %[[TOTAL]]
// CHECK: arith.divui
// CHECK-COUNT-3: tensor.extract_slice %[[Y]]
// CHECK: return
func.func @three(%m: !iam.model, %x: tensor<?x4xf32>, %v: tensor<4xf32>, %s: f32) -> (tensor<?x2xf32>, tensor<?x2xf32>, tensor<?x2xf32>) {
  %0 = iam.model.run %m, %x from "resid_post.2" to "logits" tokens [3, 5] positions [-1] : (!iam.model, tensor<?x4xf32>) -> tensor<?x2xf32>
  %a = iam.policy.steer add %x, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %1 = iam.model.run %m, %a from "resid_post.2" to "logits" tokens [3, 5] positions [-1] : (!iam.model, tensor<?x4xf32>) -> tensor<?x2xf32>
  %b = iam.policy.steer ablate %x, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %2 = iam.model.run %m, %b from "resid_post.2" to "logits" tokens [3, 5] positions [-1] : (!iam.model, tensor<?x4xf32>) -> tensor<?x2xf32>
  return %0, %1, %2 : tensor<?x2xf32>, tensor<?x2xf32>, tensor<?x2xf32>
}

// Ten inputs: five and five, not eight and two.
// CHECK-LABEL: func.func @ten(
// CHECK-COUNT-5: tensor.insert_slice
// CHECK: iam.model.run
// CHECK-COUNT-5: tensor.insert_slice
// CHECK: iam.model.run
// CHECK-NOT: iam.model.run
// CHECK: return
func.func @ten(%m: !iam.model, %x: tensor<20x4xf32>, %v: tensor<4xf32>, %t: tensor<10xf32>) -> tensor<20x4xf32> {
  %c0 = arith.constant 0 : index
  %r0 = iam.model.run %m, %x from "resid_post.2" to "resid_post.5" : (!iam.model, tensor<20x4xf32>) -> tensor<20x4xf32>
  %c1 = arith.constant 1 : index
  %s1 = tensor.extract %t[%c1] : tensor<10xf32>
  %x1 = iam.policy.steer add %x, %v, %s1 : tensor<20x4xf32>, tensor<4xf32>, f32
  %r1 = iam.model.run %m, %x1 from "resid_post.2" to "resid_post.5" : (!iam.model, tensor<20x4xf32>) -> tensor<20x4xf32>
  %c2 = arith.constant 2 : index
  %s2 = tensor.extract %t[%c2] : tensor<10xf32>
  %x2 = iam.policy.steer add %x, %v, %s2 : tensor<20x4xf32>, tensor<4xf32>, f32
  %r2 = iam.model.run %m, %x2 from "resid_post.2" to "resid_post.5" : (!iam.model, tensor<20x4xf32>) -> tensor<20x4xf32>
  %c3 = arith.constant 3 : index
  %s3 = tensor.extract %t[%c3] : tensor<10xf32>
  %x3 = iam.policy.steer add %x, %v, %s3 : tensor<20x4xf32>, tensor<4xf32>, f32
  %r3 = iam.model.run %m, %x3 from "resid_post.2" to "resid_post.5" : (!iam.model, tensor<20x4xf32>) -> tensor<20x4xf32>
  %c4 = arith.constant 4 : index
  %s4 = tensor.extract %t[%c4] : tensor<10xf32>
  %x4 = iam.policy.steer add %x, %v, %s4 : tensor<20x4xf32>, tensor<4xf32>, f32
  %r4 = iam.model.run %m, %x4 from "resid_post.2" to "resid_post.5" : (!iam.model, tensor<20x4xf32>) -> tensor<20x4xf32>
  %x5 = iam.policy.steer ablate %x, %v, %s1 : tensor<20x4xf32>, tensor<4xf32>, f32
  %r5 = iam.model.run %m, %x5 from "resid_post.2" to "resid_post.5" : (!iam.model, tensor<20x4xf32>) -> tensor<20x4xf32>
  %x6 = iam.policy.steer ablate %x, %v, %s2 : tensor<20x4xf32>, tensor<4xf32>, f32
  %r6 = iam.model.run %m, %x6 from "resid_post.2" to "resid_post.5" : (!iam.model, tensor<20x4xf32>) -> tensor<20x4xf32>
  %x7 = iam.policy.steer ablate %x, %v, %s3 : tensor<20x4xf32>, tensor<4xf32>, f32
  %r7 = iam.model.run %m, %x7 from "resid_post.2" to "resid_post.5" : (!iam.model, tensor<20x4xf32>) -> tensor<20x4xf32>
  %x8 = iam.policy.steer ablate %x, %v, %s4 : tensor<20x4xf32>, tensor<4xf32>, f32
  %r8 = iam.model.run %m, %x8 from "resid_post.2" to "resid_post.5" : (!iam.model, tensor<20x4xf32>) -> tensor<20x4xf32>
  %x9 = iam.policy.steer clamp %x, %v, %s4 : tensor<20x4xf32>, tensor<4xf32>, f32
  %r9 = iam.model.run %m, %x9 from "resid_post.2" to "resid_post.5" : (!iam.model, tensor<20x4xf32>) -> tensor<20x4xf32>
  %a1 = arith.addf %r0, %r1 : tensor<20x4xf32>
  %a2 = arith.addf %a1, %r2 : tensor<20x4xf32>
  %a3 = arith.addf %a2, %r3 : tensor<20x4xf32>
  %a4 = arith.addf %a3, %r4 : tensor<20x4xf32>
  %a5 = arith.addf %a4, %r5 : tensor<20x4xf32>
  %a6 = arith.addf %a5, %r6 : tensor<20x4xf32>
  %a7 = arith.addf %a6, %r7 : tensor<20x4xf32>
  %a8 = arith.addf %a7, %r8 : tensor<20x4xf32>
  %a9 = arith.addf %a8, %r9 : tensor<20x4xf32>
  return %a9 : tensor<20x4xf32>
}

// One needs the result of another; two have other tokens, models or sites; a stack is no further input.
// CHECK-LABEL: func.func @apart(
// CHECK-NOT: tensor.insert_slice
// CHECK: return
func.func @apart(%m: !iam.model, %n: !iam.model, %x: tensor<?x4xf32>, %z: tensor<?x4xf32>) -> (tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>) {
  %0 = iam.model.run %m, %x from "resid_post.2" to "resid_post.5" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  %1 = iam.model.run %m, %0 from "resid_post.2" to "resid_post.5" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  %2 = iam.model.run %n, %z from "resid_post.2" to "resid_post.5" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  %3 = iam.model.run %m, %z from "resid_post.2" to "resid_post.6" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  return %1, %2, %3 : tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>
}

// The third needs the second: it cannot go with the two that do not need each other, nor does it stop them.
// CHECK-LABEL: func.func @chain_beside(
// CHECK: iam.policy.steer add
// CHECK-COUNT-2: tensor.insert_slice
// CHECK: %[[BOTH:.*]] = iam.model.run %{{.*}}, %{{.*}} from "resid_post.2"
// CHECK: %[[SECOND:.*]] = tensor.extract_slice %[[BOTH]]
// CHECK: %[[IN:.*]] = iam.policy.steer ablate
// CHECK-NOT: tensor.insert_slice
// CHECK: iam.model.run %{{.*}}, %[[IN]] from "resid_post.2"
// CHECK: return
func.func @chain_beside(%m: !iam.model, %x: tensor<?x4xf32>, %v: tensor<4xf32>, %s: f32) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %0 = iam.model.run %m, %x from "resid_post.2" to "resid_post.5" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  %a = iam.policy.steer add %x, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %1 = iam.model.run %m, %a from "resid_post.2" to "resid_post.5" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  %b = iam.policy.steer ablate %1, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %2 = iam.model.run %m, %b from "resid_post.2" to "resid_post.5" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  return %0, %2 : tensor<?x4xf32>, tensor<?x4xf32>
}

// To bring two runs to "resid_post.5" together, the second run to "resid_post.6" moves before the first.
// CHECK-LABEL: func.func @two_groups(
// CHECK-COUNT-2: tensor.insert_slice
// CHECK: iam.model.run %{{.*}}, %{{.*}} from "resid_post.2" to "resid_post.6"
// CHECK-COUNT-2: tensor.insert_slice
// CHECK: iam.model.run %{{.*}}, %{{.*}} from "resid_post.2" to "resid_post.5"
// CHECK-NOT: iam.model.run
// CHECK: return
func.func @two_groups(%m: !iam.model, %x: tensor<?x4xf32>, %z: tensor<?x4xf32>, %v: tensor<4xf32>, %s: f32) -> (tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>) {
  %0 = iam.model.run %m, %x from "resid_post.2" to "resid_post.5" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  %1 = iam.model.run %m, %z from "resid_post.2" to "resid_post.6" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  %a = iam.policy.steer add %x, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %2 = iam.model.run %m, %a from "resid_post.2" to "resid_post.6" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  %b = iam.policy.steer ablate %2, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %3 = iam.model.run %m, %b from "resid_post.2" to "resid_post.5" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  return %0, %1, %3 : tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>
}

// What the second needs is made by an op with an effect, which does not move.
// CHECK-LABEL: func.func @effect(
// CHECK-NOT: tensor.insert_slice
// CHECK: return
func.func private @draw() -> tensor<?x4xf32>
func.func @effect(%m: !iam.model, %x: tensor<?x4xf32>) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %0 = iam.model.run %m, %x from "resid_post.2" to "resid_post.5" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  %y = func.call @draw() : () -> tensor<?x4xf32>
  %1 = iam.model.run %m, %y from "resid_post.2" to "resid_post.5" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  return %0, %1 : tensor<?x4xf32>, tensor<?x4xf32>
}
