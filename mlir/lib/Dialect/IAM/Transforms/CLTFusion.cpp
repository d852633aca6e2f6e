//===- CLTFusion.cpp - iam-clt-fusion -----------------------------------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The pass: its contract is in Passes.td, its rewrites in CLTFusionPatterns.cpp.
//
//===----------------------------------------------------------------------===//

#include "iam/Dialect/IAM/IR/IAMOps.h"
#include "iam/Dialect/IAM/Transforms/Passes.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"

namespace iam {
#define GEN_PASS_DEF_CLTFUSIONPASS
#include "iam/Dialect/IAM/Transforms/Passes.h.inc"
} // namespace iam

using namespace mlir;

namespace {
struct CLTFusionPass : iam::impl::CLTFusionPassBase<CLTFusionPass> {
  void runOnOperation() override {
    iam::CLTFusionCounts counts;
    RewritePatternSet patterns(&getContext());
    iam::populateCLTFusionPatterns(patterns, counts);
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      return signalPassFailure();
    numEncodesFused += counts.encodesFused;
    numDenseDecodes += counts.denseDecodes;
    numDeltas += counts.deltas;
    numSubs += counts.subs;
  }
};
} // namespace
