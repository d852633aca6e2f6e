//===- PolicyProjectionPatterns.cpp - rewrites of iam-policy-projection -------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "PolicySets.h"
#include "iam/Dialect/IAM/Transforms/Passes.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace iam;

namespace {
/// What one op does to each row.
struct Step {
  PolicyStep kind;
  Value h, direction, strength;
};

/// The step that `op` is; none for anything else.
std::optional<Step> stepOf(Operation *op) {
  return llvm::TypeSwitch<Operation *, std::optional<Step>>(op)
      .Case([](PolicySteerOp steer) {
        // The enumerations agree: PolicyStep has SteerMode's cases first.
        auto kind = static_cast<PolicyStep>(static_cast<int32_t>(steer.getMode()));
        return Step{kind, steer.getH(), steer.getV(), steer.getStrength()};
      })
      .Case([](PolicyProjectOp project) -> std::optional<Step> {
        if (project.getKind() != SetKind::Halfspace)
          return std::nullopt;
        return Step{PolicyStep::Halfspace, project.getH(), project.getFirst(), project.getSecond()};
      })
      .Default([](Operation *) { return std::nullopt; });
}

/// The step of the same block that alone reads `value`'s maker.
Operation *stepBefore(Value value, Operation *reader) {
  Operation *maker = value.getDefiningOp();
  return maker && value.hasOneUse() && maker->getBlock() == reader->getBlock() && stepOf(maker)
             ? maker
             : nullptr;
}

/// step(step(... h)) -> sequence
struct MakeSequence : RewritePattern {
  MakeSequence(MLIRContext *context, PolicyProjectionCounts &counts)
      : RewritePattern(MatchAnyOpTypeTag(), /*benefit=*/1, context), counts(counts) {}

  LogicalResult matchAndRewrite(Operation *op, PatternRewriter &rewriter) const override {
    std::optional<Step> last = stepOf(op);
    if (!last)
      return failure();
    Value result = op->getResult(0);
    if (result.hasOneUse() && stepBefore(result, *result.user_begin()) &&
        stepOf(*result.user_begin()) && stepOf(*result.user_begin())->h == result)
      return rewriter.notifyMatchFailure(op, "not the last of its steps");
    SmallVector<Step> steps{*last};
    SmallVector<Location> where{op->getLoc()};
    for (Operation *before = stepBefore(last->h, op); before;
         before = stepBefore(steps.back().h, before)) {
      steps.push_back(*stepOf(before));
      where.push_back(before->getLoc());
    }
    if (steps.size() < 2)
      return rewriter.notifyMatchFailure(op, "a step alone");
    if (llvm::all_of(steps, [](Step &step) { return step.kind == PolicyStep::Add; }))
      return rewriter.notifyMatchFailure(
          op, "additions alone are one loop with the arithmetic around them");
    int64_t width = cast<RankedTensorType>(steps.front().direction.getType()).getDimSize(0);
    if (ShapedType::isDynamic(width))
      width = cast<RankedTensorType>(result.getType()).getDimSize(1);
    if (ShapedType::isDynamic(width))
      return rewriter.notifyMatchFailure(op, "the width is open");
    std::reverse(steps.begin(), steps.end());

    Location loc = rewriter.getFusedLoc(where);
    auto count = static_cast<int64_t>(steps.size());
    Value directions = tensor::EmptyOp::create(rewriter, loc, ArrayRef<int64_t>{count, width},
                                               rewriter.getF32Type());
    SmallVector<int32_t> kinds;
    SmallVector<Value> strengths;
    for (auto [i, step] : llvm::enumerate(steps)) {
      kinds.push_back(static_cast<int32_t>(step.kind));
      strengths.push_back(step.strength);
      OpFoldResult one = rewriter.getIndexAttr(1);
      directions = tensor::InsertSliceOp::create(
          rewriter, loc, step.direction, directions,
          ArrayRef<OpFoldResult>{rewriter.getIndexAttr(static_cast<int64_t>(i)),
                                 rewriter.getIndexAttr(0)},
          ArrayRef<OpFoldResult>{one, rewriter.getIndexAttr(width)},
          ArrayRef<OpFoldResult>{one, one});
    }
    Value amounts = tensor::FromElementsOp::create(rewriter, loc, strengths);
    op->emitRemark() << "runs " << count << " steps in one pass over the activations";
    rewriter.replaceOpWithNewOp<PolicySequenceOp>(op, result.getType(),
                                                  rewriter.getDenseI32ArrayAttr(kinds),
                                                  steps.front().h, directions, amounts);
    ++counts.sequences;
    return success();
  }

  PolicyProjectionCounts &counts;
};

/// project(project(h, inner), outer) -> project(h, inner): the rows are inside, and stay.
/// project(project(h, outer), inner) -> project(h, inner), for boxes: bounds that do not bind.
struct DropOuterProjection : OpRewritePattern<PolicyProjectOp> {
  DropOuterProjection(MLIRContext *context, PolicyProjectionCounts &counts)
      : OpRewritePattern(context, /*benefit=*/2), counts(counts) {}

  LogicalResult matchAndRewrite(PolicyProjectOp op, PatternRewriter &rewriter) const override {
    auto before = op.getH().getDefiningOp<PolicyProjectOp>();
    if (!before)
      return rewriter.notifyMatchFailure(op, "what is projected is no projection");
    PolicySet first = PolicySet::of(before), second = PolicySet::of(op);
    if (first.kind != SetKind::Subspace && isInside(first, second)) {
      op.emitRemark() << "is not computed: the projection before it ends inside of its set";
      rewriter.replaceOp(op, before.getResult());
    } else if (first.kind == SetKind::Box && isInside(second, first)) {
      before.emitRemark() << "is not computed: the box that is projected onto next is inside of it";
      rewriter.modifyOpInPlace(op, [&] { op.getHMutable().assign(before.getH()); });
    } else {
      return rewriter.notifyMatchFailure(op, "the sets are not known to be nested");
    }
    ++counts.projections;
    return success();
  }

  PolicyProjectionCounts &counts;
};
} // namespace

void iam::populatePolicyProjectionPatterns(RewritePatternSet &patterns,
                                           PolicyProjectionCounts &counts) {
  patterns.add<MakeSequence, DropOuterProjection>(patterns.getContext(), counts);
}
