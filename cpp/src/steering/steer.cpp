#include "iam/steering/steer.h"

#include "../clt/checks.h"
#include "../core/kernels.h"
#include "iam/core/threads.h"

#include <cmath>

namespace iam::rt {
namespace {

double dot(const float *a, const float *b, int64_t n) {
  double sums[4] = {};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (int s = 0; s < 4; ++s)
      sums[s] += static_cast<double>(a[i + s]) * b[i + s];
  for (; i < n; ++i)
    sums[0] += static_cast<double>(a[i]) * b[i];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

} // namespace

Status steer(Mat<const float> h, Vec<const float> v, float s, SteerMode mode, Mat<float> out) {
  constexpr const char *op = "iam.policy.steer";
  if (mode < SteerMode::kAdd || mode > SteerMode::kClamp)
    return Status(Code::kMode, std::string(op) +
                                   ": expected mode 0 (add), 1 (ablate) or 2 (clamp), got " +
                                   std::to_string(static_cast<int64_t>(mode)));
  IAM_RETURN_IF_ERROR(expectSize(op, "v", v, h.cols, "the columns of h"));
  IAM_RETURN_IF_ERROR(expectShape(op, "out", out, h.rows, h.cols));
  const kernels::Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  const double square = mode == SteerMode::kAdd ? 1.0 : dot(v.data, v.data, v.size);
  if (!(square > 0) || !std::isfinite(square))
    return Status(Code::kInvalidArgument,
                  std::string(op) + ": expected a v with a finite norm > 0 to " +
                      (mode == SteerMode::kAblate ? "ablate" : "clamp") + " along, got norm " +
                      printed(static_cast<float>(std::sqrt(square))));
  constexpr int64_t kPart = 32;
  return parallelFor(op, divideUp(h.rows, kPart), [&](int64_t part, int) {
    for (int64_t r = part * kPart; r < std::min(h.rows, (part + 1) * kPart); ++r) {
      double along = s;
      if (mode == SteerMode::kAblate)
        along = -static_cast<double>(s) * dot(h.row(r), v.data, v.size) / square;
      else if (mode == SteerMode::kClamp)
        along = s / std::sqrt(square) - dot(h.row(r), v.data, v.size) / square;
      if (out.row(r) != h.row(r))
        out.vec(r).eigen() = h.vec(r).eigen();
      table->axpy(static_cast<float>(along), v.data, out.row(r), h.cols);
    }
  });
}

} // namespace iam::rt
