// Convex sets of activations: moving into them, and asserting that activations are inside.
#pragma once

#include "iam/core/enums.h"
#include "iam/core/export.h"
#include "iam/core/status.h"
#include "iam/core/view.h"

#include <string>

namespace iam::rt {

/// A set in a space of width d. What its kind does not name is ignored. Infinite bounds are no bounds.
struct Set {
  SetKind kind = SetKind::kHalfspace;
  Vec<const float> point = {}; ///< [d]: the normal, the centre, or the lower bounds
  Mat<const float> basis =
      {}; ///< [n, d]; rows of the span of earlier ones (within 1e-6 of their norm) do not count
  float bound = 0;             ///< of first . h, or the radius
  Vec<const float> upper = {}; ///< [d]
};

/// out = the point of the set nearest to each row of h. Inner products are float64.
///
/// A row inside a half-space, ball or box stays as it is, and a row that moved there is inside by the float64
/// arithmetic of `verify`: where rounding to float32 would leave it outside, it is aimed within the border by the
/// largest such rounding. (A row with subnormal numbers may keep a rounding.) A span has no inside; only the span of
/// everything leaves rows as they are.
/// Shapes:   h, out [rows, d].
/// Aliasing: none.
/// Cost:     O(rows d); a subspace O(rows rank d + n rank d).
/// Errors:   kShapeMismatch, kMode; kInvalidArgument for a set that is empty or has no projection: a normal of norm 0,
///           a negative radius, a lower bound above its upper bound; kNonFinite for NaN anywhere, and infinity in h,
///           normal, centre or basis.
/// Spec:     docs/spec.md#iampolicyproject
IAM_RT_EXPORT Status project(Mat<const float> h, const Set &set, Mat<float> out);

/// margin = how far inside the set each row of h is; minus the distance if it is outside; NaN for a row with NaN or
/// infinity.
/// Shapes:   h [rows, d]; margin [rows].
/// Cost:     as project.
/// Errors:   as project for the set; kPolicy, with `message`, the first row whose margin is not >= -tolerance and that
///           margin (Status::row, Status::margin); margin is then unspecified. kInvalidArgument for a tolerance that is
///           not finite or negative.
/// Spec:     docs/spec.md#iampolicyverify
IAM_RT_EXPORT Status verify(Mat<const float> h, const Set &set, float tolerance,
                            const std::string &message, Vec<float> margin);

} // namespace iam::rt
