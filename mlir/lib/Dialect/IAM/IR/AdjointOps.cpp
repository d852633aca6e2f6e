//===- AdjointOps.cpp - Verifiers of derivatives -------------------------*- C++ -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Verify.h"

#include "iam/Dialect/IAM/IR/IAMOps.h"

#include "llvm/ADT/SmallSet.h"

using namespace mlir;
using namespace iam;
using namespace iam::detail;

/// Features in range and distinct.
static LogicalResult verifyListed(Operation *op, ArrayRef<int64_t> listed, int64_t dict,
                                  StringRef what) {
  llvm::SmallDenseSet<int64_t> seen;
  for (int64_t feature : listed) {
    if (feature < 0 || feature >= dict)
      return op->emitOpError("expected ")
             << what << " in 0.." << dict - 1 << " (dictionary), got " << feature;
    if (!seen.insert(feature).second)
      return op->emitOpError("expected distinct ")
             << what << ", got " << feature << " more than once";
  }
  return success();
}

LogicalResult CLTDecodeAdjointOp::verify() {
  FeaturesType f = features(getF());
  // clt_decode_adjoint_c2
  if (failed(expectEqual(*this, dim("the number of rows of W_dec", getWDec(), 0),
                         {"the dictionary of the features", f.getDict()})))
    return failure();
  // clt_decode_adjoint_c3
  if (failed(expectEqual(*this, dim("the width of dy", getDy(), 1),
                         dim("the width of W_dec", getWDec(), 1))))
    return failure();
  // clt_decode_adjoint_c4
  return expectEqual(*this, dim("the number of rows of dy", getDy(), 0),
                     {"the number of rows of the features", f.getRows()});
}

LogicalResult CLTDensifyAdjointOp::verify() {
  FeaturesType f = features(getF());
  int64_t expected = f.getDict();
  if (std::optional<ArrayRef<int64_t>> columns = getColumns()) {
    // clt_densify_adjoint_c2, c3
    if (failed(verifyListed(*this, *columns, f.getDict(), "columns")))
      return failure();
    expected = columns->size();
  }
  // clt_densify_adjoint_c4
  if (failed(expectEqual(
          *this, dim("the width of dd", getDd(), 1),
          {getColumns() ? "the number of columns" : "the dictionary of the features", expected})))
    return failure();
  // clt_densify_adjoint_c5
  return expectEqual(*this, dim("the number of rows of dd", getDd(), 0),
                     {"the number of rows of the features", f.getRows()});
}

LogicalResult CLTEditAdjointOp::verify() {
  FeaturesType f = features(getF()), dg = features(getDg());
  // clt_edit_adjoint_c2
  if (!compatible(f.getRows(), dg.getRows()) || f.getDict() != dg.getDict())
    return emitOpError("expected features of the same rows and dictionary, got ")
           << f << " and " << dg;
  // clt_edit_adjoint_c3, c4
  if (failed(verifyListed(*this, getFeatures(), f.getDict(), "features")))
    return failure();
  // clt_edit_adjoint_c5: set needs no operand, its factor is 0
  int64_t expected = getMode() == EditMode::Scale ? 1 : getMode() == EditMode::Clamp ? 2 : 0;
  int64_t got = (getA() ? 1 : 0) + (getB() ? 1 : 0);
  if (got != expected)
    return emitOpError("expected ")
           << expected << (expected == 1 ? " operand" : " operands") << " after `by` for mode "
           << stringifyEditMode(getMode()) << ", got " << got;
  // clt_edit_adjoint_c6
  Dim listed{"the number of features", static_cast<int64_t>(getFeatures().size())};
  if (getA() && failed(expectEqual(*this, dim("the size of a", getA(), 0), listed)))
    return failure();
  return getB() ? expectEqual(*this, dim("the size of b", getB(), 0), listed) : success();
}

LogicalResult PolicyProjectAdjointOp::verify() {
  SetKind kind = getKind();
  // policy_project_adjoint_c2
  if (kind == SetKind::Subspace)
    return emitOpError("expected halfspace, ball or box: the derivative of a projection onto a "
                       "subspace is that projection");
  // policy_project_adjoint_c3
  if (failed(expectEqual(*this, dim("the width of dy", getDy(), 1),
                         dim("the width of h", getH(), 1))) ||
      failed(expectEqual(*this, dim("the number of rows of dy", getDy(), 0),
                         dim("the number of rows of h", getH(), 0))))
    return failure();
  // policy_project_adjoint_c4
  Dim width = dim("the width of h", getH(), 1);
  if (failed(expectEqual(*this, dim("the size of first", getFirst(), 0), width)))
    return failure();
  // policy_project_adjoint_c5
  Type second = getSecond().getType();
  if (kind != SetKind::Box) {
    if (second.isF32())
      return success();
    return emitOpError("expected an f32 as second operand for a ")
           << stringifySetKind(kind) << ", got " << second;
  }
  if (!isa<RankedTensorType>(second))
    return emitOpError("expected a vector as second operand for a box, got ") << second;
  return expectEqual(*this, dim("the size of second", getSecond(), 0), width);
}
