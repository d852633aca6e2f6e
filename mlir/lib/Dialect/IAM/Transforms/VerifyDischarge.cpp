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

/// a <= b, which NaN is not.
bool isOrdered(const APFloat &a, const APFloat &b) {
  const APFloat::cmpResult order = a.compare(b);
  return order == APFloat::cmpLessThan || order == APFloat::cmpEqual;
}

bool isConstantBelow(Value low, Value high) {
  APFloat a(0.0f), b(0.0f);
  return matchPattern(low, m_ConstantFloat(&a)) && matchPattern(high, m_ConstantFloat(&b)) &&
         isOrdered(a, b);
}

/// low <= high at every index. The same value need not be constant.
bool isVectorBelow(Value low, Value high) {
  if (low == high)
    return true;
  DenseFPElementsAttr a, b;
  if (!matchPattern(low, m_Constant(&a)) || !matchPattern(high, m_Constant(&b)) ||
      a.getType() != b.getType())
    return false;
  return llvm::all_of(llvm::zip_equal(a, b), [](const auto &pair) {
    return isOrdered(std::get<0>(pair), std::get<1>(pair));
  });
}

/// Whether what `project` makes is inside of the set of `verify`, by the arithmetic of the runtime:
/// margins only grow with the bound, and their sign is exact.
bool isInside(PolicyProjectOp project, PolicyVerifyOp verify) {
  if (project.getKind() != verify.getKind())
    return false;
  switch (verify.getKind()) {
  case SetKind::Halfspace:
  case SetKind::Ball:
    return project.getFirst() == verify.getFirst() &&
           (project.getSecond() == verify.getSecond() ||
            isConstantBelow(project.getSecond(), verify.getSecond()));
  case SetKind::Box:
    return isVectorBelow(verify.getFirst(), project.getFirst()) &&
           isVectorBelow(project.getSecond(), verify.getSecond());
  case SetKind::Subspace:
    return false;
  }
  llvm_unreachable("a set of another enumeration");
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
    for (PolicyVerifyOp op : asserted) {
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
  }
};
} // namespace
