#include "iam/training/gradients.h"

#include "../clt/checks.h"
#include "../core/kernels.h"
#include "common.h"
#include "iam/core/threads.h"

#include <cmath>

namespace iam::rt {
namespace {

using kernels::Table;
using training::kFeaturePart;

// visit(entry, row, value, index) for all entries in order, until it returns false.
template <typename Visit> void walk(const FixedCodes &codes, Visit &&visit) {
  int64_t entry = 0;
  for (int64_t r = 0; r < codes.values.rows; ++r)
    for (int64_t j = 0; j < codes.values.cols; ++j, ++entry)
      if (!visit(entry, r, codes.values(r, j), codes.indices(r, j)))
        return;
}
template <typename Visit> void walk(const CsrCodes &codes, Visit &&visit) {
  for (int64_t r = 0; r + 1 < codes.offsets.size; ++r)
    for (int64_t e = codes.offsets[r]; e < codes.offsets[r + 1]; ++e)
      if (!visit(e, r, codes.values[e], codes.indices[e]))
        return;
}

template <typename Form>
Status groupEntries(const Form &codes, int64_t entries, int64_t features, GroupedResult &out) {
  constexpr const char *op = "iam.training.group";
  IAM_RETURN_IF_ERROR(expectFeatureCount(op, features));
  if (entries > std::numeric_limits<int32_t>::max())
    return shapeError(op, "expected fewer than 2147483648 entries, got " + std::to_string(entries));
  Buffer<int32_t>
      next; // of feature f: first the number of its entries, then where its next one goes
  IAM_RETURN_IF_ERROR(next.resize(features, op));
  std::fill(next.begin(), next.end(), 0);
  Status bad;
  int64_t kept = 0, active = 0;
  walk(codes, [&](int64_t, int64_t row, float value, int32_t f) {
    if (value == 0)
      return true;
    if (f < 0 || f >= features) {
      bad = featureRange(op, row, f, features);
      return false;
    }
    active += next[f]++ == 0;
    ++kept;
    return true;
  });
  IAM_RETURN_IF_ERROR(std::move(bad));
  IAM_RETURN_IF_ERROR(out.features.resize(active, op));
  IAM_RETURN_IF_ERROR(out.offsets.resize(active + 1, op));
  IAM_RETURN_IF_ERROR(out.order.resize(kept, op));
  IAM_RETURN_IF_ERROR(out.rows.resize(kept, op));
  int64_t at = 0, a = 0;
  for (int64_t f = 0; f < features; ++f) {
    if (next[f] == 0)
      continue;
    out.features[a] = static_cast<int32_t>(f);
    out.offsets[a++] = at;
    const int64_t count = next[f];
    next[f] = static_cast<int32_t>(at);
    at += count;
  }
  out.offsets[active] = at;
  walk(codes, [&](int64_t entry, int64_t row, float value, int32_t f) {
    if (value != 0) {
      const int32_t to = next[f]++;
      out.order[to] = static_cast<int32_t>(entry);
      out.rows[to] = static_cast<int32_t>(row);
    }
    return true;
  });
  return {};
}

Status broken(const char *op, const char *what) {
  return Status(Code::kInvalidArgument,
                std::string(op) +
                    ": expected a grouping as iam.training.group makes it, got one "
                    "where " +
                    what);
}

} // namespace

Status group(FixedCodes codes, int64_t features, GroupedResult &out) {
  IAM_RETURN_IF_ERROR(expectCodes("iam.training.group", codes));
  return groupEntries(codes, codes.values.rows * codes.values.cols, features, out);
}

Status group(CsrCodes codes, int64_t features, GroupedResult &out) {
  int64_t rows = 0;
  IAM_RETURN_IF_ERROR(expectCodes("iam.training.group", codes, rows));
  return groupEntries(codes, codes.values.size, features, out);
}

Status checkGrouped(const char *op, const Grouped &g, int64_t entries, int64_t rows,
                    int64_t features) {
  const int64_t active = g.features.size, sorted = g.order.size;
  if (g.offsets.size != active + 1 || g.rows.size != sorted)
    return broken(op, "the sizes differ");
  if (g.offsets[0] != 0 || g.offsets[active] != sorted)
    return broken(op, "offsets do not run from 0 to the number of entries");
  IAM_RETURN_IF_ERROR(training::expectAscending(op, g.features, features));
  for (int64_t a = 0; a < active; ++a)
    if (g.offsets[a] > g.offsets[a + 1])
      return broken(op, "offsets descend");
  for (int64_t i = 0; i < sorted; ++i)
    if (g.order[i] < 0 || g.order[i] >= entries)
      return broken(op, "an entry is outside the codes");
  for (int64_t i = 0; i < sorted; ++i)
    if (g.rows[i] < 0 || g.rows[i] >= rows)
      return broken(op, "a row is outside the batch");
  return {};
}

Status gradValues(const Grouped &g, Mat<const float> upstream, Mat<const float> wDec,
                  Vec<float> dValues) {
  constexpr const char *op = "iam.training.grad_values";
  if (upstream.cols != wDec.cols)
    return shapeError(op, "expected upstream and W_dec with equal columns, got " +
                              shapeOf(upstream) + " and " + shapeOf(wDec));
  IAM_RETURN_IF_ERROR(checkGrouped(op, g, dValues.size, upstream.rows, wDec.rows));
  const Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  std::fill(dValues.begin(), dValues.end(), 0.0f);
  const int64_t active = g.features.size;
  return parallelFor(op, divideUp(active, kFeaturePart), [&](int64_t part, int) {
    for (int64_t a = part * kFeaturePart; a < std::min(active, (part + 1) * kFeaturePart); ++a)
      for (int64_t i = g.offsets[a]; i < g.offsets[a + 1]; ++i)
        dValues[g.order[i]] =
            table->dot(upstream.row(g.rows[i]), wDec.row(g.features[a]), wDec.cols);
  });
}

Status checkGradient(const char *op, const SparseGradient &g, int64_t features, int64_t d) {
  if (!g.factored) {
    IAM_RETURN_IF_ERROR(training::expectAscending(op, g.features, features));
    return expectShape(op, "gradient", g.rows, g.features.size, d);
  }
  if (g.basis.cols != d)
    return shapeError(op, "expected basis of shape [rows, " + std::to_string(d) + "], got " +
                              shapeOf(g.basis));
  if (g.features.data != g.grouped.features.data || g.features.size != g.grouped.features.size)
    return broken(op, "the features are not those of the gradient");
  return checkGrouped(op, g.grouped, g.weights.size, g.basis.rows, features);
}

Status gradRows(const SparseGradient &g, bool accumulate, Mat<float> out) {
  constexpr const char *op = "iam.training.grad_rows";
  IAM_RETURN_IF_ERROR(checkGradient(op, g, std::numeric_limits<int32_t>::max(), out.cols));
  IAM_RETURN_IF_ERROR(expectShape(op, "out", out, g.features.size, out.cols));
  const Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  return parallelFor(op, divideUp(out.rows, kFeaturePart), [&](int64_t part, int) {
    for (int64_t a = part * kFeaturePart; a < std::min(out.rows, (part + 1) * kFeaturePart); ++a) {
      if (!accumulate)
        std::fill_n(out.row(a), out.cols, 0.0f);
      if (g.factored)
        training::addRow(*table, g, a, out.row(a));
      else
        table->axpy(1.0f, g.rows.row(a), out.row(a), out.cols);
    }
  });
}

Status gradSums(const Grouped &g, Vec<const float> weights, int64_t rows, Vec<float> out) {
  constexpr const char *op = "iam.training.grad_sums";
  IAM_RETURN_IF_ERROR(checkGrouped(op, g, weights.size, rows, std::numeric_limits<int32_t>::max()));
  IAM_RETURN_IF_ERROR(expectSize(op, "out", out, g.features.size, "one per active feature"));
  for (int64_t a = 0; a < out.size; ++a) {
    double sum = 0;
    for (int64_t i = g.offsets[a]; i < g.offsets[a + 1]; ++i)
      sum += static_cast<double>(weights[g.order[i]]);
    out[a] = static_cast<float>(sum);
  }
  return {};
}

Status columnSums(Mat<const float> m, Vec<float> out) {
  constexpr const char *op = "iam.training.column_sums";
  IAM_RETURN_IF_ERROR(expectSize(op, "out", out, m.cols, "the columns"));
  constexpr int64_t kColumns = 64;
  return parallelFor(op, divideUp(m.cols, kColumns), [&](int64_t part, int) {
    const int64_t begin = part * kColumns, width = std::min(kColumns, m.cols - begin);
    double sums[kColumns] = {};
    for (int64_t r = 0; r < m.rows; ++r)
      for (int64_t c = 0; c < width; ++c)
        sums[c] += static_cast<double>(m(r, begin + c));
    for (int64_t c = 0; c < width; ++c)
      out[begin + c] = static_cast<float>(sums[c]);
  });
}

Status gradInput(Mat<const float> w, Vec<const int32_t> features, Vec<const float> weights,
                 Vec<float> out) {
  constexpr const char *op = "iam.training.grad_input";
  IAM_RETURN_IF_ERROR(training::expectAscending(op, features, w.cols));
  IAM_RETURN_IF_ERROR(expectSize(op, "weights", weights, features.size, "one per feature"));
  IAM_RETURN_IF_ERROR(expectSize(op, "out", out, w.rows, "the rows of W_enc"));
  constexpr int64_t kRows = 8;
  return parallelFor(op, divideUp(w.rows, kRows), [&](int64_t part, int) {
    for (int64_t i = part * kRows; i < std::min(w.rows, (part + 1) * kRows); ++i) {
      double sums[4] = {}; // independent sums hide the latency of the additions
      int64_t a = 0;
      for (; a + 4 <= features.size; a += 4)
        for (int s = 0; s < 4; ++s)
          sums[s] +=
              static_cast<double>(w(i, features[a + s])) * static_cast<double>(weights[a + s]);
      for (; a < features.size; ++a)
        sums[0] += static_cast<double>(w(i, features[a])) * static_cast<double>(weights[a]);
      out[i] = static_cast<float>((sums[0] + sums[1]) + (sums[2] + sums[3]));
    }
  });
}

Status sumSquares(const SparseGradient &g, Mat<const float> along, double &out) {
  constexpr const char *op = "iam.training.sum_squares";
  out = 0;
  const int64_t d = g.factored ? g.basis.cols : g.rows.cols, active = g.features.size;
  const bool project = along.data != nullptr;
  if (project && along.cols != d)
    return shapeError(op, "expected project of shape [features, " + std::to_string(d) + "], got " +
                              shapeOf(along));
  IAM_RETURN_IF_ERROR(
      checkGradient(op, g, project ? along.rows : std::numeric_limits<int32_t>::max(), d));
  const Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  Buffer<double> sums;
  Buffer<float> scratch;
  IAM_RETURN_IF_ERROR(sums.resize(active, op));
  IAM_RETURN_IF_ERROR(scratch.resize(d * numThreads(), op));
  IAM_RETURN_IF_ERROR(
      parallelFor(op, divideUp(active, kFeaturePart), [&](int64_t part, int worker) {
        float *own = scratch.data() + d * worker;
        for (int64_t a = part * kFeaturePart; a < std::min(active, (part + 1) * kFeaturePart);
             ++a) {
          const float *row = training::rowOf(*table, g, a, own);
          if (project)
            row = training::projected(*table, along.row(g.features[a]), row, own, d);
          sums[a] = table->sumSquares(row, d);
        }
      }));
  for (const double s : sums)
    out += s;
  return {};
}

Status sumSquares(Vec<const float> g, double &out) {
  constexpr const char *op = "iam.training.sum_squares";
  constexpr int64_t kPart = 1 << 14;
  out = 0;
  const Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  Buffer<double> sums;
  IAM_RETURN_IF_ERROR(sums.resize(divideUp(g.size, kPart), op));
  IAM_RETURN_IF_ERROR(parallelFor(op, sums.size(), [&](int64_t part, int) {
    const int64_t begin = part * kPart;
    sums[part] = table->sumSquares(g.data + begin, std::min(kPart, g.size - begin));
  }));
  for (const double s : sums)
    out += s;
  return {};
}

Status projectRows(Mat<float> rows, Vec<const int32_t> features, Mat<const float> w) {
  constexpr const char *op = "iam.training.project_rows";
  IAM_RETURN_IF_ERROR(training::expectAscending(op, features, w.rows));
  IAM_RETURN_IF_ERROR(expectShape(op, "gradient", rows, features.size, w.cols));
  const Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  return parallelFor(op, divideUp(rows.rows, kFeaturePart), [&](int64_t part, int) {
    for (int64_t a = part * kFeaturePart; a < std::min(rows.rows, (part + 1) * kFeaturePart); ++a)
      training::project(*table, w.row(features[a]), rows.row(a), w.cols);
  });
}

Status normalizeRows(Mat<float> w, Vec<const int32_t> features, bool all) {
  constexpr const char *op = "iam.training.normalize_rows";
  IAM_RETURN_IF_ERROR(training::expectAscending(op, features, w.rows));
  const Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  const int64_t count = all ? w.rows : features.size;
  return parallelFor(op, divideUp(count, kFeaturePart), [&](int64_t part, int) {
    for (int64_t a = part * kFeaturePart; a < std::min(count, (part + 1) * kFeaturePart); ++a)
      training::normalize(*table, w.row(all ? a : features[a]), w.cols);
  });
}

Status rowNorms(Mat<const float> w, Vec<float> out) {
  constexpr const char *op = "iam.training.row_norms";
  IAM_RETURN_IF_ERROR(expectSize(op, "out", out, w.rows, "the rows"));
  const Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  return parallelFor(op, divideUp(w.rows, kFeaturePart), [&](int64_t part, int) {
    for (int64_t f = part * kFeaturePart; f < std::min(w.rows, (part + 1) * kFeaturePart); ++f)
      out[f] = static_cast<float>(std::sqrt(table->sumSquares(w.row(f), w.cols)));
  });
}

} // namespace iam::rt
