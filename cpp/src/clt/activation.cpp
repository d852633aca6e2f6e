#include "iam/clt/activation.h"

#include "../core/kernels.h"
#include "checks.h"
#include "iam/core/threads.h"
#include "search.h"

#include <atomic>
#include <cmath>

namespace iam::rt {
namespace {

using kernels::Candidate;
using kernels::Search;
using kernels::Table;
using kernels::TopKState;

constexpr int64_t kRowPart = 16;

Status nanStatus(const char *op, const char *name, Mat<const float> m, int64_t row) {
  const float *p = m.row(row);
  const int64_t c = std::find_if(p, p + m.cols, [](float v) { return std::isnan(v); }) - p;
  return Status(Code::kNonFinite, std::string(op) + ": expected no NaN in " + name +
                                      ", got one at row " + std::to_string(row) + ", column " +
                                      std::to_string(c) + "; " + name + " has shape " + shapeOf(m));
}

// The lowest of the rows reported by several threads.
struct FirstRow {
  std::atomic<int64_t> row{INT64_MAX};
  void report(int64_t r) {
    for (int64_t seen = row.load(); r < seen && !row.compare_exchange_weak(seen, r);) {
    }
  }
  bool any() const { return row.load() != INT64_MAX; }
};

// CSR codes of keep(row, column) -> value (> 0 where kept, NaN to report), in two passes: count,
// then write.
template <typename Keep>
Status compact(const char *op, int64_t rows, int64_t cols, FirstRow &nan, CsrResult &codes,
               Keep &&keep) {
  IAM_RETURN_IF_ERROR(codes.offsets.resize(rows + 1, op));
  codes.offsets[0] = 0;
  IAM_RETURN_IF_ERROR(parallelFor(op, divideUp(rows, kRowPart), [&](int64_t part, int) {
    for (int64_t r = part * kRowPart; r < std::min(rows, (part + 1) * kRowPart); ++r) {
      int64_t count = 0;
      bool bad = false;
      for (int64_t c = 0; c < cols; ++c) {
        const float v = keep(r, c);
        count += v > 0;
        bad |= v != v;
      }
      if (bad)
        nan.report(r);
      codes.offsets[r + 1] = count;
    }
  }));
  if (nan.any())
    return {};
  for (int64_t r = 0; r < rows; ++r)
    codes.offsets[r + 1] += codes.offsets[r];
  IAM_RETURN_IF_ERROR(codes.values.resize(codes.offsets[rows], op));
  IAM_RETURN_IF_ERROR(codes.indices.resize(codes.offsets[rows], op));
  return parallelFor(op, divideUp(rows, kRowPart), [&](int64_t part, int) {
    for (int64_t r = part * kRowPart; r < std::min(rows, (part + 1) * kRowPart); ++r) {
      int64_t at = codes.offsets[r];
      for (int64_t c = 0; c < cols; ++c)
        if (const float v = keep(r, c); v > 0) {
          codes.values[at] = v;
          codes.indices[at++] = static_cast<int32_t>(c);
        }
    }
  });
}

Status largest(const char *op, Mat<const float> pre, bool magnitude, FixedCodesOut codes) {
  const int64_t k = codes.values.cols;
  IAM_RETURN_IF_ERROR(expectFeatureCount(op, pre.cols));
  IAM_RETURN_IF_ERROR(expectK(op, k, pre.cols, "pre has shape " + shapeOf(pre)));
  IAM_RETURN_IF_ERROR(expectShape(op, "values", codes.values, pre.rows, k));
  IAM_RETURN_IF_ERROR(expectCodes(op, codes));
  const Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  const int workers = numThreads();
  const int64_t capacity = kernels::minCapacity(k);
  Buffer<Candidate> candidates;
  Buffer<Search> searches;
  IAM_RETURN_IF_ERROR(candidates.resize(capacity * workers, op));
  IAM_RETURN_IF_ERROR(searches.resize(workers, op));
  FirstRow nan;
  IAM_RETURN_IF_ERROR(parallelFor(op, divideUp(pre.rows, kRowPart), [&](int64_t part, int worker) {
    const TopKState state = {k, capacity, magnitude, searches.data() + worker,
                             candidates.data() + worker * capacity};
    for (int64_t r = part * kRowPart; r < std::min(pre.rows, (part + 1) * kRowPart); ++r) {
      table->start(state, 0);
      table->scan(pre.row(r), pre.cols, 0, state, 0);
      if (state.searches->nan >= 0) {
        nan.report(r);
        continue;
      }
      Candidate *held = state.candidates;
      std::partial_sort(held, held + k, held + state.searches->count, kernels::better);
      for (int64_t i = 0; i < k; ++i) {
        codes.values(r, i) = valueOf(held[i]);
        codes.indices(r, i) = featureOf(held[i]);
      }
    }
  }));
  return nan.any() ? nanStatus(op, "pre", pre, nan.row) : Status();
}

} // namespace

Status topK(Mat<const float> pre, FixedCodesOut codes) {
  return largest("iam.clt.topk", pre, false, codes);
}

Status absTopK(Mat<const float> pre, FixedCodesOut codes) {
  return largest("iam.clt.abstopk", pre, true, codes);
}

Status groupMax(Mat<const float> pre, FixedCodesOut codes) {
  constexpr const char *op = "iam.clt.groupmax";
  const int64_t groups = codes.values.cols;
  IAM_RETURN_IF_ERROR(expectFeatureCount(op, pre.cols));
  IAM_RETURN_IF_ERROR(expectGroups(op, groups, pre.cols, "pre has shape " + shapeOf(pre)));
  IAM_RETURN_IF_ERROR(expectShape(op, "values", codes.values, pre.rows, groups));
  IAM_RETURN_IF_ERROR(expectCodes(op, codes));
  const int64_t width = pre.cols / groups;
  FirstRow nan;
  IAM_RETURN_IF_ERROR(parallelFor(op, divideUp(pre.rows, kRowPart), [&](int64_t part, int) {
    for (int64_t r = part * kRowPart; r < std::min(pre.rows, (part + 1) * kRowPart); ++r)
      for (int64_t g = 0; g < groups; ++g) {
        const float *group = pre.row(r) + g * width;
        int64_t best = 0;
        bool bad = false;
        for (int64_t i = 0; i < width; ++i) {
          bad |= group[i] != group[i];
          best = group[i] > group[best] ? i : best;
        }
        if (bad)
          nan.report(r);
        codes.values(r, g) = std::max(group[best], 0.0f);
        codes.indices(r, g) = static_cast<int32_t>(g * width + best);
      }
  }));
  return nan.any() ? nanStatus(op, "pre", pre, nan.row) : Status();
}

Status threshold(Mat<const float> pre, Vec<const float> theta, CsrResult &codes) {
  constexpr const char *op = "iam.clt.threshold";
  IAM_RETURN_IF_ERROR(expectFeatureCount(op, pre.cols));
  if (!theta.empty())
    IAM_RETURN_IF_ERROR(expectSize(op, "threshold", theta, pre.cols, "the columns of pre"));
  FirstRow nan;
  if (theta.empty())
    IAM_RETURN_IF_ERROR(compact(op, pre.rows, pre.cols, nan, codes,
                                [&](int64_t r, int64_t c) { return pre(r, c); }));
  else
    IAM_RETURN_IF_ERROR(compact(op, pre.rows, pre.cols, nan, codes, [&](int64_t r, int64_t c) {
      const float v = pre(r, c);
      return v <= theta[c] ? 0.0f : v;
    }));
  return nan.any() ? nanStatus(op, "pre", pre, nan.row) : Status();
}

Status gate(Mat<const float> gatePre, Mat<const float> magnitudePre, CsrResult &codes) {
  constexpr const char *op = "iam.clt.gate";
  IAM_RETURN_IF_ERROR(expectFeatureCount(op, gatePre.cols));
  IAM_RETURN_IF_ERROR(expectShape(op, "magnitude_pre", magnitudePre, gatePre.rows, gatePre.cols));
  FirstRow nan;
  IAM_RETURN_IF_ERROR(
      compact(op, gatePre.rows, gatePre.cols, nan, codes, [&](int64_t r, int64_t c) {
        const float g = gatePre(r, c), m = magnitudePre(r, c);
        return g > 0 ? m : g != g ? g : m != m ? m : 0.0f;
      }));
  if (!nan.any())
    return {};
  const float *g = gatePre.row(nan.row);
  const bool inGate = std::any_of(g, g + gatePre.cols, [](float v) { return std::isnan(v); });
  return inGate ? nanStatus(op, "gate_pre", gatePre, nan.row)
                : nanStatus(op, "magnitude_pre", magnitudePre, nan.row);
}

Status keepLargest(const char *op, const CsrResult &all, int64_t wanted, CsrResult &codes,
                   float &limit) {
  // The wanted-th largest value; of its equals the first ones, in row order, fill what is left.
  const int64_t nnz = all.values.size(), rows = all.offsets.size() - 1;
  Buffer<float> order;
  IAM_RETURN_IF_ERROR(order.resize(nnz, op));
  std::copy(all.values.begin(), all.values.end(), order.begin());
  std::nth_element(order.begin(), order.begin() + (wanted - 1), order.end(), std::greater<>());
  limit = order[wanted - 1];
  int64_t equals = wanted - std::count_if(order.begin(), order.begin() + wanted,
                                          [&](float v) { return v > limit; });
  IAM_RETURN_IF_ERROR(codes.offsets.resize(rows + 1, op));
  IAM_RETURN_IF_ERROR(codes.values.resize(wanted, op));
  IAM_RETURN_IF_ERROR(codes.indices.resize(wanted, op));
  int64_t at = 0;
  codes.offsets[0] = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = all.offsets[r]; i < all.offsets[r + 1]; ++i) {
      const float v = all.values[i];
      if (v > limit || (v == limit && equals-- > 0)) {
        codes.values[at] = v;
        codes.indices[at++] = all.indices[i];
      }
    }
    codes.offsets[r + 1] = at;
  }
  return {};
}

Status batchTopK(Mat<const float> pre, int64_t k, CsrResult &codes) {
  constexpr const char *op = "iam.clt.batch_topk";
  IAM_RETURN_IF_ERROR(expectFeatureCount(op, pre.cols));
  IAM_RETURN_IF_ERROR(expectK(op, k, pre.cols, "pre has shape " + shapeOf(pre)));
  CsrResult positive;
  IAM_RETURN_IF_ERROR(threshold(pre, {}, positive));
  const int64_t wanted = k * pre.rows, nnz = positive.values.size();
  if (nnz <= wanted) {
    codes = std::move(positive);
    return {};
  }
  float limit = 0;
  return keepLargest(op, positive, wanted, codes, limit);
}

} // namespace iam::rt
