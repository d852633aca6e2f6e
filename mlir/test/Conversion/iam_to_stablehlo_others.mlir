// iam-to-stablehlo: attribution, policies, and the arithmetic around the ops.
// RUN: iam-opt %s --iam-to-stablehlo=rows=3 --cse --split-input-file | FileCheck %s

// The nodes of the two-point Gauss-Legendre rule are (1 ± 1/√3)/2, its weights 1/2.
// CHECK-LABEL: func.func @path(
// CHECK-SAME: -> (tensor<2x3x4xf32>, tensor<2xf32>)
// CHECK: dense<[0.211324{{.*}}, 0.788675{{.*}}]> : tensor<2xf32>
// CHECK: dense<5.000000e-01> : tensor<2xf32>
func.func @path(%x: tensor<?x4xf32>, %b: tensor<?x4xf32>) -> (tensor<2x?x4xf32>, tensor<2xf32>) {
  %p, %w = iam.attr.path gauss_legendre %x, %b, steps = 2 : tensor<?x4xf32>, tensor<?x4xf32> -> tensor<2x?x4xf32>, tensor<2xf32>
  return %p, %w : tensor<2x?x4xf32>, tensor<2xf32>
}

// -----

// CHECK-LABEL: func.func @rules(
// CHECK-DAG: dense<[0.000000e+00, 5.000000e-01]> : tensor<2xf32>
// CHECK-DAG: dense<[5.000000e-01, 1.000000e+00]> : tensor<2xf32>
// CHECK-DAG: dense<[2.500000e-01, 7.500000e-01]> : tensor<2xf32>
// CHECK-DAG: dense<[0.000000e+00, 5.000000e-01, 1.000000e+00]> : tensor<3xf32>
// CHECK-DAG: dense<[2.500000e-01, 5.000000e-01, 2.500000e-01]> : tensor<3xf32>
func.func @rules(%x: tensor<4xf32>, %b: tensor<4xf32>)
    -> (tensor<2x4xf32>, tensor<2x4xf32>, tensor<2x4xf32>, tensor<3x4xf32>, tensor<3xf32>) {
  %0, %w0 = iam.attr.path left %x, %b, steps = 2 : tensor<4xf32>, tensor<4xf32> -> tensor<2x4xf32>, tensor<2xf32>
  %1, %w1 = iam.attr.path right %x, %b, steps = 2 : tensor<4xf32>, tensor<4xf32> -> tensor<2x4xf32>, tensor<2xf32>
  %2, %w2 = iam.attr.path midpoint %x, %b, steps = 2 : tensor<4xf32>, tensor<4xf32> -> tensor<2x4xf32>, tensor<2xf32>
  %3, %w3 = iam.attr.path trapezoid %x, %b, steps = 3 : tensor<4xf32>, tensor<4xf32> -> tensor<3x4xf32>, tensor<3xf32>
  return %0, %1, %2, %3, %w3 : tensor<2x4xf32>, tensor<2x4xf32>, tensor<2x4xf32>, tensor<3x4xf32>, tensor<3xf32>
}

// -----

// CHECK-LABEL: func.func @select(
// CHECK: "stablehlo.abs"
// CHECK: "stablehlo.sort"
// CHECK: "stablehlo.gather"
func.func @select(%s: tensor<?x64xf32>) -> (tensor<?x10xi32>, tensor<?x10xf32>) {
  %i, %t = iam.attr.select %s, n = 10 : tensor<?x64xf32> -> tensor<?x10xi32>, tensor<?x10xf32>
  return %i, %t : tensor<?x10xi32>, tensor<?x10xf32>
}

// -----

// CHECK-LABEL: func.func @circuit(
// CHECK: "stablehlo.multiply"
// CHECK-NEXT: "stablehlo.dot_general"
// CHECK-NEXT: "stablehlo.dot_general"
func.func @circuit(%f: tensor<5xf32>, %D: tensor<5x4xf32>, %E: tensor<4x3xf32>, %J: tensor<4x4xf32>) -> tensor<5x3xf32> {
  %0 = iam.attr.circuit %f, %D, %E, through %J : (tensor<5xf32>, tensor<5x4xf32>, tensor<4x3xf32>, tensor<4x4xf32>) -> tensor<5x3xf32>
  return %0 : tensor<5x3xf32>
}

// -----

// CHECK-LABEL: func.func @steer(
// CHECK: "stablehlo.add"
// CHECK: "stablehlo.divide"
// CHECK: "stablehlo.sqrt"
func.func @steer(%h: tensor<?x4xf32>, %v: tensor<4xf32>, %s: f32) -> (tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>) {
  %0 = iam.policy.steer add %h, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %1 = iam.policy.steer ablate %h, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %2 = iam.policy.steer clamp %h, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  return %0, %1, %2 : tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>
}

// -----

// Two directions: the second loses what it shares with the first; unrolled, no loop.
// CHECK-LABEL: func.func @compose(
// CHECK-COUNT-2: "stablehlo.compare"{{.*}}comparison_direction GT
// CHECK-NOT: comparison_direction GT
// CHECK: return
func.func @compose(%v: tensor<2x4xf32>, %s: tensor<2xf32>) -> (tensor<4xf32>, tensor<4xf32>, tensor<4xf32>) {
  %0 = iam.policy.compose orthogonal %v, %s : tensor<2x4xf32>, tensor<2xf32> -> tensor<4xf32>
  %1 = iam.policy.compose sum %v, %s : tensor<2x4xf32>, tensor<2xf32> -> tensor<4xf32>
  %2 = iam.policy.compose mean %v, %s : tensor<2x4xf32>, tensor<2xf32> -> tensor<4xf32>
  return %0, %1, %2 : tensor<4xf32>, tensor<4xf32>, tensor<4xf32>
}

// -----

// CHECK-LABEL: func.func @project(
// CHECK-NOT: iam.
// CHECK: return
func.func @project(%h: tensor<?x4xf32>, %v: tensor<4xf32>, %u: tensor<4xf32>, %r: f32, %B: tensor<2x4xf32>)
    -> (tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>) {
  %0 = iam.policy.project halfspace %h, %v, %r : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  %1 = iam.policy.project ball %h, %v, %r : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  %2 = iam.policy.project box %h, %v, %u : (tensor<?x4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  %3 = iam.policy.project subspace %h, %B : (tensor<?x4xf32>, tensor<2x4xf32>) -> tensor<?x4xf32>
  return %0, %1, %2, %3 : tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @arithmetic(
// CHECK: "stablehlo.constant"() <{value = dense<2.000000e+00> : tensor<f32>}>
// CHECK: "stablehlo.broadcast_in_dim"
// CHECK: "stablehlo.multiply"
// CHECK: "stablehlo.subtract"
// CHECK: "stablehlo.divide"
// CHECK: "stablehlo.negate"
// CHECK: "stablehlo.maximum"
// CHECK: "stablehlo.minimum"
// CHECK-NOT: {{arith|tensor\.}}
// CHECK: return
func.func @arithmetic(%x: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %two = arith.constant 2.0 : f32
  %zero = arith.constant 0 : index
  %n = tensor.dim %x, %zero : tensor<?x4xf32>
  %t = tensor.splat %two[%n] : tensor<?x4xf32>
  %0 = arith.mulf %x, %t : tensor<?x4xf32>
  %1 = arith.subf %0, %x : tensor<?x4xf32>
  %2 = arith.divf %1, %t : tensor<?x4xf32>
  %3 = arith.negf %2 : tensor<?x4xf32>
  %4 = arith.maximumf %3, %x : tensor<?x4xf32>
  %5 = arith.minimumf %4, %t : tensor<?x4xf32>
  return %5 : tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @broadcasts(
// CHECK: "stablehlo.broadcast_in_dim"(%{{.*}}) <{broadcast_dimensions = array<i64: 1>}> : (tensor<4xf32>) -> tensor<3x4xf32>
// CHECK: "stablehlo.dot_general"
// CHECK: "stablehlo.concatenate"(%{{.*}}) <{dimension = 0 : i64}> : (tensor<1xf32>, tensor<1xf32>) -> tensor<2xf32>
func.func @broadcasts(%x: tensor<?x4xf32>, %v: tensor<4xf32>, %W: tensor<4x4xf32>, %s: f32) -> (tensor<?x4xf32>, tensor<2xf32>) {
  %zero = arith.constant 0 : index
  %n = tensor.dim %x, %zero : tensor<?x4xf32>
  %e = tensor.empty(%n) : tensor<?x4xf32>
  %b = linalg.broadcast ins(%v : tensor<4xf32>) outs(%e : tensor<?x4xf32>) dimensions = [0]
  %z = linalg.fill ins(%s : f32) outs(%e : tensor<?x4xf32>) -> tensor<?x4xf32>
  %m = linalg.matmul ins(%b, %W : tensor<?x4xf32>, tensor<4x4xf32>) outs(%z : tensor<?x4xf32>) -> tensor<?x4xf32>
  %c = tensor.cast %m : tensor<?x4xf32> to tensor<?x4xf32>
  %l = tensor.from_elements %s, %s : tensor<2xf32>
  return %c, %l : tensor<?x4xf32>, tensor<2xf32>
}
