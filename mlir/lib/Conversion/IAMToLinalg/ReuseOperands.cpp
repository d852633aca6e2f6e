//===- ReuseOperands.cpp - iam-reuse-operands ---------------------------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "iam/Conversion/Passes.h"
#include "iam/Dialect/IAM/IR/IAMDialect.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"

namespace iam {
#define GEN_PASS_DEF_IAMREUSEOPERANDSPASS
#include "iam/Conversion/Passes.h.inc"
} // namespace iam

using namespace mlir;

namespace {
/// True if `value` is new memory that only `user` reads, apart from its sizes.
bool diesAt(Value value, linalg::GenericOp user) {
  Operation *producer = value.getDefiningOp();
  if (!producer || producer->getBlock() != user->getBlock())
    return false;
  if (!isa<iam::IAMDialect, linalg::LinalgDialect>(producer->getDialect()))
    return false;
  return llvm::all_of(value.getUses(),
                      [&](OpOperand &use) {
                        return use.getOwner() == user || isa<tensor::DimOp>(use.getOwner());
                      }) &&
         llvm::count_if(value.getUses(), [&](OpOperand &use) { return use.getOwner() == user; }) ==
             1;
}

struct IAMReuseOperandsPass : iam::impl::IAMReuseOperandsPassBase<IAMReuseOperandsPass> {
  void runOnOperation() override {
    getOperation()->walk([&](linalg::GenericOp op) {
      if (!op.hasPureTensorSemantics() || op.getNumDpsInits() != 1 ||
          op.getNumLoops() != op.getNumParallelLoops())
        return;
      OpOperand *destination = op.getDpsInitOperand(0);
      if (!destination->get().getDefiningOp<tensor::EmptyOp>() ||
          op.payloadUsesValueFromOperand(destination))
        return;
      AffineMap written = op.getMatchingIndexingMap(destination);
      for (OpOperand *input : op.getDpsInputOperands()) {
        if (input->get().getType() != destination->get().getType() ||
            op.getMatchingIndexingMap(input) != written || !diesAt(input->get(), op))
          continue;
        destination->set(input->get());
        ++numReused;
        return;
      }
    });
  }
};
} // namespace
