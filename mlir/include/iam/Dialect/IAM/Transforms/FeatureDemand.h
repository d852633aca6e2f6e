//===- FeatureDemand.h - which features a program reads -----------*- C++ -*-===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_DIALECT_IAM_TRANSFORMS_FEATUREDEMAND_H
#define IAM_DIALECT_IAM_TRANSFORMS_FEATUREDEMAND_H

#include "mlir/IR/Value.h"
#include "llvm/ADT/DenseMap.h"

#include <cstdint>
#include <optional>
#include <set>

namespace iam {
class CLTEditOp;

/// Features in ascending order; nullopt: all of them, or not known.
using Demand = std::optional<std::set<int64_t>>;

/// The features that anything reads of features values. Each value is asked once: in a chain of
/// `sub`s, the number of paths grows exponentially. Valid as long as no reader changes.
class FeatureDemand {
public:
  Demand of(mlir::Value features);

private:
  Demand readBy(mlir::Operation *user);
  Demand readByEdit(CLTEditOp edit);

  llvm::DenseMap<mlir::Value, Demand> found;
};
} // namespace iam

#endif // IAM_DIALECT_IAM_TRANSFORMS_FEATUREDEMAND_H
