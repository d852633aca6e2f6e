// Several directions as one edit.
#pragma once

#include "iam/core/enums.h"
#include "iam/core/export.h"
#include "iam/core/status.h"
#include "iam/core/view.h"

namespace iam::rt {

/// out = the directions with their strengths, by ComposeRule `rule`; zeros without directions. Sums
/// are float64. NaN and infinity pass through.
/// Shapes:   vectors [n, d]; strengths [n]; out [d].
/// Aliasing: none.
/// Cost:     O(n d); O(n rank d) for kOrthogonal. One thread.
/// Errors:   kShapeMismatch, kMode.
/// Spec:     docs/spec.md#iampolicycompose
IAM_RT_EXPORT Status compose(Mat<const float> vectors, Vec<const float> strengths, ComposeRule rule,
                             Vec<float> out);

} // namespace iam::rt
