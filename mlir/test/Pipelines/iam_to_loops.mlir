// iam-to-loops: calls and loops over memory; nothing of tensors is left, and no buffer is checked or copied in vain.
// RUN: iam-opt %s --iam-to-loops | FileCheck %s --implicit-check-not='tensor<' --implicit-check-not=iam.clt --implicit-check-not=dealloc_helper

// The sum is written over the reconstruction, which the caller gets: one allocation of [rows, 4], no copy.
// CHECK-LABEL: func.func @reconstruct_and_add(
// CHECK-SAME: %[[X:.*]]: memref<?x4xf32>, %[[V:.*]]: memref<?x2xf32>, %[[I:.*]]: memref<?x2xi32>, %[[W:.*]]: memref<16x4xf32>) -> memref<?x4xf32>
// CHECK-SAME: attributes {llvm.emit_c_interface}
func.func @reconstruct_and_add(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32, k = 2>, %W: tensor<16x4xf32>) -> tensor<?x4xf32> {
  // CHECK: %[[Y:.*]] = memref.alloc(%{{.*}}) : memref<?x4xf32>
  // CHECK: call @iam_rt_decode_k(
  // CHECK-NOT: memref.alloc
  // CHECK-NOT: memref.copy
  // CHECK-DAG: %[[XS:.*]] = memref.collapse_shape %[[X]]
  // CHECK-DAG: %[[YS:.*]] = memref.collapse_shape %[[Y]]
  // CHECK: scf.for
  // CHECK-NOT: scf.for
  // CHECK-DAG: memref.load %[[XS]]
  // CHECK-DAG: memref.load %[[YS]]
  // CHECK: memref.store %{{.*}}, %{{.*}} : memref<?xf32>
  // CHECK-NOT: memref.dealloc
  // CHECK: return %[[Y]]
  %y = iam.clt.decode %f, %W : (!iam.features<?x16xf32, k = 2>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %z = iam.clt.residual %y, %x : (tensor<?x4xf32>, tensor<?x4xf32>) -> tensor<?x4xf32>
  return %z : tensor<?x4xf32>
}

// The codes in between are freed, without conditions.
// CHECK-LABEL: func.func @intermediates_are_freed(
func.func @intermediates_are_freed(%pre: tensor<?x16xf32>, %W: tensor<16x4xf32>) -> tensor<?x4xf32> {
  // CHECK: call @iam_rt_threshold(
  // CHECK-NOT: scf.if
  // CHECK-NOT: cmpi
  // CHECK: call @iam_rt_decode_csr(
  // CHECK-COUNT-3: memref.dealloc
  // CHECK-NOT: memref.dealloc
  // CHECK: return
  %f = iam.clt.relu %pre : tensor<?x16xf32> -> !iam.features<?x16xf32>
  %y = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// A chain of elementwise ops is one loop nest.
// CHECK-LABEL: func.func @one_loop_nest(
// CHECK-COUNT-2: scf.for
// CHECK-NOT: scf.for
// CHECK: return
func.func @one_loop_nest(%x: tensor<?x4xf32>, %v: tensor<4xf32>, %s: f32) -> tensor<?x4xf32> {
  %0 = iam.policy.steer add %x, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %1 = arith.mulf %0, %0 : tensor<?x4xf32>
  %2 = arith.subf %1, %x : tensor<?x4xf32>
  return %2 : tensor<?x4xf32>
}

// The caller's array is not returned as the callee's.
// CHECK-LABEL: func.func @argument_is_copied(
// CHECK: %[[COPY:.*]] = memref.alloc
// CHECK: memref.copy %{{.*}}, %[[COPY]]
// CHECK: return %[[COPY]]
func.func @argument_is_copied(%x: tensor<?x4xf32>) -> tensor<?x4xf32> {
  return %x : tensor<?x4xf32>
}
