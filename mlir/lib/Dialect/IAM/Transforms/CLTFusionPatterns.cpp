//===- CLTFusionPatterns.cpp - rewrites of iam-clt-fusion ---------------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

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

/// activation(encode(x)) -> encode_sparse activation x
///   when nothing else reads the pre-activations.
template <typename ActivationOp> struct FuseActivationIntoEncode : OpRewritePattern<ActivationOp> {
  FuseActivationIntoEncode(MLIRContext *context, CLTFusionCounts &counts)
      : OpRewritePattern<ActivationOp>(context), counts(counts) {}

  LogicalResult matchAndRewrite(ActivationOp op, PatternRewriter &rewriter) const override {
    auto encode = op.getPre().template getDefiningOp<CLTEncodeOp>();
    if (!encode)
      return rewriter.notifyMatchFailure(op, "the pre-activations are not made by iam.clt.encode");
    if (!encode->hasOneUse())
      return rewriter.notifyMatchFailure(
          op, "the pre-activations have another use: fusing would compute them twice");
    if (encode->getBlock() != op->getBlock())
      return rewriter.notifyMatchFailure(
          op,
          "the pre-activations are made in another block: fusing could move an encode into a loop");

    Activation activation;
    Value threshold;
    IntegerAttr k;
    if constexpr (std::is_same_v<ActivationOp, CLTTopKOp>) {
      activation = Activation::TopK;
      k = op.getKAttr();
    } else if constexpr (std::is_same_v<ActivationOp, CLTAbsTopKOp>) {
      activation = Activation::AbsTopK;
      k = op.getKAttr();
    } else if constexpr (std::is_same_v<ActivationOp, CLTGroupMaxOp>) {
      activation = Activation::GroupMax;
      k = op.getKAttr();
    } else if constexpr (std::is_same_v<ActivationOp, CLTJumpReLUOp>) {
      activation = Activation::JumpReLU;
      threshold = op.getThreshold();
    } else {
      activation = Activation::ReLU;
    }
    rewriter.replaceOpWithNewOp<CLTEncodeSparseOp>(op, op.getType(), activation, encode.getX(),
                                                   encode.getWEnc(), encode.getBEnc(),
                                                   encode.getBDec(), threshold, k,
                                                   /*only=*/DenseI64ArrayAttr());
    rewriter.eraseOp(encode);
    ++counts.encodesFused;
    return success();
  }

  CLTFusionCounts &counts;
};

/// batch_topk and gate have no fused form; say so where someone looks for the reason.
struct RefuseBatchTopK : OpRewritePattern<CLTBatchTopKOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(CLTBatchTopKOp op, PatternRewriter &rewriter) const override {
    return rewriter.notifyMatchFailure(
        op, "batch_topk selects over all rows: the pre-activations of the whole batch are needed");
  }
};
struct RefuseGate : OpRewritePattern<CLTGateOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(CLTGateOp op, PatternRewriter &rewriter) const override {
    return rewriter.notifyMatchFailure(op,
                                       "gate reads two encodes: there is no fused kernel for it");
  }
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

//===----------------------------------------------------------------------===//
// 3. differences of reconstructions
//===----------------------------------------------------------------------===//

/// The two terms of an addition: arith.addf, or iam.clt.residual without a skip weight.
std::optional<std::pair<Value, Value>> termsOfSum(Value value) {
  if (auto add = value.getDefiningOp<arith::AddFOp>())
    return std::make_pair(add.getLhs(), add.getRhs());
  if (auto residual = value.getDefiningOp<CLTResidualOp>())
    if (!residual.getWSkip() && residual.getX().getType() == residual.getY().getType() &&
        residual.getY().getType() == residual.getZ().getType())
      return std::make_pair(residual.getY(), residual.getX());
  return std::nullopt;
}

/// `rest + decode(plus) - decode(minus)` below `root`. `rest` may be null. `middle` is the op
/// between `root` and the decode that it holds, or null.
struct Difference {
  Value rest;
  CLTDecodeOp plus, minus;
  Operation *middle = nullptr;
  bool plusIsInMiddle = false;

  /// True if nothing but `root` needs the decode, so that it dies with the rewrite. A decode in
  /// another block is not counted: around a loop with `root` in it, it runs once where `root` runs
  /// often.
  bool dies(CLTDecodeOp decode, Operation *root) const {
    bool inMiddle = middle && (decode == plus) == plusIsInMiddle;
    return decode->hasOneUse() && decode->getBlock() == root->getBlock() &&
           (!inMiddle || middle->hasOneUse());
  }
};

/// One decode and the other term of a sum, both ways round.
template <typename Callback> LogicalResult forEachDecodeInSum(Value sum, Callback callback) {
  auto terms = termsOfSum(sum);
  if (!terms)
    return failure();
  for (std::pair<Value, Value> order : {*terms, std::make_pair(terms->second, terms->first)})
    if (auto decode = order.first.getDefiningOp<CLTDecodeOp>())
      if (succeeded(callback(decode, order.second)))
        return success();
  return failure();
}

LogicalResult sameDecoder(CLTDecodeOp a, CLTDecodeOp b, Operation *root,
                          PatternRewriter &rewriter) {
  if (a == b)
    return rewriter.notifyMatchFailure(root, "both reconstructions are the same value");
  if (a.getWDec() != b.getWDec())
    return rewriter.notifyMatchFailure(root, "the reconstructions have different decoder weights");
  if (a.getBDec() != b.getBDec())
    return rewriter.notifyMatchFailure(
        root, "the reconstructions have different biases: they do not cancel");
  return success();
}

/// The edits that lead from `f` to `g`, the last first; none if `g` is not made from `f` by edits.
SmallVector<CLTEditOp> editsBetween(Value f, Value g) {
  SmallVector<CLTEditOp> edits;
  while (g != f) {
    auto edit = g.getDefiningOp<CLTEditOp>();
    if (!edit || edit.getFeatures().empty()) // an edit of nothing folds away
      return {};
    edits.push_back(edit);
    g = edit.getF();
  }
  return edits;
}

class DifferenceRewriter {
public:
  DifferenceRewriter(CLTFusionCounts &counts) : counts(counts) {}

protected:
  /// Replaces `root` by `rest + decode(difference)`, or says why not.
  LogicalResult rewrite(Operation *root, const Difference &diff, PatternRewriter &rewriter) const {
    CLTDecodeOp plus = diff.plus, minus = diff.minus;
    if (failed(sameDecoder(plus, minus, root, rewriter)))
      return failure();
    bool plusDies = diff.dies(plus, root), minusDies = diff.dies(minus, root);
    auto f = cast<FeaturesType>(minus.getF().getType()),
         g = cast<FeaturesType>(plus.getF().getType());
    Type type = root->getResult(0).getType();
    Location loc = rewriter.getFusedLoc({plus.getLoc(), minus.getLoc()});
    auto decode = [&](Value codes) -> Value {
      return CLTDecodeOp::create(rewriter, loc, type, codes, plus.getWDec(), Value());
    };

    // edit(f) - f has the edited features only: one decode of n rows instead of one of k.
    bool negate = false;
    SmallVector<CLTEditOp> edits = editsBetween(minus.getF(), plus.getF());
    if (edits.empty() && plus.getF() != minus.getF()) {
      edits = editsBetween(plus.getF(), minus.getF());
      negate = !edits.empty();
    }
    Value result;
    if (!edits.empty()) {
      if (!plusDies && !minusDies)
        return rewriter.notifyMatchFailure(
            root, "both reconstructions stay (another use, another block): subtracting them is "
                  "cheaper than one more decode");
      for (CLTEditOp edit : llvm::reverse(edits)) {
        auto in = cast<FeaturesType>(edit.getF().getType());
        Value delta = CLTDeltaOp::create(rewriter, edit.getLoc(),
                                         in.withK(edit.getFeatures().size()), edit.getMode(),
                                         edit.getF(), edit.getFeatures(), edit.getA(), edit.getB());
        Value term = decode(delta);
        result =
            result ? Value(arith::AddFOp::create(rewriter, root->getLoc(), result, term)) : term;
      }
      ++counts.deltas;
    } else {
      if (!plusDies || !minusDies)
        return rewriter.notifyMatchFailure(root,
                                           "a reconstruction stays (another use, another block): "
                                           "decoding the difference of codes would add work");
      if (f.isKForm() != g.isKForm())
        return rewriter.notifyMatchFailure(
            root, "the codes have different forms (k slots and compressed rows)");
      if (f.getRows() != g.getRows())
        return rewriter.notifyMatchFailure(root, "the codes have different static row counts");
      FeaturesType subType = g.isKForm() ? g.withK(*g.getK() + *f.getK()) : g;
      result = decode(CLTSubOp::create(rewriter, loc, subType, plus.getF(), minus.getF()));
      ++counts.subs;
    }

    if (negate) {
      // decode(f) - decode(edit(f)) = -decode(delta)
      if (diff.rest)
        rewriter.replaceOpWithNewOp<arith::SubFOp>(root, diff.rest, result);
      else
        rewriter.replaceOpWithNewOp<arith::NegFOp>(root, result);
    } else if (diff.rest) {
      rewriter.replaceOpWithNewOp<arith::AddFOp>(root, diff.rest, result);
    } else {
      rewriter.replaceOp(root, result);
    }
    return success();
  }

  CLTFusionCounts &counts;
};

/// decode(g) - decode(f)       -> decode(delta)
/// (x + decode(g)) - decode(f) -> x + decode(delta)
struct DifferenceAtSub : OpRewritePattern<arith::SubFOp>, DifferenceRewriter {
  DifferenceAtSub(MLIRContext *context, CLTFusionCounts &counts)
      : OpRewritePattern(context), DifferenceRewriter(counts) {}

  LogicalResult matchAndRewrite(arith::SubFOp op, PatternRewriter &rewriter) const override {
    auto minus = op.getRhs().getDefiningOp<CLTDecodeOp>();
    if (!minus)
      return rewriter.notifyMatchFailure(op, "what is subtracted is not a reconstruction");
    if (auto plus = op.getLhs().getDefiningOp<CLTDecodeOp>())
      return rewrite(op, {Value(), plus, minus}, rewriter);
    LogicalResult done = forEachDecodeInSum(op.getLhs(), [&](CLTDecodeOp plus, Value rest) {
      return rewrite(op, {rest, plus, minus, op.getLhs().getDefiningOp(), /*plusIsInMiddle=*/true},
                     rewriter);
    });
    if (failed(done))
      return rewriter.notifyMatchFailure(op,
                                         "no reconstruction to subtract from that can be merged");
    return success();
  }
};

/// (x - decode(f)) + decode(g) -> x + decode(delta), terms in any order
template <typename SumOp> struct DifferenceAtSum : OpRewritePattern<SumOp>, DifferenceRewriter {
  DifferenceAtSum(MLIRContext *context, CLTFusionCounts &counts)
      : OpRewritePattern<SumOp>(context), DifferenceRewriter(counts) {}

  LogicalResult matchAndRewrite(SumOp op, PatternRewriter &rewriter) const override {
    LogicalResult done =
        forEachDecodeInSum(op->getResult(0), [&](CLTDecodeOp plus, Value other) -> LogicalResult {
          auto error = other.getDefiningOp<arith::SubFOp>();
          if (!error)
            return rewriter.notifyMatchFailure(op, "the other term is not a difference");
          auto minus = error.getRhs().getDefiningOp<CLTDecodeOp>();
          if (!minus)
            return rewriter.notifyMatchFailure(op,
                                               "the other term does not subtract a reconstruction");
          return rewrite(op, {error.getLhs(), plus, minus, error, /*plusIsInMiddle=*/false},
                         rewriter);
        });
    if (failed(done))
      return rewriter.notifyMatchFailure(
          op, "not a sum of a reconstruction and an error term that can be merged");
    return success();
  }
};
} // namespace

void iam::populateCLTFusionPatterns(RewritePatternSet &patterns, CLTFusionCounts &counts) {
  MLIRContext *context = patterns.getContext();
  patterns.add<FuseActivationIntoEncode<CLTTopKOp>, FuseActivationIntoEncode<CLTAbsTopKOp>,
               FuseActivationIntoEncode<CLTGroupMaxOp>, FuseActivationIntoEncode<CLTJumpReLUOp>,
               FuseActivationIntoEncode<CLTReLUOp>, SparsifyDenseDecode, DifferenceAtSub,
               DifferenceAtSum<arith::AddFOp>, DifferenceAtSum<CLTResidualOp>>(context, counts);
  patterns.add<RefuseBatchTopK, RefuseGate>(context);
}
