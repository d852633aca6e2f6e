#include "iam/steering/sequence.h"

#include "steps.h"

#include <vector>

namespace iam::rt {
namespace {

/// A few steps as one map of a row h: h + sum of c_i v_i. What step i sees of its direction, <v_i, h + what the steps before
/// it added>, is <v_i, h> and a sum of products <v_j, v_i>, so the row is read once for all steps and written once.
class AffineMap {
public:
  static constexpr int64_t kSteps = 8; // products of directions cost kSteps^2 / 2

  /// `last`: no step follows; a half-space at the end holds of the rounded row.
  AffineMap(const kernels::Table &table, const Step *steps, int64_t count, Mat<const float> v,
            bool last)
      : table(table), steps(steps), v(v), count(count), width(v.cols),
        border(last && steps[count - 1].kind == PolicyStep::kHalfspace) {
    const int64_t stride = kernels::paddedTo8(width);
    for (int64_t i = 0; i < count; ++i) {
      at[i] = -1;
      if (steps[i].kind == PolicyStep::kAdd)
        continue;
      at[i] = products++;
      wide.insert(wide.end(), steps[i].v, steps[i].v + width);
      wide.resize(static_cast<std::size_t>(products * stride));
      for (int64_t j = 0; j < i; ++j)
        gram[i][j] = table.dot64(steps[j].v, steps[i].v, width);
      norm[i] = std::sqrt(steps[i].square);
    }
    if (border)
      for (int64_t j = 0; j + 1 < count; ++j)
        norm[j] = std::sqrt(table.dot64(steps[j].v, steps[j].v, width));
  }

  /// Rows of x to rows of y, which may be x; at most kRows. A bit for each that is not finite before the last step.
  uint32_t apply(const kernels::Block<const float> &x, const kernels::Block<float> &y, bool past,
                 const float *next) const {
    double seen[kRows * kSteps], squares[kRows];
    float factors[kRows * kSteps];
    table.innerProducts(x, wide.data(), products, seen, border ? squares : nullptr, next);
    for (int64_t r = 0; r < x.rows; ++r)
      factorsOf(seen + r * products, border ? std::sqrt(squares[r]) : 0, factors + r * count);
    return table.combine(x, v.data, v.stride, factors, count, y, past,
                         next ? next + x.rows * width / 2 : nullptr);
  }

  static constexpr int64_t kRows = 8;

private:
  void factorsOf(const double *seen, double size, float *c) const {
    for (int64_t i = 0; i < count; ++i) {
      const Step &step = steps[i];
      double sees = at[i] < 0 ? 0 : seen[at[i]];
      for (int64_t j = 0; at[i] >= 0 && j < i; ++j)
        sees += static_cast<double>(c[j]) * gram[i][j];
      if (step.kind == PolicyStep::kHalfspace)
        c[i] = toHalfspace(i, sees - step.s, border && i + 1 == count ? size : -1, c);
      else
        c[i] = step.factor(sees);
    }
  }

  /// What brings a row that is `over` the bound of step i to the border; with the row's `size` (its norm, or -1), so far inside
  /// that rounding leaves it inside. Each of the i + 1 sums and the factor is rounded by at most u = 2^-24 of its magnitude (and
  /// the products where there is no fused multiply-add), so by Cauchy-Schwarz <v_i, y> is off by at most
  /// (i + 3) u |v_i| (|h| + sum of |c_j| |v_j|).
  float toHalfspace(int64_t i, double over, double size, const float *c) const {
    bool moved = over > 0;
    if (size >= 0) {
      double reach = size + std::abs(over) / norm[i];
      for (int64_t j = 0; j < i; ++j) {
        reach += std::abs(static_cast<double>(c[j])) * norm[j];
        moved |= c[j] != 0;
      }
      const auto n = static_cast<double>(i + 3), d = static_cast<double>(width);
      const double relative = n * kRounding + d * 0x1.0p-51, tiny = n * std::sqrt(d) * 0x1.0p-149;
      if (moved) // a row that nothing has moved is not rounded
        over += norm[i] * (relative * 1.001 * reach + tiny);
    }
    return moved && over > 0 ? static_cast<float>(-over / steps[i].square) : 0.0f;
  }

  const kernels::Table &table;
  const Step *steps;
  Mat<const float> v;
  int64_t count, width;
  bool border;
  int64_t products = 0, at[kSteps] = {};
  double gram[kSteps][kSteps] = {}, norm[kSteps] = {};
  std::vector<double> wide; // directions of steps that look at the row
};

/// Results of this many bytes are read again when no cache holds them any more.
constexpr int64_t kPastCaches = int64_t{32} << 20;

} // namespace

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
  std::vector<AffineMap> maps;
  for (int64_t i = 0; i < count; i += AffineMap::kSteps) {
    const int64_t some = std::min(AffineMap::kSteps, count - i);
    maps.emplace_back(*table, made.data() + i, some,
                      Mat<const float>(directions.row(i), some, d, directions.stride),
                      i + some == count);
  }
  const bool past = out.data != h.data && h.rows * d >= kPastCaches / int64_t{sizeof(float)};
  int64_t bad = h.rows;
  IAM_RETURN_IF_ERROR(forParts(op, h.rows, bad, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r += AffineMap::kRows) {
      const int64_t rows = std::min(AffineMap::kRows, end - r);
      const kernels::Block<float> to{out.row(r), out.stride, rows, d};
      kernels::Block<const float> from{h.row(r), h.stride, rows, d};
      const float *next =
          r + 2 * AffineMap::kRows <= h.rows ? h.row(r + AffineMap::kRows) : nullptr;
      uint32_t wrong = 0;
      if (maps.empty())
        wrong = table->combine(from, nullptr, 0, nullptr, 0, to, past, next);
      for (std::size_t m = 0; m < maps.size(); ++m) {
        wrong |= maps[m].apply(from, to, past && m + 1 == maps.size(), next);
        from = {to.data, to.stride, rows, d};
        next = nullptr;
      }
      for (int64_t row = 0; wrong && row < rows; ++row)
        if (wrong >> row & 1)
          return r + row;
    }
    return end;
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
