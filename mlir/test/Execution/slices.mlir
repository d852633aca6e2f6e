// A column of a result is copied to memory of its own, without MLIR's runtime library.
// REQUIRES: mlir-runner
// RUN: iam-opt %s --iam-to-llvm -o %t
// RUN: FileCheck %s --input-file=%t --check-prefix=LLVM
// RUN: %run-main < %t | FileCheck %s
// LLVM-NOT: memrefCopy

func.func private @printMemrefF32(tensor<*xf32>)

func.func @column(%y: tensor<3x2xf32>) -> tensor<3x1xf32> attributes {no_inline} {
  %z = arith.addf %y, %y : tensor<3x2xf32>
  %p = tensor.extract_slice %z[0, 1] [3, 1] [1, 1] : tensor<3x2xf32> to tensor<3x1xf32>
  return %p : tensor<3x1xf32>
}

func.func @main() {
  %x = arith.constant dense<[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]> : tensor<3x2xf32>
  // CHECK: sizes = [3, 1] strides = [1, 1]
  // CHECK-NEXT: {{\[\[}}4],
  // CHECK-NEXT: [8],
  // CHECK-NEXT: [12]]
  %c = call @column(%x) : (tensor<3x2xf32>) -> tensor<3x1xf32>
  %u = tensor.cast %c : tensor<3x1xf32> to tensor<*xf32>
  call @printMemrefF32(%u) : (tensor<*xf32>) -> ()
  return
}
