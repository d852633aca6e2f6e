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

#include "iam/Dialect/IAM/IR/IAMOps.h"
#include "iam/Dialect/IAM/Transforms/Passes.h"
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

/// Why `verify` stays although its set was projected onto, if that is so.
void explain(PolicyVerifyOp verify) {
  PolicyProjectOp project = findProjection(verify);
  if (!project)
    return;
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
    for (PolicyVerifyOp op : asserted) {
      Operation *maker = op.getH().getDefiningOp();
      if (!isOntoSetOf(maker, op) || op.getKind() == SetKind::Subspace) {
        explain(op);
        continue;
      }
      ++numProved;
      if (!op.getMargin().use_empty())
        continue; // the margins are the work; that they are inside is known with them
      InFlightDiagnostic remark = named(op)
                                  << "is proved and not checked: it asserts what was projected";
      remark.attachNote(maker->getLoc()) << "the projection is here";
      remark.report();
      op.erase();
      ++numErased;
    }
  }
};
} // namespace
