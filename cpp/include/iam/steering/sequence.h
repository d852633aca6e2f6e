// Several steers and projections in one pass over the activations.
#pragma once

#include "iam/core/enums.h"
#include "iam/core/export.h"
#include "iam/core/status.h"
#include "iam/core/view.h"

namespace iam::rt {

/// Applies the steps one after the other to every row of h, while the row is in the cache: step i of kind steps[i], along
/// directions[i], with strength (or, of a half-space, bound) strengths[i]. Each value is the one that the single ops
/// (steer, project) give, to the bit.
/// Shapes:   h, out [rows, d]; directions [m, d]; strengths, steps [m].
/// Aliasing: out may be h.
/// Cost:     O(rows m d); memory is read and written once.
/// Errors:   kShapeMismatch, kMode; those of the single ops, with the number of the step.
/// Spec:     docs/spec.md#iampolicysequence
IAM_RT_EXPORT Status sequence(Mat<const float> h, Mat<const float> directions,
                              Vec<const float> strengths, Vec<const int32_t> steps, Mat<float> out);

} // namespace iam::rt
