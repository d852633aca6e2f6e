// Where iam-clt-fusion holds back, it says why to those who debug it. The programs are those of the _noop files.
// REQUIRES: debug-output
// RUN: iam-opt %S/clt_fusion_encode_noop.mlir --iam-clt-fusion --debug-only=greedy-rewriter -o /dev/null 2>&1 | FileCheck %s --check-prefix=ENCODE
// RUN: iam-opt %S/clt_fusion_dense_decode.mlir --split-input-file --iam-clt-fusion --debug-only=greedy-rewriter -o /dev/null 2>&1 | FileCheck %s --check-prefix=DENSE
// RUN: iam-opt %S/clt_fusion_difference_noop.mlir --split-input-file --iam-clt-fusion --debug-only=greedy-rewriter -o /dev/null 2>&1 | FileCheck %s --check-prefix=DIFFERENCE

// ENCODE-DAG: the pre-activations have another use: fusing would compute them twice
// ENCODE-DAG: the pre-activations are not made by iam.clt.encode
// ENCODE-DAG: gate and magnitude encode different activations: there is no fused kernel for it
// ENCODE-DAG: the pre-activations are made in another block: fusing could move an encode into a loop

// DENSE: the product accumulates into something else than zeros
// DENSE: the product accumulates into something else than zeros
// DENSE: the left operand is not made by iam.clt.densify
// DENSE: not a plain product of tensors
// DENSE: the product has another element type than f32

// DIFFERENCE: the reconstructions have different decoder weights
// DIFFERENCE: the reconstructions have different biases: they do not cancel
// DIFFERENCE: the reconstructions have different biases: they do not cancel
// DIFFERENCE: both reconstructions stay (another use, another block): subtracting them is cheaper than one more decode
// DIFFERENCE: both reconstructions stay (another use, another block): subtracting them is cheaper than one more decode
// DIFFERENCE: a reconstruction stays (another use, another block): decoding the difference of codes would add work
// DIFFERENCE: the codes have different forms (k slots and compressed rows)
// DIFFERENCE: the codes have different static row counts
// DIFFERENCE: the reconstructions are multiplied by different values: they do not cancel
// DIFFERENCE: the reconstructions are multiplied by different values: they do not cancel
// DIFFERENCE: no two reconstructions in it that differ in the sign
// DIFFERENCE: the reconstruction that would go is what a steer or a skip adds to
// DIFFERENCE: no two reconstructions in it that differ in the sign
// DIFFERENCE: both reconstructions stay (another use, another block): subtracting them is cheaper than one more decode
