// What each pass did can be seen.
// RUN: iam-opt %s --iam-fuse --mlir-print-ir-after-all -o /dev/null 2>&1 | FileCheck %s --check-prefix=ALL
// RUN: iam-opt %s --iam-fuse --mlir-print-ir-after=iam-clt-fusion -o /dev/null 2>&1 | FileCheck %s --check-prefix=ONE
// ALL: IR Dump After Canonicalizer
// ALL: IR Dump After CSE
// ALL: IR Dump After {{.*}}(iam-clt-fusion)
// ALL: iam.clt.encode_sparse
// ONE-NOT: IR Dump After CSE
// ONE: IR Dump After {{.*}}(iam-clt-fusion)
func.func @f(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) -> !iam.features<?x16xf32> {
  %pre = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  %f = iam.clt.relu %pre : tensor<?x16xf32> -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}
