// Matching pursuit: features found one at a time.
#pragma once

#include "iam/clt/features.h"
#include "iam/core/export.h"
#include "iam/core/status.h"

namespace iam::rt {

/// Shapes: x [rows, d], wDec [features, d] with rows of norm 1, bDec [d] or empty (nothing is
/// subtracted).
struct Pursuit {
  Mat<const float> x;
  Mat<const float> wDec;
  Vec<const float> bDec;
  float residualThreshold;     ///< finite; a row ends when |r| is below it; 0: never for that
  int64_t maxIterations;       ///< >= 1
  bool stopOnDuplicateSupport; ///< a row ends with a step that wakes no new feature
};

/// r = x - b_dec; then in each step j = argmax r.W_dec[j], ties to the lowest, v = relu(r.W_dec[j]),
/// f[j] += v, r -= v W_dec[j]. Products are summed as an encoder sums, so that features of a row
/// depend on that row alone; a row also ends with v = 0, after which nothing changes.
/// Cost:     O(steps rows d features) time at most, with the screening of encodeTopK; scratch: W_dec
///           once more, and O(d + steps) for at most 1,024 rows at a time; the result once more.
/// Errors:   kShapeMismatch; kInvalidArgument for a threshold or a number of steps out of range;
///           kNonFinite for x, for W_dec, and where the residual leaves float32.
/// Spec:     docs/spec.md#iamcltmatching_pursuit
IAM_RT_EXPORT Status matchingPursuit(const Pursuit &p, CsrResult &codes);

} // namespace iam::rt
