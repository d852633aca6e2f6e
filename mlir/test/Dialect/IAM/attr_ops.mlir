// Every attr op round-trips: custom form, generic form, bytecode.
// RUN: iam-opt %s | iam-opt | FileCheck %s
// RUN: iam-opt %s --mlir-print-op-generic | iam-opt | FileCheck %s
// RUN: iam-opt %s --emit-bytecode | iam-opt | FileCheck %s

// CHECK-LABEL: func.func @path
func.func @path(%x: tensor<?x4xf32>, %v: tensor<4xf32>, %s: tensor<f32>) {
  // CHECK: iam.attr.path gauss_legendre %{{.*}}, %{{.*}}, steps = 20 : tensor<?x4xf32>, tensor<?x4xf32> -> tensor<20x?x4xf32>, tensor<20xf32>
  %p0, %w0 = iam.attr.path gauss_legendre %x, %x, steps = 20
      : tensor<?x4xf32>, tensor<?x4xf32> -> tensor<20x?x4xf32>, tensor<20xf32>
  // CHECK: iam.attr.path left
  %p1, %w1 = iam.attr.path left %v, %v, steps = 1 : tensor<4xf32>, tensor<4xf32> -> tensor<1x4xf32>, tensor<1xf32>
  // CHECK: iam.attr.path right
  %p2, %w2 = iam.attr.path right %v, %v, steps = 3 : tensor<4xf32>, tensor<4xf32> -> tensor<3x4xf32>, tensor<3xf32>
  // CHECK: iam.attr.path midpoint
  %p3, %w3 = iam.attr.path midpoint %v, %v, steps = 3 : tensor<4xf32>, tensor<4xf32> -> tensor<3x4xf32>, tensor<3xf32>
  // CHECK: iam.attr.path trapezoid {{.*}} : tensor<f32>, tensor<f32> -> tensor<2xf32>, tensor<2xf32>
  %p4, %w4 = iam.attr.path trapezoid %s, %s, steps = 2 : tensor<f32>, tensor<f32> -> tensor<2xf32>, tensor<2xf32>
  return
}

func.func private @logit_of_each_row(tensor<?x4xf32>) -> tensor<?xf32>
func.func private @logit(tensor<?x4xf32>) -> f32

// CHECK-LABEL: func.func @grad
func.func @grad(%x: tensor<?x4xf32>, %b: tensor<?x4xf32>, %p: tensor<20x?x4xf32>, %w: tensor<20xf32>) {
  // CHECK: iam.attr.grad @logit_of_each_row(%{{.*}}, %{{.*}}) along %{{.*}}, %{{.*}} : tensor<?x4xf32>, tensor<?x4xf32>, tensor<20x?x4xf32>, tensor<20xf32> -> tensor<?x4xf32>
  %0 = iam.attr.grad @logit_of_each_row(%x, %b) along %p, %w
      : tensor<?x4xf32>, tensor<?x4xf32>, tensor<20x?x4xf32>, tensor<20xf32> -> tensor<?x4xf32>
  // CHECK: iam.attr.grad @logit(
  %1 = iam.attr.grad @logit(%x, %b) along %p, %w
      : tensor<?x4xf32>, tensor<?x4xf32>, tensor<20x?x4xf32>, tensor<20xf32> -> tensor<?x4xf32>
  return
}

// CHECK-LABEL: func.func @select
func.func @select(%scores: tensor<?x64xf32>) {
  // CHECK: iam.attr.select %{{.*}}, n = 10 : tensor<?x64xf32> -> tensor<?x10xi32>, tensor<?x10xf32>
  %i, %t = iam.attr.select %scores, n = 10 : tensor<?x64xf32> -> tensor<?x10xi32>, tensor<?x10xf32>
  return
}

// CHECK-LABEL: func.func @circuit
func.func @circuit(%f: tensor<5xf32>, %W_dec: tensor<5x4xf32>, %W_enc: tensor<4x3xf32>, %J: tensor<4x4xf32>) {
  // CHECK: iam.attr.circuit %{{.*}}, %{{.*}}, %{{.*}} : (tensor<5xf32>, tensor<5x4xf32>, tensor<4x3xf32>) -> tensor<5x3xf32>
  %0 = iam.attr.circuit %f, %W_dec, %W_enc
      : (tensor<5xf32>, tensor<5x4xf32>, tensor<4x3xf32>) -> tensor<5x3xf32>
  // CHECK: iam.attr.circuit %{{.*}}, %{{.*}}, %{{.*}}, through %{{.*}} : (tensor<5xf32>, tensor<5x4xf32>, tensor<4x3xf32>, tensor<4x4xf32>) -> tensor<5x3xf32>
  %1 = iam.attr.circuit %f, %W_dec, %W_enc, through %J
      : (tensor<5xf32>, tensor<5x4xf32>, tensor<4x3xf32>, tensor<4x4xf32>) -> tensor<5x3xf32>
  return
}

func.func private @with_captures(tensor<?x4xf32>, f32, tensor<4xf32>) -> tensor<?xf32>

// CHECK-LABEL: func.func @grad_with_captures
func.func @grad_with_captures(%x: tensor<?x4xf32>, %b: tensor<?x4xf32>, %p: tensor<20x?x4xf32>, %w: tensor<20xf32>, %s: f32, %v: tensor<4xf32>) {
  // CHECK: iam.attr.grad @with_captures(%{{.*}}, %{{.*}}) captures(%{{.*}}, %{{.*}} : f32, tensor<4xf32>) along %{{.*}}, %{{.*}} : tensor<?x4xf32>, tensor<?x4xf32>, tensor<20x?x4xf32>, tensor<20xf32> -> tensor<?x4xf32>
  %0 = iam.attr.grad @with_captures(%x, %b) captures(%s, %v : f32, tensor<4xf32>) along %p, %w
      : tensor<?x4xf32>, tensor<?x4xf32>, tensor<20x?x4xf32>, tensor<20xf32> -> tensor<?x4xf32>
  return
}

// CHECK-LABEL: func.func @check
func.func @check(%g: tensor<?x4xf32>, %i: index) {
  // CHECK: iam.attr.check %{{.*}}, %{{.*}} points 8 : tensor<?x4xf32>
  iam.attr.check %g, %i points 8 : tensor<?x4xf32>
  return
}
