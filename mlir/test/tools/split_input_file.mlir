// RUN: iam-opt %s --split-input-file --iam-clt-fusion | FileCheck %s
// One bad chunk does not hide the others.
// RUN: not iam-opt %S/Inputs/one_bad_chunk.txt --split-input-file 2>&1 | FileCheck %s --check-prefix=BAD
// BAD: one_bad_chunk.txt:3:8: error: 'iam.clt.topk' op expected k
// BAD: func.func private @good

// CHECK: func.func private @first
func.func private @first()

// -----

// CHECK: // -----
// CHECK: func.func private @second
func.func private @second()
