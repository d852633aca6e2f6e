// Encoders. A pre-activation is
//
//   pre[r, f] = fl( sum over i = 0, 1, 2, ... of x'[r, i] W_enc[i, f] ) + b_enc[f],
//   x' = fl(x - b_dec) or x,
//
// summed in that order in float32, with one rounding a term where the CPU has fused multiply-add
// (all levels but x86-64-v2). So a value depends on its row, its feature and the level alone: not
// on the number of threads, not on the other rows of the batch.
//
//   |error| <= n u / (1 - n u) (sum |x'| |W_enc| + |b_enc|),  n = d + 2, u = 2^-24; twice on v2
#pragma once

#include "iam/clt/features.h"
#include "iam/core/export.h"
#include "iam/core/status.h"

namespace iam::rt {

/// The operands that all encoders share.
/// Shapes: x [rows, d], wEnc [d, features], bEnc [features] or empty (0), bDec [d] or empty
/// (nothing is subtracted).
struct Encoder {
  Mat<const float> x;
  Mat<const float> wEnc;
  Vec<const float> bEnc;
  Vec<const float> bDec;
};

/// pre[r, f] as above.
/// Shapes:   pre [rows, features].
/// Aliasing: pre overlaps no input.
/// Cost:     O(rows d features) time; scratch: O(rows d) and one packed tile a thread.
/// Errors:   kShapeMismatch; kNonFinite for x.
/// Spec:     docs/spec.md#iamcltencode
IAM_RT_EXPORT Status encodeDense(const Encoder &e, Mat<float> pre);

/// The k = values.cols largest pre-activations of each row, largest first, ties to the lowest
/// feature, then ReLU: a slot whose pre-activation is not positive keeps its index and holds 0.
/// Never holds a [rows, features] buffer.
/// Shapes:   values, indices [rows, k], 1 <= k <= features.
/// Aliasing: outputs overlap no input.
/// Cost:     O(rows d features) time; scratch: O(rows (d + k)) for at most 1,024 rows at a time,
///           and one tile a thread.
/// Errors:   kShapeMismatch, kKRange; kNonFinite for x and for a NaN pre-activation.
/// Spec:     docs/spec.md#iamcltencode_sparse
IAM_RT_EXPORT Status encodeTopK(const Encoder &e, FixedCodesOut codes);

/// The k = values.cols pre-activations of each row that are largest in magnitude, largest first, ties
/// to the lowest feature, with their signs and without ReLU.
/// Shapes, aliasing, cost, errors: as encodeTopK.
/// Spec:     docs/spec.md#iamcltencode_sparse
IAM_RT_EXPORT Status encodeAbsTopK(const Encoder &e, FixedCodesOut codes);

/// The largest pre-activation of each of k = values.cols groups of features / k neighbouring
/// features, ties to the lowest feature, then ReLU. Slot g belongs to group g.
/// Shapes:   values, indices [rows, k]; k divides features.
/// Aliasing: outputs overlap no input.
/// Cost:     O(rows d features) time in float32; scratch: O(rows d) and one tile a thread.
/// Errors:   as encodeTopK; kKRange also for a k that is no divisor.
/// Spec:     docs/spec.md#iamcltencode_sparse
IAM_RT_EXPORT Status encodeGroupMax(const Encoder &e, FixedCodesOut codes);

/// JumpReLU, or ReLU when theta is empty: keeps pre[r, f] where it is > theta[f] (strictly) and >
/// 0.
/// Shapes:   theta [features] or empty.
/// Cost:     as encodeTopK; scratch also holds the result once more.
/// Errors:   kShapeMismatch; kNonFinite for x and for a NaN pre-activation.
/// Spec:     docs/spec.md#iamcltencode_sparse
IAM_RT_EXPORT Status encodeThreshold(const Encoder &e, Vec<const float> theta, CsrResult &codes);

/// encodeThreshold for the features `only`; the others are not encoded and not active. Each value is
/// the one that encodeThreshold gives, to the bit.
/// Shapes:   only [n]: ascending, each once, in 0..features-1, n >= 1.
/// Cost:     O(rows d n) time; n d elements of W_enc are gathered, one cache line each where features
///           are not neighbours; scratch: O(n d) and as encodeThreshold.
/// Errors:   as encodeThreshold, and kFeatureRange, kInvalidArgument for `only`. A NaN
///           pre-activation of another feature is not seen.
/// Spec:     docs/spec.md#iamcltencode_sparse
IAM_RT_EXPORT Status encodeThresholdOnly(const Encoder &e, Vec<const float> theta,
                                         Vec<const int32_t> only, CsrResult &codes);

/// [gate > 0] relu(magnitude): the gate is the encoder's pre-activation, the magnitude that of the
/// same rows with wMag and bMag. Each value is what encodeDense gives, to the bit. A magnitude is
/// computed where its gate is open, one at a time where few are.
/// Shapes:   wMag as e.wEnc; bMag [features] or empty (0); only as in encodeThresholdOnly, or empty
///           (all features).
/// Cost:     O(rows d features) time, and at most the same once more for magnitudes: O(d) for each
///           open gate where fewer than one in 20 of a tile are; scratch: as encodeThreshold
///           and one tile a thread.
/// Errors:   as encodeThreshold and encodeThresholdOnly. A NaN magnitude of a closed gate is not seen.
/// Spec:     docs/spec.md#iamcltencode_sparse
IAM_RT_EXPORT Status encodeGate(const Encoder &e, Mat<const float> wMag, Vec<const float> bMag,
                                Vec<const int32_t> only, CsrResult &codes);

/// The k * rows largest entries of relu(pre) over the whole batch, ties to the lowest flat index
/// (row, then feature); only positive ones.
/// Shapes:   1 <= k <= features.
/// Cost:     O(rows d features) time; scratch: at most 2 k rows entries and one block of rows,
///           instead of all positive pre-activations.
/// Errors:   as encodeThreshold; kKRange.
/// Spec:     docs/spec.md#iamcltencode_sparse
IAM_RT_EXPORT Status encodeBatchTopK(const Encoder &e, int64_t k, CsrResult &codes);

} // namespace iam::rt
