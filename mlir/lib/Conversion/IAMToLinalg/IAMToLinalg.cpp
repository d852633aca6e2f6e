//===- IAMToLinalg.cpp - elementwise iam ops to arith and linalg --------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "iam/Conversion/Passes.h"
#include "iam/Dialect/IAM/IR/IAMOps.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"

namespace iam {
#define GEN_PASS_DEF_IAMTOLINALGPASS
#include "iam/Conversion/Passes.h.inc"
} // namespace iam

using namespace mlir;
using namespace iam;

namespace {
/// residual(y, x) -> y + x, without a skip weight
struct ResidualToAdd : OpRewritePattern<CLTResidualOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(CLTResidualOp op, PatternRewriter &rewriter) const override {
    if (op.getWSkip())
      return rewriter.notifyMatchFailure(
          op, "a skip weight needs a matrix product: the runtime does it");
    if (op.getX().getType() != op.getY().getType() || op.getX().getType() != op.getZ().getType())
      return rewriter.notifyMatchFailure(op, "operands have different static row counts");
    rewriter.replaceOpWithNewOp<arith::AddFOp>(op, op.getY(), op.getX());
    return success();
  }
};

/// steer add h, v, s -> h + s * v
struct SteerAddToLinalg : OpRewritePattern<PolicySteerOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(PolicySteerOp op, PatternRewriter &rewriter) const override {
    if (op.getMode() != SteerMode::Add)
      return rewriter.notifyMatchFailure(op,
                                         "needs a dot product of each row: the runtime does it");
    Location loc = op.getLoc();
    Value empty = tensor::EmptyOp::create(
        rewriter, loc, tensor::getMixedSizes(rewriter, loc, op.getH()), rewriter.getF32Type());
    AffineMap all = rewriter.getMultiDimIdentityMap(2);
    AffineMap column = AffineMap::get(2, 0, rewriter.getAffineDimExpr(1));
    AffineMap scalar = AffineMap::get(2, 0, rewriter.getContext());
    SmallVector<utils::IteratorType> parallel(2, utils::IteratorType::parallel);
    auto generic = linalg::GenericOp::create(
        rewriter, loc, TypeRange{op.getType()}, ValueRange{op.getH(), op.getV(), op.getStrength()},
        ValueRange{empty}, ArrayRef<AffineMap>{all, column, scalar, all}, parallel,
        [](OpBuilder &builder, Location loc, ValueRange args) {
          Value dose = arith::MulFOp::create(builder, loc, args[2], args[1]);
          Value sum = arith::AddFOp::create(builder, loc, args[0], dose);
          linalg::YieldOp::create(builder, loc, sum);
        });
    rewriter.replaceOp(op, generic.getResults());
    return success();
  }
};

/// splat(s) -> fill(s): the form that elementwise fusion knows
struct SplatToFill : OpRewritePattern<tensor::SplatOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(tensor::SplatOp op, PatternRewriter &rewriter) const override {
    Value empty =
        tensor::EmptyOp::create(rewriter, op.getLoc(), op.getType(), op.getDynamicSizes());
    rewriter.replaceOpWithNewOp<linalg::FillOp>(op, ValueRange{op.getInput()}, ValueRange{empty});
    return success();
  }
};

struct IAMToLinalgPass : iam::impl::IAMToLinalgPassBase<IAMToLinalgPass> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<ResidualToAdd, SteerAddToLinalg, SplatToFill>(&getContext());
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
