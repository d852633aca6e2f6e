// Every policy op round-trips: custom form, generic form, bytecode.
// RUN: iam-opt %s | iam-opt | FileCheck %s
// RUN: iam-opt %s --mlir-print-op-generic | iam-opt | FileCheck %s
// RUN: iam-opt %s --emit-bytecode | iam-opt | FileCheck %s

// CHECK-LABEL: func.func @steer
func.func @steer(%h: tensor<?x4xf32>, %v: tensor<4xf32>, %s: f32) -> tensor<?x4xf32> {
  // CHECK: iam.policy.steer add %{{.*}}, %{{.*}}, %{{.*}} : tensor<?x4xf32>, tensor<4xf32>, f32
  %0 = iam.policy.steer add %h, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  // CHECK: iam.policy.steer ablate
  %1 = iam.policy.steer ablate %0, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  // CHECK: iam.policy.steer clamp
  %2 = iam.policy.steer clamp %1, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  return %2 : tensor<?x4xf32>
}

// CHECK-LABEL: func.func @compose
func.func @compose(%v: tensor<3x4xf32>, %s: tensor<3xf32>) {
  // CHECK: iam.policy.compose sum %{{.*}}, %{{.*}} : tensor<3x4xf32>, tensor<3xf32> -> tensor<4xf32>
  %0 = iam.policy.compose sum %v, %s : tensor<3x4xf32>, tensor<3xf32> -> tensor<4xf32>
  // CHECK: iam.policy.compose mean
  %1 = iam.policy.compose mean %v, %s : tensor<3x4xf32>, tensor<3xf32> -> tensor<4xf32>
  // CHECK: iam.policy.compose orthogonal
  %2 = iam.policy.compose orthogonal %v, %s : tensor<3x4xf32>, tensor<3xf32> -> tensor<4xf32>
  return
}

// CHECK-LABEL: func.func @project
func.func @project(%h: tensor<?x4xf32>, %v: tensor<4xf32>, %w: tensor<4xf32>, %basis: tensor<2x4xf32>, %r: f32) {
  // CHECK: iam.policy.project halfspace %{{.*}}, %{{.*}}, %{{.*}} : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  %0 = iam.policy.project halfspace %h, %v, %r : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  // CHECK: iam.policy.project ball %{{.*}}, %{{.*}}, %{{.*}} : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  %1 = iam.policy.project ball %h, %v, %r : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  // CHECK: iam.policy.project subspace %{{.*}}, %{{.*}} : (tensor<?x4xf32>, tensor<2x4xf32>) -> tensor<?x4xf32>
  %2 = iam.policy.project subspace %h, %basis : (tensor<?x4xf32>, tensor<2x4xf32>) -> tensor<?x4xf32>
  // CHECK: iam.policy.project box %{{.*}}, %{{.*}}, %{{.*}} : (tensor<?x4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  %3 = iam.policy.project box %h, %v, %w : (tensor<?x4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  return
}

// CHECK-LABEL: func.func @verify
func.func @verify(%h: tensor<?x4xf32>, %v: tensor<4xf32>, %basis: tensor<2x4xf32>, %r: f32) {
  // CHECK: iam.policy.verify halfspace %{{.*}}, %{{.*}}, %{{.*}} message "bounded" : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
  %0 = iam.policy.verify halfspace %h, %v, %r message "bounded"
      : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
  // CHECK: iam.policy.verify subspace %{{.*}}, %{{.*}} tolerance 1.250000e-01 message "in the span" : (tensor<?x4xf32>, tensor<2x4xf32>) -> tensor<?xf32>
  %1 = iam.policy.verify subspace %h, %basis tolerance 0.125 message "in the span"
      : (tensor<?x4xf32>, tensor<2x4xf32>) -> tensor<?xf32>
  return
}

// CHECK-LABEL: func.func @project_adjoint
func.func @project_adjoint(%h: tensor<?x4xf32>, %v: tensor<4xf32>, %s: f32) {
  // CHECK: iam.policy.project_adjoint halfspace %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}} : (tensor<?x4xf32>, tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  %0 = iam.policy.project_adjoint halfspace %h, %h, %v, %s : (tensor<?x4xf32>, tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  // CHECK: iam.policy.project_adjoint box
  %1 = iam.policy.project_adjoint box %h, %h, %v, %v : (tensor<?x4xf32>, tensor<?x4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  return
}

// CHECK-LABEL: func.func @sequence
func.func @sequence(%h: tensor<?x4xf32>, %v: tensor<4x4xf32>, %s: tensor<4xf32>) {
  // CHECK: iam.policy.sequence add, ablate, clamp, halfspace %{{.*}}, %{{.*}}, %{{.*}} : tensor<?x4xf32>, tensor<4x4xf32>, tensor<4xf32>
  %0 = iam.policy.sequence add, ablate, clamp, halfspace %h, %v, %s : tensor<?x4xf32>, tensor<4x4xf32>, tensor<4xf32>
  return
}
