#include "iam/steering/steer.h"

#include "../clt/checks.h"
#include "../core/kernels.h"
#include "steps.h"

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
  Step step;
  IAM_RETURN_IF_ERROR(
      makeStep(op, *table, static_cast<PolicyStep>(static_cast<int64_t>(mode)), v, s, step));
  return forFiniteRows(op, *table, h, [&](int64_t r) {
    if (out.row(r) != h.row(r))
      out.vec(r).eigen() = h.vec(r).eigen();
    step.apply(*table, out.row(r), h.cols);
  });
}

} // namespace iam::rt
