//===- PolicySets.h - What is known of the sets of policies ----------*- C++ -*-===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_LIB_DIALECT_IAM_TRANSFORMS_POLICYSETS_H
#define IAM_LIB_DIALECT_IAM_TRANSFORMS_POLICYSETS_H

#include "iam/Dialect/IAM/IR/IAMOps.h"

namespace iam {

/// A set of policy.project or policy.verify.
struct PolicySet {
  SetKind kind;
  mlir::Value first, second;

  template <typename SetOp> static PolicySet of(SetOp op) {
    return {op.getKind(), op.getFirst(), op.getSecond()};
  }
  bool operator==(const PolicySet &other) const {
    return kind == other.kind && first == other.first && second == other.second;
  }
};

/// Whether every point of `inner` is known to be in `outer`, by the arithmetic of the runtime: the
/// same set, or the same normal or centre and constant bounds, or boxes with constant bounds.
bool isInside(const PolicySet &inner, const PolicySet &outer);

/// A number that is a constant of the program.
std::optional<double> constantNumber(mlir::Value value);

} // namespace iam

#endif // IAM_LIB_DIALECT_IAM_TRANSFORMS_POLICYSETS_H
