// Attribution, derivatives and parts of a model.
// RUN: iam-opt %s --iam-to-runtime | FileCheck %s

// CHECK-DAG: func.func private @iam_rt_select(memref<?x?xf32, strided<[?, ?], offset: ?>>, memref<?x?xi32, strided<[?, ?], offset: ?>>, memref<?x?xf32, strided<[?, ?], offset: ?>>) attributes {llvm.emit_c_interface}
// CHECK-DAG: func.func private @iam_rt_check_gradients(memref<?x?xf32, strided<[?, ?], offset: ?>>, i64, i64) attributes {llvm.emit_c_interface}
// CHECK-DAG: func.func private @iam_rt_model_run(i64, {{.*}}, i64) -> memref<?x?xf32> attributes {llvm.emit_c_interface}
// CHECK-DAG: func.func private @iam_rt_model_linearize(i64, {{.*}}, i64) -> (memref<?x?xf32>, i64) attributes {llvm.emit_c_interface}

// CHECK-LABEL: func.func @select
func.func @select(%scores: tensor<?x64xf32>) -> (tensor<?x10xi32>, tensor<?x10xf32>) {
  // CHECK: %[[I:.*]] = memref.alloc(%{{.*}}) : memref<?x10xi32>
  // CHECK: %[[T:.*]] = memref.alloc(%{{.*}}) : memref<?x10xf32>
  // CHECK: call @iam_rt_select
  %i, %t = iam.attr.select %scores, n = 10 : tensor<?x64xf32> -> tensor<?x10xi32>, tensor<?x10xf32>
  return %i, %t : tensor<?x10xi32>, tensor<?x10xf32>
}

// CHECK-LABEL: func.func @check
func.func @check(%g: tensor<?x4xf32>, %first: index) {
  // CHECK: %[[FIRST:.*]] = arith.index_cast %{{.*}} : index to i64
  // CHECK: call @iam_rt_check_gradients(%{{.*}}, %[[FIRST]], %{{.*}})
  iam.attr.check %g, %first points 8 : tensor<?x4xf32>
  return
}

// CHECK-LABEL: func.func @decode_adjoint
func.func @decode_adjoint(%f: !iam.features<?x16xf32, k = 2>, %c: !iam.features<?x16xf32>, %W: tensor<16x4xf32>, %dy: tensor<?x4xf32>)
    -> (!iam.features<?x16xf32, k = 2>, !iam.features<?x16xf32>) {
  // CHECK: call @iam_rt_decode_adjoint_k
  %0 = iam.clt.decode_adjoint %f, %W, %dy : !iam.features<?x16xf32, k = 2>, tensor<16x4xf32>, tensor<?x4xf32>
  // CHECK: call @iam_rt_decode_adjoint_csr
  %1 = iam.clt.decode_adjoint %c, %W, %dy : !iam.features<?x16xf32>, tensor<16x4xf32>, tensor<?x4xf32>
  return %0, %1 : !iam.features<?x16xf32, k = 2>, !iam.features<?x16xf32>
}

// CHECK-LABEL: func.func @densify_adjoint
func.func @densify_adjoint(%f: !iam.features<?x16xf32, k = 2>, %c: !iam.features<?x16xf32>, %dd: tensor<?x16xf32>, %two: tensor<?x2xf32>)
    -> (!iam.features<?x16xf32, k = 2>, !iam.features<?x16xf32>) {
  // CHECK: %[[ALL:.*]] = arith.constant 1 : i64
  // CHECK: call @iam_rt_densify_adjoint_k({{.*}}, %[[ALL]],
  %0 = iam.clt.densify_adjoint %f, %dd : !iam.features<?x16xf32, k = 2>, tensor<?x16xf32>
  // CHECK: arith.constant dense<[3, 7]> : tensor<2xi32>
  // CHECK: %[[SOME:.*]] = arith.constant 0 : i64
  // CHECK: call @iam_rt_densify_adjoint_csr({{.*}}, %[[SOME]])
  %1 = iam.clt.densify_adjoint %c, %two columns [3, 7] : !iam.features<?x16xf32>, tensor<?x2xf32>
  return %0, %1 : !iam.features<?x16xf32, k = 2>, !iam.features<?x16xf32>
}

// CHECK-LABEL: func.func @edit_adjoint
func.func @edit_adjoint(%f: !iam.features<?x16xf32, k = 2>, %c: !iam.features<?x16xf32>, %a: tensor<1xf32>)
    -> (!iam.features<?x16xf32, k = 2>, !iam.features<?x16xf32>) {
  // CHECK: call @iam_rt_edit_adjoint_k_csr
  %0 = iam.clt.edit_adjoint set %f, %c features [7] : (!iam.features<?x16xf32, k = 2>, !iam.features<?x16xf32>) -> !iam.features<?x16xf32, k = 2>
  // CHECK: call @iam_rt_edit_adjoint_csr_k
  %1 = iam.clt.edit_adjoint delta scale %c, %0 features [7] by %a
      : (!iam.features<?x16xf32>, !iam.features<?x16xf32, k = 2>, tensor<1xf32>) -> !iam.features<?x16xf32>
  // CHECK: call @iam_rt_edit_adjoint_k_k
  %2 = iam.clt.edit_adjoint ablate %f, %0 features [] : (!iam.features<?x16xf32, k = 2>, !iam.features<?x16xf32, k = 2>) -> !iam.features<?x16xf32, k = 2>
  // CHECK: call @iam_rt_edit_adjoint_csr_csr
  %3 = iam.clt.edit_adjoint clamp %c, %1 features [7] by %a, %a
      : (!iam.features<?x16xf32>, !iam.features<?x16xf32>, tensor<1xf32>, tensor<1xf32>) -> !iam.features<?x16xf32>
  return %2, %3 : !iam.features<?x16xf32, k = 2>, !iam.features<?x16xf32>
}

// CHECK-LABEL: func.func @project_adjoint
func.func @project_adjoint(%h: tensor<?x4xf32>, %dy: tensor<?x4xf32>, %v: tensor<4xf32>, %s: f32) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  // CHECK: call @iam_rt_project_adjoint
  %0 = iam.policy.project_adjoint ball %h, %dy, %v, %s : (tensor<?x4xf32>, tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  // CHECK: call @iam_rt_project_adjoint
  %1 = iam.policy.project_adjoint box %h, %dy, %v, %v : (tensor<?x4xf32>, tensor<?x4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  return %0, %1 : tensor<?x4xf32>, tensor<?x4xf32>
}

// CHECK-LABEL: func.func @model(
// CHECK-SAME: %[[M:.*]]: i64
func.func @model(%m: !iam.model) -> tensor<?x576xf32> {
  // CHECK: %[[Y:.*]] = call @iam_rt_model_run(%[[M]],
  // CHECK: %[[T:.*]] = bufferization.to_tensor %[[Y]] restrict writable : memref<?x?xf32> to tensor<?x?xf32>
  // CHECK: tensor.cast %[[T]] : tensor<?x?xf32> to tensor<?x576xf32>
  %h = iam.model.run %m to "resid_post.20" : (!iam.model) -> tensor<?x576xf32>
  // CHECK: %[[L:.*]]:2 = call @iam_rt_model_linearize(%[[M]],
  %y, %tape = iam.model.linearize %m, %h from "resid_post.20" to "logits" tokens [11, 42] positions [-1]
      : (!iam.model, tensor<?x576xf32>) -> (tensor<?x2xf32>, !iam.tape)
  // CHECK: call @iam_rt_model_pullback(%[[L]]#1,
  %g = iam.model.pullback %tape, %y : (!iam.tape, tensor<?x2xf32>) -> tensor<?x576xf32>
  return %g : tensor<?x576xf32>
}
