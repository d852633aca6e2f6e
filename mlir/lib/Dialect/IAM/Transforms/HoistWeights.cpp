//===- HoistWeights.cpp - iam-hoist-weights -------------------------------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The contract of the pass is in Passes.td. A value is *fixed* if only weights and
// constants decide it. The pass looks at the fixed values that the rest of the function
// reads: each is kept by the init function, or computed by the function itself, whose
// operands are looked at then.
//
//===----------------------------------------------------------------------===//

#include "iam/Dialect/IAM/IR/IAMOps.h"
#include "iam/Dialect/IAM/Transforms/Passes.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/Matchers.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "mlir/Transforms/RegionUtils.h"
#include "llvm/ADT/SetVector.h"

namespace iam {
#define GEN_PASS_DEF_HOISTWEIGHTSPASS
#include "iam/Dialect/IAM/Transforms/Passes.h.inc"
} // namespace iam

using namespace mlir;
using namespace iam;

namespace {
constexpr StringLiteral kWeight = "iam.weight";

/// A size whose `?` are not known: `unknown` of them, each counted as 1.
struct Size {
  int64_t elements = 1;
  int64_t bytes = 0;
  int64_t unknown = 0;
};

Size sizeOf(Type type) {
  Size size;
  auto shaped = [&](ArrayRef<int64_t> shape, int64_t perElement) {
    for (int64_t n : shape) {
      if (ShapedType::isDynamic(n))
        ++size.unknown;
      else
        size.elements *= n;
    }
    size.bytes = size.elements * perElement;
  };
  if (auto tensor = dyn_cast<RankedTensorType>(type))
    shaped(tensor.getShape(), tensor.getElementType().isIntOrFloat()
                                  ? llvm::divideCeil(tensor.getElementTypeBitWidth(), 8)
                                  : 8);
  else if (auto features = dyn_cast<FeaturesType>(type))
    shaped({features.getRows(), features.getK().value_or(features.getDict())}, 8);
  return size;
}

/// What the caller can keep between two calls: what a compiled function may return.
bool canBeKept(Type type) {
  if (isa<FeaturesType>(type))
    return true;
  auto tensor = dyn_cast<RankedTensorType>(type);
  if (!tensor || tensor.getEncoding())
    return false;
  Type element = tensor.getElementType();
  return element.isF32() || element.isF64() || element.isSignlessInteger(32) ||
         element.isSignlessInteger(64);
}

/// Computes nothing: views, sizes, constants, and what fuses into the loop that reads it.
bool isFree(Operation *op) {
  return op->hasTrait<OpTrait::ConstantLike>() ||
         isa<tensor::CastOp, tensor::CollapseShapeOp, tensor::DimOp, tensor::EmptyOp,
             tensor::ExpandShapeOp, tensor::ExtractOp, tensor::ExtractSliceOp,
             tensor::FromElementsOp, tensor::ReshapeOp, tensor::SplatOp, linalg::BroadcastOp,
             linalg::FillOp>(op);
}

class Hoisting {
public:
  Hoisting(func::FuncOp function, int64_t maxGrowth, int64_t minElements)
      : function(function), maxGrowth(maxGrowth), minElements(minElements) {}

  /// The number of values that the init function returns; it is made if there are some.
  int64_t run(SymbolTable &symbols) {
    for (BlockArgument argument : function.getArguments())
      if (function.removeArgAttr(argument.getArgNumber(), kWeight))
        fixed.insert(argument);
    if (fixed.empty())
      return 0;
    Block &entry = function.getBody().front();
    // An op that always runs may fail: it fails in the init function then. What a branch
    // guards stays.
    for (Operation &op : entry)
      if (dependsOnWeightsOnly(op))
        fixed.insert_range(op.getResults());
    for (Operation &op : entry)
      if (!isFixed(op))
        wantOperandsOf(op);
    for (Block &block : llvm::drop_begin(function.getBody()))
      for (Operation &op : block)
        wantOperandsOf(op);
    auto hoisted = static_cast<int64_t>(kept.size());
    if (hoisted)
      split(symbols);
    return hoisted;
  }

private:
  bool dependsOnWeightsOnly(Operation &op) {
    if (op.hasTrait<OpTrait::IsTerminator>() || op.getNumResults() == 0 || !isMemoryEffectFree(&op))
      return false;
    bool known = true;
    forEachRead(op, [&](Value value) { known &= fixed.contains(value); });
    return known;
  }

  bool isFixed(Operation &op) { return op.getNumResults() && fixed.contains(op.getResult(0)); }

  static void forEachRead(Operation &op, function_ref<void(Value)> visit) {
    llvm::for_each(op.getOperands(), visit);
    for (Region &region : op.getRegions())
      visitUsedValuesDefinedAbove(region, region, [&](OpOperand *use) { visit(use->get()); });
  }

  void wantOperandsOf(Operation &op) {
    forEachRead(op, [&](Value value) { want(value); });
  }

  /// The rest of the function reads `value`.
  void want(Value value) {
    Operation *maker = value.getDefiningOp();
    if (!maker || !fixed.contains(value) || !wanted.insert(value))
      return;
    if (canBeKept(value.getType()) && !isFree(maker) && isWorthIt(value))
      kept.insert(value);
    else
      wantOperandsOf(*maker);
  }

  /// The ops that make `value`, and the weights that they read.
  void collect(Value value, llvm::SetVector<Operation *> &ops, llvm::SetVector<Value> &weights) {
    Operation *maker = value.getDefiningOp();
    if (!maker) {
      weights.insert(value);
      return;
    }
    if (ops.insert(maker))
      forEachRead(*maker, [&](Value read) {
        if (fixed.contains(read))
          collect(read, ops, weights);
      });
  }

  bool isWorthIt(Value value) {
    llvm::SetVector<Operation *> ops;
    llvm::SetVector<Value> weights;
    collect(value, ops, weights);
    if (weights.empty())
      return false; // constants of the program: what folds them is not this pass
    Operation *maker = value.getDefiningOp();
    Size all, result = sizeOf(value.getType());
    for (Value weight : weights) {
      Size size = sizeOf(weight.getType());
      all.bytes += size.bytes;
      all.unknown = std::max(all.unknown, size.unknown);
    }
    if (result.unknown > all.unknown) {
      maker->emitRemark() << maker->getName()
                          << " of weights is computed at every call: how much memory its result "
                             "would take is not known";
      return false;
    }
    if (result.bytes > maxGrowth * all.bytes) {
      maker->emitRemark() << maker->getName() << " of weights is computed at every call: its "
                          << result.bytes << " bytes are more than max-growth = " << maxGrowth
                          << " times the " << all.bytes << " of the weights";
      return false;
    }
    int64_t elements = 0;
    for (Operation *op : ops) {
      if (isa_and_nonnull<IAMDialect>(op->getDialect()))
        return true;
      if (isFree(op))
        continue;
      int64_t largest = 0;
      for (Type type : op->getOperandTypes())
        largest = std::max(largest, sizeOf(type).elements);
      for (Type type : op->getResultTypes())
        largest = std::max(largest, sizeOf(type).elements);
      elements += largest;
    }
    if (elements >= minElements)
      return true;
    maker->emitRemark() << maker->getName() << " of weights is computed at every call: " << elements
                        << " elements are fewer than min-elements = " << minElements;
    return false;
  }

  void split(SymbolTable &symbols) {
    MLIRContext *context = function.getContext();
    OpBuilder builder(context);
    llvm::SetVector<Operation *> ops;
    llvm::SetVector<Value> weights;
    for (Value value : kept)
      collect(value, ops, weights);
    SmallVector<Value> arguments = weights.takeVector();
    llvm::sort(arguments, [](Value a, Value b) {
      return cast<BlockArgument>(a).getArgNumber() < cast<BlockArgument>(b).getArgNumber();
    });

    auto init =
        func::FuncOp::create(function.getLoc(), (function.getName() + ".init").str(),
                             builder.getFunctionType(ValueRange(arguments).getTypes(),
                                                     ValueRange(kept.getArrayRef()).getTypes()));
    symbols.insert(init, std::next(Block::iterator(function)));
    IRMapping mapping;
    Block *body = init.addEntryBlock();
    for (auto [old, made] : llvm::zip_equal(arguments, body->getArguments())) {
      mapping.map(old, made);
      made.setLoc(old.getLoc());
      init.setArgAttr(made.getArgNumber(), "iam.argument",
                      builder.getI64IntegerAttr(cast<BlockArgument>(old).getArgNumber()));
    }
    builder.setInsertionPointToEnd(body);
    for (Operation &op : function.getBody().front())
      if (ops.contains(&op))
        builder.clone(op, mapping);
    SmallVector<Value> results;
    for (Value value : kept)
      results.push_back(mapping.lookup(value));
    func::ReturnOp::create(builder, function.getLoc(), results);

    function->setAttr("iam.init", FlatSymbolRefAttr::get(init.getSymNameAttr()));
    for (auto [number, value] : llvm::enumerate(kept.takeVector())) {
      Operation *maker = value.getDefiningOp();
      maker->emitRemark() << maker->getName() << " is computed once for each set of weights ("
                          << (sizeOf(value.getType()).unknown ? "at least " : "")
                          << sizeOf(value.getType()).bytes << " bytes)";
      unsigned at = function.getNumArguments();
      auto attributes = builder.getDictionaryAttr(
          builder.getNamedAttr("iam.hoisted", builder.getI64IntegerAttr(number)));
      if (failed(function.insertArgument(at, value.getType(), attributes, value.getLoc())))
        llvm_unreachable("a func.func takes arguments of every type");
      value.replaceAllUsesWith(function.getArgument(at));
    }
    for (Operation &op : llvm::make_early_inc_range(llvm::reverse(function.getBody().front())))
      if (ops.contains(&op) && isOpTriviallyDead(&op))
        op.erase();
  }

  func::FuncOp function;
  int64_t maxGrowth, minElements;
  llvm::SetVector<Value> fixed, wanted, kept;
};

struct HoistWeightsPass : iam::impl::HoistWeightsPassBase<HoistWeightsPass> {
  using HoistWeightsPassBase::HoistWeightsPassBase;

  void runOnOperation() override {
    SymbolTable symbols(getOperation());
    for (auto function : llvm::to_vector(getOperation().getOps<func::FuncOp>())) {
      if (function.isExternal() || !hasWeights(function))
        continue;
      // The new arguments are for whoever calls the compiled function; a call in the module lacks
      // them.
      std::optional<SymbolTable::UseRange> uses =
          SymbolTable::getSymbolUses(function, getOperation());
      if (!function.isPublic() || !uses || !uses->empty()) {
        function.emitRemark() << "@" << function.getName()
                              << " computes what depends on weights at every call: "
                              << (function.isPublic() ? "it is called in this module"
                                                      : "it is private");
        continue;
      }
      int64_t hoisted = Hoisting(function, maxGrowth, minElements).run(symbols);
      numHoisted += hoisted;
      numInits += hoisted != 0;
    }
  }

  static bool hasWeights(func::FuncOp function) {
    return llvm::any_of(llvm::seq(function.getNumArguments()), [&](unsigned i) {
      return static_cast<bool>(function.getArgAttr(i, kWeight));
    });
  }
};
} // namespace
