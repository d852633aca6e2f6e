// Encode, activate, decode: the numbers are small, so that they can be checked by hand and are exact in f32.
// REQUIRES: mlir-runner
// RUN: iam-opt %s --iam-to-llvm | %run-main | FileCheck %s
// The same without fusing.
// RUN: iam-opt %s --iam-to-loops --iam-loops-to-llvm | %run-main | FileCheck %s

func.func private @printMemrefF32(tensor<*xf32>)

func.func private @show(%t: tensor<?x?xf32>) {
  %u = tensor.cast %t : tensor<?x?xf32> to tensor<*xf32>
  call @printMemrefF32(%u) : (tensor<*xf32>) -> ()
  return
}

func.func private @topk(%x: tensor<?x2xf32>, %W: tensor<2x3xf32>, %b: tensor<3xf32>, %D: tensor<3x2xf32>, %bias: tensor<2xf32>) attributes {no_inline} {
  %pre = iam.clt.encode %x, %W, %b : (tensor<?x2xf32>, tensor<2x3xf32>, tensor<3xf32>) -> tensor<?x3xf32>
  %f = iam.clt.topk %pre, k = 2 : tensor<?x3xf32> -> !iam.features<?x3xf32, k = 2>
  %d = iam.clt.densify %f : !iam.features<?x3xf32, k = 2> -> tensor<?x3xf32>
  %dense = tensor.cast %d : tensor<?x3xf32> to tensor<?x?xf32>
  call @show(%dense) : (tensor<?x?xf32>) -> ()
  %y = iam.clt.decode %f, %D, bias %bias : (!iam.features<?x3xf32, k = 2>, tensor<3x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %shown = tensor.cast %y : tensor<?x2xf32> to tensor<?x?xf32>
  call @show(%shown) : (tensor<?x?xf32>) -> ()
  return
}

func.func private @jumprelu(%x: tensor<?x2xf32>, %W: tensor<2x3xf32>, %b: tensor<3xf32>, %t: tensor<3xf32>, %D: tensor<3x2xf32>, %bias: tensor<2xf32>) attributes {no_inline} {
  %pre = iam.clt.encode %x, %W, %b, subtract %bias : (tensor<?x2xf32>, tensor<2x3xf32>, tensor<3xf32>, tensor<2xf32>) -> tensor<?x3xf32>
  %f = iam.clt.jumprelu %pre, %t : tensor<?x3xf32>, tensor<3xf32> -> !iam.features<?x3xf32>
  %d = iam.clt.densify %f : !iam.features<?x3xf32> -> tensor<?x3xf32>
  %dense = tensor.cast %d : tensor<?x3xf32> to tensor<?x?xf32>
  call @show(%dense) : (tensor<?x?xf32>) -> ()
  %y = iam.clt.decode %f, %D : (!iam.features<?x3xf32>, tensor<3x2xf32>) -> tensor<?x2xf32>
  %shown = tensor.cast %y : tensor<?x2xf32> to tensor<?x?xf32>
  call @show(%shown) : (tensor<?x?xf32>) -> ()
  return
}

func.func private @abstopk(%x: tensor<?x2xf32>, %W: tensor<2x3xf32>, %b: tensor<3xf32>) attributes {no_inline} {
  %pre = iam.clt.encode %x, %W, %b : (tensor<?x2xf32>, tensor<2x3xf32>, tensor<3xf32>) -> tensor<?x3xf32>
  %f = iam.clt.abstopk %pre, k = 2 : tensor<?x3xf32> -> !iam.features<?x3xf32, k = 2>
  %d = iam.clt.densify %f : !iam.features<?x3xf32, k = 2> -> tensor<?x3xf32>
  %dense = tensor.cast %d : tensor<?x3xf32> to tensor<?x?xf32>
  call @show(%dense) : (tensor<?x?xf32>) -> ()
  return
}

func.func private @groupmax(%x: tensor<?x2xf32>, %W: tensor<2x3xf32>, %b: tensor<3xf32>) attributes {no_inline} {
  %pre = iam.clt.encode %x, %W, %b : (tensor<?x2xf32>, tensor<2x3xf32>, tensor<3xf32>) -> tensor<?x3xf32>
  %f = iam.clt.groupmax %pre, k = 1 : tensor<?x3xf32> -> !iam.features<?x3xf32, k = 1>
  %d = iam.clt.densify %f : !iam.features<?x3xf32, k = 1> -> tensor<?x3xf32>
  %dense = tensor.cast %d : tensor<?x3xf32> to tensor<?x?xf32>
  call @show(%dense) : (tensor<?x?xf32>) -> ()
  return
}

func.func private @matching_pursuit(%x: tensor<?x2xf32>, %D: tensor<3x2xf32>, %bias: tensor<2xf32>) attributes {no_inline} {
  %f = iam.clt.matching_pursuit %x, %D, subtract %bias residual_threshold = 0.5 max_iterations = 4 stop_on_duplicate_support
      : (tensor<?x2xf32>, tensor<3x2xf32>, tensor<2xf32>) -> !iam.features<?x3xf32>
  %d = iam.clt.densify %f : !iam.features<?x3xf32> -> tensor<?x3xf32>
  %dense = tensor.cast %d : tensor<?x3xf32> to tensor<?x?xf32>
  call @show(%dense) : (tensor<?x?xf32>) -> ()
  return
}

func.func @gate(%x: tensor<?x2xf32>, %W: tensor<2x3xf32>, %b: tensor<3xf32>, %V: tensor<2x3xf32>, %c: tensor<3xf32>) {
  %gate = iam.clt.encode %x, %W, %b : (tensor<?x2xf32>, tensor<2x3xf32>, tensor<3xf32>) -> tensor<?x3xf32>
  %size = iam.clt.encode %x, %V, %c : (tensor<?x2xf32>, tensor<2x3xf32>, tensor<3xf32>) -> tensor<?x3xf32>
  %f = iam.clt.gate %gate, %size : tensor<?x3xf32>, tensor<?x3xf32> -> !iam.features<?x3xf32>
  %d = iam.clt.densify %f : !iam.features<?x3xf32> -> tensor<?x3xf32>
  %dense = tensor.cast %d : tensor<?x3xf32> to tensor<?x?xf32>
  call @show(%dense) : (tensor<?x?xf32>) -> ()
  return
}

func.func @batch_topk(%x: tensor<?x2xf32>, %W: tensor<2x3xf32>, %b: tensor<3xf32>) {
  %pre = iam.clt.encode %x, %W, %b : (tensor<?x2xf32>, tensor<2x3xf32>, tensor<3xf32>) -> tensor<?x3xf32>
  %f = iam.clt.batch_topk %pre, k = 1 : tensor<?x3xf32> -> !iam.features<?x3xf32>
  %d = iam.clt.densify %f : !iam.features<?x3xf32> -> tensor<?x3xf32>
  %dense = tensor.cast %d : tensor<?x3xf32> to tensor<?x?xf32>
  call @show(%dense) : (tensor<?x?xf32>) -> ()
  return
}

func.func @main() {
  %x = arith.constant dense<[[1.0, 2.0], [3.0, -1.0]]> : tensor<2x2xf32>
  %none = tensor.extract_slice %x[0, 0] [0, 2] [1, 1] : tensor<2x2xf32> to tensor<0x2xf32>
  %W = arith.constant dense<[[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]]> : tensor<2x3xf32>
  %b = arith.constant dense<0.5> : tensor<3xf32>
  %D = arith.constant dense<[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]> : tensor<3x2xf32>
  %bias = arith.constant dense<[1.0, -1.0]> : tensor<2xf32>
  %t = arith.constant dense<[0.5, 3.5, 4.0]> : tensor<3xf32>
  %rows = tensor.cast %x : tensor<2x2xf32> to tensor<?x2xf32>
  %norows = tensor.cast %none : tensor<0x2xf32> to tensor<?x2xf32>

  // pre = [[1.5, 2.5, 0.5], [3.5, -0.5, 7.5]]
  // CHECK: sizes = [2, 3]
  // CHECK-NEXT: {{\[\[}}1.5, 2.5, 0],
  // CHECK-NEXT: [3.5, 0, 7.5]]
  // CHECK: sizes = [2, 2]
  // CHECK-NEXT: {{\[\[}}2.5, 1.5],
  // CHECK-NEXT: [12, 6.5]]
  call @topk(%rows, %W, %b, %D, %bias) : (tensor<?x2xf32>, tensor<2x3xf32>, tensor<3xf32>, tensor<3x2xf32>, tensor<2xf32>) -> ()
  // pre of x - bias = [[0, 3], [2, 0]]: [[0.5, 3.5, -2.5], [2.5, 0.5, 4.5]]; a value equal to its threshold is dropped.
  // CHECK: sizes = [2, 3]
  // CHECK-NEXT: {{\[\[}}0, 0, 0],
  // CHECK-NEXT: [2.5, 0, 4.5]]
  // CHECK: sizes = [2, 2]
  // CHECK-NEXT: {{\[\[}}0, 0],
  // CHECK-NEXT: [7, 4.5]]
  call @jumprelu(%rows, %W, %b, %t, %D, %bias) : (tensor<?x2xf32>, tensor<2x3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3x2xf32>, tensor<2xf32>) -> ()
  // pre = [[1.5, 2.5, 0.5], [3.5, -0.5, 7.5]] less 2: [[-0.5, 0.5, -1.5], [1.5, -2.5, 5.5]]; of 0.5 twice, the first stays.
  %less = arith.constant dense<-1.5> : tensor<3xf32>
  // CHECK: sizes = [2, 3]
  // CHECK-NEXT: {{\[\[}}-0.5, 0, -1.5],
  // CHECK-NEXT: [0, -2.5, 5.5]]
  call @abstopk(%rows, %W, %less) : (tensor<?x2xf32>, tensor<2x3xf32>, tensor<3xf32>) -> ()
  // CHECK: sizes = [2, 3]
  // CHECK-NEXT: {{\[\[}}0, 2.5, 0],
  // CHECK-NEXT: [0, 0, 7.5]]
  call @groupmax(%rows, %W, %b) : (tensor<?x2xf32>, tensor<2x3xf32>, tensor<3xf32>) -> ()
  // x - bias = [[0, 3], [2, 0]], one feature each; the third row of the dictionary points away.
  %axes = arith.constant dense<[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]> : tensor<3x2xf32>
  // CHECK: sizes = [2, 3]
  // CHECK-NEXT: {{\[\[}}0, 3, 0],
  // CHECK-NEXT: [2, 0, 0]]
  call @matching_pursuit(%rows, %axes, %bias) : (tensor<?x2xf32>, tensor<3x2xf32>, tensor<2xf32>) -> ()
  // pre = [[1.5, 2.5, 0.5], [3.5, -0.5, 7.5]] is the gate; the magnitude with zeros for weights is its bias.
  %zeros = arith.constant dense<0.0> : tensor<2x3xf32>
  %sizes = arith.constant dense<[-1.0, 2.0, 3.0]> : tensor<3xf32>
  // CHECK: sizes = [2, 3]
  // CHECK-NEXT: {{\[\[}}0, 2, 3],
  // CHECK-NEXT: [0, 0, 3]]
  call @gate(%rows, %W, %b, %zeros, %sizes) : (tensor<?x2xf32>, tensor<2x3xf32>, tensor<3xf32>, tensor<2x3xf32>, tensor<3xf32>) -> ()
  // The two largest of both rows.
  // CHECK: sizes = [2, 3]
  // CHECK-NEXT: {{\[\[}}0, 0, 0],
  // CHECK-NEXT: [3.5, 0, 7.5]]
  call @batch_topk(%rows, %W, %b) : (tensor<?x2xf32>, tensor<2x3xf32>, tensor<3xf32>) -> ()
  // No rows in, no rows out.
  // CHECK: sizes = [0, 3]
  call @gate(%norows, %W, %b, %zeros, %sizes) : (tensor<?x2xf32>, tensor<2x3xf32>, tensor<3xf32>, tensor<2x3xf32>, tensor<3xf32>) -> ()
  // CHECK: sizes = [0, 3]
  call @batch_topk(%norows, %W, %b) : (tensor<?x2xf32>, tensor<2x3xf32>, tensor<3xf32>) -> ()
  // CHECK: sizes = [0, 3]
  // CHECK: sizes = [0, 2]
  call @topk(%norows, %W, %b, %D, %bias) : (tensor<?x2xf32>, tensor<2x3xf32>, tensor<3xf32>, tensor<3x2xf32>, tensor<2xf32>) -> ()
  // CHECK: sizes = [0, 3]
  // CHECK: sizes = [0, 2]
  call @jumprelu(%norows, %W, %b, %t, %D, %bias) : (tensor<?x2xf32>, tensor<2x3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3x2xf32>, tensor<2xf32>) -> ()
  return
}
