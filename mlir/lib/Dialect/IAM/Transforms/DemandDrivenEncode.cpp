//===- DemandDrivenEncode.cpp - iam-demand-driven-encode ----------------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The contract of the pass is in Passes.td. It asks of each features value which
// features anything reads, and writes the answer to the op that makes them.
//
//===----------------------------------------------------------------------===//

#include "iam/Dialect/IAM/IR/IAMOps.h"
#include "iam/Dialect/IAM/Transforms/Passes.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Matchers.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/TypeSwitch.h"

#include <set>

namespace iam {
#define GEN_PASS_DEF_DEMANDDRIVENENCODEPASS
#include "iam/Dialect/IAM/Transforms/Passes.h.inc"
} // namespace iam

using namespace mlir;
using namespace iam;

namespace {
/// Features in ascending order; nullopt: all of them, or not known.
using Demand = std::optional<std::set<int64_t>>;

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

/// The features that anything reads of features values. Each value is asked once: in a chain of
/// `sub`s, the number of paths grows exponentially.
class Demands {
public:
  Demand of(Value features) {
    // Not known while it is being asked: a cycle, which graph regions allow, reads everything.
    auto [known, isNew] = found.try_emplace(features, std::nullopt);
    if (!isNew)
      return known->second;
    Demand demand = overUses(features, [this](Operation *user) { return readBy(user); });
    found[features] = demand;
    return demand;
  }

private:
  Demand readBy(Operation *user) {
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
  Demand readByEdit(CLTEditOp edit) {
    Demand read = of(edit.getResult());
    if (read && (edit.getMode() == EditMode::Set || edit.getMode() == EditMode::Ablate))
      for (int64_t feature : edit.getFeatures())
        read->erase(feature);
    return read;
  }

  DenseMap<Value, Demand> found;
};

/// Why an op that makes features cannot make some of them alone; none if it can.
std::optional<StringRef> whyWhole(Operation *op) {
  constexpr StringLiteral row = "whether a feature is active depends on all others of its row";
  return llvm::TypeSwitch<Operation *, std::optional<StringRef>>(op)
      .Case([&](CLTEncodeSparseOp encode) -> std::optional<StringRef> {
        if (encode.getActivation() == Activation::GroupMax)
          return StringRef("whether a feature is active depends on all others of its group");
        return encode.getK() ? std::optional<StringRef>(row) : std::nullopt;
      })
      .Case<CLTTopKOp, CLTAbsTopKOp, CLTMatchingPursuitOp>([&](auto) { return row; })
      .Case([](CLTGroupMaxOp) {
        return StringRef("whether a feature is active depends on all others of its group");
      })
      .Case([](CLTBatchTopKOp) {
        return StringRef("whether a feature is active depends on all others of the batch");
      })
      .Case<CLTGateOp, CLTJumpReLUOp, CLTReLUOp>([](auto) {
        return StringRef("it is not fused with its encode, which makes all pre-activations");
      })
      .Default([](Operation *) { return std::nullopt; });
}

StringRef nameOf(Operation *op) {
  if (auto encode = dyn_cast<CLTEncodeSparseOp>(op))
    return stringifyActivation(encode.getActivation());
  return op->getName().stripDialect().rsplit('.').second;
}

struct DemandDrivenEncodePass : iam::impl::DemandDrivenEncodePassBase<DemandDrivenEncodePass> {
  void runOnOperation() override {
    Demands demands;
    getOperation()->walk([&](Operation *op) {
      if (op->getNumResults() != 1 || !isa<FeaturesType>(op->getResult(0).getType()))
        return;
      auto encode = dyn_cast<CLTEncodeSparseOp>(op);
      std::optional<StringRef> whole = whyWhole(op);
      if (!whole && !encode)
        return;
      Demand demand = demands.of(op->getResult(0));
      if (!demand || demand->empty()) // without a reader the op is dead: others erase it
        return;
      if (whole)
        op->emitRemark() << "encodes all features although " << demand->size()
                         << " would do: " << nameOf(op) << " cannot be sliced, " << *whole;
      else
        restrict(encode, *demand);
    });
  }

  void restrict(CLTEncodeSparseOp encode, const std::set<int64_t> &demand) {
    SmallVector<int64_t> only(demand.begin(), demand.end());
    if (std::optional<ArrayRef<int64_t>> before = encode.getOnly()) {
      llvm::erase_if(only, [&](int64_t feature) { return !llvm::is_contained(*before, feature); });
      if (only.empty() || ArrayRef(only) == *before)
        return;
    }
    int64_t dict = cast<FeaturesType>(encode.getF().getType()).getDict();
    if (only.front() < 0 || only.back() >= dict) // a tensor.extract outside of its tensor
      return;
    if (static_cast<int64_t>(only.size()) * kColumnsPerLine > dict) {
      encode.emitRemark() << "encodes all " << dict << " features although " << only.size()
                          << " would do: gathering more than one in " << kColumnsPerLine
                          << " may read more memory than encoding all";
      return;
    }
    encode.setOnly(only);
    encode.emitRemark() << "encodes " << only.size() << " of " << dict
                        << " features: no other is used";
    ++numEncodesSliced;
  }

  /// A column of W_enc costs one cache line a row, 64 bytes: as much as 16 columns side by side.
  static constexpr int64_t kColumnsPerLine = 16;
};
} // namespace
