//===- CLTOps.cpp - Verifiers and folds of sparse coders -----------------*- C++ -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Verify.h"

#include "iam/Dialect/IAM/IR/IAMOps.h"

#include "mlir/IR/Matchers.h"
#include "llvm/ADT/DenseSet.h"

using namespace mlir;
using namespace iam;
using namespace iam::detail;

//===----------------------------------------------------------------------===//
// Shared checks
//===----------------------------------------------------------------------===//

/// x [rows, d_in], W_enc [d_in, dict], b_enc [dict], b_dec [d_in].
template <typename EncodeOp> static LogicalResult verifyEncoder(EncodeOp op, Dim rows, Dim dict) {
  Dim width = dim("the width of x", op.getX(), 1);
  Dim columns = dim("the number of columns of W_enc", op.getWEnc(), 1);
  // clt_encode_c1, clt_encode_sparse_c2
  if (failed(expectEqual(op, dim("the number of rows of W_enc", op.getWEnc(), 0), width)))
    return failure();
  // clt_encode_c2, clt_encode_sparse_c3
  if (failed(expectEqual(op, dim("the size of b_enc", op.getBEnc(), 0), columns)))
    return failure();
  // clt_encode_c3, clt_encode_sparse_c4
  if (op.getBDec() && failed(expectEqual(op, dim("the size of b_dec", op.getBDec(), 0), width)))
    return failure();
  // clt_encode_c4, clt_encode_sparse_c5
  if (failed(expectEqual(op, rows, dim("the number of rows of x", op.getX(), 0))))
    return failure();
  return expectEqual(op, dict, columns);
}

/// f has the rows and the dictionary of pre.
static LogicalResult verifySameShape(Operation *op, Value f, Value pre, const char *rowsOfPre,
                                     const char *columnsOfPre) {
  FeaturesType type = features(f);
  if (failed(expectEqual(op, {"the number of rows of the features", type.getRows()},
                         dim(rowsOfPre, pre, 0))))
    return failure();
  return expectEqual(op, {"the dictionary of the features", type.getDict()},
                     dim(columnsOfPre, pre, 1));
}

static LogicalResult verifySameShape(Operation *op, Value f, Value pre) {
  return verifySameShape(op, f, pre, "the number of rows of pre", "the width of pre");
}

static LogicalResult expectCompressedRows(Operation *op, Value f) {
  FeaturesType type = features(f);
  if (type.isKForm())
    return op->emitOpError("expected a result in compressed rows, without k, got ") << type;
  return success();
}

/// `k` against the width of the dictionary, and the `k` of the result.
static LogicalResult verifyK(Operation *op, int64_t k, Dim dict) {
  if (!ShapedType::isDynamic(dict.size) && k > dict.size)
    return op->emitOpError("expected k to be at most ")
           << dict.what << " (" << dict.size << "), got k = " << k;
  return success();
}

/// `k` as a number of groups of one size.
static LogicalResult verifyGroups(Operation *op, int64_t k, Dim dict) {
  if (!ShapedType::isDynamic(dict.size) && dict.size % k != 0)
    return op->emitOpError("expected k to divide ")
           << dict.what << " (" << dict.size << "), got k = " << k;
  return success();
}

static LogicalResult expectSlots(Operation *op, Value f, int64_t k) {
  FeaturesType type = features(f);
  if (type.getK() != k)
    return op->emitOpError("expected a result with k = ") << k << ", got " << type;
  return success();
}

/// features, a and b of edit and delta.
template <typename EditOp> static LogicalResult verifyEdited(EditOp op) {
  int64_t dict = features(op.getF()).getDict();
  int64_t n = op.getFeatures().size();
  // clt_edit_c1, clt_delta_c1
  llvm::SmallDenseSet<int64_t> seen;
  for (int64_t feature : op.getFeatures()) {
    if (feature < 0 || feature >= dict)
      return op.emitOpError("expected features in 0..")
             << dict - 1 << " (dictionary), got " << feature;
    // clt_edit_c2, clt_delta_c2
    if (!seen.insert(feature).second)
      return op.emitOpError("expected distinct features, got ") << feature << " more than once";
  }
  // clt_edit_c3, clt_delta_c3
  int64_t expected = op.getMode() == EditMode::Ablate ? 0 : op.getMode() == EditMode::Clamp ? 2 : 1;
  int64_t got = (op.getA() ? 1 : 0) + (op.getB() ? 1 : 0);
  if (got != expected)
    return op.emitOpError("expected ")
           << expected << (expected == 1 ? " operand" : " operands") << " after `by` for mode "
           << stringifyEditMode(op.getMode()) << ", got " << got;
  // clt_edit_c4, clt_delta_c4
  if (op.getA() &&
      failed(expectEqual(op, dim("the size of a", op.getA(), 0), {"the number of features", n})))
    return failure();
  if (op.getB() &&
      failed(expectEqual(op, dim("the size of b", op.getB(), 0), {"the number of features", n})))
    return failure();
  return success();
}

//===----------------------------------------------------------------------===//
// Constants
//===----------------------------------------------------------------------===//

static bool isConstantZero(Value value) {
  DenseFPElementsAttr constant;
  return matchPattern(value, m_Constant(&constant)) &&
         llvm::all_of(constant, [](const APFloat &v) { return v.isZero(); });
}

/// Drops an optional operand that is a constant zero.
static LogicalResult dropZero(Operation *op, MutableOperandRange operand,
                              PatternRewriter &rewriter) {
  if (operand.empty())
    return rewriter.notifyMatchFailure(op, "there is no bias to drop");
  if (!isConstantZero(operand[0].get()))
    return rewriter.notifyMatchFailure(op, "the bias is not a constant zero");
  rewriter.modifyOpInPlace(op, [&] { operand.clear(); });
  return success();
}

//===----------------------------------------------------------------------===//
// CLTEncodeOp
//===----------------------------------------------------------------------===//

LogicalResult CLTEncodeOp::verify() {
  return verifyEncoder(*this, dim("the number of rows of pre", getPre(), 0),
                       dim("the width of pre", getPre(), 1));
}

// encode(x, subtract 0) -> encode(x): x - 0 is x, to the bit.
LogicalResult CLTEncodeOp::canonicalize(CLTEncodeOp op, PatternRewriter &rewriter) {
  return dropZero(op, op.getBDecMutable(), rewriter);
}

//===----------------------------------------------------------------------===//
// CLTTopKOp, CLTAbsTopKOp, CLTGroupMaxOp, CLTBatchTopKOp
//===----------------------------------------------------------------------===//

LogicalResult CLTTopKOp::verify() {
  // clt_topk_c2 (k >= 1 is clt_topk_c1, guaranteed by ODS)
  if (failed(verifyK(*this, getK(), dim("the width of pre", getPre(), 1))))
    return failure();
  // clt_topk_c3
  if (failed(expectSlots(*this, getF(), getK())))
    return failure();
  // clt_topk_c4
  return verifySameShape(*this, getF(), getPre());
}

LogicalResult CLTAbsTopKOp::verify() {
  // clt_abstopk_c2 (k >= 1 is clt_abstopk_c1, guaranteed by ODS)
  if (failed(verifyK(*this, getK(), dim("the width of pre", getPre(), 1))))
    return failure();
  // clt_abstopk_c3
  if (failed(expectSlots(*this, getF(), getK())))
    return failure();
  // clt_abstopk_c4
  return verifySameShape(*this, getF(), getPre());
}

LogicalResult CLTGroupMaxOp::verify() {
  // clt_groupmax_c2 (k >= 1 is clt_groupmax_c1, guaranteed by ODS)
  if (failed(verifyGroups(*this, getK(), dim("the width of pre", getPre(), 1))))
    return failure();
  // clt_groupmax_c3
  if (failed(expectSlots(*this, getF(), getK())))
    return failure();
  // clt_groupmax_c4
  return verifySameShape(*this, getF(), getPre());
}

LogicalResult CLTBatchTopKOp::verify() {
  // clt_batch_topk_c2
  if (failed(verifyK(*this, getK(), dim("the width of pre", getPre(), 1))))
    return failure();
  // clt_batch_topk_c3
  if (failed(expectCompressedRows(*this, getF())))
    return failure();
  // clt_batch_topk_c4
  return verifySameShape(*this, getF(), getPre());
}

//===----------------------------------------------------------------------===//
// CLTJumpReLUOp, CLTReLUOp, CLTGateOp
//===----------------------------------------------------------------------===//

LogicalResult CLTJumpReLUOp::verify() {
  // clt_jumprelu_c1
  if (failed(expectEqual(*this, dim("the size of threshold", getThreshold(), 0),
                         dim("the width of pre", getPre(), 1))))
    return failure();
  // clt_jumprelu_c2
  if (failed(expectCompressedRows(*this, getF())))
    return failure();
  // clt_jumprelu_c3
  return verifySameShape(*this, getF(), getPre());
}

// jumprelu(pre, threshold) with a constant threshold <= 0 -> relu(pre): what is
// positive is above the threshold, what is not becomes 0 either way.
LogicalResult CLTJumpReLUOp::canonicalize(CLTJumpReLUOp op, PatternRewriter &rewriter) {
  DenseFPElementsAttr threshold;
  if (!matchPattern(op.getThreshold(), m_Constant(&threshold)))
    return rewriter.notifyMatchFailure(op, "the threshold is not a constant");
  if (!llvm::all_of(threshold,
                    [](const APFloat &v) { return v.isZero() || (v.isNegative() && !v.isNaN()); }))
    return rewriter.notifyMatchFailure(op, "a threshold is positive or NaN");
  rewriter.replaceOpWithNewOp<CLTReLUOp>(op, op.getF().getType(), op.getPre());
  return success();
}

LogicalResult CLTReLUOp::verify() {
  // clt_relu_c1
  if (failed(expectCompressedRows(*this, getF())))
    return failure();
  // clt_relu_c2
  return verifySameShape(*this, getF(), getPre());
}

LogicalResult CLTGateOp::verify() {
  // clt_gate_c1
  if (failed(expectEqual(*this, dim("the number of rows of magnitude_pre", getMagnitudePre(), 0),
                         dim("the number of rows of gate_pre", getGatePre(), 0))) ||
      failed(expectEqual(*this, dim("the width of magnitude_pre", getMagnitudePre(), 1),
                         dim("the width of gate_pre", getGatePre(), 1))))
    return failure();
  // clt_gate_c2
  if (failed(expectCompressedRows(*this, getF())))
    return failure();
  // clt_gate_c3
  return verifySameShape(*this, getF(), getGatePre(), "the number of rows of gate_pre",
                         "the width of gate_pre");
}

//===----------------------------------------------------------------------===//
// CLTEncodeSparseOp
//===----------------------------------------------------------------------===//

/// The features of `only`.
static LogicalResult verifyOnly(CLTEncodeSparseOp op, bool withK) {
  // clt_encode_sparse_c11
  if (withK)
    return op.emitOpError("expected no `only` for activation ")
           << stringifyActivation(op.getActivation())
           << ": whether a feature is active depends on the others";
  ArrayRef<int64_t> only = *op.getOnly();
  if (only.empty())
    return op.emitOpError("expected at least one feature in `only`");
  int64_t dict = features(op.getF()).getDict();
  for (auto [i, feature] : llvm::enumerate(only)) {
    // clt_encode_sparse_c12
    if (feature < 0 || feature >= dict)
      return op.emitOpError("expected `only` in 0..")
             << dict - 1 << " (dictionary), got " << feature;
    // clt_encode_sparse_c13
    if (i > 0 && feature <= only[i - 1])
      return op.emitOpError("expected `only` in ascending order, each feature once, got ")
             << feature << " after " << only[i - 1];
  }
  return success();
}

/// The second encode of a gate.
static LogicalResult verifyMagnitude(CLTEncodeSparseOp op) {
  // clt_encode_sparse_c14
  int64_t expected = op.getActivation() == Activation::Gate ? 2 : 0;
  int64_t got = (op.getWMag() ? 1 : 0) + (op.getBMag() ? 1 : 0);
  if (got != expected)
    return op.emitOpError("expected ")
           << expected << " operands after `magnitude` for activation "
           << stringifyActivation(op.getActivation()) << ", got " << got;
  if (got == 0)
    return success();
  // clt_encode_sparse_c15
  Dim columns = dim("the number of columns of W_enc", op.getWEnc(), 1);
  if (failed(expectEqual(op, dim("the number of rows of W_mag", op.getWMag(), 0),
                         dim("the number of rows of W_enc", op.getWEnc(), 0))) ||
      failed(expectEqual(op, dim("the number of columns of W_mag", op.getWMag(), 1), columns)))
    return failure();
  // clt_encode_sparse_c16
  return expectEqual(op, dim("the size of b_mag", op.getBMag(), 0), columns);
}

LogicalResult CLTEncodeSparseOp::verify() {
  FeaturesType type = features(getF());
  // clt_encode_sparse_c2 .. c5
  if (failed(verifyEncoder(*this, {"the number of rows of the features", type.getRows()},
                           {"the dictionary of the features", type.getDict()})))
    return failure();
  // clt_encode_sparse_c6
  bool groups = getActivation() == Activation::GroupMax;
  bool batch = getActivation() == Activation::BatchTopK;
  bool withK = groups || batch || getActivation() == Activation::TopK ||
               getActivation() == Activation::AbsTopK;
  if (getK().has_value() != withK)
    return emitOpError(withK ? "expected k for activation " : "expected no k for activation ")
           << stringifyActivation(getActivation()) << ", got " << (withK ? "none" : "k = ")
           << (withK ? "" : Twine(getK().value_or(0)).str());
  // clt_encode_sparse_c7
  bool jumprelu = getActivation() == Activation::JumpReLU;
  if (static_cast<bool>(getThreshold()) != jumprelu)
    return emitOpError(jumprelu ? "expected a threshold for activation "
                                : "expected no threshold for activation ")
           << stringifyActivation(getActivation()) << ", got " << (jumprelu ? "none" : "one");
  // clt_encode_sparse_c8
  if (jumprelu && failed(expectEqual(*this, dim("the size of threshold", getThreshold(), 0),
                                     {"the dictionary of the features", type.getDict()})))
    return failure();
  if (failed(verifyMagnitude(*this)))
    return failure();
  if (getOnly() && failed(verifyOnly(*this, withK)))
    return failure();
  // clt_encode_sparse_c9
  if (!withK)
    return expectCompressedRows(*this, getF());
  Dim dict = {"the dictionary of the features", type.getDict()};
  if (failed(verifyK(*this, *getK(), dict)))
    return failure();
  if (batch)
    return expectCompressedRows(*this, getF());
  // clt_encode_sparse_c10
  if (groups && failed(verifyGroups(*this, *getK(), dict)))
    return failure();
  return expectSlots(*this, getF(), *getK());
}

// encode_sparse(x, subtract 0) -> encode_sparse(x): x - 0 is x, to the bit.
LogicalResult CLTEncodeSparseOp::canonicalize(CLTEncodeSparseOp op, PatternRewriter &rewriter) {
  return dropZero(op, op.getBDecMutable(), rewriter);
}

//===----------------------------------------------------------------------===//
// CLTMatchingPursuitOp
//===----------------------------------------------------------------------===//

LogicalResult CLTMatchingPursuitOp::verify() {
  // clt_matching_pursuit_c2 (max_iterations >= 1 is clt_matching_pursuit_c1, guaranteed by ODS)
  APFloat threshold = getResidualThreshold();
  if (!threshold.isFinite() || (threshold.isNegative() && !threshold.isZero()))
    return emitOpError("expected residual_threshold to be finite and not negative, got ")
           << getResidualThresholdAttr();
  Dim width = dim("the width of x", getX(), 1);
  // clt_matching_pursuit_c3
  if (failed(expectEqual(*this, dim("the width of W_dec", getWDec(), 1), width)))
    return failure();
  // clt_matching_pursuit_c4
  if (getBDec() && failed(expectEqual(*this, dim("the size of b_dec", getBDec(), 0), width)))
    return failure();
  // clt_matching_pursuit_c5
  if (failed(expectCompressedRows(*this, getF())))
    return failure();
  // clt_matching_pursuit_c6
  FeaturesType type = features(getF());
  if (failed(expectEqual(*this, {"the number of rows of the features", type.getRows()},
                         dim("the number of rows of x", getX(), 0))))
    return failure();
  return expectEqual(*this, {"the dictionary of the features", type.getDict()},
                     dim("the number of rows of W_dec", getWDec(), 0));
}

// matching_pursuit(x, subtract 0) -> matching_pursuit(x): x - 0 is x, to the bit.
LogicalResult CLTMatchingPursuitOp::canonicalize(CLTMatchingPursuitOp op,
                                                 PatternRewriter &rewriter) {
  return dropZero(op, op.getBDecMutable(), rewriter);
}

//===----------------------------------------------------------------------===//
// CLTDecodeOp, CLTDensifyOp, CLTResidualOp
//===----------------------------------------------------------------------===//

LogicalResult CLTDecodeOp::verify() {
  FeaturesType type = features(getF());
  // clt_decode_c1
  if (failed(expectEqual(*this, dim("the number of rows of W_dec", getWDec(), 0),
                         {"the dictionary of the features", type.getDict()})))
    return failure();
  // clt_decode_c2
  if (getBDec() && failed(expectEqual(*this, dim("the size of b_dec", getBDec(), 0),
                                      dim("the width of W_dec", getWDec(), 1))))
    return failure();
  // clt_decode_c3
  if (failed(expectEqual(*this, dim("the number of rows of y", getY(), 0),
                         {"the number of rows of the features", type.getRows()})))
    return failure();
  return expectEqual(*this, dim("the width of y", getY(), 1),
                     dim("the width of W_dec", getWDec(), 1));
}

// decode(f, W, bias 0) -> decode(f, W): the sum starts at +0, so it is never -0.
LogicalResult CLTDecodeOp::canonicalize(CLTDecodeOp op, PatternRewriter &rewriter) {
  return dropZero(op, op.getBDecMutable(), rewriter);
}

LogicalResult CLTDensifyOp::verify() {
  FeaturesType type = features(getF());
  // clt_densify_c1
  if (failed(expectEqual(*this, dim("the number of rows of d", getD(), 0),
                         {"the number of rows of the features", type.getRows()})))
    return failure();
  return expectEqual(*this, dim("the width of d", getD(), 1),
                     {"the dictionary of the features", type.getDict()});
}

LogicalResult CLTResidualOp::verify() {
  // clt_residual_c1
  if (failed(expectEqual(*this, dim("the number of rows of x", getX(), 0),
                         dim("the number of rows of y", getY(), 0))))
    return failure();
  if (getWSkip()) {
    // clt_residual_c2
    if (failed(expectEqual(*this, dim("the number of rows of W_skip", getWSkip(), 0),
                           dim("the width of x", getX(), 1))) ||
        failed(expectEqual(*this, dim("the width of W_skip", getWSkip(), 1),
                           dim("the width of y", getY(), 1))))
      return failure();
    // clt_residual_c3
  } else if (failed(expectEqual(*this, dim("the width of x", getX(), 1),
                                dim("the width of y", getY(), 1)))) {
    return failure();
  }
  // clt_residual_c4
  if (failed(expectEqual(*this, dim("the number of rows of z", getZ(), 0),
                         dim("the number of rows of y", getY(), 0))))
    return failure();
  return expectEqual(*this, dim("the width of z", getZ(), 1), dim("the width of y", getY(), 1));
}

//===----------------------------------------------------------------------===//
// CLTEditOp
//===----------------------------------------------------------------------===//

LogicalResult CLTEditOp::verify() {
  if (failed(verifyEdited(*this)))
    return failure();
  // clt_edit_c5
  FeaturesType expected = resultType(features(getF()), getMode(), getFeatures().size());
  FeaturesType got = features(getResult());
  if (!compatible(got.getRows(), expected.getRows()) || got.getDict() != expected.getDict() ||
      got.getK() != expected.getK())
    return emitOpError("expected result type ")
           << expected << " for mode " << stringifyEditMode(getMode()) << ", got " << got;
  return success();
}

/// Every feature of `inner` is in `outer`.
static bool isSubset(ArrayRef<int64_t> inner, ArrayRef<int64_t> outer) {
  llvm::SmallDenseSet<int64_t> all(outer.begin(), outer.end());
  return llvm::all_of(inner, [&](int64_t feature) { return all.contains(feature); });
}

OpFoldResult CLTEditOp::fold(FoldAdaptor) {
  if (getF().getType() != getResult().getType())
    return {};
  // edit(f, no features) -> f
  if (getFeatures().empty())
    return getF();
  // ablate(ablate(f, A), B) with B a subset of A -> ablate(f, A)
  auto inner = getF().getDefiningOp<CLTEditOp>();
  if (inner && getMode() == EditMode::Ablate && inner.getMode() == EditMode::Ablate &&
      isSubset(getFeatures(), inner.getFeatures()))
    return getF();
  return {};
}

LogicalResult CLTEditOp::canonicalize(CLTEditOp op, PatternRewriter &rewriter) {
  auto inner = op.getF().getDefiningOp<CLTEditOp>();
  if (!inner)
    return rewriter.notifyMatchFailure(op, "the features do not come from an edit");
  // set or ablate(edit(f, A), B) with A a subset of B -> the same of f: what the
  // inner edit did is overwritten.
  bool overwrites = op.getMode() == EditMode::Ablate || op.getMode() == EditMode::Set;
  if (overwrites && isSubset(inner.getFeatures(), op.getFeatures())) {
    if (CLTEditOp::resultType(features(inner.getF()), op.getMode(), op.getFeatures().size()) !=
        op.getResult().getType())
      return rewriter.notifyMatchFailure(op, "the number of slots would change");
    rewriter.modifyOpInPlace(op, [&] { op.getFMutable().assign(inner.getF()); });
    return success();
  }
  // ablate(ablate(f, A), B) -> ablate(f, A and B)
  if (op.getMode() == EditMode::Ablate && inner.getMode() == EditMode::Ablate &&
      inner.getF().getType() == op.getResult().getType()) {
    SmallVector<int64_t> all(inner.getFeatures());
    for (int64_t feature : op.getFeatures())
      if (!llvm::is_contained(inner.getFeatures(), feature))
        all.push_back(feature);
    rewriter.modifyOpInPlace(op, [&] {
      op.setFeatures(all);
      op.getFMutable().assign(inner.getF());
    });
    return success();
  }
  return rewriter.notifyMatchFailure(op, "the edit before it does not merge");
}

//===----------------------------------------------------------------------===//
// CLTDeltaOp, CLTSubOp
//===----------------------------------------------------------------------===//

LogicalResult CLTDeltaOp::verify() {
  // clt_delta_c5
  if (getFeatures().empty())
    return emitOpError("expected at least 1 feature, got 0");
  if (failed(verifyEdited(*this)))
    return failure();
  // clt_delta_c6
  FeaturesType f = features(getF()), got = features(getResult());
  FeaturesType expected = f.withK(getFeatures().size());
  if (!compatible(got.getRows(), expected.getRows()) || got.getDict() != expected.getDict() ||
      got.getK() != expected.getK())
    return emitOpError("expected result type ") << expected << ", got " << got;
  return success();
}

LogicalResult CLTSubOp::verify() {
  FeaturesType f1 = features(getF1()), f2 = features(getF2());
  // clt_sub_c1
  if (f1.isKForm() != f2.isKForm())
    return emitOpError("expected two features of the same form, got ") << f1 << " and " << f2;
  // clt_sub_c2
  if (!compatible(f1.getRows(), f2.getRows()) || f1.getDict() != f2.getDict())
    return emitOpError("expected features of the same rows and dictionary, got ")
           << f1 << " and " << f2;
  // clt_sub_c3
  FeaturesType expected = f1.isKForm() ? f1.withK(*f1.getK() + *f2.getK()) : f1;
  FeaturesType got = features(getG());
  if (!compatible(got.getRows(), f1.getRows()) || !compatible(got.getRows(), f2.getRows()) ||
      got.getDict() != expected.getDict() || got.getK() != expected.getK())
    return emitOpError("expected result type ") << expected << ", got " << got;
  return success();
}
