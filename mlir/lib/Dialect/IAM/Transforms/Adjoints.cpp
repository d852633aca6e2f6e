//===- Adjoints.cpp - Reverse-mode differentiation of a function --------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Each op that has a derivative is one overload of `adjoint`: from the cotangent of
// its result to those of its operands. The formulas are those of docs/spec.md.
//
// The cotangent of features is a list of features values with entries at active
// features, the sum of which it is: what reads features is linear in them, so each
// goes on to the encoder by itself, and no two patterns have to be merged.
//
//===----------------------------------------------------------------------===//

#include "Adjoints.h"
#include "iam/Dialect/IAM/IR/IAMOps.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/Matchers.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace iam;

namespace {
/// A part of the cotangent of features.
struct Term {
  Value features;
  bool isNegative = false;
};

RankedTensorType tensorType(Value value) { return cast<RankedTensorType>(value.getType()); }

bool isTensor(Value value) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  return type && type.getElementType().isF32();
}

/// The derivative of one evaluation of a function.
class Reverse {
public:
  Reverse(OpBuilder &builder, Differentiator &shared) : builder(builder), shared(shared) {}

  /// Writes out the body of `function`; its result.
  FailureOr<Value> forward(func::FuncOp function, Value x, ValueRange captures) {
    Block &body = function.getBody().front();
    IRMapping mapping;
    mapping.map(body.getArgument(0), x);
    mapping.map(body.getArguments().drop_front(), captures);
    active.insert(x);
    for (Operation &op : body.without_terminator()) {
      Operation *clone = builder.clone(op, mapping);
      if (auto run = dyn_cast<ModelRunOp>(clone); run && run.getH() && isActive(run.getH()))
        clone = linearized(run, cast<ModelRunOp>(op), mapping);
      if (clone->getNumRegions() == 0 || isa<linalg::LinalgOp>(clone)) {
        ops.push_back(clone);
        bool depends = llvm::any_of(clone->getOperands(), [&](Value v) { return isActive(v); });
        for (Value result : clone->getResults())
          if (depends &&
              (isTensor(result) || isa<FeaturesType>(result.getType()) || result.getType().isF32()))
            active.insert(result);
        continue;
      }
      return refuse(clone) << "control flow has none yet";
    }
    return mapping.lookup(body.getTerminator()->getOperand(0));
  }

  /// The cotangent of `x` for a result whose entries have cotangent 1.
  FailureOr<Value> backward(Value result, Value x) {
    if (isActive(result))
      add(result, filled(result, 1.0f));
    for (Operation *op : llvm::reverse(ops)) {
      bool depends = llvm::any_of(op->getResults(), [&](Value v) { return hasCotangent(v); });
      if (!depends)
        continue;
      // Only an encode takes the cotangent of its pre-activations as features.
      if (!isa<CLTEncodeOp>(op))
        for (Value result : op->getResults())
          if (isTensor(result))
            dense(result);
      if (failed(dispatch(op)))
        return failure();
    }
    Value found = dense(x);
    return found ? found : filled(x, 0.0f);
  }

private:
  /// The same part of the model, which also keeps what its derivative needs.
  Operation *linearized(ModelRunOp run, ModelRunOp original, IRMapping &mapping) {
    auto part = ModelLinearizeOp::create(builder, run.getLoc(), run.getY().getType(),
                                         TapeType::get(builder.getContext()), run.getModel(),
                                         run.getH(), *run.getFrom(), run.getTo(),
                                         run.getTokensAttr(), run.getPositionsAttr());
    mapping.map(original.getY(), part.getY());
    run.erase();
    return part;
  }

  InFlightDiagnostic refuse(Operation *op) {
    return op->emitOpError("has no derivative in compiled programs: ");
  }

  bool isActive(Value value) const { return active.contains(value); }
  bool hasCotangent(Value value) const { return tensors.contains(value) || terms.contains(value); }

  // Cotangents.

  Value as(Value value, Type type) {
    if (value.getType() == type)
      return value;
    return tensor::CastOp::create(builder, value.getLoc(), type, value);
  }

  void add(Value to, Value cotangent) {
    if (!isActive(to))
      return;
    if (isa<RankedTensorType>(to.getType()))
      cotangent = as(cotangent, to.getType());
    Value &sum = tensors[to];
    sum = sum ? Value(arith::AddFOp::create(builder, to.getLoc(), sum, cotangent)) : cotangent;
  }

  void add(Value to, Term term) {
    if (isActive(to))
      terms[to].push_back(term);
  }

  /// What is known of the cotangent of a tensor, as a tensor; none if nothing is.
  Value dense(Value value) {
    for (Term term : terms.lookup(value)) {
      Value whole = CLTDensifyOp::create(builder, value.getLoc(), value.getType(), term.features);
      add(value, signedBy(term, whole));
    }
    terms.erase(value);
    return tensors.lookup(value);
  }

  Value signedBy(Term term, Value value) {
    if (!term.isNegative)
      return value;
    return arith::NegFOp::create(builder, value.getLoc(), value);
  }

  // Tensors.

  Value sized(Value like, int64_t axis) {
    return tensor::DimOp::create(builder, like.getLoc(), like, axis);
  }

  SmallVector<Value> openSizes(Value like) {
    SmallVector<Value> sizes;
    for (auto [axis, size] : llvm::enumerate(tensorType(like).getShape()))
      if (ShapedType::isDynamic(size))
        sizes.push_back(sized(like, static_cast<int64_t>(axis)));
    return sizes;
  }

  /// A tensor or number of the type and sizes of `like`.
  Value filled(Value like, float number) {
    Value value =
        arith::ConstantOp::create(builder, like.getLoc(), builder.getF32FloatAttr(number));
    if (like.getType().isF32())
      return value;
    return tensor::SplatOp::create(builder, like.getLoc(), value, tensorType(like),
                                   openSizes(like));
  }

  /// A constant vector of zeros, as a bias.
  Value zeros(int64_t size, Location loc) {
    auto type = RankedTensorType::get(size, builder.getF32Type());
    return arith::ConstantOp::create(builder, loc, DenseElementsAttr::get(type, 0.0f));
  }

  /// `dy · Wᵀ`, in the type of `like`.
  FailureOr<Value> timesTransposed(Operation *op, Value dy, Value W, Value like) {
    int64_t width = tensorType(W).getDimSize(0);
    if (ShapedType::isDynamic(width) || ShapedType::isDynamic(tensorType(W).getDimSize(1)))
      return refuse(op) << "the sizes of its weights have to be known";
    Value result = CLTEncodeOp::create(
        builder, op->getLoc(),
        RankedTensorType::get({tensorType(dy).getDimSize(0), width}, builder.getF32Type()), dy,
        shared.transposed(builder, W), zeros(width, op->getLoc()), Value());
    return as(result, like.getType());
  }

  /// `Σ_j df[j] W_enc[:, j]`: a decode with the encoder's columns.
  Value throughEncoder(Operation *op, Term term, Value W, Value x) {
    auto rows = cast<FeaturesType>(term.features.getType()).getRows();
    Type type = RankedTensorType::get({rows, tensorType(W).getDimSize(0)}, builder.getF32Type());
    Value result = CLTDecodeOp::create(builder, op->getLoc(), type, term.features,
                                       shared.transposed(builder, W), Value());
    return signedBy(term, as(result, x.getType()));
  }

  /// Weights, directions and sets are held fixed.
  LogicalResult expectFixed(Operation *op, ValueRange operands) {
    for (Value operand : operands)
      if (operand && isActive(operand))
        return refuse(op) << "its weights, directions and bounds must not depend on what is "
                             "differentiated";
    return success();
  }

  // Coders.

  LogicalResult encoded(Operation *op, Value result, Value x, Value W, Value b, Value subtract) {
    if (failed(expectFixed(op, {W, b, subtract})))
      return failure();
    for (Term term : terms.lookup(result))
      add(x, throughEncoder(op, term, W, x));
    terms.erase(result);
    if (Value g = tensors.lookup(result)) {
      FailureOr<Value> dx = timesTransposed(op, g, W, x);
      if (failed(dx))
        return failure();
      add(x, *dx);
    }
    return success();
  }

  LogicalResult adjoint(CLTEncodeOp op) {
    return encoded(op, op.getPre(), op.getX(), op.getWEnc(), op.getBEnc(), op.getBDec());
  }

  LogicalResult adjoint(CLTEncodeSparseOp op) {
    if (failed(expectFixed(op, op.getThreshold())))
      return failure();
    // A gate chooses features, and the magnitude is what they are.
    if (op.getActivation() == Activation::Gate) {
      if (failed(expectFixed(op, {op.getWEnc(), op.getBEnc()})))
        return failure();
      return encoded(op, op.getF(), op.getX(), op.getWMag(), op.getBMag(), op.getBDec());
    }
    return encoded(op, op.getF(), op.getX(), op.getWEnc(), op.getBEnc(), op.getBDec());
  }

  /// The derivative of an activation is 1 where a feature is active, and 0 elsewhere.
  LogicalResult activated(Value f, Value pre) {
    for (Term term : terms.lookup(f))
      add(pre, term);
    return success();
  }
  LogicalResult adjoint(CLTTopKOp op) { return activated(op.getF(), op.getPre()); }
  LogicalResult adjoint(CLTAbsTopKOp op) { return activated(op.getF(), op.getPre()); }
  LogicalResult adjoint(CLTGroupMaxOp op) { return activated(op.getF(), op.getPre()); }
  LogicalResult adjoint(CLTBatchTopKOp op) { return activated(op.getF(), op.getPre()); }
  LogicalResult adjoint(CLTReLUOp op) { return activated(op.getF(), op.getPre()); }
  LogicalResult adjoint(CLTJumpReLUOp op) {
    return failed(expectFixed(op, op.getThreshold())) ? failure()
                                                      : activated(op.getF(), op.getPre());
  }
  LogicalResult adjoint(CLTGateOp op) { return activated(op.getF(), op.getMagnitudePre()); }

  /// Adds the cotangent of features for a linear function of them, which `at` makes for the entries
  /// of given features. Where activations cancel to 0 in a difference, it has no entry, but a
  /// derivative: so the entries are those of its parts.
  LogicalResult linear(Value f, bool isNegative, llvm::function_ref<Value(Value)> at) {
    if (!isActive(f))
      return success();
    if (auto difference = f.getDefiningOp<CLTSubOp>())
      return success(succeeded(linear(difference.getF1(), isNegative, at)) &&
                     succeeded(linear(difference.getF2(), !isNegative, at)));
    // In other modes, a delta of 0 has the derivative 0.
    if (auto change = f.getDefiningOp<CLTDeltaOp>(); change && change.getMode() == EditMode::Set) {
      if (failed(expectFixed(change, {change.getA(), change.getB()})))
        return failure();
      Value source = change.getF();
      add(source,
          Term{CLTEditAdjointOp::create(builder, change.getLoc(), source.getType(), EditMode::Set,
                                        /*delta=*/true, source, at(source), change.getFeatures(),
                                        Value(), Value()),
               isNegative});
      return success();
    }
    add(f, Term{at(f), isNegative});
    return success();
  }

  LogicalResult adjoint(CLTDecodeOp op) {
    if (failed(expectFixed(op, {op.getWDec(), op.getBDec()})))
      return failure();
    Value dy = tensors.lookup(op.getY());
    return linear(op.getF(), /*isNegative=*/false, [&](Value f) -> Value {
      return CLTDecodeAdjointOp::create(builder, op.getLoc(), f.getType(), f, op.getWDec(), dy);
    });
  }

  /// The cotangent of dense features, or of some columns of them.
  LogicalResult densified(CLTDensifyOp op, Value dd, DenseI64ArrayAttr columns) {
    return linear(op.getF(), /*isNegative=*/false, [&](Value f) -> Value {
      return CLTDensifyAdjointOp::create(builder, op.getLoc(), f.getType(), f, dd, columns);
    });
  }

  LogicalResult adjoint(CLTDensifyOp op) {
    Value dd = tensors.lookup(op.getD());
    return dd ? densified(op, dd, DenseI64ArrayAttr()) : success();
  }

  LogicalResult adjoint(CLTResidualOp op) {
    Value g = tensors.lookup(op.getZ());
    add(op.getY(), g);
    if (!op.getWSkip()) {
      add(op.getX(), g);
      return success();
    }
    if (failed(expectFixed(op, op.getWSkip())))
      return failure();
    if (!isActive(op.getX()))
      return success();
    FailureOr<Value> dx = timesTransposed(op, g, op.getWSkip(), op.getX());
    if (failed(dx))
      return failure();
    add(op.getX(), *dx);
    return success();
  }

  template <typename EditOp> LogicalResult edited(EditOp op, bool isDelta) {
    if (failed(expectFixed(op, {op.getA(), op.getB()})))
      return failure();
    bool wantsOperands = op.getMode() == EditMode::Scale || op.getMode() == EditMode::Clamp;
    for (Term term : terms.lookup(op.getResult()))
      add(op.getF(),
          Term{CLTEditAdjointOp::create(builder, op.getLoc(), op.getF().getType(), op.getMode(),
                                        isDelta, op.getF(), term.features, op.getFeatures(),
                                        wantsOperands ? op.getA() : Value(),
                                        wantsOperands ? op.getB() : Value()),
               term.isNegative});
    return success();
  }
  LogicalResult adjoint(CLTEditOp op) { return edited(op, /*isDelta=*/false); }
  LogicalResult adjoint(CLTDeltaOp op) { return edited(op, /*isDelta=*/true); }

  LogicalResult adjoint(CLTSubOp op) {
    for (Term term : terms.lookup(op.getG()))
      for (bool isSecond : {false, true}) {
        Value f = isSecond ? op.getF2() : op.getF1();
        if (isActive(f))
          add(f, Term{CLTEditAdjointOp::create(builder, op.getLoc(), f.getType(), EditMode::Ablate,
                                               /*delta=*/false, f, term.features,
                                               ArrayRef<int64_t>(), Value(), Value()),
                      term.isNegative != isSecond});
      }
    return success();
  }

  // Policies.

  LogicalResult adjoint(PolicySteerOp op) {
    if (failed(expectFixed(op, {op.getV(), op.getStrength()})))
      return failure();
    Value g = tensors.lookup(op.getResult());
    if (op.getMode() == SteerMode::Add) {
      add(op.getH(), g);
      return success();
    }
    // clamp sets the component along v: what is left of the derivative is what ablating leaves.
    Value strength = op.getStrength();
    if (op.getMode() == SteerMode::Clamp)
      strength = arith::ConstantOp::create(builder, op.getLoc(), builder.getF32FloatAttr(1.0f));
    add(op.getH(), PolicySteerOp::create(builder, op.getLoc(), g.getType(), SteerMode::Ablate, g,
                                         op.getV(), strength));
    return success();
  }

  LogicalResult adjoint(PolicyProjectOp op) {
    if (failed(expectFixed(op, {op.getFirst(), op.getSecond()})))
      return failure();
    Value g = tensors.lookup(op.getResult());
    if (op.getKind() == SetKind::Subspace)
      add(op.getH(), PolicyProjectOp::create(builder, op.getLoc(), g.getType(), op.getKind(), g,
                                             op.getFirst(), Value()));
    else
      add(op.getH(), PolicyProjectAdjointOp::create(builder, op.getLoc(), g.getType(), op.getKind(),
                                                    op.getH(), g, op.getFirst(), op.getSecond()));
    return success();
  }

  // Parts of a model.

  LogicalResult adjoint(ModelLinearizeOp op) {
    add(op.getH(), ModelPullbackOp::create(builder, op.getLoc(), op.getH().getType(), op.getTape(),
                                           tensors.lookup(op.getY())));
    return success();
  }

  // Arithmetic.

  template <typename Op> Value made(Operation *op, ValueRange operands) {
    return Op::create(builder, op->getLoc(), operands);
  }

  LogicalResult adjoint(arith::AddFOp op) {
    Value g = tensors.lookup(op.getResult());
    add(op.getLhs(), g);
    add(op.getRhs(), g);
    return success();
  }
  LogicalResult adjoint(arith::SubFOp op) {
    Value g = tensors.lookup(op.getResult());
    add(op.getLhs(), g);
    if (isActive(op.getRhs()))
      add(op.getRhs(), made<arith::NegFOp>(op, g));
    return success();
  }
  LogicalResult adjoint(arith::NegFOp op) {
    add(op.getOperand(), made<arith::NegFOp>(op, tensors.lookup(op.getResult())));
    return success();
  }
  LogicalResult adjoint(arith::MulFOp op) {
    Value g = tensors.lookup(op.getResult());
    if (isActive(op.getLhs()))
      add(op.getLhs(), made<arith::MulFOp>(op, {g, op.getRhs()}));
    if (isActive(op.getRhs()))
      add(op.getRhs(), made<arith::MulFOp>(op, {g, op.getLhs()}));
    return success();
  }
  LogicalResult adjoint(arith::DivFOp op) {
    Value g = made<arith::DivFOp>(op, {tensors.lookup(op.getResult()), op.getRhs()});
    add(op.getLhs(), g);
    if (isActive(op.getRhs()))
      add(op.getRhs(), made<arith::NegFOp>(op, made<arith::MulFOp>(op, {g, op.getResult()})));
    return success();
  }

  // Shapes.

  LogicalResult adjoint(tensor::CastOp op) {
    add(op.getSource(), tensors.lookup(op.getDest()));
    return success();
  }

  LogicalResult adjoint(tensor::CollapseShapeOp op) {
    SmallVector<OpFoldResult> sizes = tensor::getMixedSizes(builder, op.getLoc(), op.getSrc());
    add(op.getSrc(), tensor::ExpandShapeOp::create(builder, op.getLoc(), op.getSrcType(),
                                                   tensors.lookup(op.getResult()),
                                                   op.getReassociationIndices(), sizes));
    return success();
  }
  LogicalResult adjoint(tensor::ExpandShapeOp op) {
    add(op.getSrc(), tensor::CollapseShapeOp::create(builder, op.getLoc(), op.getSrcType(),
                                                     tensors.lookup(op.getResult()),
                                                     op.getReassociationIndices()));
    return success();
  }

  /// The columns that a slice takes of dense features, if it takes all rows of listed columns.
  std::optional<SmallVector<int64_t>> columnsOf(tensor::ExtractSliceOp op) {
    auto densify = op.getSource().getDefiningOp<CLTDensifyOp>();
    if (!densify || op.getStaticOffsets()[0] != 0 || op.getStaticStrides()[0] != 1 ||
        ShapedType::isDynamic(op.getStaticOffsets()[1]) ||
        ShapedType::isDynamic(op.getStaticSizes()[1]) ||
        ShapedType::isDynamic(op.getStaticStrides()[1]))
      return std::nullopt;
    auto dim = [&]() -> tensor::DimOp {
      OpFoldResult rows = op.getMixedSizes()[0];
      return isa<Value>(rows) ? cast<Value>(rows).getDefiningOp<tensor::DimOp>() : tensor::DimOp();
    }();
    bool allRows = op.getStaticSizes()[0] == tensorType(op.getSource()).getDimSize(0) &&
                   !ShapedType::isDynamic(op.getStaticSizes()[0]);
    // The number of rows of anything in a program that has one: the verifier of a function that is
    // row-wise has seen to it. Otherwise the slice's size has to come from the features.
    if (!allRows &&
        !(dim && isa<RankedTensorType>(dim.getSource().getType()) && dim.getConstantIndex() == 0))
      return std::nullopt;
    SmallVector<int64_t> columns;
    for (int64_t i = 0; i < op.getStaticSizes()[1]; ++i)
      columns.push_back(op.getStaticOffsets()[1] + i * op.getStaticStrides()[1]);
    return columns;
  }

  LogicalResult adjoint(tensor::ExtractSliceOp op) {
    if (failed(expectFixed(op, op.getOperands().drop_front())))
      return failure();
    Value g = tensors.lookup(op.getResult());
    if (std::optional<SmallVector<int64_t>> columns = columnsOf(op)) {
      auto densify = op.getSource().getDefiningOp<CLTDensifyOp>();
      if (tensorType(g).getRank() == 1) {
        SmallVector<ReassociationIndices> groups{{0, 1}};
        auto type = RankedTensorType::get({tensorType(g).getDimSize(0), 1}, builder.getF32Type());
        SmallVector<OpFoldResult> sizes = tensor::getMixedSizes(builder, op.getLoc(), g);
        sizes.push_back(builder.getIndexAttr(1));
        g = tensor::ExpandShapeOp::create(builder, op.getLoc(), type, g, groups, sizes);
      }
      return densified(densify, g, builder.getDenseI64ArrayAttr(*columns));
    }
    add(op.getSource(), tensor::InsertSliceOp::create(
                            builder, op.getLoc(), g, filled(op.getSource(), 0.0f),
                            op.getMixedOffsets(), op.getMixedSizes(), op.getMixedStrides()));
    return success();
  }

  LogicalResult adjoint(tensor::ExtractOp op) {
    Value g = tensors.lookup(op.getResult());
    add(op.getTensor(), tensor::InsertOp::create(builder, op.getLoc(), g,
                                                 filled(op.getTensor(), 0.0f), op.getIndices()));
    return success();
  }

  // Everything else.

  LogicalResult none(Operation *op, StringRef why) { return refuse(op) << why; }

  LogicalResult dispatch(Operation *op) {
    OpBuilder::InsertionGuard guard(builder);
    return llvm::TypeSwitch<Operation *, LogicalResult>(op)
        .Case<CLTEncodeOp, CLTEncodeSparseOp, CLTTopKOp, CLTAbsTopKOp, CLTGroupMaxOp,
              CLTBatchTopKOp, CLTReLUOp, CLTJumpReLUOp, CLTGateOp, CLTDecodeOp, CLTDensifyOp,
              CLTResidualOp, CLTEditOp, CLTDeltaOp, CLTSubOp, PolicySteerOp, PolicyProjectOp,
              arith::AddFOp, arith::SubFOp, arith::NegFOp, arith::MulFOp, arith::DivFOp,
              tensor::CastOp, tensor::CollapseShapeOp, tensor::ExpandShapeOp,
              tensor::ExtractSliceOp, tensor::ExtractOp, ModelLinearizeOp>(
            [&](auto op) { return adjoint(op); })
        .Case([&](CLTMatchingPursuitOp op) {
          return none(op, "each coefficient depends on the features chosen before it");
        })
        .Case([&](PolicyVerifyOp op) {
          return none(op, "its margins are a check, not a value to be attributed");
        })
        .Case([&](AttrGradOp op) { return none(op, "derivatives are of first order"); })
        .Case([&](func::CallOp op) {
          return none(op, "the function that it calls has no body here");
        })
        .Default([&](Operation *op) { return none(op, "no rule is known for it"); });
  }

  OpBuilder &builder;
  Differentiator &shared;
  llvm::DenseSet<Value> active;
  SmallVector<Operation *> ops;
  DenseMap<Value, Value> tensors;
  DenseMap<Value, SmallVector<Term>> terms;
};
} // namespace

Value Differentiator::transposed(OpBuilder &builder, Value matrix) {
  if (Value known = transposes.lookup(matrix))
    return known;
  // What the function makes itself is not there outside of it.
  Operation *definition = matrix.getDefiningOp();
  bool isOutside = matrix.getParentBlock() == outside.getInsertionBlock()
                       ? !definition || definition->isBeforeInBlock(&*outside.getInsertionPoint())
                       : !definition;
  OpBuilder &at = isOutside ? outside : builder;
  Location loc = matrix.getLoc();
  auto type = cast<RankedTensorType>(matrix.getType());
  SmallVector<OpFoldResult> sizes = tensor::getMixedSizes(at, loc, matrix);
  std::swap(sizes[0], sizes[1]);
  Value empty = tensor::EmptyOp::create(at, loc, sizes, type.getElementType());
  Value result =
      linalg::TransposeOp::create(at, loc, matrix, empty, ArrayRef<int64_t>{1, 0})->getResult(0);
  if (isOutside)
    transposes[matrix] = result;
  return result;
}

FailureOr<Value> Differentiator::gradientAt(OpBuilder &builder, Value x, ValueRange captures) {
  Reverse reverse(builder, *this);
  FailureOr<Value> result = reverse.forward(function, x, captures);
  if (failed(result))
    return failure();
  return reverse.backward(*result, x);
}

std::optional<std::string> iam::whyNotRowWise(func::FuncOp function) {
  Block &body = function.getBody().front();
  auto x = dyn_cast<RankedTensorType>(body.getArgument(0).getType());
  if (!x || x.getRank() != 2 || !x.isDynamicDim(0))
    return "its argument has no open number of rows";
  auto isWeight = [](Value value) {
    auto type = dyn_cast<RankedTensorType>(value.getType());
    return !type || type.hasStaticShape();
  };
  for (Value captured : body.getArguments().drop_front())
    if (!isWeight(captured))
      return "it refers to an activation with rows of its own";
  for (Operation &op : body.without_terminator()) {
    if (isa<CLTBatchTopKOp>(op))
      return "batch_topk compares the rows of a batch";
    if (isa<linalg::LinalgOp>(op) && !isa<linalg::BroadcastOp, linalg::FillOp>(op))
      return "a linalg op may combine rows";
    if (auto slice = dyn_cast<tensor::ExtractSliceOp>(op)) {
      if (slice.getStaticOffsets()[0] != 0 || !ShapedType::isDynamic(slice.getStaticSizes()[0]))
        return "it takes some of the rows";
    } else if (isa<tensor::ExtractOp, tensor::InsertSliceOp, tensor::InsertOp,
                   tensor::CollapseShapeOp, tensor::ExpandShapeOp>(op)) {
      return "it takes elements or changes shapes";
    }
    // A static tensor [rows, d] among those with rows: the same for each input, but not for their
    // copies.
    if (isa<arith::ArithDialect>(op.getDialect()))
      for (Value operand : op.getOperands())
        if (auto type = dyn_cast<RankedTensorType>(operand.getType());
            type && type.getRank() == 2 && !type.isDynamicDim(0))
          return "it combines rows with a tensor of a known number of them";
  }
  return std::nullopt;
}
