//===- IAMToStablehlo.cpp - iam programs as StableHLO -------------------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The contract of the pass is in Passes.td. A function is written anew, op by op: types follow
// from those of the arguments, so that rows which an argument fixes are fixed everywhere. What the
// iam ops become is in LowerOps.cpp; the arithmetic around them is here.
//
//===----------------------------------------------------------------------===//

#include "LowerOps.h"
#include "StablehloBuilder.h"
#include "iam/Conversion/Passes.h"
#include "iam/Dialect/IAM/IR/IAMOps.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "llvm/ADT/TypeSwitch.h"

namespace iam {
#define GEN_PASS_DEF_IAMTOSTABLEHLOPASS
#include "iam/Conversion/Passes.h.inc"
} // namespace iam

using namespace mlir;
using namespace iam;

namespace {
/// What stands for a value of the program.
struct Translated {
  SmallVector<Value> tensors;
  /// The sizes of a tensor of which only they are read (tensor.empty), or the one that an index is.
  Sizes sizes;
};

/// Takes the sizes of `?` in the types of arguments from the option `rows`.
class Rows {
public:
  Rows(ArrayRef<int64_t> given) : given(given) {}

  int64_t next() {
    if (given.empty())
      return ShapedType::kDynamic;
    if (given.size() == 1)
      return given.front();
    return used < given.size() ? given[used++] : ShapedType::kDynamic;
  }

private:
  ArrayRef<int64_t> given;
  size_t used = 0;
};

class FunctionTranslator {
public:
  FunctionTranslator(func::FuncOp function, ArrayRef<int64_t> rows)
      : function(function), builder(function), rows(rows) {}

  /// Writes the function anew before itself and removes it.
  LogicalResult run() {
    if (function.getBody().getBlocks().size() != 1)
      return function.emitOpError("has no StableHLO form: it has several blocks");
    auto made = func::FuncOp::create(builder, function.getLoc(), function.getSymName(),
                                     FunctionType::get(builder.getContext(), {}, {}));
    made.setVisibility(function.getVisibility());
    Block *block = made.addEntryBlock();
    builder.setInsertionPointToStart(block);
    for (BlockArgument argument : function.getArguments())
      if (failed(addArgument(argument, *block)))
        return failure();
    bool isComplete = true;
    for (Operation &op : function.getBody().front()) {
      // What cannot be translated is reported; what follows from it is not.
      if (llvm::any_of(op.getOperands(), [&](Value v) { return !translated.contains(v); }))
        continue;
      isComplete &= succeeded(translate(&op));
    }
    if (!isComplete)
      return failure();
    auto results = block->getTerminator()->getOperandTypes();
    made.setFunctionType(
        FunctionType::get(builder.getContext(), block->getArgumentTypes(), results));
    function.erase();
    return success();
  }

private:
  LogicalResult addArgument(BlockArgument argument, Block &block) {
    Translated &parts = translated[argument];
    auto add = [&](ArrayRef<int64_t> shape, Type element) {
      Type type = RankedTensorType::get(shape, element);
      parts.tensors.push_back(block.addArgument(type, argument.getLoc()));
    };
    Type type = argument.getType();
    if (auto features = dyn_cast<FeaturesType>(type)) {
      int64_t n = features.hasDynamicRows() ? rows.next() : features.getRows();
      add({n, features.getK().value_or(features.getDict())}, features.getElementType());
      if (features.isKForm())
        add({n, *features.getK()}, builder.getI32Type());
      return success();
    }
    if (type.isIntOrFloat()) {
      add({}, type);
      return success();
    }
    if (auto tensor = dyn_cast<RankedTensorType>(type)) {
      SmallVector<int64_t> shape(tensor.getShape());
      for (int64_t &size : shape)
        if (ShapedType::isDynamic(size))
          size = rows.next();
      add(shape, tensor.getElementType());
      return success();
    }
    InFlightDiagnostic error = function.emitOpError("has no StableHLO form: argument ")
                               << argument.getArgNumber() << " has type " << type;
    if (isa<ModelType>(type))
      error << ", a model that stays in Python; export what comes before and after it";
    return error;
  }

  Value tensor(Value value) { return translated[value].tensors.front(); }

  /// The sizes of a value, which may have no tensor.
  Sizes sizes(Value value) {
    Translated &found = translated[value];
    return found.tensors.empty() ? found.sizes : sizesOf(found.tensors.front());
  }

  /// The sizes of `type`, with `given` for those that it leaves open.
  Sizes sizes(RankedTensorType type, ValueRange given) {
    Sizes result;
    for (int64_t size : type.getShape()) {
      if (ShapedType::isDynamic(size)) {
        result.push_back(translated[given.front()].sizes.front());
        given = given.drop_front();
      } else {
        result.emplace_back(size);
      }
    }
    return result;
  }

  LogicalResult is(Value value, Value tensor) {
    translated[value].tensors = {tensor};
    return success();
  }
  LogicalResult isOfSizes(Value value, Sizes sizes) {
    translated[value].sizes = std::move(sizes);
    return success();
  }

  LogicalResult translate(Operation *op) {
    StablehloBuilder to(builder, op->getLoc());
    return llvm::TypeSwitch<Operation *, LogicalResult>(op)
        .Case([&](arith::ConstantOp op) { return constant(op, to); })
        .Case([&](arith::AddFOp op) { return is(op, to.add(lhs(op), rhs(op))); })
        .Case([&](arith::SubFOp op) { return is(op, to.subtract(lhs(op), rhs(op))); })
        .Case([&](arith::MulFOp op) { return is(op, to.multiply(lhs(op), rhs(op))); })
        .Case([&](arith::DivFOp op) { return is(op, to.divide(lhs(op), rhs(op))); })
        .Case([&](arith::MaximumFOp op) { return is(op, to.maximum(lhs(op), rhs(op))); })
        .Case([&](arith::MinimumFOp op) { return is(op, to.minimum(lhs(op), rhs(op))); })
        .Case([&](arith::NegFOp op) { return is(op, to.negate(tensor(op.getOperand()))); })
        .Case([&](tensor::EmptyOp op) {
          return isOfSizes(op, sizes(op.getType(), op.getDynamicSizes()));
        })
        .Case([&](tensor::DimOp op) { return dim(op); })
        .Case([&](tensor::CastOp op) {
          translated[op] = Translated(translated[op.getSource()]);
          return success();
        })
        .Case([&](tensor::SplatOp op) {
          Sizes all = sizes(op.getType(), op.getDynamicSizes());
          return is(op, to.broadcast(tensor(op.getInput()), all, {}));
        })
        .Case([&](tensor::FromElementsOp op) { return fromElements(op, to); })
        .Case([&](linalg::BroadcastOp op) { return broadcast(op, to); })
        .Case([&](linalg::FillOp op) {
          return is(op.getResult(0), to.broadcast(tensor(op.getInputs().front()),
                                                  sizes(op.getOutputs().front()), {}));
        })
        .Case([&](linalg::MatmulOp op) { return matmul(op, to); })
        .Case([&](func::ReturnOp op) {
          SmallVector<Value> results;
          for (Value value : op.getOperands())
            llvm::append_range(results, translated[value].tensors);
          func::ReturnOp::create(builder, op.getLoc(), results);
          return success();
        })
        .Default([&](Operation *op) { return dialectOp(op); });
  }

  template <typename Op> Value lhs(Op op) { return tensor(op.getLhs()); }
  template <typename Op> Value rhs(Op op) { return tensor(op.getRhs()); }

  LogicalResult dialectOp(Operation *op) {
    if (!isa_and_present<IAMDialect>(op->getDialect()))
      return op->emitOpError("has no StableHLO form here; iam-to-stablehlo takes iam ops, "
                             "elementwise arith, splats, fills, broadcasts and linalg.matmul");
    SmallVector<ValueRange> operands;
    for (Value operand : op->getOperands())
      operands.push_back(translated[operand].tensors);
    auto results = lowerToStablehlo(op, operands, builder);
    if (failed(results))
      return failure();
    for (auto [result, tensors] : llvm::zip_equal(op->getResults(), *results))
      translated[result].tensors = std::move(tensors);
    return success();
  }

  LogicalResult constant(arith::ConstantOp op, StablehloBuilder &to) {
    Attribute value = op.getValue();
    if (auto index = dyn_cast<IntegerAttr>(value); index && index.getType().isIndex())
      return isOfSizes(op, {Size(index.getInt())});
    if (auto number = dyn_cast<TypedAttr>(value); number && number.getType().isIntOrFloat())
      value = DenseElementsAttr::get(RankedTensorType::get({}, number.getType()), value);
    if (auto elements = dyn_cast<DenseElementsAttr>(value))
      return is(op, to.constant(elements));
    return op.emitOpError("has no StableHLO form: its elements are not in the program");
  }

  LogicalResult dim(tensor::DimOp op) {
    std::optional<int64_t> axis = op.getConstantIndex();
    if (!axis)
      return op.emitOpError("has no StableHLO form: the dimension has to be a constant");
    Sizes all = sizes(op.getSource());
    if (*axis < 0 || *axis >= static_cast<int64_t>(all.size()))
      return op.emitOpError("has no StableHLO form: there is no dimension ") << *axis;
    return isOfSizes(op, {all[*axis]});
  }

  LogicalResult fromElements(tensor::FromElementsOp op, StablehloBuilder &to) {
    RankedTensorType type = op.getType();
    if (type.getRank() == 0)
      return is(op, tensor(op.getElements().front()));
    if (type.getRank() != 1)
      return op.emitOpError("has no StableHLO form here for more than one dimension");
    Value all;
    for (Value element : op.getElements()) {
      Value one = to.broadcast(tensor(element), Size(1), {});
      all = all ? to.concatenate(all, one, 0) : one;
    }
    if (!all)
      return op.emitOpError("has no StableHLO form here without elements");
    return is(op, all);
  }

  LogicalResult broadcast(linalg::BroadcastOp op, StablehloBuilder &to) {
    Sizes target = sizes(op.getInit());
    SmallVector<int64_t> axes;
    for (int64_t axis = 0, rank = static_cast<int64_t>(target.size()); axis < rank; ++axis)
      if (!llvm::is_contained(op.getDimensions(), axis))
        axes.push_back(axis);
    return is(op->getResult(0), to.broadcast(tensor(op.getInput()), target, axes));
  }

  LogicalResult matmul(linalg::MatmulOp op, StablehloBuilder &to) {
    if (op.hasUserDefinedMaps())
      return op.emitOpError("has no StableHLO form here with indexing maps of its own");
    Value init = op.getOutputs().front();
    if (translated[init].tensors.empty())
      return op.emitOpError("has no StableHLO form: it accumulates into an empty tensor");
    Value product = to.matmul(tensor(op.getInputs()[0]), tensor(op.getInputs()[1]));
    return is(op.getResult(0), to.add(product, tensor(init)));
  }

  func::FuncOp function;
  OpBuilder builder;
  Rows rows;
  DenseMap<Value, Translated> translated;
};

struct IAMToStablehloPass : iam::impl::IAMToStablehloPassBase<IAMToStablehloPass> {
  using IAMToStablehloPassBase::IAMToStablehloPassBase;

  void runOnOperation() override {
    if (llvm::any_of(rows, [](int64_t n) { return n < 0; })) {
      getOperation().emitError("iam-to-stablehlo: expected rows >= 0");
      return signalPassFailure();
    }
    for (auto function : llvm::make_early_inc_range(getOperation().getOps<func::FuncOp>())) {
      if (function.isExternal()) {
        function.emitOpError("has no StableHLO form: it has no body");
        signalPassFailure();
      } else if (failed(FunctionTranslator(function, rows).run())) {
        signalPassFailure();
      }
    }
  }
};
} // namespace
