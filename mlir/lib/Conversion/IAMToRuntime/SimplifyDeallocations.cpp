//===- SimplifyDeallocations.cpp - iam-simplify-deallocations -----------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "EntryPoints.h"
#include "iam/Conversion/Passes.h"
#include "mlir/Dialect/Bufferization/IR/Bufferization.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Interfaces/ViewLikeInterface.h"

namespace iam {
#define GEN_PASS_DEF_IAMSIMPLIFYDEALLOCATIONSPASS
#include "iam/Conversion/Passes.h.inc"
} // namespace iam

using namespace mlir;

namespace {
struct Origin {
  enum Kind { Unknown, Argument, Allocation } kind = Unknown;
  Value value;
};

/// The memory that `memref` is a view of.
Origin originOf(Value memref) {
  while (Operation *op = memref.getDefiningOp()) {
    if (isa<memref::AllocOp, bufferization::CloneOp>(op))
      return {Origin::Allocation, memref};
    if (auto call = dyn_cast<func::CallOp>(op))
      return {iam::rt::isEntryPoint(call.getCallee()) ? Origin::Allocation : Origin::Unknown,
              memref};
    if (isa<memref::GetGlobalOp>(op))
      return {Origin::Argument, memref}; // lives longer than the function, like an argument
    if (!isa<memref::ExtractStridedMetadataOp, ViewLikeOpInterface>(op))
      return {};
    memref = op->getOperand(0);
  }
  Block *block = cast<BlockArgument>(memref).getOwner();
  bool isFunctionArgument = block->isEntryBlock() && isa<func::FuncOp>(block->getParentOp());
  return {isFunctionArgument ? Origin::Argument : Origin::Unknown, memref};
}

void simplify(bufferization::DeallocOp op) {
  if (!op.use_empty())
    return;
  SmallVector<Origin> freed = llvm::map_to_vector(op.getMemrefs(), originOf);
  SmallVector<Origin> kept = llvm::map_to_vector(op.getRetained(), originOf);
  auto isUnknown = [](const Origin &origin) { return origin.kind == Origin::Unknown; };
  if (llvm::any_of(freed, isUnknown) || llvm::any_of(kept, isUnknown))
    return;

  // An allocation that appears once and is not retained is freed on its own.
  OpBuilder builder(op);
  SmallVector<Value> memrefs, conditions;
  auto shares = [](const Origin &origin) {
    return [&](const Origin &other) { return other.value == origin.value; };
  };
  for (auto [memref, condition, origin] : llvm::zip(op.getMemrefs(), op.getConditions(), freed)) {
    if (origin.kind != Origin::Allocation || llvm::count_if(freed, shares(origin)) != 1 ||
        llvm::any_of(kept, shares(origin))) {
      memrefs.push_back(memref);
      conditions.push_back(condition);
      continue;
    }
    bufferization::DeallocOp::create(builder, op.getLoc(), TypeRange(), ValueRange(memref),
                                     ValueRange(condition), ValueRange());
  }
  if (!memrefs.empty())
    bufferization::DeallocOp::create(builder, op.getLoc(), op->getResultTypes(), memrefs,
                                     conditions, op.getRetained());
  op.erase();
}

struct IAMSimplifyDeallocationsPass
    : iam::impl::IAMSimplifyDeallocationsPassBase<IAMSimplifyDeallocationsPass> {
  void runOnOperation() override {
    SmallVector<bufferization::DeallocOp> ops;
    getOperation()->walk([&](bufferization::DeallocOp op) { ops.push_back(op); });
    llvm::for_each(ops, simplify);
  }
};
} // namespace
