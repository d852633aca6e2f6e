//===- IAMToLinalg.cpp - elementwise iam ops to arith and linalg --------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "iam/Conversion/Passes.h"
#include "iam/Dialect/IAM/IR/IAMOps.h"
#include "iam/Dialect/IAM/IR/Quadrature.h"
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

/// path x, baseline -> baseline + node * (x - baseline) over the nodes, and constant weights
struct PathToLinalg : OpRewritePattern<AttrPathOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(AttrPathOp op, PatternRewriter &rewriter) const override {
    Location loc = op.getLoc();
    auto steps = static_cast<int64_t>(op.getSteps());
    SmallVector<float> nodes(steps), weights(steps);
    quadrature(op.getRule(), nodes, weights);
    auto vector = RankedTensorType::get(steps, rewriter.getF32Type());
    auto constant = [&](ArrayRef<float> numbers) -> Value {
      return arith::ConstantOp::create(rewriter, loc, DenseElementsAttr::get(vector, numbers));
    };
    auto x = cast<RankedTensorType>(op.getX().getType());
    SmallVector<OpFoldResult> sizes = tensor::getMixedSizes(rewriter, loc, op.getX());
    sizes.insert(sizes.begin(), rewriter.getIndexAttr(steps));
    Value empty = tensor::EmptyOp::create(rewriter, loc, sizes, rewriter.getF32Type());
    unsigned rank = x.getRank() + 1;
    AffineMap all = rewriter.getMultiDimIdentityMap(rank), point = all.dropResult(0);
    AffineMap node = AffineMap::get(rank, 0, rewriter.getAffineDimExpr(0));
    SmallVector<utils::IteratorType> parallel(rank, utils::IteratorType::parallel);
    auto generic = linalg::GenericOp::create(
        rewriter, loc, TypeRange{empty.getType()},
        ValueRange{constant(nodes), op.getX(), op.getBaseline()}, ValueRange{empty},
        ArrayRef<AffineMap>{node, point, point, all}, parallel,
        [](OpBuilder &builder, Location loc, ValueRange args) {
          Value direction = arith::SubFOp::create(builder, loc, args[1], args[2]);
          Value along = arith::MulFOp::create(builder, loc, args[0], direction);
          Value sum = arith::AddFOp::create(builder, loc, args[2], along);
          linalg::YieldOp::create(builder, loc, sum);
        });
    auto as = [&](Value value, Type type) -> Value {
      return value.getType() == type ? value : tensor::CastOp::create(rewriter, loc, type, value);
    };
    rewriter.replaceOp(op, {as(generic.getResult(0), op.getPoints().getType()),
                            as(constant(weights), op.getWeights().getType())});
    return success();
  }
};

/// A slice of one entry along an axis needs no stride there: LLVM stops at views whose strides tell nothing.
template <typename SliceOp> struct NoStrideAlongOne : OpRewritePattern<SliceOp> {
  using OpRewritePattern<SliceOp>::OpRewritePattern;
  LogicalResult matchAndRewrite(SliceOp op, PatternRewriter &rewriter) const override {
    SmallVector<int64_t> strides(op.getStaticStrides());
    if (llvm::any_of(strides, ShapedType::isDynamic))
      return rewriter.notifyMatchFailure(op, "its strides are not known");
    bool changed = false;
    for (auto [stride, size] : llvm::zip_equal(strides, op.getStaticSizes()))
      if (size == 1 && stride != 1) {
        stride = 1;
        changed = true;
      }
    if (!changed)
      return rewriter.notifyMatchFailure(op, "no stride along an axis of one entry");
    rewriter.modifyOpInPlace(op, [&] { op.setStaticStrides(strides); });
    return success();
  }
};

struct IAMToLinalgPass : iam::impl::IAMToLinalgPassBase<IAMToLinalgPass> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    patterns.add<ResidualToAdd, SteerAddToLinalg, SplatToFill, PathToLinalg,
                 NoStrideAlongOne<tensor::ExtractSliceOp>, NoStrideAlongOne<tensor::InsertSliceOp>>(
        &getContext());
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
