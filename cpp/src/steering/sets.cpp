#include "iam/steering/sets.h"
#include "iam/attribution/adjoint.h"

#include "../core/kernels.h"
#include "basis.h"
#include "steps.h"

#include <cmath>
#include <limits>

namespace iam::rt {
namespace {

Status invalid(const char *op, const std::string &what) {
  return Status(Code::kInvalidArgument, std::string(op) + ": " + what);
}
Status notFinite(const char *op, const std::string &what) {
  return Status(Code::kNonFinite, std::string(op) + ": " + what);
}

/// A set that was checked, with what its kernels derive from it once per call.
class Prepared {
public:
  Prepared(const char *op, const kernels::Table &table, const Set &set, int64_t width)
      : kernels(table), set(set), op(op), width(width), span(width) {}

  Status check() {
    const kernels::Table &table = kernels;
    switch (set.kind) {
    case SetKind::kHalfspace:
      IAM_RETURN_IF_ERROR(expectSize(op, "the normal", set.point, width, "the columns of h"));
      square = table.dot64(set.point.data, set.point.data, width);
      return makeStep(op, table, PolicyStep::kHalfspace, set.point, set.bound, step);
    case SetKind::kBall:
      IAM_RETURN_IF_ERROR(finitePoint(table, "the centre"));
      if (std::isnan(set.bound))
        return notFinite(op, "expected a radius, got nan");
      if (set.bound < 0)
        return invalid(op, "expected a radius >= 0, got " + printed(set.bound));
      square = dot(set.point.data, set.point.data, width);
      return {};
    case SetKind::kSubspace:
      return makeSpan(table);
    case SetKind::kBox:
      return checkBox();
    }
    return Status(Code::kMode, std::string(op) +
                                   ": expected set 0 (halfspace), 1 (ball), 2 (subspace) or 3 "
                                   "(box), got " +
                                   std::to_string(static_cast<int64_t>(set.kind)));
  }

  void project(const float *h, float *out) const {
    switch (set.kind) {
    case SetKind::kHalfspace:
      copy(h, out);
      return step.apply(kernels, out, width);
    case SetKind::kBall:
      return projectBall(h, out);
    case SetKind::kSubspace:
      return projectSubspace(h, out);
    case SetKind::kBox:
      for (int64_t c = 0; c < width; ++c)
        out[c] = std::min(std::max(h[c], set.point[c]), set.upper[c]);
    }
  }

  /// The derivative of project at a finite row, times dy.
  void adjoint(const float *h, const float *dy, float *out) const {
    switch (set.kind) {
    case SetKind::kHalfspace: {
      if (kernels.dot64(h, set.point.data, width) <= set.bound)
        return copy(dy, out);
      const double along = kernels.dot64(dy, set.point.data, width) / square;
      for (int64_t c = 0; c < width; ++c)
        out[c] = static_cast<float>(dy[c] - along * set.point[c]);
      return;
    }
    case SetKind::kBall: {
      const double from = distance(h), radius = set.bound;
      if (from <= radius)
        return copy(dy, out);
      double along = 0;
      for (int64_t c = 0; c < width; ++c)
        along += (static_cast<double>(h[c]) - set.point[c]) * dy[c];
      along /= from * from;
      for (int64_t c = 0; c < width; ++c) {
        const double offset = static_cast<double>(h[c]) - set.point[c];
        out[c] = static_cast<float>(radius / from * (dy[c] - along * offset));
      }
      return;
    }
    case SetKind::kSubspace:
      return projectSubspace(dy, out); // linear and symmetric
    case SetKind::kBox:
      for (int64_t c = 0; c < width; ++c)
        out[c] = set.point[c] <= h[c] && h[c] <= set.upper[c] ? dy[c] : 0.0f;
    }
  }

  /// Of a finite row.
  double margin(const float *h) const {
    switch (set.kind) {
    case SetKind::kHalfspace:
      return (set.bound - kernels.dot64(h, set.point.data, width)) / std::sqrt(square);
    case SetKind::kBall:
      return set.bound - distance(h);
    case SetKind::kSubspace:
      return marginOfSubspace(h);
    case SetKind::kBox:
      break;
    }
    double inside = std::numeric_limits<double>::infinity(), outside = 0;
    for (int64_t c = 0; c < width; ++c) {
      const double at = h[c], room = std::min(at - set.point[c], set.upper[c] - at);
      inside = std::min(inside, room);
      outside += room < 0 ? room * room : 0;
    }
    return outside > 0 ? -std::sqrt(outside) : inside;
  }

private:
  Status finitePoint(const kernels::Table &table, const char *name) {
    IAM_RETURN_IF_ERROR(expectSize(op, name, set.point, width, "the columns of h"));
    if (const int64_t c = table.findNonFinite(set.point.data, width); c >= 0)
      return notFinite(op, std::string("expected ") + name + " to be finite, got " +
                               printed(set.point[c]) + " at index " + std::to_string(c));
    return {};
  }

  Status makeSpan(const kernels::Table &table) {
    IAM_RETURN_IF_ERROR(expectShape(op, "the basis", set.basis, set.basis.rows, width));
    for (int64_t i = 0; i < set.basis.rows; ++i)
      if (const int64_t c = table.findNonFinite(set.basis.row(i), width); c >= 0)
        return notFinite(op, "expected the basis to be finite, got " + printed(set.basis(i, c)) +
                                 " at row " + std::to_string(i) + ", column " + std::to_string(c));
    std::vector<double> left;
    for (int64_t i = 0; i < set.basis.rows && span.size() < width; ++i)
      span.add(set.basis.row(i), left);
    return {};
  }

  Status checkBox() {
    IAM_RETURN_IF_ERROR(expectSize(op, "the lower bounds", set.point, width, "the columns of h"));
    IAM_RETURN_IF_ERROR(expectSize(op, "the upper bounds", set.upper, width, "the columns of h"));
    constexpr float infinity = std::numeric_limits<float>::infinity();
    for (int64_t c = 0; c < width; ++c) {
      const float low = set.point[c], high = set.upper[c];
      if (std::isnan(low) || std::isnan(high))
        return notFinite(op, "expected bounds, got nan at index " + std::to_string(c));
      if (low > high || low == infinity || high == -infinity)
        return invalid(op, "expected lower bounds <= upper bounds with numbers between, got " +
                               printed(low) + " and " + printed(high) + " at index " +
                               std::to_string(c));
    }
    return {};
  }

  double distance(const float *h) const {
    double sums[4] = {};
    for (int64_t c = 0; c < width; ++c) {
      const double offset = static_cast<double>(h[c]) - set.point[c];
      sums[c % 4] += offset * offset;
    }
    return std::sqrt((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }

  void copy(const float *h, float *out) const { std::copy(h, h + width, out); }

  void projectBall(const float *h, float *out) const {
    const double from = distance(h), radius = set.bound;
    if (from <= radius)
      return copy(h, out);
    scaleOffset(h, radius / from, out);
    // A point of the ball is at most |centre| + radius long, and rounding moves it by that part of its length.
    if (distance(out) > radius)
      scaleOffset(h, std::max(0.0, radius - kRounding * (std::sqrt(square) + radius)) / from, out);
  }

  void scaleOffset(const float *h, double scale, float *out) const {
    for (int64_t c = 0; c < width; ++c) {
      const double centre = set.point[c];
      out[c] = static_cast<float>(centre + scale * (h[c] - centre));
    }
  }

  void projectSubspace(const float *h, float *out) const {
    if (span.size() == width)
      return copy(h, out);
    std::vector<double> &sum = scratch();
    sum.assign(width, 0.0);
    for (int64_t i = 0; i < span.size(); ++i) {
      const double *unit = span.unit(i), along = dot(h, unit, width);
      for (int64_t c = 0; c < width; ++c)
        sum[c] += along * unit[c];
    }
    std::copy(sum.begin(), sum.end(), out);
  }

  double marginOfSubspace(const float *h) const {
    if (span.size() == width)
      return 0;
    std::vector<double> &left = scratch();
    left.assign(h, h + width);
    for (int64_t i = 0; i < span.size(); ++i) {
      const double *unit = span.unit(i), along = dot(left.data(), unit, width);
      for (int64_t c = 0; c < width; ++c)
        left[c] -= along * unit[c];
    }
    return -std::sqrt(dot(left.data(), left.data(), width));
  }

  static std::vector<double> &scratch() {
    thread_local std::vector<double> row;
    return row;
  }

  const kernels::Table &kernels;
  const Set &set;
  const char *op;
  int64_t width;
  double square = 0; // |normal|^2 or |centre|^2
  Basis span;
  Step step; // of a half-space
};

} // namespace

Status project(Mat<const float> h, const Set &set, Mat<float> out) {
  constexpr const char *op = "iam.policy.project";
  const kernels::Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  IAM_RETURN_IF_ERROR(expectShape(op, "out", out, h.rows, h.cols));
  Prepared prepared(op, *table, set, h.cols);
  IAM_RETURN_IF_ERROR(prepared.check());
  return forFiniteRows(op, *table, h, [&](int64_t r) { prepared.project(h.row(r), out.row(r)); });
}

Status projectAdjoint(Mat<const float> h, Mat<const float> dy, const Set &set, Mat<float> out) {
  constexpr const char *op = "iam.policy.project_adjoint";
  const kernels::Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  IAM_RETURN_IF_ERROR(expectShape(op, "dy", dy, h.rows, h.cols));
  IAM_RETURN_IF_ERROR(expectShape(op, "out", out, h.rows, h.cols));
  Prepared prepared(op, *table, set, h.cols);
  IAM_RETURN_IF_ERROR(prepared.check());
  return forFiniteRows(op, *table, h,
                       [&](int64_t r) { prepared.adjoint(h.row(r), dy.row(r), out.row(r)); });
}

Status verify(Mat<const float> h, const Set &set, float tolerance, const std::string &message,
              Vec<float> margin) {
  constexpr const char *op = "iam.policy.verify";
  if (!std::isfinite(tolerance) || tolerance < 0)
    return invalid(op, "expected a finite tolerance >= 0, got " + printed(tolerance));
  const kernels::Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  IAM_RETURN_IF_ERROR(expectSize(op, "margin", margin, h.rows, "the rows of h"));
  Prepared prepared(op, *table, set, h.cols);
  IAM_RETURN_IF_ERROR(prepared.check());
  int64_t bad = h.rows;
  IAM_RETURN_IF_ERROR(forRows(op, h.rows, bad, [&](int64_t r) {
    margin[r] = table->findNonFinite(h.row(r), h.cols) < 0
                    ? static_cast<float>(prepared.margin(h.row(r)))
                    : std::numeric_limits<float>::quiet_NaN();
    return margin[r] >= -tolerance;
  }));
  if (bad == h.rows)
    return {};
  return Status::policy(std::string(op) + ": " + message + ": expected margins >= " +
                            printed(0 - tolerance) + ", got " + printed(margin[bad]) + " at row " +
                            std::to_string(bad) + "; h has shape " + shapeOf(h),
                        bad, margin[bad]);
}

} // namespace iam::rt
