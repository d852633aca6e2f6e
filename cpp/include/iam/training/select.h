// What training selects: dead features for AuxK, entries near a threshold, the best of a batch.
#pragma once

#include "iam/clt/encode.h"
#include "iam/core/export.h"

namespace iam::rt {

/// The k largest pre-activations of each row among the features `among` alone, largest first, ties
/// to the lowest feature, sign kept (no ReLU): the codes of AuxK, whose features are those that are
/// dead. Indices are those of the dictionary.
/// Shapes:   among [n] ascending, values and indices [rows, k], 1 <= k <= n.
/// Cost:     O(rows d n) time; scratch: the n columns of wEnc, and n floats a row for at most 256
///           rows at a time.
/// Source:   Gao et al. 2024, arXiv:2406.04093, appendix A.2.
/// Errors:   kShapeMismatch, kKRange, kFeatureRange, kFeatureDuplicate; kNonFinite for x and for a
///           NaN pre-activation.
IAM_RT_EXPORT Status encodeAmong(const Encoder &e, Vec<const int32_t> among, FixedCodesOut codes);

/// JumpReLU in training: the pre-activations h > theta - eps / 2, those that are active or in the
/// window of the straight-through gradient, as CSR with ascending features; all other entries have
/// gradient 0. Where windows reach below zero (theta < eps / 2 for some feature), sums run with a
/// bias that is larger by the same c for all, and c is subtracted from h: one rounding more, |error|
/// <= 2 u (|h| + c), c < eps. An h of exactly 0 becomes the smallest normal number, because a code of
/// value 0 would be padding.
/// Shapes:   theta [features].
/// Cost:     as encodeThreshold.
/// Errors:   as encodeThreshold; kInvalidArgument for eps <= 0 and a threshold that is negative.
IAM_RT_EXPORT Status encodeWindow(const Encoder &e, Vec<const float> theta, double eps,
                                  CsrResult &codes);

/// BatchTopK from per-row candidates: keeps the `total` largest positive values of the whole batch
/// (ties: the lowest row, then the first slot), as CSR with ascending features. `exact` is false
/// if a row had all its slots kept, so that it may hold more that belong: then encode again with
/// more candidates a row.
/// Source:   Bussmann et al. 2024, arXiv:2412.06410.
/// Errors:   kShapeMismatch; kInvalidArgument for total < 0.
IAM_RT_EXPORT Status batchSelect(FixedCodes candidates, int64_t total, CsrResult &codes,
                                 bool &exact);

/// JumpReLU in training, for entries h of pre-activations near or above their threshold (others
/// have gradient 0 throughout):
///
///   f       = h [h > theta]
///   d_h     = d_f [h > theta]                  + (toInput: (theta / eps) rect d_f + (1 / eps) rect d_s)
///   d_theta = -(theta / eps) rect d_f - (1 / eps) rect d_s,    rect = [|h - theta| < eps / 2]
///
/// d_f is the gradient of f, d_s that of the step [h > theta] (the coefficient of an L0 penalty).
/// Shapes:   all [entries], d_theta not yet summed over the entries of a feature (gradSums does).
/// Source:   Rajamanoharan et al. 2024, arXiv:2407.14435.
/// Errors:   kShapeMismatch, kFeatureRange; kInvalidArgument for eps <= 0.
struct JumpReLU {
  Vec<const float> h;         // [entries]
  Vec<const int32_t> indices; // [entries]
  Vec<const float> theta;     // [features]
  double eps = 0;
  bool toInput = false;
};
IAM_RT_EXPORT Status jumpreluGrad(const JumpReLU &j, Vec<const float> dF, Vec<const float> dS,
                                  Vec<float> dH, Vec<float> dTheta);

} // namespace iam::rt
