//===- VerifyDischarge.cpp - iam-verify-discharge ------------------------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The contract of the pass is in Passes.td.
//
//===----------------------------------------------------------------------===//

#include "PolicySets.h"
#include "iam/Dialect/IAM/IR/IAMOps.h"
#include "iam/Dialect/IAM/Transforms/Passes.h"
#include "mlir/IR/Matchers.h"
#include "llvm/ADT/SmallPtrSet.h"

namespace iam {
#define GEN_PASS_DEF_VERIFYDISCHARGEPASS
#include "iam/Dialect/IAM/Transforms/Passes.h.inc"
} // namespace iam

using namespace mlir;
using namespace iam;

namespace {
bool isOntoSetOf(Operation *maker, PolicyVerifyOp verify) {
  auto project = dyn_cast_or_null<PolicyProjectOp>(maker);
  return project && project.getKind() == verify.getKind() &&
         project.getFirst() == verify.getFirst() && project.getSecond() == verify.getSecond();
}

/// Whether what `project` makes is inside of the set of `verify`, by the arithmetic of the runtime:
/// margins only grow with the bound, and their sign is exact.
bool isInside(PolicyProjectOp project, PolicyVerifyOp verify) {
  return verify.getKind() != SetKind::Subspace &&
         isInside(PolicySet::of(project), PolicySet::of(verify));
}

/// The edit that takes rows out of the asserted half-space that were just moved onto its border: an
/// addition of the normal, with a constant strength > 0. Every row that the projection moved fails.
PolicySteerOp findBreakingEdit(PolicyVerifyOp verify) {
  auto steer = verify.getH().getDefiningOp<PolicySteerOp>();
  if (!steer || steer.getMode() != SteerMode::Add || verify.getKind() != SetKind::Halfspace ||
      steer.getV() != verify.getFirst() || !verify.getTolerance().isZero())
    return {};
  std::optional<double> strength = constantNumber(steer.getStrength());
  auto project = steer.getH().getDefiningOp<PolicyProjectOp>();
  if (!strength || !(*strength > 0) || !project ||
      !isInside(PolicySet::of(verify), PolicySet::of(project)))
    return {};
  return steer;
}

/// The projection onto the set of `verify` that the asserted value was made of, through operands of
/// its type.
PolicyProjectOp findProjection(PolicyVerifyOp verify) {
  SmallPtrSet<Operation *, 16> seen;
  SmallVector<Value> work{verify.getH()};
  while (!work.empty()) {
    Operation *maker = work.pop_back_val().getDefiningOp();
    if (!maker || !seen.insert(maker).second)
      continue;
    if (isOntoSetOf(maker, verify))
      return cast<PolicyProjectOp>(maker);
    for (Value operand : maker->getOperands())
      if (operand.getType() == verify.getH().getType())
        work.push_back(operand);
  }
  return {};
}

InFlightDiagnostic named(PolicyVerifyOp verify) {
  return verify.emitRemark() << verify->getName() << " \"" << verify.getMessage() << "\" ";
}

/// Why `verify` stays although what it asserts was projected onto a set that differs in its bounds.
void explainOtherBounds(PolicyVerifyOp verify) {
  auto project = verify.getH().getDefiningOp<PolicyProjectOp>();
  if (!project || project.getKind() != verify.getKind() || verify.getKind() == SetKind::Subspace ||
      (verify.getKind() != SetKind::Box && project.getFirst() != verify.getFirst()))
    return;
  InFlightDiagnostic remark = named(verify)
                              << "is checked at every call: constants do not show that the set "
                                 "projected onto is inside of it";
  remark.attachNote(project.getLoc()) << "the projection is here";
}

/// Why `verify` stays although its set was projected onto, if that is so.
void explain(PolicyVerifyOp verify) {
  PolicyProjectOp project = findProjection(verify);
  if (!project)
    return explainOtherBounds(verify);
  Operation *edit = verify.getH().getDefiningOp();
  InFlightDiagnostic remark = named(verify) << "is checked at every call: ";
  if (edit == project.getOperation())
    remark << "a subspace has no inside, so a projection onto it is there only within rounding";
  else
    remark << "after the projection onto its set, " << edit->getName()
           << " changed the activations";
  remark.attachNote(project.getLoc()) << "the projection is here";
  if (edit != project.getOperation())
    remark.attachNote(edit->getLoc()) << "the change is here";
}

struct VerifyDischargePass : iam::impl::VerifyDischargePassBase<VerifyDischargePass> {
  void runOnOperation() override {
    SmallVector<PolicyVerifyOp> asserted;
    getOperation()->walk([&](PolicyVerifyOp op) { asserted.push_back(op); });
    bool holds = true;
    for (PolicyVerifyOp op : asserted) {
      if (PolicySteerOp edit = findBreakingEdit(op)) {
        InFlightDiagnostic error = op.emitOpError("\"")
                                   << op.getMessage() << "\" is refuted: " << edit->getName()
                                   << " moves every row that was projected onto the border out of "
                                      "the half-space; project after it, or assert before it";
        error.attachNote(edit.getLoc()) << "the edit is here";
        holds = false;
        continue;
      }
      auto project = op.getH().getDefiningOp<PolicyProjectOp>();
      if (!project || !isInside(project, op)) {
        explain(op);
        continue;
      }
      ++numProved;
      if (!op.getMargin().use_empty())
        continue; // the margins are the work; that they are inside is known with them
      InFlightDiagnostic remark =
          named(op) << "is proved and not checked: "
                    << (isOntoSetOf(project, op) ? "it asserts what was projected"
                                                 : "its set is around the one projected onto");
      remark.attachNote(project.getLoc()) << "the projection is here";
      remark.report();
      op.erase();
      ++numErased;
    }
    if (!holds)
      signalPassFailure();
  }
};
} // namespace
