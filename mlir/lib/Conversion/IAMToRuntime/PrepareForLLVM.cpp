//===- PrepareForLLVM.cpp - iam-prepare-for-llvm ------------------------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "iam/Conversion/Passes.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Bufferization/IR/Bufferization.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"

namespace iam {
#define GEN_PASS_DEF_IAMPREPAREFORLLVMPASS
#include "iam/Conversion/Passes.h.inc"
} // namespace iam

using namespace mlir;

namespace {
/// The pointers of `memrefs`; views share the pointer of what they are views of.
SmallVector<Value> pointersOf(ValueRange memrefs, OpBuilder &builder, Location loc) {
  return llvm::map_to_vector(memrefs, [&](Value memref) -> Value {
    return memref::ExtractAlignedPointerAsIndexOp::create(builder, loc, memref);
  });
}

/// dealloc (m0, m1, ... if c0, c1, ...) retain (r0, ...) -> dealloc (m0) if d0, dealloc (m1) if d1,
/// ...
///   d_i = c_i, unless m_i is retained or an earlier m_j with c_j is the same memory.
///   The condition of r_j afterwards: one of the m_i with c_i is the same memory.
void split(bufferization::DeallocOp op) {
  OpBuilder builder(op);
  Location loc = op.getLoc();
  SmallVector<Value> freed = pointersOf(op.getMemrefs(), builder, loc);
  SmallVector<Value> kept = pointersOf(op.getRetained(), builder, loc);
  Value yes = arith::ConstantIntOp::create(builder, loc, 1, 1),
        no = arith::ConstantIntOp::create(builder, loc, 0, 1);
  auto equal = [&](Value a, Value b) -> Value {
    return arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::eq, a, b);
  };
  auto both = [&](Value a, Value b) -> Value { return arith::AndIOp::create(builder, loc, a, b); };
  auto either = [&](Value a, Value b) -> Value { return arith::OrIOp::create(builder, loc, a, b); };

  SmallVector<Value> stillOwned(kept.size(), no), conditions;
  for (auto [i, condition] : llvm::enumerate(op.getConditions())) {
    Value taken = no;
    for (auto [j, pointer] : llvm::enumerate(kept)) {
      Value same = equal(freed[i], pointer);
      stillOwned[j] = either(stillOwned[j], both(condition, same));
      taken = either(taken, same);
    }
    for (size_t j = 0; j < i; ++j)
      taken = either(taken, both(op.getConditions()[j], equal(freed[i], freed[j])));
    conditions.push_back(both(condition, arith::XOrIOp::create(builder, loc, taken, yes)));
  }
  for (auto [memref, condition] : llvm::zip_equal(op.getMemrefs(), conditions))
    bufferization::DeallocOp::create(builder, loc, TypeRange(), ValueRange(memref),
                                     ValueRange(condition), ValueRange());
  op->replaceAllUsesWith(stillOwned);
  op.erase();
}

bool isContiguous(Value memref) {
  return cast<MemRefType>(memref.getType()).getLayout().isIdentity();
}

struct IAMPrepareForLLVMPass : iam::impl::IAMPrepareForLLVMPassBase<IAMPrepareForLLVMPass> {
  void runOnOperation() override {
    SmallVector<bufferization::DeallocOp> several;
    SmallVector<memref::CopyOp> strided;
    bool complete = true;
    getOperation()->walk([&](Operation *op) {
      if (auto dealloc = dyn_cast<bufferization::DeallocOp>(op)) {
        if (dealloc.getMemrefs().size() > 1)
          several.push_back(dealloc);
      } else if (auto copy = dyn_cast<memref::CopyOp>(op)) {
        if (isa<MemRefType>(copy.getSource().getType()) &&
            isa<MemRefType>(copy.getTarget().getType()) &&
            (!isContiguous(copy.getSource()) || !isContiguous(copy.getTarget())))
          strided.push_back(copy);
      } else if (auto alloc = dyn_cast<memref::AllocOp>(op)) {
        Type element = alloc.getType().getElementType();
        if (element.isInteger() && element.getIntOrFloatBitWidth() < 8) {
          op->emitError("tensors of ")
              << element << " that have to be stored are not lowered: use i8 or f32";
          complete = false;
        }
      }
    });
    if (!complete)
      return signalPassFailure();
    llvm::for_each(several, split);
    for (memref::CopyOp copy : strided) {
      OpBuilder builder(copy);
      linalg::CopyOp::create(builder, copy.getLoc(), copy.getSource(), copy.getTarget());
      copy.erase();
    }
  }
};
} // namespace
