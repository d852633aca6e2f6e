//===- PolicySets.cpp - What is known of the sets of policies -----------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "PolicySets.h"
#include "mlir/IR/Matchers.h"

using namespace mlir;
using namespace iam;

std::optional<double> iam::constantNumber(Value value) {
  APFloat number(0.0f);
  if (!value || !matchPattern(value, m_ConstantFloat(&number)) || number.isNaN())
    return std::nullopt;
  bool lost = false;
  number.convert(APFloat::IEEEdouble(), APFloat::rmNearestTiesToEven, &lost);
  return number.convertToDouble();
}

/// Whether low <= high for every element of two constant vectors; vectors that are the same value
/// need not be constant.
static bool isBelow(Value low, Value high) {
  if (low == high)
    return true;
  DenseFPElementsAttr a, b;
  if (!matchPattern(low, m_Constant(&a)) || !matchPattern(high, m_Constant(&b)) ||
      a.getType() != b.getType())
    return false;
  return llvm::all_of(llvm::zip_equal(a, b), [](auto pair) {
    auto order = std::get<0>(pair).compare(std::get<1>(pair));
    return order == APFloat::cmpLessThan || order == APFloat::cmpEqual;
  });
}

bool iam::isInside(const PolicySet &inner, const PolicySet &outer) {
  if (inner == outer)
    return true;
  if (inner.kind != outer.kind)
    return false;
  switch (inner.kind) {
  case SetKind::Halfspace:
  case SetKind::Ball: {
    std::optional<double> a = constantNumber(inner.second), b = constantNumber(outer.second);
    return inner.first == outer.first && a && b && *a <= *b;
  }
  case SetKind::Box:
    return isBelow(outer.first, inner.first) && isBelow(inner.second, outer.second);
  case SetKind::Subspace:
    return false;
  }
  llvm_unreachable("a set of another enumeration");
}
