// The attr ops have no folds of their own; they are pure, so unused ones go and equal ones are shared.
// RUN: iam-opt %s --cse --canonicalize | FileCheck %s

// CHECK-LABEL: func.func @one_path_serves_two
// CHECK-COUNT-1: iam.attr.path
// CHECK-NOT: iam.attr.path
func.func @one_path_serves_two(%x: tensor<?x4xf32>, %b: tensor<?x4xf32>) -> (tensor<20x?x4xf32>, tensor<20xf32>) {
  %p0, %w0 = iam.attr.path midpoint %x, %b, steps = 20
      : tensor<?x4xf32>, tensor<?x4xf32> -> tensor<20x?x4xf32>, tensor<20xf32>
  %p1, %w1 = iam.attr.path midpoint %x, %b, steps = 20
      : tensor<?x4xf32>, tensor<?x4xf32> -> tensor<20x?x4xf32>, tensor<20xf32>
  %p2, %w2 = iam.attr.path left %x, %b, steps = 20
      : tensor<?x4xf32>, tensor<?x4xf32> -> tensor<20x?x4xf32>, tensor<20xf32>
  return %p0, %w1 : tensor<20x?x4xf32>, tensor<20xf32>
}
