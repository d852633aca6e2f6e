#include "iam/steering/steer.h"

#include "../clt/checks.h"
#include "../core/kernels.h"
#include "iam/core/threads.h"

#include <atomic>
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
  if (const int64_t c = table->findNonFinite(v.data, v.size); c >= 0)
    return Status(Code::kNonFinite, std::string(op) + ": expected finite v, got " +
                                        printed(v.data[c]) + " at index " + std::to_string(c));
  constexpr int64_t kPart = 32;
  std::atomic<int64_t> bad{h.rows}; // the first row that is not finite; it is left as it is
  IAM_RETURN_IF_ERROR(parallelFor(op, divideUp(h.rows, kPart), [&](int64_t part, int) {
    for (int64_t r = part * kPart; r < std::min(h.rows, (part + 1) * kPart); ++r) {
      if (table->findNonFinite(h.row(r), h.cols) >= 0) {
        for (int64_t seen = bad.load(); r < seen && !bad.compare_exchange_weak(seen, r);) {
        }
        return;
      }
      double along = s;
      if (mode == SteerMode::kAblate)
        along = -static_cast<double>(s) * dot(h.row(r), v.data, v.size) / square;
      else if (mode == SteerMode::kClamp)
        along = s / std::sqrt(square) - dot(h.row(r), v.data, v.size) / square;
      if (out.row(r) != h.row(r))
        out.vec(r).eigen() = h.vec(r).eigen();
      table->axpy(static_cast<float>(along), v.data, out.row(r), h.cols);
    }
  }));
  if (const int64_t r = bad.load(); r < h.rows) {
    const int64_t c = table->findNonFinite(h.row(r), h.cols);
    return Status(Code::kNonFinite, std::string(op) + ": expected finite h, got " +
                                        printed(h(r, c)) + " at row " + std::to_string(r) +
                                        ", column " + std::to_string(c) + "; h has shape " +
                                        shapeOf(h));
  }
  return {};
}

} // namespace iam::rt
