#include "iam/clt/pursuit.h"

#include "checks.h"
#include "iam/core/threads.h"
#include "search.h"

#include <atomic>
#include <cmath>
#include <numeric>
#include <vector>

namespace iam::rt {
namespace {

constexpr const char *kOp = "iam.clt.matching_pursuit";
constexpr int64_t kBlockRows = 1024, kRowPart = 16, kFeaturePart = 64;

struct Found {
  int32_t feature;
  float value;
};

Status check(const Pursuit &p) {
  if (p.wDec.cols != p.x.cols)
    return shapeError(kOp, "expected W_dec of shape [features, " + std::to_string(p.x.cols) +
                               "] (x has shape " + shapeOf(p.x) + "), got " + shapeOf(p.wDec));
  if (p.wDec.rows < 1)
    return shapeError(kOp, "expected W_dec of at least one row, got " + shapeOf(p.wDec));
  IAM_RETURN_IF_ERROR(expectFeatureCount(kOp, p.wDec.rows));
  if (!p.bDec.empty())
    IAM_RETURN_IF_ERROR(expectSize(kOp, "b_dec", p.bDec, p.x.cols, "the columns of x"));
  if (!(p.residualThreshold >= 0) || !std::isfinite(p.residualThreshold))
    return Status(Code::kInvalidArgument, std::string(kOp) +
                                              ": expected a finite residual_threshold >= 0, got " +
                                              printed(p.residualThreshold));
  if (p.maxIterations < 1)
    return Status(Code::kInvalidArgument, std::string(kOp) +
                                              ": expected max_iterations >= 1, got " +
                                              std::to_string(p.maxIterations));
  return {};
}

Status expectFinite(const kernels::Table &table, const char *name, Mat<const float> m) {
  std::atomic<int64_t> bad{m.rows}; // the first row that is not finite
  IAM_RETURN_IF_ERROR(parallelFor(kOp, divideUp(m.rows, kFeaturePart), [&](int64_t part, int) {
    const int64_t end = std::min(m.rows, (part + 1) * kFeaturePart);
    for (int64_t r = part * kFeaturePart; r < end; ++r)
      if (table.findNonFinite(m.row(r), m.cols) >= 0) {
        for (int64_t seen = bad.load(); r < seen && !bad.compare_exchange_weak(seen, r);) {
        }
        return;
      }
  }));
  const int64_t r = bad.load();
  if (r == m.rows)
    return {};
  const int64_t c = table.findNonFinite(m.row(r), m.cols);
  return Status(Code::kNonFinite, std::string(kOp) + ": expected finite " + name + ", got " +
                                      printed(m(r, c)) + " at row " + std::to_string(r) +
                                      ", column " + std::to_string(c) + "; " + name +
                                      " has shape " + shapeOf(m));
}

Status transpose(Mat<const float> m, Buffer<float> &out) {
  IAM_RETURN_IF_ERROR(out.resize(m.rows * m.cols, kOp));
  Mat<float> to(out.data(), m.cols, m.rows);
  return parallelFor(kOp, divideUp(m.rows, kFeaturePart), [&](int64_t part, int) {
    const int64_t begin = part * kFeaturePart, n = std::min(kFeaturePart, m.rows - begin);
    to.eigen().middleCols(begin, n) = m.eigen().middleRows(begin, n).transpose();
  });
}

// Rows begin..begin+count-1, all of them step by step; rows that have ended leave.
class Block {
public:
  Block(const kernels::Table &table, const Pursuit &p, Mat<const float> wEnc, int64_t begin,
        int64_t count)
      : table(table), p(p), wEnc(wEnc), begin(begin), d(p.x.cols),
        live(static_cast<std::size_t>(count)), found(live.size()), ended(live.size()) {
    std::iota(live.begin(), live.end(), 0);
  }

  Status run() {
    const auto count = static_cast<int64_t>(live.size());
    IAM_RETURN_IF_ERROR(residual.resize(count * d, kOp));
    IAM_RETURN_IF_ERROR(values.resize(count, kOp));
    IAM_RETURN_IF_ERROR(indices.resize(count, kOp));
    for (int64_t r = 0; r < count; ++r) {
      Vec<float> row(residual.data() + r * d, d);
      row.eigen() = p.x.vec(begin + r).eigen();
      if (!p.bDec.empty())
        row.eigen() -= p.bDec.eigen();
    }
    for (int64_t step = 0; step < p.maxIterations && !live.empty(); ++step)
      IAM_RETURN_IF_ERROR(advance());
    return {};
  }

  /// What was found, by row, ascending.
  std::vector<std::vector<Found>> &result() { return found; }

private:
  Status advance() {
    const auto count = static_cast<int64_t>(live.size());
    const Encoder e = {{residual.data(), count, d}, wEnc, {}, {}};
    kernels::Pair nan = {-1, -1};
    IAM_RETURN_IF_ERROR(
        searchRows(kOp, e, false, {{values.data(), count, 1}, {indices.data(), count, 1}}, nan));
    if (nan.row >= 0)
      return overflow(nan.row);
    std::atomic<int64_t> bad{-1};
    IAM_RETURN_IF_ERROR(parallelFor(kOp, divideUp(count, kRowPart), [&](int64_t part, int) {
      for (int64_t i = part * kRowPart; i < std::min(count, (part + 1) * kRowPart); ++i) {
        float *row = residual.data() + i * d;
        table.axpy(-values[i], p.wDec.row(indices[i]), row, d);
        const double norm = std::sqrt(table.sumSquares(row, d));
        if (!std::isfinite(norm))
          bad = i;
        ended[static_cast<std::size_t>(i)] =
            !record(i) || (p.residualThreshold > 0 && norm < p.residualThreshold);
      }
    }));
    if (const int64_t i = bad.load(); i >= 0)
      return overflow(i);
    leave();
    return {};
  }

  // Adds what the step found in live row i. False if the row ends with it.
  bool record(int64_t i) {
    if (values[i] == 0)
      return false;
    std::vector<Found> &row = found[static_cast<std::size_t>(live[static_cast<std::size_t>(i)])];
    const auto held = std::find_if(row.begin(), row.end(),
                                   [&](const Found &f) { return f.feature == indices[i]; });
    if (held == row.end()) {
      row.push_back({indices[i], values[i]});
      return true;
    }
    held->value += values[i];
    return !p.stopOnDuplicateSupport;
  }

  void leave() {
    std::size_t kept = 0;
    for (std::size_t i = 0; i < live.size(); ++i) {
      if (ended[i])
        continue;
      if (kept != i)
        std::copy_n(residual.data() + static_cast<int64_t>(i) * d, d,
                    residual.data() + static_cast<int64_t>(kept) * d);
      live[kept++] = live[i];
    }
    live.resize(kept);
  }

  Status overflow(int64_t i) const {
    return Status(Code::kNonFinite,
                  std::string(kOp) + ": row " +
                      std::to_string(begin + live[static_cast<std::size_t>(i)]) +
                      " of x left the range of float32: expected rows of W_dec of norm 1");
  }

  const kernels::Table &table;
  const Pursuit &p;
  Mat<const float> wEnc;
  int64_t begin, d;
  std::vector<int64_t> live; // rows of the block, in the order of the residuals
  std::vector<std::vector<Found>> found;
  std::vector<char> ended; // of the live rows
  Buffer<float> residual, values;
  Buffer<int32_t> indices;
};

} // namespace

Status matchingPursuit(const Pursuit &p, CsrResult &codes) {
  IAM_RETURN_IF_ERROR(check(p));
  const kernels::Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  IAM_RETURN_IF_ERROR(expectFinite(*table, "x", p.x));
  IAM_RETURN_IF_ERROR(expectFinite(*table, "W_dec", p.wDec));
  Buffer<float> transposed;
  IAM_RETURN_IF_ERROR(transpose(p.wDec, transposed));
  const Mat<const float> wEnc(transposed.data(), p.x.cols, p.wDec.rows);
  IAM_RETURN_IF_ERROR(codes.offsets.resize(p.x.rows + 1, kOp));
  codes.offsets[0] = 0;
  std::vector<Found> all;
  int64_t done = 0;
  for (int64_t begin = 0; begin < p.x.rows; begin += kBlockRows) {
    Block block(*table, p, wEnc, begin, std::min(kBlockRows, p.x.rows - begin));
    IAM_RETURN_IF_ERROR(block.run());
    for (std::vector<Found> &row : block.result()) {
      std::sort(row.begin(), row.end(),
                [](const Found &a, const Found &b) { return a.feature < b.feature; });
      all.insert(all.end(), row.begin(), row.end());
      codes.offsets[++done] = static_cast<int64_t>(all.size());
    }
  }
  const auto nnz = static_cast<int64_t>(all.size());
  IAM_RETURN_IF_ERROR(codes.values.resize(nnz, kOp));
  IAM_RETURN_IF_ERROR(codes.indices.resize(nnz, kOp));
  for (int64_t i = 0; i < nnz; ++i) {
    codes.values[i] = all[static_cast<std::size_t>(i)].value;
    codes.indices[i] = all[static_cast<std::size_t>(i)].feature;
  }
  return {};
}

} // namespace iam::rt
