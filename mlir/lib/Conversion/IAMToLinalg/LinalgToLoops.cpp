//===- LinalgToLoops.cpp - iam-linalg-to-loops --------------------------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "iam/Conversion/Passes.h"
#include "mlir/Dialect/Affine/IR/AffineOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Linalg/Transforms/Transforms.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/PatternMatch.h"

namespace iam {
#define GEN_PASS_DEF_IAMLINALGTOLOOPSPASS
#include "iam/Conversion/Passes.h.inc"
} // namespace iam

using namespace mlir;

namespace {
/// Each map has both dimensions one after the other, or neither.
bool areNeighbours(ArrayRef<AffineMap> maps, unsigned dim) {
  return llvm::all_of(maps, [&](AffineMap map) {
    std::optional<unsigned> first = map.getResultPosition(getAffineDimExpr(dim, map.getContext()));
    std::optional<unsigned> second =
        map.getResultPosition(getAffineDimExpr(dim + 1, map.getContext()));
    return first ? second && *second == *first + 1 : !second;
  });
}

/// Memory in which the dimensions of an operand that `groups` puts together are one run of numbers.
bool isContiguous(MemRefType type, AffineMap map, ArrayRef<ReassociationIndices> groups) {
  SmallVector<ReassociationIndices> own;
  for (const ReassociationIndices &group : groups) {
    ReassociationIndices dims;
    for (int64_t dim : group)
      if (auto position = map.getResultPosition(getAffineDimExpr(dim, map.getContext())))
        dims.push_back(*position);
    if (!dims.empty())
      own.push_back(dims);
  }
  return own.size() == map.getNumResults() ||
         memref::CollapseShapeOp::isGuaranteedCollapsible(type, own);
}

/// Groups of dimensions of an op that become one; nothing if each stays by itself.
SmallVector<ReassociationIndices> groupsOf(linalg::GenericOp op) {
  SmallVector<AffineMap> maps = op.getIndexingMapsArray();
  SmallVector<utils::IteratorType> iterators = op.getIteratorTypesArray();
  if (!llvm::all_of(maps, [](AffineMap map) { return map.isProjectedPermutation(); }))
    return {};
  SmallVector<ReassociationIndices> groups;
  for (unsigned dim = 0; dim < op.getNumLoops(); ++dim) {
    if (dim && iterators[dim] == iterators[dim - 1] && areNeighbours(maps, dim - 1)) {
      auto wider = groups;
      wider.back().push_back(dim);
      // Dimensions after this one do not matter yet: they are by themselves.
      for (unsigned after = dim + 1; after < op.getNumLoops(); ++after)
        wider.push_back({after});
      if (llvm::all_of(llvm::zip(op->getOperands(), maps), [&](auto pair) {
            auto type = dyn_cast<MemRefType>(std::get<0>(pair).getType());
            return !type || isContiguous(type, std::get<1>(pair), wider);
          })) {
        groups.back().push_back(dim);
        continue;
      }
    }
    groups.push_back({dim});
  }
  return groups.size() < op.getNumLoops() ? groups : SmallVector<ReassociationIndices>();
}

/// Every operand is read or written number by number in the innermost loop, or stays the same in it.
bool isDense(linalg::LinalgOp op) {
  if (op.getNumLoops() == 0)
    return false;
  AffineExpr inner = getAffineDimExpr(op.getNumLoops() - 1, op.getContext());
  return llvm::all_of(llvm::zip(op->getOperands(), op.getIndexingMapsArray()),
                      [&](auto operandAndMap) {
                        auto [operand, map] = operandAndMap;
                        auto type = dyn_cast<MemRefType>(operand.getType());
                        if (!type || !map.isFunctionOfDim(op.getNumLoops() - 1))
                          return true;
                        std::optional<unsigned> position = map.getResultPosition(inner);
                        SmallVector<int64_t> strides;
                        int64_t offset = 0;
                        return position && succeeded(type.getStridesAndOffset(strides, offset)) &&
                               strides[*position] == 1;
                      });
}

/// What LLVM is told of an innermost loop. The vectoriser interleaves iterations; unrolling that again, and vectors of numbers
/// that are gathered one by one, are code without a gain.
Attribute annotation(MLIRContext *context, bool dense) {
  auto yes = BoolAttr::get(context, true);
  LLVM::LoopVectorizeAttr vectorize;
  if (!dense)
    vectorize = LLVM::LoopVectorizeAttr::get(context, yes, {}, {}, {}, {}, {}, {});
  auto unroll = LLVM::LoopUnrollAttr::get(context, yes, {}, {}, {}, {}, {}, {});
  return LLVM::LoopAnnotationAttr::get(context, {}, vectorize, {}, unroll, {}, {}, {}, {}, {}, {},
                                       {}, {}, {}, {}, {});
}

struct IAMLinalgToLoopsPass : iam::impl::IAMLinalgToLoopsPassBase<IAMLinalgToLoopsPass> {
  void runOnOperation() override {
    SmallVector<linalg::LinalgOp> ops;
    getOperation()->walk([&](linalg::LinalgOp op) {
      if (op.hasPureBufferSemantics())
        ops.push_back(op);
    });
    IRRewriter rewriter(&getContext());
    for (linalg::LinalgOp op : ops) {
      rewriter.setInsertionPoint(op);
      if (!isa<linalg::GenericOp>(op))
        if (auto generic = linalg::generalizeNamedOp(rewriter, op); succeeded(generic))
          op = *generic;
      if (auto generic = dyn_cast<linalg::GenericOp>(*op); generic && !generic.hasIndexSemantics())
        if (SmallVector<ReassociationIndices> groups = groupsOf(generic); !groups.empty())
          if (auto made = collapseOpIterationDims(op, groups, rewriter); succeeded(made)) {
            rewriter.replaceOp(op, made->results);
            op = made->collapsedOp;
            rewriter.setInsertionPoint(op);
            ++numCollapsed;
          }
      bool dense = isDense(op);
      FailureOr<linalg::LinalgLoops> loops = linalg::linalgOpToLoops(rewriter, op);
      if (failed(loops)) {
        op->emitOpError("iam-linalg-to-loops: expected an op that can be written as loops");
        return signalPassFailure();
      }
      if (!loops->empty())
        loops->back()->setAttr("loop_annotation", annotation(&getContext(), dense));
      rewriter.eraseOp(op);
    }
  }
};
} // namespace
