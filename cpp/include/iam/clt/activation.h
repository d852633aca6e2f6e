// From dense pre-activations to sparse codes. NaN has no place in an order, so it is an error here;
// infinities are fine.
#pragma once

#include "iam/clt/features.h"
#include "iam/core/export.h"
#include "iam/core/status.h"

namespace iam::rt {

/// The k = codes.values.cols largest of each row, largest first, ties to the lowest index, then
/// ReLU.
/// Shapes:   pre [rows, features]; values, indices [rows, k], 1 <= k <= features.
/// Cost:     O(rows features) time, O(k) scratch a thread.
/// Errors:   kShapeMismatch, kKRange, kNonFinite (NaN).
/// Spec:     docs/spec.md#iamclttopk
IAM_RT_EXPORT Status topK(Mat<const float> pre, FixedCodesOut codes);

/// The k = codes.values.cols of each row that are largest in magnitude, largest first, ties to the
/// lowest index, with their signs and without ReLU.
/// Shapes, cost, errors: as topK.
/// Spec:     docs/spec.md#iamcltabstopk
IAM_RT_EXPORT Status absTopK(Mat<const float> pre, FixedCodesOut codes);

/// The largest of each of k = codes.values.cols groups of features / k neighbours, ties to the lowest
/// index, then ReLU. Slot g belongs to group g.
/// Shapes:   pre [rows, features]; values, indices [rows, k], k divides features.
/// Cost:     O(rows features) time, no scratch.
/// Errors:   kShapeMismatch, kKRange, kNonFinite (NaN).
/// Spec:     docs/spec.md#iamcltgroupmax
IAM_RT_EXPORT Status groupMax(Mat<const float> pre, FixedCodesOut codes);

/// Keeps pre[r, f] > max(0, theta[f]); theta empty: ReLU.
/// Cost:     O(rows features) time; scratch: the result once more.
/// Errors:   kShapeMismatch, kNonFinite (NaN).
/// Spec:     docs/spec.md#iamcltjumprelu, docs/spec.md#iamcltrelu
IAM_RT_EXPORT Status threshold(Mat<const float> pre, Vec<const float> theta, CsrResult &codes);

/// The k * rows largest entries of relu(pre) over the whole batch, ties to the lowest flat index;
/// only positive ones.
/// Cost:     O(rows features) time; scratch: the positive entries once.
/// Errors:   kKRange, kNonFinite (NaN).
/// Spec:     docs/spec.md#iamcltbatch_topk
IAM_RT_EXPORT Status batchTopK(Mat<const float> pre, int64_t k, CsrResult &codes);

/// [gate > 0] relu(magnitude).
/// Shapes:   both [rows, features].
/// Errors:   kShapeMismatch, kNonFinite (NaN).
/// Spec:     docs/spec.md#iamcltgate
IAM_RT_EXPORT Status gate(Mat<const float> gatePre, Mat<const float> magnitudePre,
                          CsrResult &codes);

} // namespace iam::rt
