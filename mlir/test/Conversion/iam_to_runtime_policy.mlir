// RUN: iam-opt %s --iam-to-runtime --split-input-file | FileCheck %s

// Rules are the numbers of iam::rt::ComposeRule; the size of the result is the width of the directions.
// CHECK: func.func private @iam_rt_compose(memref<?x?xf32, strided<[?, ?], offset: ?>>, memref<?xf32, strided<[?], offset: ?>>, i64, memref<?xf32, strided<[?], offset: ?>>)
// CHECK-LABEL: func.func @compose(
// CHECK-SAME: %[[V:.*]]: tensor<3x?xf32>, %{{.*}}: tensor<3xf32>)
// CHECK: %[[RULE:.*]] = arith.constant 2 : i64
// CHECK: %[[D:.*]] = tensor.dim %[[V]], %c1
// CHECK: %[[OUT:.*]] = memref.alloc(%[[D]]) : memref<?xf32>
// CHECK: %[[OM:.*]] = memref.cast %[[OUT]]
// CHECK: call @iam_rt_compose(%{{.*}}, %{{.*}}, %[[RULE]], %[[OM]])
func.func @compose(%v: tensor<3x?xf32>, %s: tensor<3xf32>) -> tensor<?xf32> {
  %0 = iam.policy.compose orthogonal %v, %s : tensor<3x?xf32>, tensor<3xf32> -> tensor<?xf32>
  return %0 : tensor<?xf32>
}

// -----

// Kinds are the numbers of iam::rt::SetKind; what a kind does not have is absent, or 0.
// CHECK-LABEL: func.func @project(
// CHECK-SAME: %[[H:.*]]: tensor<?x4xf32>, %[[V:.*]]: tensor<4xf32>, %[[W:.*]]: tensor<4xf32>, %[[B:.*]]: tensor<2x4xf32>, %[[S:.*]]: f32)
func.func @project(%h: tensor<?x4xf32>, %v: tensor<4xf32>, %w: tensor<4xf32>, %b: tensor<2x4xf32>, %s: f32) -> tensor<?x4xf32> {
  // CHECK: %[[KIND:.*]] = arith.constant 0 : i64
  // CHECK: bufferization.to_buffer %[[V]]
  // CHECK: memref.alloca() : memref<0x0xf32>
  // CHECK: memref.alloca() : memref<0xf32>
  // CHECK: call @iam_rt_project(%{{.*}}, %[[KIND]], %{{.*}}, %{{.*}}, %[[S]], %{{.*}}, %{{.*}})
  %0 = iam.policy.project halfspace %h, %v, %s : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  // CHECK: %[[KIND:.*]] = arith.constant 1 : i64
  // CHECK: call @iam_rt_project(%{{.*}}, %[[KIND]], %{{.*}}, %{{.*}}, %[[S]], %{{.*}}, %{{.*}})
  %1 = iam.policy.project ball %0, %v, %s : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  // CHECK: %[[KIND:.*]] = arith.constant 2 : i64
  // CHECK: memref.alloca() : memref<0xf32>
  // CHECK: bufferization.to_buffer %[[B]]
  // CHECK: %[[ZERO:.*]] = arith.constant 0.000000e+00 : f32
  // CHECK: call @iam_rt_project(%{{.*}}, %[[KIND]], %{{.*}}, %{{.*}}, %[[ZERO]], %{{.*}}, %{{.*}})
  %2 = iam.policy.project subspace %1, %b : (tensor<?x4xf32>, tensor<2x4xf32>) -> tensor<?x4xf32>
  // CHECK: %[[KIND:.*]] = arith.constant 3 : i64
  // CHECK: bufferization.to_buffer %[[V]]
  // CHECK: %[[ZERO:.*]] = arith.constant 0.000000e+00 : f32
  // CHECK: bufferization.to_buffer %[[W]]
  // CHECK: call @iam_rt_project(%{{.*}}, %[[KIND]], %{{.*}}, %{{.*}}, %[[ZERO]], %{{.*}}, %{{.*}})
  %3 = iam.policy.project box %2, %v, %w : (tensor<?x4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  return %3 : tensor<?x4xf32>
}

// -----

// The message goes as its bytes; an unused margin keeps the call.
// CHECK-LABEL: func.func @verify(
// CHECK-SAME: %[[H:.*]]: tensor<?x4xf32>, %{{.*}}: tensor<4xf32>, %[[S:.*]]: f32)
// CHECK: %[[TOLERANCE:.*]] = arith.constant 5.000000e-01 : f32
// CHECK: %[[MESSAGE:.*]] = arith.constant dense<[105, 110]> : tensor<2xi32>
// CHECK: %[[ROWS:.*]] = tensor.dim %[[H]], %c0
// CHECK: %[[OUT:.*]] = memref.alloc(%[[ROWS]]) : memref<?xf32>
// CHECK: %[[OM:.*]] = memref.cast %[[OUT]]
// CHECK: call @iam_rt_verify(%{{.*}}, %{{.*}}, %{{.*}}, %{{.*}}, %[[S]], %{{.*}}, %[[TOLERANCE]], %{{.*}}, %[[OM]])
// CHECK-NEXT: bufferization.to_tensor %[[OUT]]
// CHECK-NEXT: return
func.func @verify(%h: tensor<?x4xf32>, %v: tensor<4xf32>, %s: f32) {
  %0 = iam.policy.verify ball %h, %v, %s tolerance 0.5 message "in" : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
  return
}

// The caller's memory is left alone; what the program made itself is written over.
// CHECK-LABEL: func.func @sequence
// CHECK: %[[OUT:.*]] = memref.alloc(%{{.*}}) : memref<?x4xf32>
// CHECK: call @iam_rt_sequence
// CHECK-NOT: memref.alloc
// CHECK: call @iam_rt_sequence
func.func @sequence(%h: tensor<?x4xf32>, %v: tensor<2x4xf32>, %s: tensor<2xf32>) -> tensor<?x4xf32> {
  %0 = iam.policy.sequence ablate, clamp %h, %v, %s : tensor<?x4xf32>, tensor<2x4xf32>, tensor<2xf32>
  %1 = iam.policy.sequence add, halfspace %0, %v, %s : tensor<?x4xf32>, tensor<2x4xf32>, tensor<2xf32>
  return %1 : tensor<?x4xf32>
}
