#include "iam/steering/steer.h"

#include "../clt/checks.h"
#include "../core/kernels.h"
#include "rows.h"

#include <cmath>

namespace iam::rt {

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
  int64_t bad = h.rows;
  IAM_RETURN_IF_ERROR(forRows(op, h.rows, bad, [&](int64_t r) {
    if (table->findNonFinite(h.row(r), h.cols) >= 0)
      return false; // the row is left as it is
    double along = s;
    if (mode == SteerMode::kAblate)
      along = -static_cast<double>(s) * dot(h.row(r), v.data, v.size) / square;
    else if (mode == SteerMode::kClamp)
      along = s / std::sqrt(square) - dot(h.row(r), v.data, v.size) / square;
    if (out.row(r) != h.row(r))
      out.vec(r).eigen() = h.vec(r).eigen();
    table->axpy(static_cast<float>(along), v.data, out.row(r), h.cols);
    return true;
  }));
  if (bad < h.rows)
    return nonFiniteRow(op, h, bad, table->findNonFinite(h.row(bad), h.cols));
  return {};
}

} // namespace iam::rt
