// The three modes of steering; `add` is a loop of the program, the others are calls of the runtime.
// REQUIRES: mlir-runner
// RUN: iam-opt %s --iam-to-llvm | %run-main | FileCheck %s

func.func private @printMemrefF32(tensor<*xf32>)

func.func private @show(%t: tensor<?x2xf32>) {
  %u = tensor.cast %t : tensor<?x2xf32> to tensor<*xf32>
  call @printMemrefF32(%u) : (tensor<*xf32>) -> ()
  return
}

func.func private @each_mode(%h: tensor<?x2xf32>, %v: tensor<2xf32>, %s: f32) {
  %0 = iam.policy.steer add %h, %v, %s : tensor<?x2xf32>, tensor<2xf32>, f32
  call @show(%0) : (tensor<?x2xf32>) -> ()
  %1 = iam.policy.steer ablate %h, %v, %s : tensor<?x2xf32>, tensor<2xf32>, f32
  call @show(%1) : (tensor<?x2xf32>) -> ()
  %2 = iam.policy.steer clamp %h, %v, %s : tensor<?x2xf32>, tensor<2xf32>, f32
  call @show(%2) : (tensor<?x2xf32>) -> ()
  return
}

func.func @main() {
  %x = arith.constant dense<[[1.0, 2.0], [3.0, 4.0]]> : tensor<2x2xf32>
  %none = tensor.extract_slice %x[0, 0] [0, 2] [1, 1] : tensor<2x2xf32> to tensor<0x2xf32>
  %v = arith.constant dense<[0.0, 2.0]> : tensor<2xf32>
  %s = arith.constant 0.5 : f32
  %rows = tensor.cast %x : tensor<2x2xf32> to tensor<?x2xf32>
  %norows = tensor.cast %none : tensor<0x2xf32> to tensor<?x2xf32>
  // h + 0.5 v
  // CHECK: {{\[\[}}1, 3],
  // CHECK-NEXT: [3, 5]]
  // h - 0.5 (h.v / 4) v
  // CHECK: {{\[\[}}1, 1],
  // CHECK-NEXT: [3, 2]]
  // the coordinate along v is 0.5
  // CHECK: {{\[\[}}1, 0.5],
  // CHECK-NEXT: [3, 0.5]]
  call @each_mode(%rows, %v, %s) : (tensor<?x2xf32>, tensor<2xf32>, f32) -> ()
  // CHECK-COUNT-3: sizes = [0, 2]
  call @each_mode(%norows, %v, %s) : (tensor<?x2xf32>, tensor<2xf32>, f32) -> ()
  return
}
