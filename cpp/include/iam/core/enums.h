// Kinds that cross the C ABI as i64. The dialect declares the same enums in ODS;
// tests/unit/test_op_contract.py checks that the two agree.
#pragma once

#include <cstdint>

namespace iam::rt {

/// What a feature edit does to f[j], with operands a and b.
enum class EditMode : int64_t {
  kSet = 0,    ///< f[j] = a
  kScale = 1,  ///< f[j] = f[j] * a
  kClamp = 2,  ///< f[j] = min(max(f[j], a), b)
  kAblate = 3, ///< f[j] = 0
};

/// What a steering direction v of strength s does to an activation h.
enum class SteerMode : int64_t {
  kAdd = 0,    ///< h + s v
  kAblate = 1, ///< h - s (h.v / |v|^2) v
  kClamp = 2,  ///< h + (s - h.u) u, with u = v / |v|
};

/// A step of a sequence: a steer, or a projection onto a half-space.
enum class PolicyStep : int64_t {
  kAdd = 0,       ///< h + s v
  kAblate = 1,    ///< h - s (h.v / |v|^2) v
  kClamp = 2,     ///< h + (s - h.u) u, with u = v / |v|
  kHalfspace = 3, ///< the nearest point with v . h <= s
};

/// What happens where composed directions overlap.
enum class ComposeRule : int64_t {
  kSum = 0,        ///< the sum of s_i v_i
  kMean = 1,       ///< the sum divided by the number of directions
  kOrthogonal = 2, ///< earlier directions have priority (Gram-Schmidt)
};

/// A convex set of activations.
enum class SetKind : int64_t {
  kHalfspace = 0, ///< first . h <= second
  kBall = 1,      ///< |h - first| <= second
  kSubspace = 2,  ///< the span of the rows of first
  kBox = 3,       ///< first <= h <= second
};

} // namespace iam::rt
