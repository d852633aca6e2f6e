// What the kernels on rows of activations share.
#pragma once

#include "../clt/checks.h"
#include "../core/kernels.h"
#include "iam/core/threads.h"

#include <algorithm>
#include <atomic>

namespace iam::rt {

/// The inner product in float64: four sums over i modulo 4, so the order does not depend on who calls.
template <typename A, typename B> double dot(const A *a, const B *b, int64_t n) {
  double sums[4] = {};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (int s = 0; s < 4; ++s)
      sums[s] += static_cast<double>(a[i + s]) * static_cast<double>(b[i + s]);
  for (; i < n; ++i)
    sums[0] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/// Calls body(r) for rows in parallel until it returns false. `bad`, `rows` before the call, becomes the first row
/// for which it did.
template <typename Body>
Status forRows(const char *op, int64_t rows, int64_t &bad, Body &&body) noexcept {
  constexpr int64_t kPart = 32;
  std::atomic<int64_t> first{rows};
  IAM_RETURN_IF_ERROR(parallelFor(op, divideUp(rows, kPart), [&](int64_t part, int) {
    for (int64_t r = part * kPart; r < std::min(rows, (part + 1) * kPart); ++r)
      if (!body(r)) {
        for (int64_t seen = first.load(); r < seen && !first.compare_exchange_weak(seen, r);) {
        }
        return;
      }
  }));
  bad = first.load();
  return {};
}

/// h(row, column) is NaN or infinite.
inline Status nonFiniteRow(const char *op, Mat<const float> h, int64_t row, int64_t column) {
  return Status(Code::kNonFinite, std::string(op) + ": expected finite h, got " +
                                      printed(h(row, column)) + " at row " + std::to_string(row) +
                                      ", column " + std::to_string(column) + "; h has shape " +
                                      shapeOf(h));
}

/// Calls body(r) for the rows of h in parallel; none may hold a NaN or an infinity. Rows after the first that does may
/// be left out.
template <typename Body>
Status forFiniteRows(const char *op, const kernels::Table &table, Mat<const float> h, Body &&body) {
  int64_t bad = h.rows;
  IAM_RETURN_IF_ERROR(forRows(op, h.rows, bad, [&](int64_t r) {
    if (table.findNonFinite(h.row(r), h.cols) >= 0)
      return false;
    body(r);
    return true;
  }));
  if (bad < h.rows)
    return nonFiniteRow(op, h, bad, table.findNonFinite(h.row(bad), h.cols));
  return {};
}

} // namespace iam::rt
