//===- LowerOps.cpp - each iam op as StableHLO --------------------------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Each op is one overload of `lower`; the formulas are those of docs/spec.md.
//
// StableHLO has no errors at run time. Where the runtime refuses an input (NaN, a direction of
// norm 0, a negative radius), the result is NaN in the rows concerned: comparisons are written so
// that NaN takes the branch that keeps it.
//
//===----------------------------------------------------------------------===//

#include "LowerOps.h"
#include "StablehloBuilder.h"
#include "iam/Dialect/IAM/IR/IAMOps.h"
#include "iam/Dialect/IAM/IR/Quadrature.h"
#include "llvm/ADT/TypeSwitch.h"

#include <limits>

using namespace mlir;
using namespace iam;

namespace {
using Direction = stablehlo::ComparisonDirection;
using Results = FailureOr<SmallVector<SmallVector<Value>>>;

template <typename Op> using Operands = typename Op::template GenericAdaptor<ArrayRef<ValueRange>>;

SmallVector<SmallVector<Value>> one(Value result) { return {{result}}; }

InFlightDiagnostic refuse(Operation *op) { return op->emitOpError("has no StableHLO form: "); }

int64_t known(Value tensor, int64_t axis) {
  return cast<RankedTensorType>(tensor.getType()).getDimSize(axis);
}

/// An operand that is one tensor.
Value only(ValueRange parts) { return parts.front(); }

//===----------------------------------------------------------------------===//
// Encoding
//===----------------------------------------------------------------------===//

Value encode(StablehloBuilder &to, ValueRange x, ValueRange W, ValueRange b, ValueRange subtract) {
  Value input = subtract.empty() ? only(x) : to.subtract(only(x), only(subtract));
  return to.add(to.matmul(input, only(W)), only(b));
}

/// Not a maximum, whose derivative at 0 is one half in XLA's clients.
Value relu(StablehloBuilder &to, Value pre) {
  Value isOff = to.compare(pre, Direction::LE, to.number(0)); // false for NaN
  return to.select(isOff, to.number(0), pre);
}

Value jumprelu(StablehloBuilder &to, Value pre, Value threshold) {
  Value isBelow = to.compare(pre, Direction::LE, threshold); // false for NaN
  return to.select(isBelow, to.number(0), relu(to, pre));
}

SmallVector<SmallVector<Value>> topk(StablehloBuilder &to, Value pre, int64_t k) {
  auto [values, indices] = to.topK(pre, k);
  return {{relu(to, values), indices}};
}

SmallVector<SmallVector<Value>> abstopk(StablehloBuilder &to, Value pre, int64_t k) {
  Value indices = to.topK(to.absolute(pre), k).second;
  return {{to.columnsAt(pre, indices), indices}};
}

Results groupmax(Operation *op, StablehloBuilder &to, Value pre, int64_t k) {
  int64_t features = known(pre, 1);
  if (ShapedType::isDynamic(features)) {
    refuse(op) << "the number of features has to be known";
    return failure();
  }
  int64_t width = features / k; // of a group
  Size rows(pre, 0);
  Value inGroup = to.argmax(to.reshape(pre, {rows, Size(k), Size(width)})); // [rows, k]
  SmallVector<int32_t> firsts;
  for (int64_t group = 0; group < k; ++group)
    firsts.push_back(static_cast<int32_t>(group * width));
  Value indices = to.add(inGroup, to.vector(firsts));
  return SmallVector<SmallVector<Value>>{{relu(to, to.columnsAt(pre, indices)), indices}};
}

Results lower(CLTEncodeOp, Operands<CLTEncodeOp> in, StablehloBuilder &to) {
  return one(encode(to, in.getX(), in.getWEnc(), in.getBEnc(), in.getBDec()));
}

Results lower(CLTTopKOp op, Operands<CLTTopKOp> in, StablehloBuilder &to) {
  return topk(to, only(in.getPre()), op.getK());
}

Results lower(CLTAbsTopKOp op, Operands<CLTAbsTopKOp> in, StablehloBuilder &to) {
  return abstopk(to, only(in.getPre()), op.getK());
}

Results lower(CLTGroupMaxOp op, Operands<CLTGroupMaxOp> in, StablehloBuilder &to) {
  return groupmax(op, to, only(in.getPre()), op.getK());
}

Results batchTopK(Operation *op, StablehloBuilder &to, Value pre, int64_t k) {
  Value active = relu(to, pre);
  int64_t rows = known(active, 0), width = known(active, 1);
  if (ShapedType::isDynamic(rows) || ShapedType::isDynamic(width)) {
    refuse(op) << "it keeps k times the number of rows, which has to be known; set the option "
                  "`rows`";
    return failure();
  }
  if (rows > std::numeric_limits<int32_t>::max() / width) {
    refuse(op) << "positions in " << rows << " rows of " << width
               << " features do not fit 32 bits; give it fewer rows";
    return failure();
  }
  if (rows == 0)
    return one(active);
  Value flat = to.reshape(active, Size(rows * width));
  Value kept = to.topK(flat, k * rows).second;
  Value mask = to.replacedAt(to.filled(0, Size(rows * width)), kept, 1.0f);
  Value isKept =
      to.compare(to.reshape(mask, {Size(rows), Size(width)}), Direction::NE, to.number(0));
  return one(to.select(isKept, active, to.number(0)));
}

Results lower(CLTBatchTopKOp op, Operands<CLTBatchTopKOp> in, StablehloBuilder &to) {
  return batchTopK(op, to, only(in.getPre()), op.getK());
}

Results lower(CLTJumpReLUOp, Operands<CLTJumpReLUOp> in, StablehloBuilder &to) {
  return one(jumprelu(to, only(in.getPre()), only(in.getThreshold())));
}

Results lower(CLTReLUOp, Operands<CLTReLUOp> in, StablehloBuilder &to) {
  return one(relu(to, only(in.getPre())));
}

Value gated(StablehloBuilder &to, Value gate, Value magnitude) {
  Value isClosed = to.compare(gate, Direction::LE, to.number(0));
  Value open = to.select(isClosed, to.number(0), relu(to, magnitude));
  return to.select(to.compare(gate, Direction::NE, gate), gate, open); // NaN
}

Results lower(CLTGateOp, Operands<CLTGateOp> in, StablehloBuilder &to) {
  return one(gated(to, only(in.getGatePre()), only(in.getMagnitudePre())));
}

/// Listed features, for each row: [rows, n].
Value repeated(StablehloBuilder &to, Value features, Size rows) {
  return to.broadcast(features, {rows, Size(features, 0)}, {1});
}

Value featuresOf(StablehloBuilder &to, ArrayRef<int64_t> features) {
  return to.vector(ArrayRef<int32_t>(SmallVector<int32_t>(features.begin(), features.end())));
}

/// The listed columns of a matrix, or entries of a vector.
Value listed(StablehloBuilder &to, Value weights, Value features) {
  bool isVector = cast<ShapedType>(weights.getType()).getRank() == 1;
  Value matrix = isVector ? to.reshape(weights, {Size(1), Size(weights, 0)}) : weights;
  Value columns = to.columnsAt(matrix, repeated(to, features, Size(matrix, 0)));
  return isVector ? to.reshape(columns, Size(features, 0)) : columns;
}

Results lower(CLTEncodeSparseOp op, Operands<CLTEncodeSparseOp> in, StablehloBuilder &to) {
  std::optional<ArrayRef<int64_t>> named = op.getOnly();
  Value features = named ? featuresOf(to, *named) : Value();
  auto columns = [&](ValueRange weights) {
    return named ? listed(to, only(weights), features) : only(weights);
  };
  Value W = columns(in.getWEnc()), b = columns(in.getBEnc());
  Value pre = encode(to, in.getX(), W, b, in.getBDec()), f;
  switch (op.getActivation()) {
  case Activation::TopK:
    return topk(to, pre, *op.getK());
  case Activation::AbsTopK:
    return abstopk(to, pre, *op.getK());
  case Activation::GroupMax:
    return groupmax(op, to, pre, *op.getK());
  case Activation::BatchTopK:
    return batchTopK(op, to, pre, *op.getK());
  case Activation::JumpReLU:
    f = jumprelu(to, pre, columns(in.getThreshold()));
    break;
  case Activation::ReLU:
    f = relu(to, pre);
    break;
  case Activation::Gate: {
    Value V = columns(in.getWMag()), c = columns(in.getBMag());
    f = gated(to, pre, encode(to, in.getX(), V, c, in.getBDec()));
    break;
  }
  }
  if (!named)
    return one(f);
  Size rows(f, 0);
  Value none = to.filled(0, {rows, Size(cast<FeaturesType>(op.getF().getType()).getDict())});
  return one(to.replacedAt(none, repeated(to, features, rows), f));
}

/// One step of matching pursuit in every row that goes on: the feature that fits what is left best.
/// `state`: W_dec, what is left [rows, d], the features [rows, F], and whether a row goes on.
SmallVector<Value> pursue(CLTMatchingPursuitOp op, StablehloBuilder &to, ValueRange state) {
  Value W = state[0], left = state[1], f = state[2], goesOn = state[3];
  Value fit = to.dot(left, 1, W, 1); // [rows, F]
  Size rows(left, 0);
  Value best = to.reshape(to.argmax(fit), {rows, Size(1)});
  auto column = [&](Value matrix) { return to.reshape(to.columnsAt(matrix, best), rows); };
  Value found = relu(to, column(fit));
  Value value = to.select(goesOn, found, to.number(0));
  Value isOld = to.compare(column(f), Direction::NE, to.number(0));
  f = to.addedAt(f, best, to.reshape(value, {rows, Size(1)}));
  Value direction = to.reshape(to.rowsAt(W, best), sizesOf(left));
  left = to.subtract(left, to.multiply(to.broadcast(value, sizesOf(left), {0}), direction));
  goesOn = to.both(goesOn, to.compare(found, Direction::GT, to.number(0))); // not for NaN
  if (op.getStopOnDuplicateSupport())
    goesOn = to.both(goesOn, to.isFalse(isOld));
  float threshold = op.getResidualThreshold().convertToFloat();
  if (threshold > 0) {
    Value norm = to.sqrt(to.sum(to.multiply(left, left), 1));
    goesOn = to.both(goesOn, to.compare(norm, Direction::GE, to.number(threshold)));
  }
  return {W, left, f, goesOn};
}

Results lower(CLTMatchingPursuitOp op, Operands<CLTMatchingPursuitOp> in, StablehloBuilder &to) {
  Value x = only(in.getX()), W = only(in.getWDec());
  if (ShapedType::isDynamic(known(W, 0)) || ShapedType::isDynamic(known(W, 1))) {
    refuse(op) << "the sizes of W_dec have to be known";
    return failure();
  }
  if (op.getMaxIterations() > std::numeric_limits<int32_t>::max()) {
    refuse(op) << "max_iterations has to fit 32 bits, got " << op.getMaxIterations();
    return failure();
  }
  Value left = in.getBDec().empty() ? x : to.subtract(x, only(in.getBDec()));
  Size rows(left, 0);
  Value f = to.filled(0, {rows, Size(W, 0)});
  Value goesOn = to.broadcast(to.truth(true), rows, {});
  return one(to.repeat(op.getMaxIterations(), {W, left, f, goesOn},
                       [&](ValueRange state) { return pursue(op, to, state); })[2]);
}

//===----------------------------------------------------------------------===//
// Decoding
//===----------------------------------------------------------------------===//

bool isKForm(ValueRange features) { return features.size() == 2; }

Results lower(CLTDecodeOp op, Operands<CLTDecodeOp> in, StablehloBuilder &to) {
  Value W = only(in.getWDec()), y;
  if (!isKForm(in.getF())) {
    y = to.matmul(only(in.getF()), W);
  } else {
    if (ShapedType::isDynamic(known(W, 1))) {
      refuse(op) << "the width of W_dec has to be known";
      return failure();
    }
    Value values = in.getF()[0];
    Value rows = to.rowsAt(W, in.getF()[1]); // [rows, k, d]
    y = to.sum(to.multiply(to.broadcast(values, sizesOf(rows), {0, 1}), rows), 1);
  }
  return one(in.getBDec().empty() ? y : to.add(y, only(in.getBDec())));
}

Results lower(CLTDensifyOp op, Operands<CLTDensifyOp> in, StablehloBuilder &to) {
  if (!isKForm(in.getF()))
    return one(only(in.getF()));
  Value values = in.getF()[0];
  Sizes sizes{Size(values, 0), Size(cast<FeaturesType>(op.getF().getType()).getDict())};
  return one(to.addedAt(to.filled(0, sizes), in.getF()[1], values)); // padding adds 0
}

Results lower(CLTResidualOp, Operands<CLTResidualOp> in, StablehloBuilder &to) {
  Value x = only(in.getX());
  return one(
      to.add(only(in.getY()), in.getWSkip().empty() ? x : to.matmul(x, only(in.getWSkip()))));
}

//===----------------------------------------------------------------------===//
// Editing
//===----------------------------------------------------------------------===//

/// `value` after the edit; operands as in docs/spec.md#iamcltedit, of the shape of `value` or [n].
Value edited(StablehloBuilder &to, EditMode mode, Value value, Value a, Value b) {
  switch (mode) {
  case EditMode::Set:
    return cast<ShapedType>(a.getType()).getRank() == 1 ? to.broadcast(a, sizesOf(value), {1}) : a;
  case EditMode::Scale:
    return to.multiply(value, a);
  case EditMode::Clamp:
    return to.minimum(to.maximum(value, a), b);
  case EditMode::Ablate:
    return to.filled(0, sizesOf(value));
  }
  llvm_unreachable("a mode of another enumeration");
}

/// Which slots hold which of `others` ([n] or [rows, n]): [rows, k, n]. Padding holds nothing.
Value holds(StablehloBuilder &to, ValueRange f, Value others) {
  Value values = f[0], indices = f[1];
  int64_t rank = cast<ShapedType>(others.getType()).getRank();
  Sizes sizes{Size(values, 0), Size(values, 1), Size(others, rank - 1)};
  SmallVector<int64_t> axes = rank == 1 ? SmallVector<int64_t>{2} : SmallVector<int64_t>{0, 2};
  Value isSame = to.compare(to.broadcast(indices, sizes, {0, 1}), Direction::EQ,
                            to.broadcast(others, sizes, axes));
  Value isActive = to.compare(values, Direction::NE, to.number(0));
  return to.both(isSame, to.broadcast(isActive, sizes, {0, 1}));
}

/// The activations of chosen features: [rows, n].
Value activationsOf(StablehloBuilder &to, ValueRange f, Value features) {
  if (!isKForm(f))
    return to.columnsAt(only(f), repeated(to, features, Size(only(f), 0)));
  Value held = holds(to, f, features);
  return to.sum(to.select(held, to.broadcast(f[0], sizesOf(held), {0, 1}), to.number(0)), 1);
}

SmallVector<Value> editSlots(StablehloBuilder &to, EditMode mode, ValueRange f, Value features,
                             Value a, Value b) {
  Value values = f[0], indices = f[1];
  Value held = holds(to, f, features);
  // The operand of the feature that a slot holds.
  auto ofSlot = [&](Value operand) {
    return operand ? to.sum(to.select(held, operand, to.number(0)), 2) : operand;
  };
  Value changed = edited(to, mode, values, ofSlot(a), ofSlot(b));
  Value result = to.select(to.sum(held, 2), changed, values);
  if (mode == EditMode::Scale || mode == EditMode::Ablate)
    return {result, indices};
  // A slot more for each feature, used where no slot holds it.
  Value isHeld = to.sum(held, 1); // [rows, n]
  Value fromZero = edited(to, mode, to.filled(0, sizesOf(isHeld)), a, b);
  Value added = to.select(isHeld, to.number(0), fromZero);
  return {to.concatenate(result, added, 1),
          to.concatenate(indices, repeated(to, features, Size(values, 0)), 1)};
}

template <typename Op> std::pair<Value, Value> editOperands(Operands<Op> in) {
  return {in.getA().empty() ? Value() : only(in.getA()),
          in.getB().empty() ? Value() : only(in.getB())};
}

Results lower(CLTEditOp op, Operands<CLTEditOp> in, StablehloBuilder &to) {
  if (op.getFeatures().empty())
    return SmallVector<SmallVector<Value>>{SmallVector<Value>(in.getF())};
  auto [a, b] = editOperands<CLTEditOp>(in);
  Value features = featuresOf(to, op.getFeatures());
  if (isKForm(in.getF()))
    return SmallVector<SmallVector<Value>>{editSlots(to, op.getMode(), in.getF(), features, a, b)};
  Value dense = only(in.getF());
  Value before = activationsOf(to, in.getF(), features);
  Value after = edited(to, op.getMode(), before, a, b);
  return one(to.replacedAt(dense, repeated(to, features, Size(dense, 0)), after));
}

Results lower(CLTDeltaOp op, Operands<CLTDeltaOp> in, StablehloBuilder &to) {
  auto [a, b] = editOperands<CLTDeltaOp>(in);
  Value features = featuresOf(to, op.getFeatures());
  Value before = activationsOf(to, in.getF(), features);
  Value change = to.subtract(edited(to, op.getMode(), before, a, b), before);
  return SmallVector<SmallVector<Value>>{{change, repeated(to, features, Size(before, 0))}};
}

Results lower(CLTSubOp, Operands<CLTSubOp> in, StablehloBuilder &to) {
  ValueRange f = in.getF1(), g = in.getF2();
  if (!isKForm(f))
    return one(to.subtract(only(f), only(g)));
  Value inG = to.compare(g[0], Direction::NE, to.number(0));
  Value held = holds(to, f, g[1]); // [rows, k1, k2]
  held = to.both(held, to.broadcast(inG, sizesOf(held), {0, 2}));
  Value shared =
      to.sum(to.select(held, to.broadcast(g[0], sizesOf(held), {0, 2}), to.number(0)), 2);
  Value rest = to.select(to.sum(held, 1), to.number(0), to.negate(g[0]));
  return SmallVector<SmallVector<Value>>{
      {to.concatenate(to.subtract(f[0], shared), rest, 1), to.concatenate(f[1], g[1], 1)}};
}

//===----------------------------------------------------------------------===//
// Attribution
//===----------------------------------------------------------------------===//

Results lower(AttrPathOp op, Operands<AttrPathOp> in, StablehloBuilder &to) {
  SmallVector<float> nodes(op.getSteps()), weights(op.getSteps());
  quadrature(op.getRule(), nodes, weights);
  Value baseline = only(in.getBaseline());
  Value direction = to.subtract(only(in.getX()), baseline);
  Sizes sizes = sizesOf(direction);
  sizes.insert(sizes.begin(), Size(static_cast<int64_t>(nodes.size())));
  Value along = to.multiply(to.broadcast(to.vector(nodes), sizes, {0}), direction);
  return SmallVector<SmallVector<Value>>{{to.add(along, baseline)}, {to.vector(weights)}};
}

Results lower(AttrGradOp op, Operands<AttrGradOp>, StablehloBuilder &) {
  refuse(op) << "StableHLO has no gradients; differentiate the exported function instead "
                "(program.to_jax() and jax.grad)";
  return failure();
}

/// Derivatives are made by a pass that the export does not run, since JAX differentiates.
template <typename AdjointOp> Results refuseAdjoint(AdjointOp op) {
  refuse(op) << "it is made for compiled programs; differentiate the exported function instead "
                "(program.to_jax() and jax.grad)";
  return failure();
}
Results lower(CLTDecodeAdjointOp op, Operands<CLTDecodeAdjointOp>, StablehloBuilder &) {
  return refuseAdjoint(op);
}
Results lower(CLTDensifyAdjointOp op, Operands<CLTDensifyAdjointOp>, StablehloBuilder &) {
  return refuseAdjoint(op);
}
Results lower(CLTEditAdjointOp op, Operands<CLTEditAdjointOp>, StablehloBuilder &) {
  return refuseAdjoint(op);
}
Results lower(PolicyProjectAdjointOp op, Operands<PolicyProjectAdjointOp>, StablehloBuilder &) {
  return refuseAdjoint(op);
}
Results lower(PolicySequenceOp op, Operands<PolicySequenceOp>, StablehloBuilder &) {
  refuse(op) << "it is made for compiled programs; export the single steps";
  return failure();
}
Results lower(AttrCheckOp op, Operands<AttrCheckOp>, StablehloBuilder &) {
  return refuseAdjoint(op);
}

/// A model is called where the program runs; a compiled module has no way back.
template <typename PartOp> Results refuseModel(PartOp op) {
  refuse(op) << "it calls a model that stays in Python; export what comes before and after it";
  return failure();
}
Results lower(ModelRunOp op, Operands<ModelRunOp>, StablehloBuilder &) { return refuseModel(op); }
Results lower(ModelLinearizeOp op, Operands<ModelLinearizeOp>, StablehloBuilder &) {
  return refuseModel(op);
}
Results lower(ModelPullbackOp op, Operands<ModelPullbackOp>, StablehloBuilder &) {
  return refuseModel(op);
}

Results lower(AttrSelectOp op, Operands<AttrSelectOp> in, StablehloBuilder &to) {
  Value scores = only(in.getScores());
  Value indices = to.topK(to.absolute(scores), op.getN()).second;
  return SmallVector<SmallVector<Value>>{{indices}, {to.columnsAt(scores, indices)}};
}

Results lower(AttrCircuitOp, Operands<AttrCircuitOp> in, StablehloBuilder &to) {
  Value written = only(in.getWDec());
  written = to.multiply(written, to.broadcast(only(in.getActivations()), sizesOf(written), {0}));
  if (!in.getJacobian().empty())
    written = to.matmul(written, only(in.getJacobian()));
  return one(to.matmul(written, only(in.getWEnc())));
}

//===----------------------------------------------------------------------===//
// Policies
//===----------------------------------------------------------------------===//

/// h + amounts[r]·v in each row r.
Value moved(StablehloBuilder &to, Value h, Value amounts, Value v) {
  Sizes sizes = sizesOf(h);
  return to.add(h, to.multiply(to.broadcast(amounts, sizes, {0}), to.broadcast(v, sizes, {1})));
}

Results lower(PolicySteerOp op, Operands<PolicySteerOp> in, StablehloBuilder &to) {
  Value h = only(in.getH()), v = only(in.getV()), s = only(in.getStrength());
  if (op.getMode() == SteerMode::Add)
    return one(to.add(h, to.multiply(v, s)));
  Value square = to.dot(v, 0, v, 0);
  if (op.getMode() == SteerMode::Ablate) {
    Value share = to.divide(to.dot(h, 1, v, 0), square);
    return one(moved(to, h, to.negate(to.multiply(share, s)), v));
  }
  Value unit = to.divide(v, to.sqrt(square));
  return one(moved(to, h, to.subtract(s, to.dot(h, 1, unit, 0)), unit));
}

/// What Gram-Schmidt makes of a row: its direction of length 1, and the row without what it shares
/// with earlier ones. Both are 0 where nothing but rounding is left.
struct Axis {
  Value unit, left;
};

/// The rows of `matrix`, orthogonal; the earlier ones have priority.
SmallVector<Axis> orthogonal(StablehloBuilder &to, Value matrix) {
  SmallVector<Axis> axes;
  Value rest = matrix;
  for (int64_t i = 0, n = known(matrix, 0); i < n; ++i) {
    Value row = to.row(matrix, i), left = to.row(rest, i);
    Value square = to.dot(left, 0, left, 0);
    Value length = to.sqrt(to.dot(row, 0, row, 0));
    Value isNew = to.compare(to.sqrt(square), Direction::GT, to.multiply(length, to.number(1e-6f)));
    // The length of what is new; 1 elsewhere, so that no gradient is infinite.
    Value norm = to.sqrt(to.select(isNew, square, to.number(1)));
    Axis axis{to.select(isNew, to.divide(left, norm), to.number(0)),
              to.select(isNew, left, to.number(0))};
    axes.push_back(axis);
    if (i + 1 < n) {
      Value shared = to.dot(rest, 1, axis.unit, 0);
      rest = moved(to, rest, to.negate(shared), axis.unit);
    }
  }
  return axes;
}

Results lower(PolicyComposeOp op, Operands<PolicyComposeOp> in, StablehloBuilder &to) {
  Value vectors = only(in.getVectors()), strengths = only(in.getStrengths());
  if (op.getRule() == ComposeRule::Sum)
    return one(to.dot(strengths, 0, vectors, 0));
  int64_t n = known(vectors, 0);
  if (ShapedType::isDynamic(n) || ShapedType::isDynamic(known(vectors, 1))) {
    refuse(op) << "the number and the size of the directions have to be known";
    return failure();
  }
  if (op.getRule() == ComposeRule::Mean) {
    Value count = to.number(static_cast<float>(std::max<int64_t>(n, 1)));
    return one(to.divide(to.dot(strengths, 0, vectors, 0), count));
  }
  Value total = to.filled(0, Size(vectors, 1));
  Value spread = to.broadcast(strengths, sizesOf(vectors), {0});
  for (auto [i, axis] : llvm::enumerate(orthogonal(to, vectors)))
    total = to.add(total, to.multiply(to.row(spread, i), axis.left));
  return one(total);
}

/// NaN where a set is not a set (a negative radius, bounds that cross).
Value nanUnless(StablehloBuilder &to, Value isValid, Value value) {
  return to.select(isValid, value, to.number(std::numeric_limits<float>::quiet_NaN()));
}

Results lower(PolicyProjectOp op, Operands<PolicyProjectOp> in, StablehloBuilder &to) {
  Value h = only(in.getH()), first = only(in.getFirst());
  Value second = in.getSecond().empty() ? Value() : only(in.getSecond());
  switch (op.getKind()) {
  case SetKind::Halfspace: {
    Value excess = to.maximum(to.subtract(to.dot(h, 1, first, 0), second), to.number(0));
    Value share = to.divide(excess, to.dot(first, 0, first, 0));
    return one(moved(to, h, to.negate(share), first));
  }
  case SetKind::Ball: {
    Value radius = nanUnless(to, to.compare(second, Direction::GE, to.number(0)), second);
    Value offset = to.subtract(h, first);
    Value square = to.sum(to.multiply(offset, offset), 1);
    Value isInside = to.compare(to.sqrt(square), Direction::LE, radius);
    // 1 inside, so that no gradient is infinite.
    Value distance = to.sqrt(to.select(isInside, to.number(1), square));
    Value factor = to.broadcast(to.divide(radius, distance), sizesOf(h), {0});
    Value nearest = to.add(to.multiply(offset, factor), first);
    return one(to.select(to.broadcast(isInside, sizesOf(h), {0}), h, nearest));
  }
  case SetKind::Subspace: {
    if (ShapedType::isDynamic(known(first, 0)) || ShapedType::isDynamic(known(first, 1))) {
      refuse(op) << "the number and the size of the basis vectors have to be known";
      return failure();
    }
    Value nearest = to.filled(0, sizesOf(h));
    for (const Axis &axis : orthogonal(to, first))
      nearest = moved(to, nearest, to.dot(h, 1, axis.unit, 0), axis.unit);
    return one(nearest);
  }
  case SetKind::Box: {
    Value upper = nanUnless(to, to.compare(first, Direction::LE, second), second);
    return one(to.minimum(to.maximum(h, first), upper));
  }
  }
  llvm_unreachable("a set of another enumeration");
}

Results lower(PolicyVerifyOp op, Operands<PolicyVerifyOp>, StablehloBuilder &) {
  refuse(op) << "StableHLO has no assertions, and dropping one would be silent; verify the result "
                "outside of the exported program";
  return failure();
}
} // namespace

FailureOr<SmallVector<SmallVector<Value>>>
iam::lowerToStablehlo(Operation *op, ArrayRef<ValueRange> operands, OpBuilder &builder) {
  StablehloBuilder to(builder, op->getLoc());
  return llvm::TypeSwitch<Operation *, Results>(op)
      .Case<CLTEncodeOp, CLTTopKOp, CLTAbsTopKOp, CLTGroupMaxOp, CLTMatchingPursuitOp,
            CLTBatchTopKOp, CLTJumpReLUOp, CLTReLUOp, CLTGateOp, CLTEncodeSparseOp, CLTDecodeOp,
            CLTDensifyOp, CLTResidualOp, CLTEditOp, CLTDeltaOp, CLTSubOp, AttrPathOp, AttrGradOp,
            AttrSelectOp, AttrCircuitOp, PolicySteerOp, PolicyComposeOp, PolicyProjectOp,
            PolicyVerifyOp, CLTDecodeAdjointOp, CLTDensifyAdjointOp, CLTEditAdjointOp,
            PolicyProjectAdjointOp, PolicySequenceOp, AttrCheckOp, ModelRunOp, ModelLinearizeOp,
            ModelPullbackOp>(
          [&](auto op) { return lower(op, Operands<decltype(op)>(operands, op), to); })
      .Default([](Operation *op) -> Results {
        refuse(op) << "it is not lowered yet";
        return failure();
      });
}
