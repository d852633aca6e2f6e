//===- PolicyProjection.cpp - iam-policy-projection ----------------------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The pass: its contract is in Passes.td, its rewrites in PolicyProjectionPatterns.cpp.
//
//===----------------------------------------------------------------------===//

#include "iam/Dialect/IAM/IR/IAMOps.h"
#include "iam/Dialect/IAM/Transforms/Passes.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"

namespace iam {
#define GEN_PASS_DEF_POLICYPROJECTIONPASS
#include "iam/Dialect/IAM/Transforms/Passes.h.inc"
} // namespace iam

using namespace mlir;

namespace {
struct PolicyProjectionPass : iam::impl::PolicyProjectionPassBase<PolicyProjectionPass> {
  void runOnOperation() override {
    iam::PolicyProjectionCounts counts;
    RewritePatternSet patterns(&getContext());
    iam::populatePolicyProjectionPatterns(patterns, counts);
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      return signalPassFailure();
    numSequences += counts.sequences;
    numProjections += counts.projections;
  }
};
} // namespace
