// iam-to-llvm: the LLVM dialect and nothing else, also of control flow, both forms of features and dynamic widths.
// RUN: iam-opt %s --iam-to-llvm -o %t
// RUN: FileCheck %s --input-file=%t
// RUN: iam-opt %t --mlir-print-op-generic | FileCheck %s --check-prefix=GENERIC
// RUN: iam-opt %s --iam-fuse --iam-to-loops --iam-loops-to-llvm | diff - %t

// Each op is of the LLVM dialect, but for the module.
// GENERIC-NOT: "{{(iam|arith|func|scf|cf|memref|tensor|linalg|bufferization|affine|math|index)\.}}
// GENERIC-NOT: unrealized_conversion_cast

// Memory comes from the runtime, and kernels are called through the C interface.
// CHECK-DAG: llvm.func @_mlir_memref_to_llvm_alloc(i64) -> !llvm.ptr
// CHECK-DAG: llvm.func @_mlir_memref_to_llvm_free(!llvm.ptr)
// CHECK-DAG: llvm.func @_mlir_ciface_iam_rt_encode_topk(!llvm.ptr
// CHECK-DAG: llvm.func @_mlir_ciface_iam_rt_edit_csr(!llvm.ptr
// CHECK-DAG: llvm.func @_mlir_ciface_codes(
// CHECK-DAG: llvm.func @_mlir_ciface_choose(
// CHECK-DAG: llvm.func @_mlir_ciface_any_width(

func.func @codes(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) -> !iam.features<?x16xf32, k = 2> {
  %pre = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  %f = iam.clt.topk %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  return %f : !iam.features<?x16xf32, k = 2>
}

func.func @choose(%c: i1, %f: !iam.features<?x16xf32>, %n: index) -> (!iam.features<?x16xf32>, !iam.features<?x16xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %r = scf.for %i = %c0 to %n step %c1 iter_args(%h = %f) -> !iam.features<?x16xf32> {
    %e = iam.clt.edit ablate %h features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
    scf.yield %e : !iam.features<?x16xf32>
  }
  %s = scf.if %c -> !iam.features<?x16xf32> {
    scf.yield %r : !iam.features<?x16xf32>
  } else {
    scf.yield %f : !iam.features<?x16xf32>
  }
  return %s, %r : !iam.features<?x16xf32>, !iam.features<?x16xf32>
}

func.func @any_width(%x: tensor<?x?xf32>, %W: tensor<?x?xf32>, %b: tensor<?xf32>) -> tensor<?x?xf32> {
  %pre = iam.clt.encode %x, %W, %b : (tensor<?x?xf32>, tensor<?x?xf32>, tensor<?xf32>) -> tensor<?x?xf32>
  %e = math.exp %pre : tensor<?x?xf32>
  return %e : tensor<?x?xf32>
}
