// Checks that several ops share. Every message says op, expected and got.
#pragma once

#include "iam/clt/features.h"
#include "iam/core/status.h"
#include "iam/core/view.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <string>

namespace iam::rt {

inline Status shapeError(const char *op, const std::string &what) {
  return Status(Code::kShapeMismatch, std::string(op) + ": " + what);
}

/// `name` has shape [rows, cols].
template <typename T>
Status expectShape(const char *op, const char *name, const Mat<T> &m, int64_t rows, int64_t cols) {
  if (m.rows == rows && m.cols == cols)
    return {};
  return shapeError(op, std::string("expected ") + name + " of shape [" + std::to_string(rows) +
                            ", " + std::to_string(cols) + "], got " + shapeOf(m));
}

/// `name` has `size` elements.
template <typename T>
Status expectSize(const char *op, const char *name, const Vec<T> &v, int64_t size,
                  const char *why) {
  if (v.size == size)
    return {};
  return shapeError(op, std::string("expected ") + name + " of shape [" + std::to_string(size) +
                            "] (" + why + "), got " + shapeOf(v));
}

inline std::string printed(float value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", static_cast<double>(value));
  return text;
}

inline Status expectFeatureCount(const char *op, int64_t features) {
  if (features <= std::numeric_limits<int32_t>::max())
    return {};
  return shapeError(op, "expected at most 2147483647 features (indices are int32), got " +
                            std::to_string(features));
}

inline Status expectK(const char *op, int64_t k, int64_t features, const std::string &shape) {
  if (k >= 1 && k <= features)
    return {};
  return Status(Code::kKRange, std::string(op) + ": expected k in 1.." + std::to_string(features) +
                                   " (features), got k=" + std::to_string(k) + "; " + shape);
}

inline Status expectGroups(const char *op, int64_t k, int64_t features, const std::string &shape) {
  if (k >= 1 && features % k == 0 && k <= features)
    return {};
  return Status(Code::kKRange, std::string(op) + ": expected k to be a divisor of " +
                                   std::to_string(features) +
                                   " (features), got k=" + std::to_string(k) + "; " + shape);
}

inline Status featureRange(const char *op, int64_t row, int64_t index, int64_t features) {
  return Status(Code::kFeatureRange, std::string(op) + ": expected feature indices in 0.." +
                                         std::to_string(features - 1) + ", got " +
                                         std::to_string(index) + " in row " + std::to_string(row));
}

/// values and indices have one shape.
inline Status expectCodes(const char *op, const FixedCodes &codes) {
  return expectShape(op, "indices", codes.indices, codes.values.rows, codes.values.cols);
}
inline Status expectCodes(const char *op, const FixedCodesOut &codes) {
  return expectShape(op, "indices", codes.indices, codes.values.rows, codes.values.cols);
}

/// offsets ascend from 0 to nnz, so that rows can be walked without further checks. Sets the number
/// of rows.
inline Status expectCodes(const char *op, const CsrCodes &codes, int64_t &rows) {
  const int64_t nnz = codes.values.size;
  IAM_RETURN_IF_ERROR(expectSize(op, "indices", codes.indices, nnz, "one per value"));
  if (codes.offsets.size < 1)
    return shapeError(op, "expected offsets of shape [rows + 1], got [0]");
  rows = codes.offsets.size - 1;
  if (codes.offsets[0] != 0 || codes.offsets[rows] != nnz)
    return Status(Code::kInvalidArgument,
                  std::string(op) + ": expected offsets from 0 to " + std::to_string(nnz) +
                      " (the number of values), got " + std::to_string(codes.offsets[0]) + " to " +
                      std::to_string(codes.offsets[rows]));
  for (int64_t r = 0; r < rows; ++r)
    if (codes.offsets[r] > codes.offsets[r + 1])
      return Status(Code::kInvalidArgument, std::string(op) + ": expected ascending offsets, got " +
                                                std::to_string(codes.offsets[r]) + " before " +
                                                std::to_string(codes.offsets[r + 1]) + " at row " +
                                                std::to_string(r));
  return {};
}

inline int64_t divideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

} // namespace iam::rt
