// Inside the runtime: a step along one direction, which steers, half-space projections and sequences share.
#pragma once

#include "../core/kernels.h"
#include "iam/core/enums.h"
#include "rows.h"

#include <cmath>

namespace iam::rt {

/// The largest relative error of rounding to float32, with room for that of the float64 sums.
inline constexpr double kRounding = 0x1.0p-24 * (1 + 1e-6);

/// A steer or a projection onto a half-space, checked, with what it derives from its direction.
struct Step {
  PolicyStep kind = PolicyStep::kAdd;
  const float *v = nullptr;
  float s = 0;
  double square = 1; // |v|^2; not of an addition

  /// What a steer adds of v to a row with <row, v> = at.
  float factor(double at) const {
    switch (kind) {
    case PolicyStep::kAdd:
      return s;
    case PolicyStep::kAblate:
      return static_cast<float>(-static_cast<double>(s) * at / square);
    default:
      return static_cast<float>(s / std::sqrt(square) - at / square);
    }
  }

  /// `row` [width] in place.
  void apply(const kernels::Table &table, float *row, int64_t width) const {
    if (kind == PolicyStep::kHalfspace)
      return project(table, row, width);
    table.axpy(factor(kind == PolicyStep::kAdd ? 0 : table.dot64(row, v, width)), v, row, width);
  }

private:
  void project(const kernels::Table &table, float *row, int64_t width) const {
    double at = table.dot64(row, v, width);
    if (at <= s)
      return;
    table.move64(-((at - s) / square), v, row, row, width);
    // Rounding may have left the row outside: to float32, or to float64 where it is far away. Then it moves again, from
    // near the border, to within it by the most that rounding to float32 adds to its inner product.
    for (int i = 0; i < 4 && (at = table.dot64(row, v, width)) > s; ++i) {
      const double rounding = kRounding * table.absDot64(row, v, width);
      table.move64(-((at - s + rounding) / square), v, row, row, width);
    }
  }
};

/// A step of direction v [width] and strength or bound s; `op` begins the message of what is wrong with them.
inline Status makeStep(const char *op, const kernels::Table &table, PolicyStep kind,
                       Vec<const float> v, float s, Step &step) {
  const bool isSet = kind == PolicyStep::kHalfspace;
  const auto invalid = [op](const std::string &what) {
    return Status(Code::kInvalidArgument, std::string(op) + ": " + what);
  };
  const auto notFinite = [op](const std::string &what) {
    return Status(Code::kNonFinite, std::string(op) + ": " + what);
  };
  if (const int64_t c = table.findNonFinite(v.data, v.size); c >= 0)
    return notFinite(std::string("expected ") + (isSet ? "the normal to be finite" : "finite v") +
                     ", got " + printed(v[c]) + " at index " + std::to_string(c));
  const double square = kind == PolicyStep::kAdd ? 1.0 : table.dot64(v.data, v.data, v.size);
  if (!(square > 0))
    return invalid(isSet ? "expected a normal with a norm > 0, got norm 0"
                         : std::string("expected a v with a finite norm > 0 to ") +
                               (kind == PolicyStep::kAblate ? "ablate" : "clamp") +
                               " along, got norm 0");
  if (isSet && std::isnan(s))
    return notFinite("expected a bound, got nan");
  if (isSet && s == -std::numeric_limits<float>::infinity())
    return invalid("expected a bound > -inf (no activation is below it), got -inf");
  step = {kind, v.data, s, square};
  return {};
}

} // namespace iam::rt
