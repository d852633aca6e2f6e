//===- Passes.h - transformations of the iam dialect ---------------*- C++ -*-===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_DIALECT_IAM_TRANSFORMS_PASSES_H
#define IAM_DIALECT_IAM_TRANSFORMS_PASSES_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"
#include <cstdint>
#include <memory>

namespace mlir {
class RewritePatternSet;
class RewriterBase;
} // namespace mlir

namespace iam {
#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "iam/Dialect/IAM/Transforms/Passes.h.inc"

/// What a run of the fusion patterns did.
struct CLTFusionCounts {
  int64_t encodesFused = 0;
  int64_t denseDecodes = 0;
  int64_t deltas = 0;
  int64_t subs = 0;
};

/// The patterns of `iam-clt-fusion`. `counts` must outlive the pattern set.
void populateCLTFusionPatterns(mlir::RewritePatternSet &patterns, CLTFusionCounts &counts);

/// What a run of the patterns of `iam-policy-projection` did.
struct PolicyProjectionCounts {
  int64_t sequences = 0;
  int64_t projections = 0;
};

/// The patterns of `iam-policy-projection`. `counts` must outlive the pattern set.
void populatePolicyProjectionPatterns(mlir::RewritePatternSet &patterns,
                                      PolicyProjectionCounts &counts);

/// What `iam-attribution-cache` did.
struct AttributionCacheCounts {
  int64_t loopsFused = 0;
  int64_t hoisted = 0;
  int64_t runsShared = 0;
  int64_t tokensMerged = 0;
  int64_t prefixes = 0;
  int64_t givenUp = 0;
  int64_t variants = 0;
};

/// The rewrites of `iam-attribution-cache`, one for each item of its description, in functions under
/// `root`. Between them, equal ops have to be made one (CSE).
void fuseAttributionLoops(mlir::Operation *root, mlir::RewriterBase &rewriter,
                          AttributionCacheCounts &counts);
void hoistAttributionOps(mlir::Operation *root, mlir::RewriterBase &rewriter,
                         AttributionCacheCounts &counts);
void shareDerivativeValues(mlir::Operation *root, mlir::RewriterBase &rewriter,
                           AttributionCacheCounts &counts);
void mergeTokens(mlir::Operation *root, mlir::RewriterBase &rewriter,
                 AttributionCacheCounts &counts);
/// `budget` in bytes, 0 for no limit.
void continuePrefixes(mlir::Operation *root, mlir::RewriterBase &rewriter, int64_t budget,
                      int64_t assumedRows, AttributionCacheCounts &counts);
void stackVariants(mlir::Operation *root, mlir::RewriterBase &rewriter, int64_t budget,
                   int64_t assumedRows, AttributionCacheCounts &counts);
} // namespace iam

#endif // IAM_DIALECT_IAM_TRANSFORMS_PASSES_H
