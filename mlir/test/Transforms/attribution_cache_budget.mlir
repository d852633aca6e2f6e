// iam-attribution-cache under a budget: what saves fewer blocks a byte is computed again.
// RUN: iam-opt %s --iam-attribution-cache 2>/dev/null | FileCheck %s --check-prefixes=CHECK,ALL
// RUN: iam-opt %s --iam-attribution-cache='budget=1024 assumed-rows=64' 2>/dev/null | FileCheck %s --check-prefixes=CHECK,SOME
// RUN: iam-opt %s --iam-attribution-cache='budget=1023 assumed-rows=64' 2>/dev/null | FileCheck %s --check-prefixes=CHECK,NONE
// RUN: iam-opt %s --iam-attribution-cache='budget=1024 assumed-rows=32' 2>/dev/null | FileCheck %s --check-prefixes=CHECK,ALL
// RUN: iam-opt %s --iam-attribution-cache='budget=1023' -o /dev/null 2>&1 | FileCheck %s --check-prefix=REMARK
// RUN: not iam-opt %s --iam-attribution-cache='budget=-1' 2>&1 | FileCheck %s --check-prefix=NEGATIVE

// REMARK: remark: computes resid_post.{{.*}} again: keeping it takes 1024 bytes, and the budget is 1023
// NEGATIVE: error: iam-attribution-cache: expected budget >= 0 and assumed-rows >= 1, got -1 and 64

// Two activations, each of 1,024 bytes for 64 rows. The later one saves 9 blocks from the tokens, the first one 2.
// CHECK-LABEL: func.func @two_prefixes(
// ALL-NEXT: %[[A:.*]] = iam.model.run %{{.*}} to "resid_post.1"
// ALL-NEXT: %[[N:.*]] = arith.negf %[[A]]
// ALL-NEXT: %[[B:.*]] = iam.model.run %{{.*}}, %[[A]] from "resid_post.1" to "resid_post.8"
// ALL-NEXT: %[[M:.*]] = arith.negf %[[B]]
// ALL-NEXT: %[[C:.*]] = iam.model.run %{{.*}}, %[[B]] from "resid_post.8" to "resid_post.9"
// ALL-NEXT: %[[D:.*]] = iam.model.run %{{.*}}, %[[A]] from "resid_post.1" to "mlp_out.4"
// SOME: iam.model.run %{{.*}} to "resid_post.1"
// SOME: iam.model.run %{{.*}} to "resid_post.8"
// SOME: iam.model.run %{{.*}} from "resid_post.8" to "resid_post.9"
// SOME: iam.model.run %{{.*}} to "mlp_out.4"
// NONE: iam.model.run %{{.*}} to "resid_post.1"
// NONE: iam.model.run %{{.*}} to "resid_post.8"
// NONE: iam.model.run %{{.*}} to "resid_post.9"
// NONE: iam.model.run %{{.*}} to "mlp_out.4"
func.func @two_prefixes(%m: !iam.model) -> (tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>) {
  %a = iam.model.run %m to "resid_post.1" : (!iam.model) -> tensor<?x4xf32>
  %n = arith.negf %a : tensor<?x4xf32>
  %b = iam.model.run %m to "resid_post.8" : (!iam.model) -> tensor<?x4xf32>
  %o = arith.negf %b : tensor<?x4xf32>
  %c = iam.model.run %m to "resid_post.9" : (!iam.model) -> tensor<?x4xf32>
  %d = iam.model.run %m to "mlp_out.4" : (!iam.model) -> tensor<?x4xf32>
  return %n, %o, %c, %d : tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>
}

// What the program keeps to its end costs nothing.
// CHECK-LABEL: func.func @kept_anyway(
// CHECK-NEXT: %[[A:.*]] = iam.model.run %{{.*}} to "resid_post.1"
// CHECK-NEXT: iam.model.run %{{.*}}, %[[A]] from "resid_post.1" to "resid_post.8"
func.func @kept_anyway(%m: !iam.model) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %a = iam.model.run %m to "resid_post.1" : (!iam.model) -> tensor<?x4xf32>
  %b = iam.model.run %m to "resid_post.8" : (!iam.model) -> tensor<?x4xf32>
  return %a, %b : tensor<?x4xf32>, tensor<?x4xf32>
}
