//===- AttributionCache.cpp - iam-attribution-cache ---------------------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The contract of the pass is in Passes.td, the rewrites in
// AttributionCachePatterns.cpp.
//
//===----------------------------------------------------------------------===//

#include "iam/Dialect/IAM/IR/IAMOps.h"
#include "iam/Dialect/IAM/Transforms/Passes.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Dominance.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/Transforms/CSE.h"

namespace iam {
#define GEN_PASS_DEF_ATTRIBUTIONCACHEPASS
#include "iam/Dialect/IAM/Transforms/Passes.h.inc"
} // namespace iam

using namespace mlir;
using namespace iam;

namespace {
struct AttributionCachePass : iam::impl::AttributionCachePassBase<AttributionCachePass> {
  using AttributionCachePassBase::AttributionCachePassBase;

  void runOnOperation() override {
    Operation *root = getOperation();
    if (budget < 0 || assumedRows < 1) {
      root->emitError("iam-attribution-cache: expected budget >= 0 and assumed-rows >= 1, got ")
          << budget.getValue() << " and " << assumedRows.getValue();
      return signalPassFailure();
    }
    bool hasSegments = root->walk([](Operation *op) {
                             return isa<ModelRunOp, ModelLinearizeOp>(op) ? WalkResult::interrupt()
                                                                          : WalkResult::advance();
                           })
                           .wasInterrupted();
    AttributionCacheCounts counts;
    IRRewriter rewriter(&getContext());
    auto shareEqual = [&] {
      DominanceInfo dominance(root);
      eliminateCommonSubExpressions(rewriter, dominance, root);
    };
    if (hasSegments) {
      shareEqual();
      fuseAttributionLoops(root, rewriter, counts);
      shareEqual();
    }
    hoistAttributionOps(root, rewriter, counts);
    if (counts.hoisted)
      shareEqual();
    if (hasSegments) {
      shareDerivativeValues(root, rewriter, counts);
      mergeTokens(root, rewriter, counts);
      continuePrefixes(root, rewriter, budget, assumedRows, counts);
      shareEqual();
      stackVariants(root, rewriter, budget, assumedRows, counts);
    }
    numLoopsFused += counts.loopsFused;
    numHoisted += counts.hoisted;
    numRunsShared += counts.runsShared;
    numTokensMerged += counts.tokensMerged;
    numPrefixes += counts.prefixes;
    numGivenUp += counts.givenUp;
    numVariants += counts.variants;
  }
};
} // namespace
