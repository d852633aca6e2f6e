//===- DemandDrivenEncode.cpp - iam-demand-driven-encode ----------------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The contract of the pass is in Passes.td. FeatureDemand says which features anything
// reads of a value; the answer is written to the op that makes them.
//
//===----------------------------------------------------------------------===//

#include "iam/Dialect/IAM/IR/IAMOps.h"
#include "iam/Dialect/IAM/Transforms/FeatureDemand.h"
#include "iam/Dialect/IAM/Transforms/Passes.h"
#include "llvm/ADT/TypeSwitch.h"

namespace iam {
#define GEN_PASS_DEF_DEMANDDRIVENENCODEPASS
#include "iam/Dialect/IAM/Transforms/Passes.h.inc"
} // namespace iam

using namespace mlir;
using namespace iam;

namespace {
/// Why an op that makes features cannot make some of them alone; none if it can.
std::optional<StringRef> whyWhole(Operation *op) {
  constexpr StringLiteral row = "whether a feature is active depends on all others of its row";
  return llvm::TypeSwitch<Operation *, std::optional<StringRef>>(op)
      .Case([&](CLTEncodeSparseOp encode) -> std::optional<StringRef> {
        if (encode.getActivation() == Activation::GroupMax)
          return StringRef("whether a feature is active depends on all others of its group");
        if (encode.getActivation() == Activation::BatchTopK)
          return StringRef("whether a feature is active depends on all others of the batch");
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

/// A column of W_enc costs one cache line a row, 64 bytes: as much as 16 columns side by side.
constexpr int64_t kColumnsPerLine = 16;

/// An encode that several threshold activations read, of each of which few features are read. iam-clt-fusion
/// leaves it alone, since it would compute all pre-activations several times.
struct SharedEncode {
  CLTEncodeOp encode;
  SmallVector<std::pair<Operation *, SmallVector<int64_t>>> activations;
};

/// `encode` as one, or nothing where its pre-activations are needed or cheaper.
std::optional<SharedEncode> sharedEncode(CLTEncodeOp encode, FeatureDemand &demands) {
  SharedEncode shared{encode, {}};
  int64_t columns = 0, dict = 0;
  for (Operation *user : encode->getUsers()) {
    // In another block, a loop perhaps, the encode would run more often.
    if (!isa<CLTReLUOp, CLTJumpReLUOp>(user) || user->getBlock() != encode->getBlock())
      return std::nullopt;
    Demand demand = demands.of(user->getResult(0));
    dict = cast<FeaturesType>(user->getResult(0).getType()).getDict();
    if (!demand || demand->empty() || *demand->begin() < 0 || *demand->rbegin() >= dict)
      return std::nullopt;
    columns += demand->size();
    shared.activations.emplace_back(user, SmallVector<int64_t>(demand->begin(), demand->end()));
  }
  if (shared.activations.empty() || columns * kColumnsPerLine > dict)
    return std::nullopt;
  return shared;
}

struct DemandDrivenEncodePass : iam::impl::DemandDrivenEncodePassBase<DemandDrivenEncodePass> {
  void runOnOperation() override {
    splitSharedEncodes();
    FeatureDemand demands;
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

  /// relu(encode(x)), jumprelu(encode(x)) -> an encode_sparse each, of the features that are read.
  void splitSharedEncodes() {
    FeatureDemand demands;
    SmallVector<SharedEncode> found;
    getOperation()->walk([&](CLTEncodeOp encode) {
      if (std::optional<SharedEncode> shared = sharedEncode(encode, demands))
        found.push_back(std::move(*shared));
    });
    for (SharedEncode &shared : found) {
      CLTEncodeOp encode = shared.encode;
      for (auto &[op, only] : shared.activations) {
        OpBuilder builder(op);
        auto jumprelu = dyn_cast<CLTJumpReLUOp>(op);
        Location loc = builder.getFusedLoc({encode.getLoc(), op->getLoc()});
        auto sparse = CLTEncodeSparseOp::create(
            builder, loc, op->getResult(0).getType(),
            jumprelu ? Activation::JumpReLU : Activation::ReLU, encode.getX(), encode.getWEnc(),
            encode.getBEnc(), encode.getBDec(), jumprelu ? jumprelu.getThreshold() : Value(),
            /*W_mag=*/Value(), /*b_mag=*/Value(), /*k=*/IntegerAttr(),
            builder.getDenseI64ArrayAttr(only));
        tell(sparse);
        op->getResult(0).replaceAllUsesWith(sparse);
        op->erase();
      }
      encode.erase();
    }
  }

  void tell(CLTEncodeSparseOp encode) {
    encode.emitRemark() << "encodes " << encode.getOnly()->size() << " of "
                        << cast<FeaturesType>(encode.getF().getType()).getDict()
                        << " features: no other is used";
    ++numEncodesSliced;
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
    tell(encode);
  }
};
} // namespace
