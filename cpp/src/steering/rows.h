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

/// Calls body(begin, end) for parts of the rows in parallel; it returns the first row of the part that is bad, or `end`.
/// `bad`, `rows` before the call, becomes the first of them. Rows after it may be left out.
template <typename Body>
Status forParts(const char *op, int64_t rows, int64_t &bad, Body &&body) noexcept {
  constexpr int64_t kPart = 32;
  std::atomic<int64_t> first{rows};
  IAM_RETURN_IF_ERROR(parallelFor(op, divideUp(rows, kPart), [&](int64_t part, int) {
    const int64_t end = std::min(rows, (part + 1) * kPart), found = body(part * kPart, end);
    if (found < end)
      for (int64_t seen = first.load();
           found < seen && !first.compare_exchange_weak(seen, found);) {
      }
  }));
  bad = first.load();
  return {};
}

/// Calls body(r) for rows in parallel; it returns false of a bad row. `bad` as above.
template <typename Body>
Status forRows(const char *op, int64_t rows, int64_t &bad, Body &&body) noexcept {
  return forParts(op, rows, bad, [&](int64_t r, int64_t end) {
    while (r < end && body(r))
      ++r;
    return r;
  });
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
