// Gram-Schmidt in float64, as iam.reference.policy does it.
#pragma once

#include "rows.h"

#include <cmath>
#include <vector>

namespace iam::rt {

/// An orthonormal basis that grows by one vector at a time.
class Basis {
public:
  explicit Basis(int64_t width) : width(width) {}

  int64_t size() const { return count; }
  const double *unit(int64_t i) const { return units.data() + i * width; }

  /// Leaves in `left` what v [width] does not share with the basis, and adds its direction. False if v lies in the
  /// span: what is left is at most kDependent of its norm.
  bool add(const float *v, std::vector<double> &left) {
    left.assign(v, v + width);
    const double before = std::sqrt(dot(v, v, width));
    // Once more for what rounding left of the first pass ("twice is enough").
    for (int pass = 0; pass < 2; ++pass)
      for (int64_t i = 0; i < count; ++i) {
        const double along = dot(left.data(), unit(i), width);
        for (int64_t c = 0; c < width; ++c)
          left[c] -= along * unit(i)[c];
      }
    const double norm = std::sqrt(dot(left.data(), left.data(), width));
    if (!(norm > kDependent * before))
      return false;
    for (int64_t c = 0; c < width; ++c)
      units.push_back(left[c] / norm);
    ++count;
    return true;
  }

private:
  static constexpr double kDependent = 1e-6;
  int64_t width, count = 0;
  std::vector<double> units; // [count, width]
};

} // namespace iam::rt
