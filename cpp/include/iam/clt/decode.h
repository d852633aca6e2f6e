// From sparse codes back to activations. Entries of a row are added in the order in which the row
// holds them, so a result depends on its row alone. An index outside the dictionary is
// kFeatureRange, except in a slot that holds 0.
#pragma once

#include "iam/clt/features.h"
#include "iam/core/export.h"
#include "iam/core/status.h"

namespace iam::rt {

/// y[r] = sum over active f of codes[r, f] W_dec[f] + b_dec. Reads only the active rows of W_dec.
/// Shapes:   wDec [features, d], bDec [d] or empty, y [rows, d].
/// Aliasing: y overlaps no input.
/// Cost:     O(rows (k + 1) d) time, no scratch.
/// Errors:   kShapeMismatch, kFeatureRange, kInvalidArgument (offsets not ascending from 0 to nnz).
/// Spec:     docs/spec.md#iamcltdecode
IAM_RT_EXPORT Status decode(FixedCodes codes, Mat<const float> wDec, Vec<const float> bDec,
                            Mat<float> y);
IAM_RT_EXPORT Status decode(CsrCodes codes, Mat<const float> wDec, Vec<const float> bDec,
                            Mat<float> y);

/// out[r, f] = codes[r, f], 0 elsewhere.
/// Shapes:   out [rows, features].
/// Errors:   as decode.
/// Spec:     docs/spec.md#iamcltdensify
IAM_RT_EXPORT Status densify(FixedCodes codes, Mat<float> out);
IAM_RT_EXPORT Status densify(CsrCodes codes, Mat<float> out);

/// z = y + x, or y + x W_skip when wSkip is not empty (summed as an encoder sums).
/// Shapes:   y, z [rows, dOut]; x [rows, dIn], wSkip [dIn, dOut] or empty (then dIn = dOut).
/// Aliasing: z may be y, or x when there is no wSkip.
/// Errors:   kShapeMismatch.
/// Spec:     docs/spec.md#iamcltresidual
IAM_RT_EXPORT Status residual(Mat<const float> y, Mat<const float> x, Mat<const float> wSkip,
                              Mat<float> z);

} // namespace iam::rt
