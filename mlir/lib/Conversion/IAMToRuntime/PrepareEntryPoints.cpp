//===- PrepareEntryPoints.cpp - iam-prepare-entry-points ----------------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "iam/Conversion/Passes.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Bufferization/IR/Bufferization.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"

namespace iam {
#define GEN_PASS_DEF_IAMPREPAREENTRYPOINTSPASS
#include "iam/Conversion/Passes.h.inc"
} // namespace iam

using namespace mlir;

namespace {
/// The tensor whose memory `value` is a part of.
Value wholeOf(Value value) {
  while (Operation *op = value.getDefiningOp()) {
    if (!isa<tensor::CastOp, tensor::CollapseShapeOp, tensor::ExpandShapeOp, tensor::ExtractSliceOp,
             tensor::ReshapeOp>(op))
      break;
    value = op->getOperand(0);
  }
  return value;
}

/// True if two such values may be one memory although they are two SSA values: results of choices,
/// control flow, calls.
bool mayBeShared(Value whole) {
  Operation *op = whole.getDefiningOp();
  if (!op)
    return !cast<BlockArgument>(whole).getOwner()->isEntryBlock();
  return op->getNumRegions() != 0 ? !isa<DestinationStyleOpInterface>(op)
                                  : isa<CallOpInterface, arith::SelectOp>(op);
}

void copyResult(func::ReturnOp op, OpOperand &result) {
  OpBuilder builder(op);
  auto type = cast<RankedTensorType>(result.get().getType());
  result.set(
      bufferization::AllocTensorOp::create(builder, op.getLoc(), type, ValueRange(), result.get()));
}

struct IAMPrepareEntryPointsPass
    : iam::impl::IAMPrepareEntryPointsPassBase<IAMPrepareEntryPointsPass> {
  void runOnOperation() override {
    Builder builder(&getContext());
    for (auto function : getOperation().getOps<func::FuncOp>()) {
      if (!function.isPublic() || function.isExternal())
        continue;
      function->setAttr("llvm.emit_c_interface", builder.getUnitAttr());
      for (BlockArgument argument : function.getArguments())
        if (isa<RankedTensorType>(argument.getType()))
          function.setArgAttr(argument.getArgNumber(),
                              bufferization::BufferizationDialect::kWritableAttrName,
                              builder.getBoolAttr(false));
      function.walk([](func::ReturnOp op) {
        llvm::SmallDenseSet<Value> returned;
        bool isAlone = llvm::count_if(op.getOperandTypes(), llvm::IsaPred<RankedTensorType>) == 1;
        for (OpOperand &result : op->getOpOperands()) {
          if (!isa<RankedTensorType>(result.get().getType()))
            continue;
          Value whole = wholeOf(result.get());
          if (!returned.insert(whole).second || (!isAlone && mayBeShared(whole)))
            copyResult(op, result);
        }
      });
    }
  }
};
} // namespace
