// Every model op round-trips: custom form, generic form, bytecode.
// RUN: iam-opt %s | iam-opt | FileCheck %s
// RUN: iam-opt %s --mlir-print-op-generic | iam-opt | FileCheck %s
// RUN: iam-opt %s --emit-bytecode | iam-opt | FileCheck %s

// CHECK-LABEL: func.func @run(
// CHECK-SAME: !iam.model
func.func @run(%m: !iam.model) -> (tensor<?x2xf32>, tensor<?x1000xf32>) {
  // CHECK: %[[H:.*]] = iam.model.run %{{.*}} to "resid_post.20" : (!iam.model) -> tensor<?x576xf32>
  %h = iam.model.run %m to "resid_post.20" : (!iam.model) -> tensor<?x576xf32>
  // CHECK: iam.model.run %{{.*}}, %[[H]] from "resid_post.20" to "hook_z.25" : (!iam.model, tensor<?x576xf32>) -> tensor<?x64xf32>
  %y = iam.model.run %m, %h from "resid_post.20" to "hook_z.25" : (!iam.model, tensor<?x576xf32>) -> tensor<?x64xf32>
  // CHECK: iam.model.run %{{.*}}, %[[H]] from "resid_post.20" to "logits" tokens [11, 42] positions [-1] : (!iam.model, tensor<?x576xf32>) -> tensor<?x2xf32>
  %l = iam.model.run %m, %h from "resid_post.20" to "logits" tokens [11, 42] positions [-1] : (!iam.model, tensor<?x576xf32>) -> tensor<?x2xf32>
  // CHECK: iam.model.run %{{.*}} to "logits" positions [0, 3] : (!iam.model) -> tensor<?x1000xf32>
  %all = iam.model.run %m to "logits" positions [0, 3] : (!iam.model) -> tensor<?x1000xf32>
  return %l, %all : tensor<?x2xf32>, tensor<?x1000xf32>
}

// CHECK-LABEL: func.func @gradient
func.func @gradient(%m: !iam.model, %h: tensor<?x576xf32>, %dy: tensor<?x2xf32>) -> tensor<?x576xf32> {
  // CHECK: %[[Y:.*]], %[[TAPE:.*]] = iam.model.linearize %{{.*}}, %{{.*}} from "mlp_in.0" to "logits" tokens [11, 42] : (!iam.model, tensor<?x576xf32>) -> (tensor<?x2xf32>, !iam.tape)
  %y, %tape = iam.model.linearize %m, %h from "mlp_in.0" to "logits" tokens [11, 42] : (!iam.model, tensor<?x576xf32>) -> (tensor<?x2xf32>, !iam.tape)
  // CHECK: iam.model.pullback %[[TAPE]], %{{.*}} : (!iam.tape, tensor<?x2xf32>) -> tensor<?x576xf32>
  %g = iam.model.pullback %tape, %dy : (!iam.tape, tensor<?x2xf32>) -> tensor<?x576xf32>
  return %g : tensor<?x576xf32>
}

// Two runs of one segment are one: the ops are pure.
// RUN: iam-opt %s --cse | FileCheck %s --check-prefix=CSE
// CSE-LABEL: func.func @twice
// CSE-COUNT-1: iam.model.run
// CSE-NOT: iam.model.run
// CSE: return
func.func @twice(%m: !iam.model) -> tensor<?x4xf32> {
  %a = iam.model.run %m to "resid_post.1" : (!iam.model) -> tensor<?x4xf32>
  %b = iam.model.run %m to "resid_post.1" : (!iam.model) -> tensor<?x4xf32>
  %c = arith.addf %a, %b : tensor<?x4xf32>
  return %c : tensor<?x4xf32>
}
