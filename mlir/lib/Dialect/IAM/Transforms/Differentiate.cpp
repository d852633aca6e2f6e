//===- Differentiate.cpp - iam-differentiate ----------------------------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The contract of the pass is in Passes.td. This file has the sum over the path;
// the derivatives are in Adjoints.cpp.
//
//===----------------------------------------------------------------------===//

#include "Adjoints.h"
#include "iam/Dialect/IAM/IR/IAMOps.h"
#include "iam/Dialect/IAM/Transforms/Passes.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/SymbolTable.h"

namespace iam {
#define GEN_PASS_DEF_DIFFERENTIATEPASS
#include "iam/Dialect/IAM/Transforms/Passes.h.inc"
} // namespace iam

using namespace mlir;
using namespace iam;

namespace {
/// Writes the sum over the points of a path for one attr.grad.
class PathSum {
public:
  PathSum(AttrGradOp op, func::FuncOp function, int64_t atOnce)
      : op(op), loc(op.getLoc()), builder(op),
        start(arith::ConstantOp::create(builder, loc, builder.getF64FloatAttr(0.0))),
        differentiator(function, OpBuilder(start)),
        type(cast<RankedTensorType>(op.getX().getType())), atOnce(atOnce) {}

  FailureOr<Value> write() {
    sizes = tensor::getMixedSizes(builder, loc, op.getX());
    Type f64 = builder.getF64Type();
    Value empty = tensor::EmptyOp::create(builder, loc, sizes, f64);
    Value sum = linalg::FillOp::create(builder, loc, start.getResult(), empty).getResult(0);

    int64_t points = cast<RankedTensorType>(op.getPoints().getType()).getDimSize(0);
    if (ShapedType::isDynamic(points))
      return finished(loop(sum, index(0), tensor::DimOp::create(builder, loc, op.getPoints(), 0)));
    atOnce = std::min(atOnce, points);
    int64_t whole = points / atOnce * atOnce;
    if (whole == atOnce)
      sum = term(sum, index(0)).value_or(Value());
    else
      sum = loop(sum, index(0), index(whole)).value_or(Value());
    if (sum && whole < points) { // the points that are left
      atOnce = points - whole;
      sum = term(sum, index(whole)).value_or(Value());
    }
    return sum ? finished(sum) : FailureOr<Value>(failure());
  }

private:
  Value index(int64_t number) { return arith::ConstantIndexOp::create(builder, loc, number); }

  FailureOr<Value> finished(FailureOr<Value> sum) {
    if (failed(sum))
      return failure();
    int64_t rank = type.getRank();
    Value empty = tensor::EmptyOp::create(builder, loc, sizes, builder.getF32Type());
    SmallVector<AffineMap> maps(4, builder.getMultiDimIdentityMap(rank));
    SmallVector<utils::IteratorType> parallel(rank, utils::IteratorType::parallel);
    auto product = linalg::GenericOp::create(
        builder, loc, TypeRange{empty.getType()}, ValueRange{*sum, op.getX(), op.getBaseline()},
        ValueRange{empty}, maps, parallel, [](OpBuilder &b, Location loc, ValueRange args) {
          Type f64 = b.getF64Type();
          Value x = arith::ExtFOp::create(b, loc, f64, args[1]);
          Value baseline = arith::ExtFOp::create(b, loc, f64, args[2]);
          Value direction = arith::SubFOp::create(b, loc, x, baseline);
          Value scaled = arith::MulFOp::create(b, loc, direction, args[0]);
          Value narrow = arith::TruncFOp::create(b, loc, b.getF32Type(), scaled);
          linalg::YieldOp::create(b, loc, narrow);
        });
    return as(product.getResult(0), op.getAttributions().getType());
  }

  Value as(Value value, Type to) {
    return value.getType() == to ? value : tensor::CastOp::create(builder, loc, to, value);
  }

  FailureOr<Value> loop(Value sum, Value from, Value end) {
    auto loop = scf::ForOp::create(builder, loc, from, end, index(atOnce), sum);
    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPointToStart(loop.getBody());
    FailureOr<Value> next = term(loop.getRegionIterArg(0), loop.getInductionVar());
    if (failed(next))
      return failure();
    scf::YieldOp::create(builder, loc, *next);
    return loop.getResult(0);
  }

  /// sum + Σ_i w_i ∇F(points_i) over `atOnce` points from the one at `first`.
  FailureOr<Value> term(Value sum, Value first) {
    FailureOr<Value> gradient = differentiator.gradientAt(builder, inputs(first), op.getCaptures());
    if (failed(gradient))
      return failure();
    AttrCheckOp::create(builder, loc, asMatrix(*gradient), first, atOnce);

    // [points, ...]
    int64_t rank = type.getRank();
    Value all = unstacked(*gradient);
    auto weightsType = RankedTensorType::get(atOnce, builder.getF32Type());
    Value weights = tensor::ExtractSliceOp::create(
        builder, loc, weightsType, op.getWeights(), ArrayRef<OpFoldResult>{OpFoldResult(first)},
        ArrayRef<OpFoldResult>{builder.getIndexAttr(atOnce)},
        ArrayRef<OpFoldResult>{builder.getIndexAttr(1)});
    AffineMap whole = builder.getMultiDimIdentityMap(rank + 1);
    AffineMap point = AffineMap::get(rank + 1, 0, builder.getAffineDimExpr(0));
    SmallVector<AffineMap> maps{whole, point, whole.dropResult(0)};
    SmallVector<utils::IteratorType> iterators(rank + 1, utils::IteratorType::parallel);
    iterators[0] = utils::IteratorType::reduction;
    auto generic = linalg::GenericOp::create(
        builder, loc, TypeRange{sum.getType()}, ValueRange{all, weights}, ValueRange{sum}, maps,
        iterators, [](OpBuilder &b, Location loc, ValueRange args) {
          Type f64 = b.getF64Type();
          Value gradient = arith::ExtFOp::create(b, loc, f64, args[0]);
          Value weight = arith::ExtFOp::create(b, loc, f64, args[1]);
          Value term = arith::MulFOp::create(b, loc, weight, gradient);
          Value sum = arith::AddFOp::create(b, loc, args[2], term);
          linalg::YieldOp::create(b, loc, sum);
        });
    return generic.getResult(0);
  }

  /// The points from the one at `first`, as an input of the function: rows of all points.
  Value inputs(Value first) {
    int64_t rank = type.getRank();
    SmallVector<OpFoldResult> offsets(rank + 1, builder.getIndexAttr(0)),
        strides(rank + 1, builder.getIndexAttr(1)), extents{builder.getIndexAttr(atOnce)};
    offsets[0] = first;
    llvm::append_range(extents, sizes);
    if (atOnce == 1)
      return tensor::ExtractSliceOp::create(builder, loc, type, op.getPoints(), offsets, extents,
                                            strides);
    SmallVector<int64_t> shape{atOnce};
    llvm::append_range(shape, type.getShape());
    auto sliceType = RankedTensorType::get(shape, type.getElementType());
    Value slice = tensor::ExtractSliceOp::create(builder, loc, sliceType, op.getPoints(), offsets,
                                                 extents, strides);
    SmallVector<ReassociationIndices> groups{{0, 1}, {2}};
    return tensor::CollapseShapeOp::create(builder, loc, slice, groups);
  }

  Value unstacked(Value gradient) {
    SmallVector<int64_t> shape{atOnce};
    llvm::append_range(shape, type.getShape());
    auto to = RankedTensorType::get(shape, type.getElementType());
    SmallVector<OpFoldResult> extents{builder.getIndexAttr(atOnce)};
    llvm::append_range(extents, sizes);
    SmallVector<ReassociationIndices> groups;
    if (type.getRank() > 0)
      groups.push_back({0, 1});
    for (int64_t axis = 1; axis < type.getRank(); ++axis)
      groups.push_back({axis + 1});
    return tensor::ExpandShapeOp::create(builder, loc, to, gradient, groups, extents);
  }

  /// In two dimensions, for the check.
  Value asMatrix(Value gradient) {
    auto from = cast<RankedTensorType>(gradient.getType());
    if (from.getRank() == 2)
      return gradient;
    SmallVector<OpFoldResult> extents = tensor::getMixedSizes(builder, loc, gradient);
    if (from.getRank() < 2) {
      SmallVector<ReassociationIndices> groups;
      if (from.getRank() == 1)
        groups.push_back({0, 1});
      SmallVector<int64_t> shape(2 - from.getRank(), 1);
      llvm::append_range(shape, from.getShape());
      while (extents.size() < 2)
        extents.insert(extents.begin(), builder.getIndexAttr(1));
      return tensor::ExpandShapeOp::create(builder, loc,
                                           RankedTensorType::get(shape, from.getElementType()),
                                           gradient, groups, extents);
    }
    SmallVector<ReassociationIndices> groups(2);
    for (int64_t axis = 0; axis < from.getRank(); ++axis)
      groups[axis + 1 == from.getRank()].push_back(axis);
    return tensor::CollapseShapeOp::create(builder, loc, gradient, groups);
  }

  AttrGradOp op;
  Location loc;
  OpBuilder builder;
  arith::ConstantOp start; // comes before everything that is written
  Differentiator differentiator;
  RankedTensorType type;
  int64_t atOnce;
  SmallVector<OpFoldResult> sizes; // of x
};

struct DifferentiatePass : iam::impl::DifferentiatePassBase<DifferentiatePass> {
  using DifferentiatePassBase::DifferentiatePassBase;

  void runOnOperation() override {
    if (pointsAtOnce < 1) {
      getOperation().emitError("iam-differentiate: expected points-at-once >= 1, got ")
          << pointsAtOnce;
      return signalPassFailure();
    }
    SymbolTableCollection symbols;
    SmallVector<AttrGradOp> gradients;
    getOperation().walk([&](AttrGradOp op) { gradients.push_back(op); });
    for (AttrGradOp op : gradients)
      if (failed(expand(op, symbols)))
        return signalPassFailure();
  }

  LogicalResult expand(AttrGradOp op, SymbolTableCollection &symbols) {
    auto function = symbols.lookupNearestSymbolFrom<func::FuncOp>(op, op.getCalleeAttr());
    if (!function || function.isExternal())
      return op.emitOpError("expected @") << op.getCallee() << " to have a body to differentiate";
    if (!function.getBody().hasOneBlock())
      return op.emitOpError("expected @")
             << op.getCallee() << " to have one block: control flow has no derivative yet";
    std::optional<std::string> why = whyNotRowWise(function);
    int64_t atOnce = why ? 1 : static_cast<int64_t>(pointsAtOnce);
    FailureOr<Value> attributions = PathSum(op, function, atOnce).write();
    if (failed(attributions)) {
      op.emitError("is where the derivative of @") << op.getCallee() << " is asked for";
      return failure();
    }
    InFlightDiagnostic remark = op.emitRemark() << "differentiates @" << op.getCallee();
    if (why)
      remark << " one point at a time: " << *why;
    else
      remark << " at up to " << atOnce << " points at once";
    op.replaceAllUsesWith(*attributions);
    op.erase();
    ++numGradients;
    return success();
  }
};
} // namespace
