//===- PolicyOps.cpp - Verifiers and folds of steering and constraints ---*- C++ -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Verify.h"

#include "iam/Dialect/IAM/IR/IAMOps.h"

#include "mlir/IR/Matchers.h"

using namespace mlir;
using namespace iam;
using namespace iam::detail;

//===----------------------------------------------------------------------===//
// PolicySteerOp
//===----------------------------------------------------------------------===//

LogicalResult PolicySteerOp::verify() {
  // policy_steer_c2
  return expectEqual(*this, dim("the size of v", getV(), 0), dim("the width of h", getH(), 1));
}

OpFoldResult PolicySteerOp::fold(FoldAdaptor adaptor) {
  // steer add(h, v, 0) -> h, for finite v (an infinite one is an error)
  auto strength = dyn_cast_or_null<FloatAttr>(adaptor.getStrength());
  if (getMode() == SteerMode::Add && strength && strength.getValue().isZero())
    return getH();
  return {};
}

//===----------------------------------------------------------------------===//
// PolicySequenceOp
//===----------------------------------------------------------------------===//

LogicalResult PolicySequenceOp::verify() {
  Dim steps{"the number of steps", static_cast<int64_t>(getSteps().size())};
  // policy_sequence_c2
  for (int32_t step : getSteps())
    if (!symbolizePolicyStep(step))
      return emitOpError("expected steps 0 (add), 1 (ablate), 2 (clamp) or 3 (halfspace), got ")
             << step;
  // policy_sequence_c3
  if (failed(expectEqual(*this, dim("the number of directions", getDirections(), 0), steps)))
    return failure();
  // policy_sequence_c4
  if (failed(expectEqual(*this, dim("the number of strengths", getStrengths(), 0), steps)))
    return failure();
  // policy_sequence_c5
  return expectEqual(*this, dim("the width of directions", getDirections(), 1),
                     dim("the width of h", getH(), 1));
}

//===----------------------------------------------------------------------===//
// PolicyComposeOp
//===----------------------------------------------------------------------===//

LogicalResult PolicyComposeOp::verify() {
  // policy_compose_c1
  if (failed(expectEqual(*this, dim("the number of strengths", getStrengths(), 0),
                         dim("the number of vectors", getVectors(), 0))))
    return failure();
  // policy_compose_c2
  return expectEqual(*this, dim("the size of the result", getResult(), 0),
                     dim("the width of vectors", getVectors(), 1));
}

//===----------------------------------------------------------------------===//
// PolicyProjectOp, PolicyVerifyOp
//===----------------------------------------------------------------------===//

/// first and second describe a set of the kind in the space of h.
template <typename SetOp> static LogicalResult verifySet(SetOp op) {
  SetKind kind = op.getKind();
  auto first = cast<RankedTensorType>(op.getFirst().getType());
  Dim width = dim("the width of h", op.getH(), 1);
  // policy_project_c2, policy_verify_c1
  int64_t rank = kind == SetKind::Subspace ? 2 : 1;
  if (first.getRank() != rank)
    return op.emitOpError("expected first to have rank ")
           << rank << " for a " << stringifySetKind(kind) << ", got " << first;
  // policy_project_c3, policy_verify_c2
  if (failed(expectEqual(op, {"the width of first", first.getShape().back()}, width)))
    return failure();
  // policy_project_c4, policy_verify_c3
  Value second = op.getSecond();
  const char *expected = kind == SetKind::Subspace ? "no second operand"
                         : kind == SetKind::Box    ? "a vector as second operand"
                                                   : "an f32 as second operand";
  bool fits = kind == SetKind::Subspace ? !second
              : kind == SetKind::Box    ? second && isa<RankedTensorType>(second.getType())
                                        : second && second.getType().isF32();
  if (!fits) {
    InFlightDiagnostic diagnostic = op.emitOpError("expected ")
                                    << expected << " for a " << stringifySetKind(kind) << ", got ";
    if (second)
      return diagnostic << second.getType();
    return diagnostic << "none";
  }
  // policy_project_c5, policy_verify_c4
  if (kind == SetKind::Box)
    return expectEqual(op, dim("the size of second", second, 0), width);
  return success();
}

LogicalResult PolicyProjectOp::verify() { return verifySet(*this); }

OpFoldResult PolicyProjectOp::fold(FoldAdaptor) {
  // project(project(h, S), S) -> project(h, S): the set and its operands are the
  // same values.
  auto inner = getH().getDefiningOp<PolicyProjectOp>();
  if (inner && inner.getKind() == getKind() && inner.getFirst() == getFirst() &&
      inner.getSecond() == getSecond())
    return getH();
  return {};
}

LogicalResult PolicyVerifyOp::verify() {
  if (failed(verifySet(*this)))
    return failure();
  // policy_verify_c5
  const APFloat tolerance = getTolerance();
  if (!tolerance.isFinite() || (tolerance.isNegative() && !tolerance.isZero()))
    return emitOpError("expected a finite tolerance >= 0, got ") << tolerance.convertToFloat();
  // policy_verify_c6
  if (getMessage().empty())
    return emitOpError("expected a message that says what must hold, got \"\"");
  // policy_verify_c7
  return expectEqual(*this, dim("the number of margins", getMargin(), 0),
                     dim("the number of rows of h", getH(), 0));
}
