// The tool tells what it can do.
// RUN: iam-opt --help | FileCheck %s
// RUN: iam-opt --version | FileCheck %s --check-prefix=VERSION
// RUN: iam-opt --show-dialects | FileCheck %s --check-prefix=DIALECTS

// CHECK: --iam-clt-fusion
// CHECK: --iam-demand-driven-encode
// CHECK: --iam-prepare-entry-points
// CHECK: --iam-prepare-for-llvm
// CHECK: --iam-reuse-operands
// CHECK: --iam-simplify-deallocations
// CHECK: --iam-to-linalg
// CHECK: --iam-to-runtime
// CHECK: Pass Pipelines:
// CHECK-DAG: --iam-fuse
// CHECK-DAG: --iam-loops-to-llvm
// CHECK-DAG: --iam-to-llvm
// CHECK-DAG: --iam-to-loops

// VERSION: LLVM version 22.1

// DIALECTS-DAG: iam
// DIALECTS-DAG: func
// DIALECTS-DAG: linalg
