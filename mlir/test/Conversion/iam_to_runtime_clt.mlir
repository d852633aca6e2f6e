// iam-to-runtime: each clt op is one call, with the operands of cpp/include/iam/entry_points.def in their order.
// RUN: iam-opt %s --iam-to-runtime | FileCheck %s --implicit-check-not='iam.clt'

// CHECK-DAG: func.func private @iam_rt_encode_dense(memref<?x?xf32, strided<[?, ?], offset: ?>>, memref<?x?xf32, strided<[?, ?], offset: ?>>, memref<?xf32, strided<[?], offset: ?>>, memref<?xf32, strided<[?], offset: ?>>, memref<?x?xf32, strided<[?, ?], offset: ?>>) attributes {llvm.emit_c_interface}
// CHECK-DAG: func.func private @iam_rt_encode_threshold({{.*}}) -> (memref<?xf32>, memref<?xi32>, memref<?xi64>) attributes {llvm.emit_c_interface}
// CHECK-DAG: func.func private @iam_rt_batch_topk(memref<?x?xf32, strided<[?, ?], offset: ?>>, i64) -> (memref<?xf32>, memref<?xi32>, memref<?xi64>)
// CHECK-DAG: func.func private @iam_rt_edit_k({{.*}}, memref<?xi32, strided<[?], offset: ?>>, {{.*}}, i64, {{.*}}) attributes
// CHECK-DAG: func.func private @iam_rt_steer(memref<?x?xf32, strided<[?, ?], offset: ?>>, memref<?xf32, strided<[?], offset: ?>>, f32, i64, memref<?x?xf32, strided<[?, ?], offset: ?>>)

// The absent bias is a memref of size 0; rows come from x.
// CHECK-LABEL: func.func @encode(
// CHECK-SAME: %[[X:.*]]: tensor<?x4xf32>, %[[W:.*]]: tensor<4x16xf32>, %[[B:.*]]: tensor<16xf32>)
func.func @encode(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) -> tensor<?x16xf32> {
  // CHECK: bufferization.to_buffer %[[X]] read_only : tensor<?x4xf32> to memref<?x4xf32, strided<[?, ?], offset: ?>>
  // CHECK: %[[XM:.*]] = memref.cast
  // CHECK: bufferization.to_buffer %[[W]] read_only
  // CHECK: %[[WM:.*]] = memref.cast
  // CHECK: bufferization.to_buffer %[[B]] read_only
  // CHECK: %[[BM:.*]] = memref.cast
  // CHECK: %[[NONE:.*]] = memref.alloca() : memref<0xf32>
  // CHECK: %[[NM:.*]] = memref.cast %[[NONE]]
  // CHECK: %[[ROWS:.*]] = tensor.dim %[[X]]
  // CHECK: %[[OUT:.*]] = memref.alloc(%[[ROWS]]) : memref<?x16xf32>
  // CHECK: %[[OM:.*]] = memref.cast %[[OUT]]
  // CHECK: call @iam_rt_encode_dense(%[[XM]], %[[WM]], %[[BM]], %[[NM]], %[[OM]])
  // CHECK: %[[PRE:.*]] = bufferization.to_tensor %[[OUT]] restrict writable : memref<?x16xf32> to tensor<?x16xf32>
  // CHECK: return %[[PRE]]
  %pre = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  return %pre : tensor<?x16xf32>
}

// CHECK-LABEL: func.func @encode_subtract_static(
// CHECK-NOT: memref.alloca(
// CHECK-NOT: tensor.dim
// CHECK: memref.alloc() : memref<3x16xf32>
// CHECK: call @iam_rt_encode_dense
func.func @encode_subtract_static(%x: tensor<3x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %d: tensor<4xf32>) -> tensor<3x16xf32> {
  %pre = iam.clt.encode %x, %W, %b, subtract %d : (tensor<3x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4xf32>) -> tensor<3x16xf32>
  return %pre : tensor<3x16xf32>
}

// A width that is not static comes from the weights.
// CHECK-LABEL: func.func @encode_dynamic_width(
// CHECK-SAME: %[[X:.*]]: tensor<?x?xf32>, %[[W:.*]]: tensor<?x?xf32>
// CHECK: %[[ROWS:.*]] = tensor.dim %[[X]], %c0
// CHECK: %[[WIDTH:.*]] = tensor.dim %[[W]], %c1
// CHECK: memref.alloc(%[[ROWS]], %[[WIDTH]]) : memref<?x?xf32>
func.func @encode_dynamic_width(%x: tensor<?x?xf32>, %W: tensor<?x?xf32>, %b: tensor<?xf32>) -> tensor<?x?xf32> {
  %pre = iam.clt.encode %x, %W, %b : (tensor<?x?xf32>, tensor<?x?xf32>, tensor<?xf32>) -> tensor<?x?xf32>
  return %pre : tensor<?x?xf32>
}

// CHECK-LABEL: func.func @topk(
// CHECK-SAME: -> (tensor<?x2xf32>, tensor<?x2xi32>)
func.func @topk(%pre: tensor<?x16xf32>) -> !iam.features<?x16xf32, k = 2> {
  // CHECK: %[[V:.*]] = memref.alloc(%{{.*}}) : memref<?x2xf32>
  // CHECK: %[[VM:.*]] = memref.cast %[[V]]
  // CHECK: %[[I:.*]] = memref.alloc(%{{.*}}) : memref<?x2xi32>
  // CHECK: %[[IM:.*]] = memref.cast %[[I]]
  // CHECK: call @iam_rt_topk(%{{.*}}, %[[VM]], %[[IM]])
  // CHECK: %[[VT:.*]] = bufferization.to_tensor %[[V]]
  // CHECK: %[[IT:.*]] = bufferization.to_tensor %[[I]]
  // CHECK: return %[[VT]], %[[IT]]
  %f = iam.clt.topk %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  return %f : !iam.features<?x16xf32, k = 2>
}

// CHECK-LABEL: func.func @batch_topk(
// CHECK-SAME: -> (tensor<?xf32>, tensor<?xi32>, tensor<?xi64>)
func.func @batch_topk(%pre: tensor<?x16xf32>) -> !iam.features<?x16xf32> {
  // CHECK: %[[K:.*]] = arith.constant 3 : i64
  // CHECK: %[[R:.*]]:3 = call @iam_rt_batch_topk(%{{.*}}, %[[K]])
  // CHECK: bufferization.to_tensor %[[R]]#0 restrict writable
  // CHECK: bufferization.to_tensor %[[R]]#1 restrict writable
  // CHECK: bufferization.to_tensor %[[R]]#2 restrict writable
  %f = iam.clt.batch_topk %pre, k = 3 : tensor<?x16xf32> -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// CHECK-LABEL: func.func @jumprelu(
// CHECK-NOT: memref.alloca(
// CHECK: call @iam_rt_threshold(%{{.*}}, %{{.*}}) :
func.func @jumprelu(%pre: tensor<?x16xf32>, %t: tensor<16xf32>) -> !iam.features<?x16xf32> {
  %f = iam.clt.jumprelu %pre, %t : tensor<?x16xf32>, tensor<16xf32> -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// relu is a threshold that is absent.
// CHECK-LABEL: func.func @relu(
// CHECK: %[[NONE:.*]] = memref.alloca() : memref<0xf32>
// CHECK: %[[T:.*]] = memref.cast %[[NONE]]
// CHECK: call @iam_rt_threshold(%{{.*}}, %[[T]]) :
func.func @relu(%pre: tensor<?x16xf32>) -> !iam.features<?x16xf32> {
  %f = iam.clt.relu %pre : tensor<?x16xf32> -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// CHECK-LABEL: func.func @gate(
// CHECK-SAME: %[[G:.*]]: tensor<?x16xf32>, %[[M:.*]]: tensor<?x16xf32>)
// CHECK: bufferization.to_buffer %[[G]]
// CHECK: %[[GM:.*]] = memref.cast
// CHECK: bufferization.to_buffer %[[M]]
// CHECK: %[[MM:.*]] = memref.cast
// CHECK: call @iam_rt_gate(%[[GM]], %[[MM]]) :
func.func @gate(%g: tensor<?x16xf32>, %m: tensor<?x16xf32>) -> !iam.features<?x16xf32> {
  %f = iam.clt.gate %g, %m : tensor<?x16xf32>, tensor<?x16xf32> -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// CHECK-LABEL: func.func @encode_sparse_topk(
// CHECK: memref.alloc(%{{.*}}) : memref<?x2xf32>
// CHECK: memref.alloc(%{{.*}}) : memref<?x2xi32>
// CHECK: call @iam_rt_encode_topk(
func.func @encode_sparse_topk(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) -> !iam.features<?x16xf32, k = 2> {
  %f = iam.clt.encode_sparse topk %x, %W, %b k = 2 : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32, k = 2>
  return %f : !iam.features<?x16xf32, k = 2>
}

// CHECK-LABEL: func.func @encode_sparse_abstopk(
// CHECK: memref.alloc(%{{.*}}) : memref<?x2xf32>
// CHECK: memref.alloc(%{{.*}}) : memref<?x2xi32>
// CHECK: call @iam_rt_encode_abstopk(
func.func @encode_sparse_abstopk(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) -> !iam.features<?x16xf32, k = 2> {
  %f = iam.clt.encode_sparse abstopk %x, %W, %b k = 2 : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32, k = 2>
  return %f : !iam.features<?x16xf32, k = 2>
}

// CHECK-LABEL: func.func @encode_sparse_groupmax(
// CHECK: call @iam_rt_encode_groupmax(
func.func @encode_sparse_groupmax(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) -> !iam.features<?x16xf32, k = 2> {
  %f = iam.clt.encode_sparse groupmax %x, %W, %b k = 2 : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32, k = 2>
  return %f : !iam.features<?x16xf32, k = 2>
}

// CHECK-LABEL: func.func @abstopk(
// CHECK-SAME: -> (tensor<?x2xf32>, tensor<?x2xi32>)
// CHECK: %[[V:.*]] = memref.alloc(%{{.*}}) : memref<?x2xf32>
// CHECK: %[[VM:.*]] = memref.cast %[[V]]
// CHECK: %[[I:.*]] = memref.alloc(%{{.*}}) : memref<?x2xi32>
// CHECK: %[[IM:.*]] = memref.cast %[[I]]
// CHECK: call @iam_rt_abstopk(%{{.*}}, %[[VM]], %[[IM]])
func.func @abstopk(%pre: tensor<?x16xf32>) -> !iam.features<?x16xf32, k = 2> {
  %f = iam.clt.abstopk %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  return %f : !iam.features<?x16xf32, k = 2>
}

// CHECK-LABEL: func.func @groupmax(
// CHECK: memref.alloc() : memref<3x4xf32>
// CHECK: call @iam_rt_groupmax(
func.func @groupmax(%pre: tensor<3x16xf32>) -> !iam.features<3x16xf32, k = 4> {
  %f = iam.clt.groupmax %pre, k = 4 : tensor<3x16xf32> -> !iam.features<3x16xf32, k = 4>
  return %f : !iam.features<3x16xf32, k = 4>
}

// The rule of when to stop goes by value; a unit attribute is 0 or 1.
// CHECK-LABEL: func.func @matching_pursuit(
// CHECK-SAME: %[[X:.*]]: tensor<?x4xf32>, %[[W:.*]]: tensor<16x4xf32>, %[[B:.*]]: tensor<4xf32>)
// CHECK-DAG: %[[T:.*]] = arith.constant 5.000000e-01 : f32
// CHECK-DAG: %[[N:.*]] = arith.constant 7 : i64
// CHECK-DAG: %[[STOP:.*]] = arith.constant 1 : i64
// CHECK: %[[R:.*]]:3 = call @iam_rt_matching_pursuit(%{{.*}}, %{{.*}}, %{{.*}}, %[[T]], %[[N]], %[[STOP]])
// CHECK: bufferization.to_tensor %[[R]]#2 restrict writable
func.func @matching_pursuit(%x: tensor<?x4xf32>, %W: tensor<16x4xf32>, %b: tensor<4xf32>) -> !iam.features<?x16xf32> {
  %f = iam.clt.matching_pursuit %x, %W, subtract %b residual_threshold = 0.5 max_iterations = 7 stop_on_duplicate_support
      : (tensor<?x4xf32>, tensor<16x4xf32>, tensor<4xf32>) -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// CHECK-LABEL: func.func @matching_pursuit_goes_on(
// CHECK: %[[STOP:.*]] = arith.constant 0 : i64
// CHECK: call @iam_rt_matching_pursuit(%{{.*}}, %[[STOP]])
func.func @matching_pursuit_goes_on(%x: tensor<?x4xf32>, %W: tensor<16x4xf32>) -> !iam.features<?x16xf32> {
  %f = iam.clt.matching_pursuit %x, %W residual_threshold = 0.0 max_iterations = 7
      : (tensor<?x4xf32>, tensor<16x4xf32>) -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// CHECK-LABEL: func.func @encode_sparse_jumprelu(
// CHECK: memref.alloca() : memref<0xf32>
// CHECK-NOT: memref.alloca()
// CHECK: call @iam_rt_encode_threshold(
func.func @encode_sparse_jumprelu(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %t: tensor<16xf32>) -> !iam.features<?x16xf32> {
  %f = iam.clt.encode_sparse jumprelu %x, %W, %b threshold %t : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// Two absent operands: the bias and the threshold.
// CHECK-LABEL: func.func @encode_sparse_relu(
// CHECK-COUNT-2: memref.alloca() : memref<0xf32>
// CHECK: call @iam_rt_encode_threshold(
func.func @encode_sparse_relu(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) -> !iam.features<?x16xf32> {
  %f = iam.clt.encode_sparse relu %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// The features are a constant, after the threshold.
// CHECK-LABEL: func.func @encode_sparse_only(
// CHECK: arith.constant dense<[0, 15]> : tensor<2xi32>
// CHECK: call @iam_rt_encode_threshold_only(
func.func @encode_sparse_only(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %t: tensor<16xf32>) -> !iam.features<?x16xf32> {
  %f = iam.clt.encode_sparse jumprelu %x, %W, %b threshold %t only [0, 15] : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// The list of features is optional.
// CHECK-LABEL: func.func @encode_sparse_gate(
// CHECK: %[[NONE:.*]] = memref.alloca() : memref<0xi32>
// CHECK: %[[ALL:.*]] = memref.cast %[[NONE]]
// CHECK: call @iam_rt_encode_gate({{.*}}, %[[ALL]]) :
func.func @encode_sparse_gate(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %d: tensor<4xf32>) -> !iam.features<?x16xf32> {
  %f = iam.clt.encode_sparse gate %x, %W, %b subtract %d magnitude %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// CHECK-LABEL: func.func @encode_sparse_gate_only(
// CHECK: arith.constant dense<[0, 15]> : tensor<2xi32>
// CHECK: call @iam_rt_encode_gate(
func.func @encode_sparse_gate_only(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) -> !iam.features<?x16xf32> {
  %f = iam.clt.encode_sparse gate %x, %W, %b magnitude %W, %b only [0, 15] : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// CHECK-LABEL: func.func @encode_sparse_batch_topk(
// CHECK: %[[K:.*]] = arith.constant 3 : i64
// CHECK: call @iam_rt_encode_batch_topk({{.*}}, %[[K]]) :
func.func @encode_sparse_batch_topk(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) -> !iam.features<?x16xf32> {
  %f = iam.clt.encode_sparse batch_topk %x, %W, %b k = 3 : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// CHECK-LABEL: func.func @decode_k(
// CHECK-SAME: %[[V:.*]]: tensor<?x2xf32>, %[[I:.*]]: tensor<?x2xi32>, %[[W:.*]]: tensor<16x4xf32>, %[[B:.*]]: tensor<4xf32>)
// CHECK: to_buffer %[[V]]
// CHECK: to_buffer %[[I]]
// CHECK: to_buffer %[[W]]
// CHECK: to_buffer %[[B]]
// CHECK: tensor.dim %[[V]], %c0
// CHECK: call @iam_rt_decode_k(
func.func @decode_k(%f: !iam.features<?x16xf32, k = 2>, %W: tensor<16x4xf32>, %b: tensor<4xf32>) -> tensor<?x4xf32> {
  %y = iam.clt.decode %f, %W, bias %b : (!iam.features<?x16xf32, k = 2>, tensor<16x4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// The rows of compressed rows are one less than the offsets.
// CHECK-LABEL: func.func @decode_csr(
// CHECK-SAME: %[[V:.*]]: tensor<?xf32>, %[[I:.*]]: tensor<?xi32>, %[[O:.*]]: tensor<?xi64>, %[[W:.*]]: tensor<16x?xf32>)
// CHECK: memref.alloca() : memref<0xf32>
// CHECK: %[[N:.*]] = tensor.dim %[[O]], %c0
// CHECK: %[[ROWS:.*]] = arith.subi %[[N]], %c1
// CHECK: %[[WIDTH:.*]] = tensor.dim %[[W]], %c1
// CHECK: memref.alloc(%[[ROWS]], %[[WIDTH]]) : memref<?x?xf32>
// CHECK: call @iam_rt_decode_csr(
func.func @decode_csr(%f: !iam.features<?x16xf32>, %W: tensor<16x?xf32>) -> tensor<?x?xf32> {
  %y = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x?xf32>) -> tensor<?x?xf32>
  return %y : tensor<?x?xf32>
}

// CHECK-LABEL: func.func @densify(
// CHECK: call @iam_rt_densify_k(
// CHECK: %[[D:.*]] = arith.constant 16 : index
// CHECK: memref.alloc(%{{.*}}, %[[D]]) : memref<?x?xf32>
// CHECK: call @iam_rt_densify_csr(
func.func @densify(%f: !iam.features<?x16xf32, k = 2>, %g: !iam.features<?x16xf32>) -> (tensor<?x16xf32>, tensor<?x?xf32>) {
  %0 = iam.clt.densify %f : !iam.features<?x16xf32, k = 2> -> tensor<?x16xf32>
  %1 = iam.clt.densify %g : !iam.features<?x16xf32> -> tensor<?x?xf32>
  return %0, %1 : tensor<?x16xf32>, tensor<?x?xf32>
}

// CHECK-LABEL: func.func @residual(
// CHECK-SAME: %[[Y:.*]]: tensor<?x6xf32>, %[[X:.*]]: tensor<?x4xf32>, %[[S:.*]]: tensor<4x6xf32>)
// CHECK: to_buffer %[[Y]]
// CHECK: to_buffer %[[X]]
// CHECK: to_buffer %[[S]]
// CHECK: call @iam_rt_residual(
// CHECK: memref.alloca() : memref<0x0xf32>
// CHECK: call @iam_rt_residual(
func.func @residual(%y: tensor<?x6xf32>, %x: tensor<?x4xf32>, %S: tensor<4x6xf32>) -> tensor<?x6xf32> {
  %0 = iam.clt.residual %y, %x, skip %S : (tensor<?x6xf32>, tensor<?x4xf32>, tensor<4x6xf32>) -> tensor<?x6xf32>
  %1 = iam.clt.residual %0, %y : (tensor<?x6xf32>, tensor<?x6xf32>) -> tensor<?x6xf32>
  return %1 : tensor<?x6xf32>
}

// Modes are the numbers of iam::rt::EditMode; the edited features are a constant.
// CHECK-LABEL: func.func @edit_k(
func.func @edit_k(%f: !iam.features<?x64xf32, k = 8>, %a: tensor<2xf32>, %b: tensor<2xf32>) -> !iam.features<?x64xf32, k = 10> {
  // CHECK: arith.constant dense<[7, 19]> : tensor<2xi32>
  // CHECK: %[[NONE:.*]] = memref.alloca() : memref<0xf32>
  // CHECK: %[[SCALE:.*]] = arith.constant 1 : i64
  // CHECK: memref.alloc(%{{.*}}) : memref<?x8xf32>
  // CHECK: memref.alloc(%{{.*}}) : memref<?x8xi32>
  // CHECK: call @iam_rt_edit_k(%{{.*}}, %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}}, %[[SCALE]], %{{.*}}, %{{.*}})
  %0 = iam.clt.edit scale %f features [7, 19] by %a : (!iam.features<?x64xf32, k = 8>, tensor<2xf32>) -> !iam.features<?x64xf32, k = 8>
  // CHECK-COUNT-2: memref.alloca() : memref<0xf32>
  // CHECK: %[[ABLATE:.*]] = arith.constant 3 : i64
  // CHECK: call @iam_rt_edit_k({{.*}}%[[ABLATE]]
  %1 = iam.clt.edit ablate %0 features [3] : (!iam.features<?x64xf32, k = 8>) -> !iam.features<?x64xf32, k = 8>
  // CHECK-NOT: memref.alloca
  // CHECK: %[[CLAMP:.*]] = arith.constant 2 : i64
  // CHECK: memref.alloc(%{{.*}}) : memref<?x10xf32>
  // CHECK: memref.alloc(%{{.*}}) : memref<?x10xi32>
  // CHECK: call @iam_rt_edit_k({{.*}}%[[CLAMP]]
  %2 = iam.clt.edit clamp %1 features [7, 19] by %a, %b : (!iam.features<?x64xf32, k = 8>, tensor<2xf32>, tensor<2xf32>) -> !iam.features<?x64xf32, k = 10>
  return %2 : !iam.features<?x64xf32, k = 10>
}

// CHECK-LABEL: func.func @edit_csr(
// CHECK: %[[SET:.*]] = arith.constant 0 : i64
// CHECK: call @iam_rt_edit_csr(%{{.*}}, %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}}, %[[SET]])
func.func @edit_csr(%f: !iam.features<?x64xf32>, %a: tensor<2xf32>) -> !iam.features<?x64xf32> {
  %0 = iam.clt.edit set %f features [7, 19] by %a : (!iam.features<?x64xf32>, tensor<2xf32>) -> !iam.features<?x64xf32>
  return %0 : !iam.features<?x64xf32>
}

// An edit of nothing folds away: conversion folds first.
// CHECK-LABEL: func.func @edit_of_nothing(
// CHECK-NEXT: return %arg0, %arg1, %arg2
func.func @edit_of_nothing(%f: !iam.features<?x64xf32>) -> !iam.features<?x64xf32> {
  %0 = iam.clt.edit ablate %f features [] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32>
  return %0 : !iam.features<?x64xf32>
}

// CHECK-LABEL: func.func @delta(
// CHECK: memref.alloc(%{{.*}}) : memref<?x2xf32>
// CHECK: memref.alloc(%{{.*}}) : memref<?x2xi32>
// CHECK: call @iam_rt_delta_k(
// CHECK: %[[N:.*]] = tensor.dim %{{.*}} : tensor<?xi64>
// CHECK: %[[ROWS:.*]] = arith.subi %[[N]]
// CHECK: memref.alloc(%[[ROWS]]) : memref<?x1xf32>
// CHECK: memref.alloc(%{{.*}}) : memref<?x1xi32>
// CHECK: call @iam_rt_delta_csr(
func.func @delta(%f: !iam.features<?x64xf32, k = 8>, %g: !iam.features<?x64xf32>, %a: tensor<2xf32>)
    -> (!iam.features<?x64xf32, k = 2>, !iam.features<?x64xf32, k = 1>) {
  %0 = iam.clt.delta scale %f features [7, 19] by %a : (!iam.features<?x64xf32, k = 8>, tensor<2xf32>) -> !iam.features<?x64xf32, k = 2>
  %1 = iam.clt.delta ablate %g features [7] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 1>
  return %0, %1 : !iam.features<?x64xf32, k = 2>, !iam.features<?x64xf32, k = 1>
}

// CHECK-LABEL: func.func @sub(
// CHECK: memref.alloc(%{{.*}}) : memref<?x10xf32>
// CHECK: memref.alloc(%{{.*}}) : memref<?x10xi32>
// CHECK: call @iam_rt_sub_k(
// CHECK: call @iam_rt_sub_csr(
func.func @sub(%f: !iam.features<?x64xf32, k = 8>, %g: !iam.features<?x64xf32, k = 2>, %h: !iam.features<?x64xf32>)
    -> (!iam.features<?x64xf32, k = 10>, !iam.features<?x64xf32>) {
  %0 = iam.clt.sub %f, %g : !iam.features<?x64xf32, k = 8>, !iam.features<?x64xf32, k = 2> -> !iam.features<?x64xf32, k = 10>
  %1 = iam.clt.sub %h, %h : !iam.features<?x64xf32>, !iam.features<?x64xf32> -> !iam.features<?x64xf32>
  return %0, %1 : !iam.features<?x64xf32, k = 10>, !iam.features<?x64xf32>
}

// Modes are the numbers of iam::rt::SteerMode.
// CHECK-LABEL: func.func @steer(
// CHECK-SAME: %{{.*}}: tensor<?x4xf32>, %{{.*}}: tensor<4xf32>, %[[S:.*]]: f32)
// CHECK: %[[ADD:.*]] = arith.constant 0 : i64
// CHECK: call @iam_rt_steer(%{{.*}}, %{{.*}}, %[[S]], %[[ADD]], %{{.*}})
// CHECK: %[[ABLATE:.*]] = arith.constant 1 : i64
// CHECK: call @iam_rt_steer(%{{.*}}, %{{.*}}, %[[S]], %[[ABLATE]], %{{.*}})
// CHECK: %[[CLAMP:.*]] = arith.constant 2 : i64
// CHECK: call @iam_rt_steer(%{{.*}}, %{{.*}}, %[[S]], %[[CLAMP]], %{{.*}})
func.func @steer(%h: tensor<?x4xf32>, %v: tensor<4xf32>, %s: f32) -> tensor<?x4xf32> {
  %0 = iam.policy.steer add %h, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %1 = iam.policy.steer ablate %0, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %2 = iam.policy.steer clamp %1, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  return %2 : tensor<?x4xf32>
}
