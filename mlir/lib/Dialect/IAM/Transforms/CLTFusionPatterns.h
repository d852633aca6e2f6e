//===- CLTFusionPatterns.h - families of rewrites ------------------*- C++ -*-===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_LIB_DIALECT_IAM_TRANSFORMS_CLTFUSIONPATTERNS_H
#define IAM_LIB_DIALECT_IAM_TRANSFORMS_CLTFUSIONPATTERNS_H

#include "iam/Dialect/IAM/Transforms/Passes.h"

namespace iam::detail {
/// Family 3 of `iam-clt-fusion`: differences of reconstructions.
void populateDifferencePatterns(mlir::RewritePatternSet &patterns, CLTFusionCounts &counts);
} // namespace iam::detail

#endif // IAM_LIB_DIALECT_IAM_TRANSFORMS_CLTFUSIONPATTERNS_H
