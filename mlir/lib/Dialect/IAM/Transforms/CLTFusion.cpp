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
/// An op, and what of the dialect is in it: "arith.addf of iam.clt.decode of iam.clt.delta".
std::string named(Operation *op) {
  std::string text = op->getName().getStringRef().str();
  bool isCodes = isa<iam::CLTDecodeOp>(op);
  for (Value operand : op->getOperands())
    if (Operation *made = operand.getDefiningOp();
        made && (isCodes ? isa<iam::CLTDeltaOp, iam::CLTSubOp>(made) : isa<iam::CLTDecodeOp>(made)))
      return text + " of " + named(made);
  return text;
}

/// Says at each op that is replaced what it became.
struct Remarks : RewriterBase::Listener {
  void notifyOperationReplaced(Operation *op, Operation *made) override {
    notifyOperationReplaced(op, ValueRange(made->getResults()));
  }
  void notifyOperationReplaced(Operation *op, ValueRange values) override {
    Operation *made = values.empty() ? nullptr : values.front().getDefiningOp();
    if (!made)
      return;
    std::string before = named(op), after = named(made);
    if (before != after &&
        (StringRef(before).contains("iam.") || StringRef(after).contains("iam.")))
      op->emitRemark() << "became " << after;
  }
};

struct CLTFusionPass : iam::impl::CLTFusionPassBase<CLTFusionPass> {
  void runOnOperation() override {
    iam::CLTFusionCounts counts;
    RewritePatternSet patterns(&getContext());
    iam::populateCLTFusionPatterns(patterns, counts);
    Remarks remarks;
    GreedyRewriteConfig config;
    config.setListener(&remarks);
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns), config)))
      return signalPassFailure();
    numEncodesFused += counts.encodesFused;
    numDenseDecodes += counts.denseDecodes;
    numDeltas += counts.deltas;
    numSubs += counts.subs;
  }
};
} // namespace
