//===- FeatureDemand.cpp - which features a program reads ---------------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "iam/Dialect/IAM/Transforms/FeatureDemand.h"

#include "iam/Dialect/IAM/IR/IAMOps.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Matchers.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace iam;

namespace {
void unite(Demand &all, const Demand &more) {
  if (!more)
    all = std::nullopt;
  else if (all)
    all->insert(more->begin(), more->end());
}

/// The union over the uses of a value of what each reads.
Demand overUses(Value value, function_ref<Demand(Operation *)> readBy) {
  Demand all = std::set<int64_t>();
  for (Operation *user : value.getUsers())
    if (unite(all, readBy(user)); !all)
      break;
  return all;
}

/// The columns of a dense tensor of features that `user` reads.
Demand columnsReadBy(Operation *user) {
  if (isa<tensor::DimOp>(user))
    return std::set<int64_t>();
  std::set<int64_t> columns;
  if (auto slice = dyn_cast<tensor::ExtractSliceOp>(user)) {
    int64_t offset = slice.getStaticOffsets()[1], size = slice.getStaticSizes()[1],
            stride = slice.getStaticStrides()[1];
    if (ShapedType::isDynamic(offset) || ShapedType::isDynamic(size) ||
        ShapedType::isDynamic(stride))
      return std::nullopt;
    for (int64_t i = 0; i < size; ++i)
      columns.insert(offset + i * stride);
    return columns;
  }
  if (auto element = dyn_cast<tensor::ExtractOp>(user)) {
    APInt column;
    if (!matchPattern(element.getIndices()[1], m_ConstantInt(&column)))
      return std::nullopt;
    columns.insert(column.getSExtValue());
    return columns;
  }
  return std::nullopt;
}
} // namespace

Demand FeatureDemand::of(Value features) {
  // Not known while it is being asked: a cycle, which graph regions allow, reads everything.
  auto [known, isNew] = found.try_emplace(features, std::nullopt);
  if (!isNew)
    return known->second;
  Demand demand = overUses(features, [this](Operation *user) { return readBy(user); });
  found[features] = demand;
  return demand;
}

Demand FeatureDemand::readBy(Operation *user) {
  return llvm::TypeSwitch<Operation *, Demand>(user)
      .Case([](CLTDeltaOp delta) {
        return Demand(std::in_place, delta.getFeatures().begin(), delta.getFeatures().end());
      })
      .Case([this](CLTEditOp edit) { return readByEdit(edit); })
      .Case([this](CLTSubOp sub) { return of(sub.getG()); })
      .Case([](CLTDensifyOp densify) { return overUses(densify.getD(), columnsReadBy); })
      .Default([](Operation *) { return std::nullopt; });
}

/// An edit reads what is read of its result; what it overwrites it does not read.
Demand FeatureDemand::readByEdit(CLTEditOp edit) {
  Demand read = of(edit.getResult());
  if (read && (edit.getMode() == EditMode::Set || edit.getMode() == EditMode::Ablate))
    for (int64_t feature : edit.getFeatures())
      read->erase(feature);
  return read;
}
