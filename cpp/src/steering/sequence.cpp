#include "iam/steering/sequence.h"

#include "steps.h"

#include <vector>

namespace iam::rt {

Status sequence(Mat<const float> h, Mat<const float> directions, Vec<const float> strengths,
                Vec<const int32_t> steps, Mat<float> out) {
  constexpr const char *op = "iam.policy.sequence";
  const int64_t count = steps.size, d = h.cols;
  IAM_RETURN_IF_ERROR(expectShape(op, "directions", directions, count, d));
  IAM_RETURN_IF_ERROR(expectSize(op, "strengths", strengths, count, "one per step"));
  IAM_RETURN_IF_ERROR(expectShape(op, "out", out, h.rows, d));
  const kernels::Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  std::vector<Step> made(static_cast<std::size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    if (steps[i] < 0 || steps[i] > static_cast<int32_t>(PolicyStep::kHalfspace))
      return Status(Code::kMode, std::string(op) +
                                     ": expected steps 0 (add), 1 (ablate), 2 (clamp) or 3 "
                                     "(halfspace), got " +
                                     std::to_string(steps[i]));
    const std::string where = std::string(op) + ": step " + std::to_string(i);
    IAM_RETURN_IF_ERROR(makeStep(where.c_str(), *table, static_cast<PolicyStep>(steps[i]),
                                 {directions.row(i), d}, strengths[i],
                                 made[static_cast<std::size_t>(i)]));
  }
  int64_t bad = h.rows;
  IAM_RETURN_IF_ERROR(forRows(op, h.rows, bad, [&](int64_t r) {
    float *row = out.row(r);
    if (row != h.row(r))
      std::copy(h.row(r), h.row(r) + d, row);
    for (std::size_t i = 0; i < made.size(); ++i) {
      // What is not finite stays so: looking once, at what the last step gets, finds it. (A row without steps is looked at,
      // too, below.)
      if (i + 1 == made.size() && table->findNonFinite(row, d) >= 0)
        return false;
      made[i].apply(*table, row, d);
    }
    return !made.empty() || table->findNonFinite(row, d) < 0;
  }));
  if (bad == h.rows)
    return {};
  if (const int64_t c = out.row(bad) == h.row(bad) ? -1 : table->findNonFinite(h.row(bad), d);
      c >= 0)
    return nonFiniteRow(op, h, bad, c);
  return Status(Code::kNonFinite,
                std::string(op) +
                    ": expected finite activations before every step, got NaN or infinity "
                    "in row " +
                    std::to_string(bad) + "; h has shape " + shapeOf(h));
}

} // namespace iam::rt
