// Several steers and projections in one pass over the activations.
#pragma once

#include "iam/core/enums.h"
#include "iam/core/export.h"
#include "iam/core/status.h"
#include "iam/core/view.h"

namespace iam::rt {

/// Applies the steps one after the other to every row of h: step i of kind steps[i], along directions[i], with strength (or,
/// of a half-space, bound) strengths[i]. Up to 8 steps are one low-rank map: their factors c_i follow in float64 from inner
/// products with the row as it came, then the row is h + sum of c_i v_i, in float32 and in the order of the steps. So factors do
/// not have the rounding of the rows between. After a half-space at the end, <v, row> <= bound holds of the rounded row.
/// Shapes:   h, out [rows, d]; directions [m, d]; strengths, steps [m].
/// Aliasing: out may be h.
/// Cost:     O(rows m d); memory is read and written once.
/// Errors:   kShapeMismatch, kMode; those of the single ops, with the number of the step.
/// Spec:     docs/spec.md#iampolicysequence
IAM_RT_EXPORT Status sequence(Mat<const float> h, Mat<const float> directions,
                              Vec<const float> strengths, Vec<const int32_t> steps, Mat<float> out);

} // namespace iam::rt
