//===- CLTFusionDifferences.cpp - reconstructions that cancel -----------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//
// Family 3 of iam-clt-fusion. A sum is read as its terms, each with a sign and with
// what it is multiplied by; two reconstructions that differ in the sign alone leave
// the reconstruction of a difference.
//
//===----------------------------------------------------------------------===//

#include "CLTFusionPatterns.h"

#include "iam/Dialect/IAM/IR/IAMOps.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/PatternMatch.h"
#include "llvm/ADT/SmallPtrSet.h"

using namespace mlir;
using namespace iam;

namespace {
/// A reconstruction below the root of a sum.
struct Term {
  bool isNegative;
  /// What it is multiplied with, or divided by (true), from the root on.
  SmallVector<std::pair<Value, bool>> factors;
  /// The uses that lead from the root to it.
  SmallVector<OpOperand *> path;

  CLTDecodeOp decode() const { return path.back()->get().getDefiningOp<CLTDecodeOp>(); }
  Operation *root() const { return path.front()->getOwner(); }

  /// True if nothing but the root needs the decode, so that it dies with the rewrite. A decode in
  /// another block is not counted: around a loop with the root in it, it runs once where the root
  /// runs often.
  bool dies() const {
    return decode()->getBlock() == root()->getBlock() &&
           llvm::all_of(path, [](OpOperand *use) { return use->get().hasOneUse(); });
  }

  /// True if a sum is left without it: what `steer` and a skip add to a reconstruction needs one.
  bool canGo() const {
    for (OpOperand *use : llvm::reverse(path)) {
      Operation *op = use->getOwner();
      if (auto residual = dyn_cast<CLTResidualOp>(op))
        return !residual.getWSkip() && residual.getX().getType() == residual.getZ().getType();
      if (isa<arith::AddFOp, arith::SubFOp>(op))
        return true;
      if (isa<PolicySteerOp>(op))
        return false;
    }
    return false;
  }
};

/// The reconstructions among the terms of the sum that an op makes.
class Terms {
public:
  explicit Terms(Operation *root) : block(root->getBlock()) { walk(root); }
  SmallVector<Term> found;

private:
  void walk(Operation *op) {
    if (isa<arith::AddFOp>(op)) {
      descend(op->getOpOperand(0));
      descend(op->getOpOperand(1));
    } else if (auto residual = dyn_cast<CLTResidualOp>(op)) {
      if (residual.getY().getType() != residual.getZ().getType())
        return;
      descend(residual.getYMutable());
      if (!residual.getWSkip() && residual.getX().getType() == residual.getZ().getType())
        descend(residual.getXMutable());
    } else if (isa<arith::SubFOp>(op)) {
      descend(op->getOpOperand(0));
      negated(op->getOpOperand(1));
    } else if (isa<arith::NegFOp>(op)) {
      negated(op->getOpOperand(0));
    } else if (isa<arith::MulFOp>(op)) {
      if (op->getOperand(0) == op->getOperand(1)) // a square is not linear in its root
        return;
      scaled(op->getOpOperand(0), op->getOperand(1), false);
      scaled(op->getOpOperand(1), op->getOperand(0), false);
    } else if (isa<arith::DivFOp>(op)) {
      scaled(op->getOpOperand(0), op->getOperand(1), true);
    } else if (auto steer = dyn_cast<PolicySteerOp>(op)) {
      if (steer.getMode() == SteerMode::Add &&
          steer.getH().getType() == steer.getResult().getType())
        descend(steer.getHMutable());
    }
  }

  void descend(OpOperand &use) {
    // The walk would be quadratic in the length of a sum.
    constexpr size_t kMostTerms = 32, kDeepest = 32;
    constexpr unsigned kMostSteps = 512;
    Operation *op = use.get().getDefiningOp();
    if (!op || found.size() == kMostTerms || path.size() == kDeepest || ++steps > kMostSteps)
      return;
    path.push_back(&use);
    if (isa<CLTDecodeOp>(op))
      found.push_back({isNegative, factors, path});
    else if (op->getBlock() == block)
      walk(op);
    path.pop_back();
  }

  void negated(OpOperand &use) {
    isNegative = !isNegative;
    descend(use);
    isNegative = !isNegative;
  }

  void scaled(OpOperand &use, Value factor, bool divides) {
    factors.emplace_back(factor, divides);
    descend(use);
    factors.pop_back();
  }

  Block *block;
  unsigned steps = 0;
  bool isNegative = false;
  SmallVector<std::pair<Value, bool>> factors;
  SmallVector<OpOperand *> path;
};

/// A sum once more, with one term replaced and one gone.
class Rebuilder {
public:
  Rebuilder(PatternRewriter &rewriter, const Term &replaced, Value by, const Term &gone)
      : rewriter(rewriter), replaced(replaced.path.back()), gone(gone.path.back()), by(by) {
    onPath.insert(replaced.path.begin(), replaced.path.end());
    onPath.insert(gone.path.begin(), gone.path.end());
  }

  /// The value of `op`, or null if nothing of it is left.
  Value of(Operation *op) {
    SmallVector<Value> operands;
    for (OpOperand &use : op->getOpOperands())
      operands.push_back(of(use));
    if (!llvm::is_contained(operands, Value())) {
      Operation *copy = rewriter.clone(*op);
      copy->setOperands(operands);
      return copy->getResult(0);
    }
    if (isa<arith::AddFOp, CLTResidualOp>(op))
      return operands[0] ? operands[0] : operands[1];
    if (isa<arith::SubFOp>(op) && operands[0])
      return operands[0];
    if (isa<arith::SubFOp>(op) && operands[1])
      return arith::NegFOp::create(rewriter, op->getLoc(), operands[1]);
    return {}; // a multiple of nothing
  }

private:
  Value of(OpOperand &use) {
    if (&use == replaced)
      return by;
    if (&use == gone)
      return {};
    return onPath.contains(&use) ? of(use.get().getDefiningOp()) : use.get();
  }

  PatternRewriter &rewriter;
  OpOperand *replaced, *gone;
  Value by;
  SmallPtrSet<OpOperand *, 8> onPath;
};

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

/// s decode(g) - s decode(f) among the terms of a sum -> s decode(delta)
///   with one W_dec and one bias, for every s: a sign, a factor, a divisor, several of them.
template <typename SumOp> struct CancelReconstructions : OpRewritePattern<SumOp> {
  CancelReconstructions(MLIRContext *context, CLTFusionCounts &counts)
      : OpRewritePattern<SumOp>(context), counts(counts) {}

  LogicalResult matchAndRewrite(SumOp root, PatternRewriter &rewriter) const override {
    SmallVector<Term> terms = Terms(root).found;
    // Edits first: what they change is cheaper than any other difference.
    for (bool edits : {true, false})
      for (const Term &plus : terms)
        for (const Term &minus : terms)
          if (!plus.isNegative && minus.isNegative && plus.path.front() != minus.path.front() &&
              succeeded(edits ? byEdits(root, plus, minus, rewriter)
                              : bySub(root, plus, minus, rewriter)))
            return success();
    return rewriter.notifyMatchFailure(root,
                                       "no two reconstructions in it that differ in the sign");
  }

private:
  /// Whether the two terms are reconstructions by one decoder, times one factor.
  LogicalResult cancel(Operation *root, const Term &plus, const Term &minus,
                       PatternRewriter &rewriter) const {
    CLTDecodeOp a = plus.decode(), b = minus.decode();
    if (a == b)
      return rewriter.notifyMatchFailure(root, "both reconstructions are the same value");
    if (a.getWDec() != b.getWDec())
      return rewriter.notifyMatchFailure(root,
                                         "the reconstructions have different decoder weights");
    if (a.getBDec() != b.getBDec())
      return rewriter.notifyMatchFailure(
          root, "the reconstructions have different biases: they do not cancel");
    if (plus.factors != minus.factors)
      return rewriter.notifyMatchFailure(
          root, "the reconstructions are multiplied by different values: they do not cancel");
    return success();
  }

  /// Puts the decodes of `count` codes in the place of one term, and takes the other one away.
  void replace(Operation *root, const Term &replaced, const Term &gone, size_t count,
               function_ref<Value(size_t)> codes, PatternRewriter &rewriter) const {
    CLTDecodeOp decode = replaced.decode();
    Location loc = rewriter.getFusedLoc({decode.getLoc(), gone.decode().getLoc()});
    Value sum;
    for (size_t i = 0; i < count; ++i) {
      Value term = CLTDecodeOp::create(rewriter, loc, decode.getType(), codes(i), decode.getWDec(),
                                       /*b_dec=*/Value());
      sum = sum ? Value(arith::AddFOp::create(rewriter, root->getLoc(), sum, term)) : term;
    }
    rewriter.replaceOp(root, Rebuilder(rewriter, replaced, sum, gone).of(root));
  }

  /// edit(f) - f has the edited features only: one decode of n rows instead of one of k.
  LogicalResult byEdits(Operation *root, const Term &plus, const Term &minus,
                        PatternRewriter &rewriter) const {
    if (failed(cancel(root, plus, minus, rewriter)))
      return failure();
    const Term *edited = &plus, *original = &minus;
    SmallVector<CLTEditOp> edits = editsBetween(minus.decode().getF(), plus.decode().getF());
    if (edits.empty() && plus.decode().getF() != minus.decode().getF()) {
      edits = editsBetween(plus.decode().getF(), minus.decode().getF());
      std::swap(edited, original); // -s decode(delta), in the place of the negative term
    }
    if (edits.empty())
      return rewriter.notifyMatchFailure(root, "no edits lead from one code to the other");
    if (!plus.dies() && !minus.dies())
      return rewriter.notifyMatchFailure(
          root, "both reconstructions stay (another use, another block): subtracting them is "
                "cheaper than one more decode");
    if (!original->canGo())
      return rewriter.notifyMatchFailure(
          root, "the reconstruction that would go is what a steer or a skip adds to");
    auto delta = [&](size_t i) -> Value {
      CLTEditOp edit = edits[edits.size() - 1 - i];
      auto in = cast<FeaturesType>(edit.getF().getType());
      return CLTDeltaOp::create(rewriter, edit.getLoc(), in.withK(edit.getFeatures().size()),
                                edit.getMode(), edit.getF(), edit.getFeatures(), edit.getA(),
                                edit.getB());
    };
    replace(root, *edited, *original, edits.size(), delta, rewriter);
    ++counts.deltas;
    return success();
  }

  /// Other codes: one decode of their difference instead of two.
  LogicalResult bySub(Operation *root, const Term &plus, const Term &minus,
                      PatternRewriter &rewriter) const {
    if (failed(cancel(root, plus, minus, rewriter)))
      return failure();
    Value g = plus.decode().getF(), f = minus.decode().getF();
    if (!editsBetween(f, g).empty() || !editsBetween(g, f).empty())
      return rewriter.notifyMatchFailure(root, "edits lead from one code to the other");
    if (!plus.dies() || !minus.dies())
      return rewriter.notifyMatchFailure(root,
                                         "a reconstruction stays (another use, another block): "
                                         "decoding the difference of codes would add work");
    auto typeOfG = cast<FeaturesType>(g.getType()), typeOfF = cast<FeaturesType>(f.getType());
    if (typeOfF.isKForm() != typeOfG.isKForm())
      return rewriter.notifyMatchFailure(
          root, "the codes have different forms (k slots and compressed rows)");
    if (typeOfF.getRows() != typeOfG.getRows())
      return rewriter.notifyMatchFailure(root, "the codes have different static row counts");
    bool plusStays = minus.canGo();
    if (!plusStays && !plus.canGo())
      return rewriter.notifyMatchFailure(
          root, "the reconstruction that would go is what a steer or a skip adds to");
    if (!plusStays) // decode(f) - decode(g), in the place of the negative term
      std::swap(f, g);
    FeaturesType type =
        typeOfG.isKForm() ? typeOfG.withK(*typeOfG.getK() + *typeOfF.getK()) : typeOfG;
    Location loc = rewriter.getFusedLoc({plus.decode().getLoc(), minus.decode().getLoc()});
    auto sub = [&](size_t) -> Value { return CLTSubOp::create(rewriter, loc, type, g, f); };
    replace(root, plusStays ? plus : minus, plusStays ? minus : plus, 1, sub, rewriter);
    ++counts.subs;
    return success();
  }

  CLTFusionCounts &counts;
};
} // namespace

void iam::detail::populateDifferencePatterns(RewritePatternSet &patterns, CLTFusionCounts &counts) {
  patterns.add<CancelReconstructions<arith::AddFOp>, CancelReconstructions<arith::SubFOp>,
               CancelReconstructions<CLTResidualOp>>(patterns.getContext(), counts);
}
