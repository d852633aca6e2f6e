// Features through loops, conditions and calls; two results never share memory.
// REQUIRES: mlir-runner
// RUN: iam-opt %s --iam-to-llvm | %run-main | FileCheck %s

func.func private @printMemrefF32(tensor<*xf32>)

// Each iteration halves feature 0; the condition ablates feature 1.
func.func @loop(%f: !iam.features<2x4xf32, k = 2>, %n: index, %c: i1)
    -> (!iam.features<2x4xf32, k = 2>, !iam.features<2x4xf32, k = 2>) attributes {no_inline} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %half = arith.constant dense<[0.5]> : tensor<1xf32>
  %r = scf.for %i = %c0 to %n step %c1 iter_args(%h = %f) -> !iam.features<2x4xf32, k = 2> {
    %e = iam.clt.edit scale %h features [0] by %half : (!iam.features<2x4xf32, k = 2>, tensor<1xf32>) -> !iam.features<2x4xf32, k = 2>
    scf.yield %e : !iam.features<2x4xf32, k = 2>
  }
  %s = scf.if %c -> !iam.features<2x4xf32, k = 2> {
    %e = iam.clt.edit ablate %r features [1] : (!iam.features<2x4xf32, k = 2>) -> !iam.features<2x4xf32, k = 2>
    scf.yield %e : !iam.features<2x4xf32, k = 2>
  } else {
    scf.yield %r : !iam.features<2x4xf32, k = 2>
  }
  return %s, %r : !iam.features<2x4xf32, k = 2>, !iam.features<2x4xf32, k = 2>
}

func.func private @show(%f: !iam.features<2x4xf32, k = 2>) {
  %d = iam.clt.densify %f : !iam.features<2x4xf32, k = 2> -> tensor<2x4xf32>
  %u = tensor.cast %d : tensor<2x4xf32> to tensor<*xf32>
  call @printMemrefF32(%u) : (tensor<*xf32>) -> ()
  return
}

func.func @main() {
  %pre = arith.constant dense<[[8.0, 5.0, 1.0, 0.0], [-1.0, -2.0, 7.0, 6.0]]> : tensor<2x4xf32>
  %f = iam.clt.topk %pre, k = 2 : tensor<2x4xf32> -> !iam.features<2x4xf32, k = 2>
  %yes = arith.constant true
  %no = arith.constant false
  %c0 = arith.constant 0 : index
  %c2 = arith.constant 2 : index
  // CHECK: {{\[\[}}2, 0, 0, 0],
  // CHECK-NEXT: [0, 0, 7, 6]]
  // CHECK: {{\[\[}}2, 5, 0, 0],
  %a:2 = call @loop(%f, %c2, %yes) : (!iam.features<2x4xf32, k = 2>, index, i1) -> (!iam.features<2x4xf32, k = 2>, !iam.features<2x4xf32, k = 2>)
  call @show(%a#0) : (!iam.features<2x4xf32, k = 2>) -> ()
  call @show(%a#1) : (!iam.features<2x4xf32, k = 2>) -> ()
  // No iteration, no edit: both results are the argument, and yet memory of their own.
  // CHECK: {{\[\[}}8, 5, 0, 0],
  // CHECK: {{\[\[}}8, 5, 0, 0],
  // CHECK: {{\[\[}}8, 5, 0, 0],
  %b:2 = call @loop(%f, %c0, %no) : (!iam.features<2x4xf32, k = 2>, index, i1) -> (!iam.features<2x4xf32, k = 2>, !iam.features<2x4xf32, k = 2>)
  call @show(%b#0) : (!iam.features<2x4xf32, k = 2>) -> ()
  call @show(%b#1) : (!iam.features<2x4xf32, k = 2>) -> ()
  call @show(%f) : (!iam.features<2x4xf32, k = 2>) -> ()
  return
}
