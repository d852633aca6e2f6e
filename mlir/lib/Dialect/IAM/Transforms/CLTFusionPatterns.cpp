//===- CLTFusionPatterns.cpp - encodes and dense decodes of iam-clt-fusion ----===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "CLTFusionPatterns.h"

#include "iam/Dialect/IAM/IR/IAMOps.h"
#include "iam/Dialect/IAM/Transforms/Passes.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/IR/Matchers.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/IR/TypeUtilities.h"

using namespace mlir;
using namespace iam;

namespace {
//===----------------------------------------------------------------------===//
// 1. encode + activation
//===----------------------------------------------------------------------===//

template <typename ActivationOp> constexpr Activation kActivation = Activation::ReLU;
template <> constexpr Activation kActivation<CLTTopKOp> = Activation::TopK;
template <> constexpr Activation kActivation<CLTAbsTopKOp> = Activation::AbsTopK;
template <> constexpr Activation kActivation<CLTGroupMaxOp> = Activation::GroupMax;
template <> constexpr Activation kActivation<CLTBatchTopKOp> = Activation::BatchTopK;
template <> constexpr Activation kActivation<CLTJumpReLUOp> = Activation::JumpReLU;

/// Why the pre-activations `pre` of `op` cannot be fused with their encode; empty if they can.
StringRef whyNotFused(CLTEncodeOp encode, Operation *op) {
  if (!encode)
    return "the pre-activations are not made by iam.clt.encode";
  if (!llvm::all_of(encode->getUsers(), [&](Operation *user) { return user == op; }))
    return "the pre-activations have another use: fusing would compute them twice";
  if (encode->getBlock() != op->getBlock())
    return "the pre-activations are made in another block: fusing could move an encode into a "
           "loop";
  return {};
}

/// activation(encode(x)) -> encode_sparse activation x
///   when nothing else reads the pre-activations.
template <typename ActivationOp> struct FuseActivationIntoEncode : OpRewritePattern<ActivationOp> {
  FuseActivationIntoEncode(MLIRContext *context, CLTFusionCounts &counts)
      : OpRewritePattern<ActivationOp>(context), counts(counts) {}

  LogicalResult matchAndRewrite(ActivationOp op, PatternRewriter &rewriter) const override {
    auto encode = op.getPre().template getDefiningOp<CLTEncodeOp>();
    if (StringRef why = whyNotFused(encode, op); !why.empty())
      return rewriter.notifyMatchFailure(op, why);

    Value threshold;
    IntegerAttr k;
    if constexpr (std::is_same_v<ActivationOp, CLTJumpReLUOp>)
      threshold = op.getThreshold();
    else if constexpr (!std::is_same_v<ActivationOp, CLTReLUOp>)
      k = op.getKAttr();
    rewriter.replaceOpWithNewOp<CLTEncodeSparseOp>(
        op, op.getType(), kActivation<ActivationOp>, encode.getX(), encode.getWEnc(),
        encode.getBEnc(), encode.getBDec(), threshold, /*W_mag=*/Value(), /*b_mag=*/Value(), k,
        /*only=*/DenseI64ArrayAttr());
    rewriter.eraseOp(encode);
    ++counts.encodesFused;
    return success();
  }

  CLTFusionCounts &counts;
};

/// gate(encode(x, W, b), encode(x, V, c)) -> encode_sparse gate x, W, b magnitude V, c
///   when nothing else reads the pre-activations. What is subtracted from x is the same, too.
struct FuseGateIntoEncodes : OpRewritePattern<CLTGateOp> {
  FuseGateIntoEncodes(MLIRContext *context, CLTFusionCounts &counts)
      : OpRewritePattern(context), counts(counts) {}

  LogicalResult matchAndRewrite(CLTGateOp op, PatternRewriter &rewriter) const override {
    auto gate = op.getGatePre().getDefiningOp<CLTEncodeOp>();
    auto magnitude = op.getMagnitudePre().getDefiningOp<CLTEncodeOp>();
    for (CLTEncodeOp encode : {gate, magnitude})
      if (StringRef why = whyNotFused(encode, op); !why.empty())
        return rewriter.notifyMatchFailure(op, why);
    if (gate.getX() != magnitude.getX() || gate.getBDec() != magnitude.getBDec())
      return rewriter.notifyMatchFailure(
          op, "gate and magnitude encode different activations: there is no fused kernel for it");
    rewriter.replaceOpWithNewOp<CLTEncodeSparseOp>(
        op, op.getType(), Activation::Gate, gate.getX(), gate.getWEnc(), gate.getBEnc(),
        gate.getBDec(), /*threshold=*/Value(), magnitude.getWEnc(), magnitude.getBEnc(),
        /*k=*/IntegerAttr(), /*only=*/DenseI64ArrayAttr());
    if (gate != magnitude)
      rewriter.eraseOp(gate);
    rewriter.eraseOp(magnitude);
    ++counts.encodesFused;
    return success();
  }

  CLTFusionCounts &counts;
};

//===----------------------------------------------------------------------===//
// 2. dense decodes
//===----------------------------------------------------------------------===//

/// matmul(densify(f), W) into zeros -> decode(f, W)
///   products with the zeros of densify(f) contribute nothing unless W is not finite.
struct SparsifyDenseDecode : OpRewritePattern<linalg::MatmulOp> {
  SparsifyDenseDecode(MLIRContext *context, CLTFusionCounts &counts)
      : OpRewritePattern(context), counts(counts) {}

  LogicalResult matchAndRewrite(linalg::MatmulOp op, PatternRewriter &rewriter) const override {
    auto densify = op.getInputs()[0].getDefiningOp<CLTDensifyOp>();
    if (!densify)
      return rewriter.notifyMatchFailure(op, "the left operand is not made by iam.clt.densify");
    if (op->getNumResults() != 1 || op.hasUserDefinedMaps())
      return rewriter.notifyMatchFailure(op, "not a plain product of tensors");
    if (!getElementTypeOrSelf(op.getInputs()[1]).isF32() ||
        !getElementTypeOrSelf(op->getResult(0)).isF32())
      return rewriter.notifyMatchFailure(op, "the product has another element type than f32");
    auto fill = op.getOutputs()[0].getDefiningOp<linalg::FillOp>();
    if (!fill || !matchPattern(fill.getInputs()[0], m_AnyZeroFloat()))
      return rewriter.notifyMatchFailure(op,
                                         "the product accumulates into something else than zeros");
    rewriter.replaceOpWithNewOp<CLTDecodeOp>(op, op->getResultTypes()[0], densify.getF(),
                                             op.getInputs()[1], Value());
    ++counts.denseDecodes;
    return success();
  }

  CLTFusionCounts &counts;
};

} // namespace

void iam::populateCLTFusionPatterns(RewritePatternSet &patterns, CLTFusionCounts &counts) {
  patterns.add<FuseActivationIntoEncode<CLTTopKOp>, FuseActivationIntoEncode<CLTAbsTopKOp>,
               FuseActivationIntoEncode<CLTGroupMaxOp>, FuseActivationIntoEncode<CLTBatchTopKOp>,
               FuseActivationIntoEncode<CLTJumpReLUOp>, FuseActivationIntoEncode<CLTReLUOp>,
               FuseGateIntoEncodes, SparsifyDenseDecode>(patterns.getContext(), counts);
  detail::populateDifferencePatterns(patterns, counts);
}
