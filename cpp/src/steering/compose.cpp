#include "iam/steering/compose.h"

#include "basis.h"

namespace iam::rt {

Status compose(Mat<const float> vectors, Vec<const float> strengths, ComposeRule rule,
               Vec<float> out) {
  constexpr const char *op = "iam.policy.compose";
  if (rule < ComposeRule::kSum || rule > ComposeRule::kOrthogonal)
    return Status(Code::kMode, std::string(op) +
                                   ": expected rule 0 (sum), 1 (mean) or 2 (orthogonal), got " +
                                   std::to_string(static_cast<int64_t>(rule)));
  const int64_t n = vectors.rows, d = vectors.cols;
  IAM_RETURN_IF_ERROR(expectSize(op, "strengths", strengths, n, "the rows of vectors"));
  IAM_RETURN_IF_ERROR(expectSize(op, "out", out, d, "the columns of vectors"));
  std::vector<double> total(d, 0.0), left;
  Basis basis(d);
  for (int64_t i = 0; i < n; ++i) {
    const double s = strengths[i];
    const float *v = vectors.row(i);
    // A direction that is not finite has no part outside of a span: it passes through whole.
    if (rule == ComposeRule::kOrthogonal && std::isfinite(dot(v, v, d))) {
      if (basis.add(v, left))
        for (int64_t c = 0; c < d; ++c)
          total[c] += s * left[c];
    } else {
      for (int64_t c = 0; c < d; ++c)
        total[c] += s * v[c];
    }
  }
  const double divisor = rule == ComposeRule::kMean && n > 0 ? static_cast<double>(n) : 1.0;
  for (int64_t c = 0; c < d; ++c)
    out[c] = static_cast<float>(total[c] / divisor);
  return {};
}

} // namespace iam::rt
