// Edits and their deltas, in both forms of features: x + decode(edit(f)) - decode(f), fused and not.
// REQUIRES: mlir-runner
// RUN: iam-opt %s --iam-to-llvm | %run-main | FileCheck %s
// RUN: iam-opt %s --iam-to-loops --iam-loops-to-llvm | %run-main | FileCheck %s
// RUN: iam-opt %s --iam-fuse | FileCheck %s --check-prefix=FUSED

// FUSED: iam.clt.delta set
// FUSED: iam.clt.delta ablate
// FUSED: iam.clt.delta scale
// FUSED: iam.clt.delta clamp
// FUSED: iam.clt.sub

func.func private @printMemrefF32(tensor<*xf32>)

func.func private @show(%t: tensor<?x2xf32>) {
  %u = tensor.cast %t : tensor<?x2xf32> to tensor<*xf32>
  call @printMemrefF32(%u) : (tensor<*xf32>) -> ()
  return
}

func.func @main() {
  %x = arith.constant dense<[[10.0, 20.0], [30.0, 40.0]]> : tensor<2x2xf32>
  %rows = tensor.cast %x : tensor<2x2xf32> to tensor<?x2xf32>
  // f: row 0 has feature 1 = 5 and feature 0 = 2, row 1 has feature 2 = 7 alone.
  %pre = arith.constant dense<[[2.0, 5.0, -1.0, -9.0], [-1.0, -2.0, 7.0, -9.0]]> : tensor<2x4xf32>
  %p = tensor.cast %pre : tensor<2x4xf32> to tensor<?x4xf32>
  %W = arith.constant dense<[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, -1.0]]> : tensor<4x2xf32>
  %f = iam.clt.topk %p, k = 2 : tensor<?x4xf32> -> !iam.features<?x4xf32, k = 2>
  %c = iam.clt.relu %p : tensor<?x4xf32> -> !iam.features<?x4xf32>
  %a = arith.constant dense<[3.0, 1.0]> : tensor<2xf32>
  %b = arith.constant dense<[4.0, 9.0]> : tensor<2xf32>

  // set features 3 and 1 to 3 and 1: deltas (3, -4) and (3, 1).
  // CHECK: {{\[\[}}16, 13],
  // CHECK-NEXT: [36, 38]]
  %fs = iam.clt.edit set %f features [3, 1] by %a : (!iam.features<?x4xf32, k = 2>, tensor<2xf32>) -> !iam.features<?x4xf32, k = 4>
  %ys = iam.clt.decode %fs, %W : (!iam.features<?x4xf32, k = 4>, tensor<4x2xf32>) -> tensor<?x2xf32>
  %m0 = iam.clt.decode %f, %W : (!iam.features<?x4xf32, k = 2>, tensor<4x2xf32>) -> tensor<?x2xf32>
  %s0 = arith.addf %rows, %ys : tensor<?x2xf32>
  %r0 = arith.subf %s0, %m0 : tensor<?x2xf32>
  call @show(%r0) : (tensor<?x2xf32>) -> ()

  // ablate feature 1, compressed rows: delta -5 in row 0.
  // CHECK: {{\[\[}}10, 15],
  // CHECK-NEXT: [30, 40]]
  %fa = iam.clt.edit ablate %c features [1] : (!iam.features<?x4xf32>) -> !iam.features<?x4xf32>
  %ya = iam.clt.decode %fa, %W : (!iam.features<?x4xf32>, tensor<4x2xf32>) -> tensor<?x2xf32>
  %m1 = iam.clt.decode %c, %W : (!iam.features<?x4xf32>, tensor<4x2xf32>) -> tensor<?x2xf32>
  %e1 = arith.subf %rows, %m1 : tensor<?x2xf32>
  %r1 = arith.addf %ya, %e1 : tensor<?x2xf32>
  call @show(%r1) : (tensor<?x2xf32>) -> ()

  // scale 0 and 2 by 3 and 1, compressed rows: delta 4 in row 0.
  // CHECK: {{\[\[}}14, 20],
  // CHECK-NEXT: [30, 40]]
  %fc = iam.clt.edit scale %c features [0, 2] by %a : (!iam.features<?x4xf32>, tensor<2xf32>) -> !iam.features<?x4xf32>
  %yc = iam.clt.decode %fc, %W : (!iam.features<?x4xf32>, tensor<4x2xf32>) -> tensor<?x2xf32>
  %s2 = arith.addf %rows, %yc : tensor<?x2xf32>
  %r2 = arith.subf %s2, %m1 : tensor<?x2xf32>
  call @show(%r2) : (tensor<?x2xf32>) -> ()

  // clamp 1 to [3, 4] and 0 to [1, 9]: deltas -1 and 0, then 3 and 1.
  // CHECK: {{\[\[}}10, 19],
  // CHECK-NEXT: [31, 43]]
  %fl = iam.clt.edit clamp %f features [1, 0] by %a, %b : (!iam.features<?x4xf32, k = 2>, tensor<2xf32>, tensor<2xf32>) -> !iam.features<?x4xf32, k = 4>
  %yl = iam.clt.decode %fl, %W : (!iam.features<?x4xf32, k = 4>, tensor<4x2xf32>) -> tensor<?x2xf32>
  %s3 = arith.addf %rows, %yl : tensor<?x2xf32>
  %r3 = arith.subf %s3, %m0 : tensor<?x2xf32>
  call @show(%r3) : (tensor<?x2xf32>) -> ()

  // Two edits of one code: ablate 2 minus ablate 1, 5 * W[1] and -7 * W[2].
  // CHECK: {{\[\[}}0, 5],
  // CHECK-NEXT: [-7, -7]]
  %f2 = iam.clt.edit ablate %c features [2] : (!iam.features<?x4xf32>) -> !iam.features<?x4xf32>
  %y2 = iam.clt.decode %f2, %W : (!iam.features<?x4xf32>, tensor<4x2xf32>) -> tensor<?x2xf32>
  %f1 = iam.clt.edit ablate %c features [1] : (!iam.features<?x4xf32>) -> !iam.features<?x4xf32>
  %y1 = iam.clt.decode %f1, %W : (!iam.features<?x4xf32>, tensor<4x2xf32>) -> tensor<?x2xf32>
  %r4 = arith.subf %y2, %y1 : tensor<?x2xf32>
  call @show(%r4) : (tensor<?x2xf32>) -> ()
  return
}
