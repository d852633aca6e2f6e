// Directions as one edit, the sets, and the margins of what was moved into them.
// REQUIRES: mlir-runner
// RUN: iam-opt %s --iam-to-llvm | %run-main | FileCheck %s

func.func private @printMemrefF32(tensor<*xf32>)

func.func private @show(%t: tensor<?x2xf32>) {
  %u = tensor.cast %t : tensor<?x2xf32> to tensor<*xf32>
  call @printMemrefF32(%u) : (tensor<*xf32>) -> ()
  return
}

func.func private @each_set(%h: tensor<?x2xf32>, %v: tensor<2xf32>, %w: tensor<2xf32>, %b: tensor<?x2xf32>, %s: f32) {
  %0 = iam.policy.project halfspace %h, %w, %s : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?x2xf32>
  call @show(%0) : (tensor<?x2xf32>) -> ()
  %1 = iam.policy.project ball %h, %v, %s : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?x2xf32>
  call @show(%1) : (tensor<?x2xf32>) -> ()
  %2 = iam.policy.project subspace %h, %b : (tensor<?x2xf32>, tensor<?x2xf32>) -> tensor<?x2xf32>
  call @show(%2) : (tensor<?x2xf32>) -> ()
  %3 = iam.policy.project box %h, %v, %w : (tensor<?x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  call @show(%3) : (tensor<?x2xf32>) -> ()
  %m = iam.policy.verify ball %h, %v, %s tolerance 10.0 message "near" : (tensor<?x2xf32>, tensor<2xf32>, f32) -> tensor<?xf32>
  %u = tensor.cast %m : tensor<?xf32> to tensor<*xf32>
  call @printMemrefF32(%u) : (tensor<*xf32>) -> ()
  return
}

func.func @main() {
  %x = arith.constant dense<[[3.0, 4.0], [0.0, 0.5]]> : tensor<2x2xf32>
  %none = tensor.extract_slice %x[0, 0] [0, 2] [1, 1] : tensor<2x2xf32> to tensor<0x2xf32>
  %v = arith.constant dense<[0.0, 0.0]> : tensor<2xf32>
  %w = arith.constant dense<[0.0, 2.0]> : tensor<2xf32>
  %b = arith.constant dense<[[0.0, 2.0], [0.0, 4.0]]> : tensor<2x2xf32>
  %s = arith.constant 2.5 : f32
  %rows = tensor.cast %x : tensor<2x2xf32> to tensor<?x2xf32>
  %norows = tensor.cast %none : tensor<0x2xf32> to tensor<?x2xf32>
  %basis = tensor.cast %b : tensor<2x2xf32> to tensor<?x2xf32>
  // CHECK: {{\[\[}}3, 1.25],
  // CHECK-NEXT: [0, 0.5]]
  // CHECK: {{\[\[}}1.5, 2],
  // CHECK-NEXT: [0, 0.5]]
  // The rows of the basis depend on each other.
  // CHECK: {{\[\[}}0, 4],
  // CHECK-NEXT: [0, 0.5]]
  // CHECK: {{\[\[}}0, 2],
  // CHECK-NEXT: [0, 0.5]]
  // CHECK: [-2.5, 2]
  call @each_set(%rows, %v, %w, %basis, %s) : (tensor<?x2xf32>, tensor<2xf32>, tensor<2xf32>, tensor<?x2xf32>, f32) -> ()
  // CHECK-COUNT-4: sizes = [0, 2]
  // CHECK: sizes = [0]
  call @each_set(%norows, %v, %w, %basis, %s) : (tensor<?x2xf32>, tensor<2xf32>, tensor<2xf32>, tensor<?x2xf32>, f32) -> ()
  // The second direction keeps what the first does not have.
  // CHECK: [4, 0.5]
  %vectors = arith.constant dense<[[0.0, 0.5], [2.0, 7.0]]> : tensor<2x2xf32>
  %strengths = arith.constant dense<[1.0, 2.0]> : tensor<2xf32>
  %e = iam.policy.compose orthogonal %vectors, %strengths : tensor<2x2xf32>, tensor<2xf32> -> tensor<2xf32>
  %u = tensor.cast %e : tensor<2xf32> to tensor<*xf32>
  call @printMemrefF32(%u) : (tensor<*xf32>) -> ()
  return
}
