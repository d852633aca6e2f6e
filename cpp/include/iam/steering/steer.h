// Edits of an activation along one direction.
#pragma once

#include "iam/core/enums.h"
#include "iam/core/export.h"
#include "iam/core/status.h"
#include "iam/core/view.h"

namespace iam::rt {

/// Applies SteerMode `mode` with strength s along v to every row of h. Inner products are summed in
/// float64.
/// Shapes:   h, out [rows, d]; v [d].
/// Aliasing: out may be h.
/// Cost:     O(rows d).
/// Errors:   kShapeMismatch, kMode; kInvalidArgument for ablate and clamp along a v whose norm is 0
///           or not finite; kNonFinite names the first row and column of h (or index of v) that is
///           NaN or infinite, and rows of out are then unspecified.
/// Spec:     docs/spec.md#iampolicysteer
IAM_RT_EXPORT Status steer(Mat<const float> h, Vec<const float> v, float s, SteerMode mode,
                           Mat<float> out);

} // namespace iam::rt
