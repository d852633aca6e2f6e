// What the files of training share: rows of sparse gradients, operations on one row.
#pragma once

#include "../clt/checks.h"
#include "../kernels/table.h"
#include "iam/training/gradients.h"

#include <cmath>

namespace iam::rt::training {

/// Features that a task takes at a time.
inline constexpr int64_t kFeaturePart = 16;

/// Features ascend strictly, within 0 .. count - 1.
inline Status expectAscending(const char *op, Vec<const int32_t> features, int64_t count) {
  for (int64_t a = 0; a < features.size; ++a) {
    if (features[a] < 0 || features[a] >= count)
      return Status(Code::kFeatureRange, std::string(op) + ": expected feature indices in 0.." +
                                             std::to_string(count - 1) + ", got " +
                                             std::to_string(features[a]) + " at position " +
                                             std::to_string(a));
    if (a > 0 && features[a] == features[a - 1])
      return Status(Code::kFeatureDuplicate, std::string(op) +
                                                 ": expected each feature once, got " +
                                                 std::to_string(features[a]) + " twice");
    if (a > 0 && features[a] < features[a - 1])
      return Status(Code::kInvalidArgument,
                    std::string(op) + ": expected ascending features, got " +
                        std::to_string(features[a]) + " after " + std::to_string(features[a - 1]));
  }
  return {};
}

/// out += row a of a factored gradient.
inline void addRow(const kernels::Table &table, const SparseGradient &g, int64_t a, float *out) {
  for (int64_t i = g.grouped.offsets[a]; i < g.grouped.offsets[a + 1]; ++i)
    table.axpy(g.weights[g.grouped.order[i]], g.basis.row(g.grouped.rows[i]), out, g.basis.cols);
}

/// Row a of a gradient: where it is held, or computed in scratch [d].
inline const float *rowOf(const kernels::Table &table, const SparseGradient &g, int64_t a,
                          float *scratch) {
  if (!g.factored)
    return g.rows.row(a);
  std::fill_n(scratch, g.basis.cols, 0.0f);
  addRow(table, g, a, scratch);
  return scratch;
}

/// g -= (<g, w> / <w, w>) w
inline void project(const kernels::Table &table, const float *w, float *g, int64_t d) {
  const double length2 = table.sumSquares(w, d);
  if (length2 > 0)
    table.axpy(static_cast<float>(-static_cast<double>(table.dot(g, w, d)) / length2), w, g, d);
}

/// Row g without its part along w, in scratch [d], where g may already be.
inline const float *projected(const kernels::Table &table, const float *w, const float *g,
                              float *scratch, int64_t d) {
  if (g != scratch)
    std::copy_n(g, d, scratch);
  project(table, w, scratch, d);
  return scratch;
}

/// w /= |w|
inline void normalize(const kernels::Table &table, float *w, int64_t d) {
  const double length2 = table.sumSquares(w, d);
  if (length2 > 0)
    Vec<float>(w, d).eigen() *= static_cast<float>(1 / std::sqrt(length2));
}

} // namespace iam::rt::training
