// The init function and the function, called as the JIT calls them: once, and with its results.
// REQUIRES: mlir-runner
// RUN: iam-opt %s --iam-hoist --iam-to-loops --iam-loops-to-llvm > %t.llvm
// RUN: FileCheck %s --check-prefix=SPLIT < %t.llvm
// The caller is written for what the pass makes, and compiled with it.
// RUN: iam-opt %s --iam-hoist | sed -e '/^module {$/d' -e '/^}$/d' > %t.split
// RUN: cat %t.split %S/Inputs/hoist_weights_main.mlir | iam-opt --iam-to-loops --iam-loops-to-llvm | %run-main | FileCheck %s

// SPLIT: llvm.func @_mlir_ciface_steered(
// SPLIT: llvm.func @_mlir_ciface_steered.init(

func.func @steered(%x: tensor<?x2xf32>, %v: tensor<2x2xf32> {iam.weight}) -> tensor<?x2xf32> {
  %one = arith.constant 1.0 : f32
  %s = arith.constant dense<[1.0, 2.0]> : tensor<2xf32>
  %d = iam.policy.compose sum %v, %s : tensor<2x2xf32>, tensor<2xf32> -> tensor<2xf32>
  %y = iam.policy.steer add %x, %d, %one : tensor<?x2xf32>, tensor<2xf32>, f32
  return %y : tensor<?x2xf32>
}

// CHECK: {{\[\[}}5, 9],
// CHECK-NEXT: [6, 10]]
// CHECK: {{\[\[}}5, 9]]
