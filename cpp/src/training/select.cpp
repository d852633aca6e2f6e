#include "iam/training/select.h"

#include "common.h"
#include "iam/core/threads.h"

#include <algorithm>
#include <atomic>
#include <cmath>

namespace iam::rt {

Status encodeAmong(const Encoder &e, Vec<const int32_t> among, FixedCodesOut codes) {
  constexpr const char *op = "iam.training.encode_among";
  const int64_t n = among.size, k = codes.values.cols, d = e.wEnc.rows, rows = e.x.rows;
  IAM_RETURN_IF_ERROR(expectFeatureCount(op, e.wEnc.cols));
  IAM_RETURN_IF_ERROR(training::expectAscending(op, among, e.wEnc.cols));
  IAM_RETURN_IF_ERROR(expectK(op, k, n, "x has shape " + shapeOf(e.x)));
  IAM_RETURN_IF_ERROR(expectShape(op, "values", codes.values, rows, k));
  IAM_RETURN_IF_ERROR(expectCodes(op, codes));
  if (!e.bEnc.empty())
    IAM_RETURN_IF_ERROR(expectSize(op, "b_enc", e.bEnc, e.wEnc.cols, "the columns of W_enc"));
  Buffer<float> w, b, pre;
  IAM_RETURN_IF_ERROR(w.resize(d * n, op));
  IAM_RETURN_IF_ERROR(parallelFor(op, d, [&](int64_t i, int) {
    for (int64_t a = 0; a < n; ++a)
      w[i * n + a] = e.wEnc(i, among[a]);
  }));
  if (!e.bEnc.empty()) {
    IAM_RETURN_IF_ERROR(b.resize(n, op));
    for (int64_t a = 0; a < n; ++a)
      b[a] = e.bEnc[among[a]];
  }
  constexpr int64_t kBlock = 256;
  IAM_RETURN_IF_ERROR(pre.resize(std::min(kBlock, rows) * n, op));
  Buffer<int32_t> places;
  IAM_RETURN_IF_ERROR(places.resize(n * numThreads(), op));
  for (int64_t first = 0; first < rows; first += kBlock) {
    const int64_t count = std::min(kBlock, rows - first);
    const Mat<float> block(pre.data(), count, n);
    const Encoder part = {{e.x.row(first), count, e.x.cols, e.x.stride},
                          {w.data(), d, n},
                          {b.data(), b.size()},
                          e.bDec};
    IAM_RETURN_IF_ERROR(encodeDense(part, block));
    std::atomic<int64_t> bad{count};
    IAM_RETURN_IF_ERROR(parallelFor(op, count, [&](int64_t r, int worker) {
      const float *values = block.row(r);
      if (std::any_of(values, values + n, [](float v) { return std::isnan(v); })) {
        for (int64_t seen = bad.load(); r < seen && !bad.compare_exchange_weak(seen, r);) {
        }
        return;
      }
      int32_t *place = places.data() + n * worker;
      for (int64_t a = 0; a < n; ++a)
        place[a] = static_cast<int32_t>(a);
      const auto better = [values](int32_t p, int32_t q) {
        return values[p] > values[q] || (values[p] == values[q] && p < q);
      };
      std::nth_element(place, place + (k - 1), place + n, better);
      std::sort(place, place + k, better);
      for (int64_t j = 0; j < k; ++j) {
        codes.values(first + r, j) = values[place[j]];
        codes.indices(first + r, j) = among[place[j]];
      }
    }));
    if (const int64_t r = bad.load(); r < count)
      return Status(Code::kNonFinite, std::string(op) + ": a pre-activation in row " +
                                          std::to_string(first + r) +
                                          " is NaN although x is finite: look at W_enc, b_enc and "
                                          "b_dec");
  }
  return {};
}

Status encodeWindow(const Encoder &e, Vec<const float> theta, double eps, CsrResult &codes) {
  constexpr const char *op = "iam.training.encode_window";
  IAM_RETURN_IF_ERROR(expectSize(op, "threshold", theta, e.wEnc.cols, "the columns of W_enc"));
  if (!e.bEnc.empty())
    IAM_RETURN_IF_ERROR(expectSize(op, "b_enc", e.bEnc, e.wEnc.cols, "the columns of W_enc"));
  if (!(eps > 0 && std::isfinite(eps)))
    return Status(Code::kInvalidArgument, std::string(op) + ": expected bandwidth > 0, got " +
                                              printed(static_cast<float>(eps)));
  const auto half = static_cast<float>(eps / 2);
  float least = std::numeric_limits<float>::infinity();
  for (int64_t f = 0; f < theta.size; ++f) {
    if (!(theta[f] >= 0))
      return Status(Code::kInvalidArgument, std::string(op) + ": expected thresholds >= 0, got " +
                                                printed(theta[f]) + " for feature " +
                                                std::to_string(f));
    least = std::min(least, theta[f]);
  }
  // A little more than is needed, so that rounding does not lose what the window holds.
  const float shift =
      least < half ? 1.001f * (half - least) + std::numeric_limits<float>::min() : 0;
  Buffer<float> bias, limits;
  IAM_RETURN_IF_ERROR(bias.resize(theta.size, op));
  IAM_RETURN_IF_ERROR(limits.resize(theta.size, op));
  for (int64_t f = 0; f < theta.size; ++f) {
    bias[f] = (e.bEnc.empty() ? 0.0f : e.bEnc[f]) + shift;
    const float limit = theta[f] - half;
    limits[f] = shift == 0 ? limit : std::max(0.0f, limit + shift - 1e-6f * (theta[f] + shift));
  }
  IAM_RETURN_IF_ERROR(encodeThreshold({e.x, e.wEnc, bias.vec(), e.bDec}, limits.vec(), codes));
  if (shift != 0)
    for (float &h : codes.values) {
      h -= shift;
      if (h == 0)
        h = std::numeric_limits<float>::min();
    }
  return {};
}

Status batchSelect(FixedCodes candidates, int64_t total, CsrResult &codes, bool &exact) {
  constexpr const char *op = "iam.training.batch_select";
  IAM_RETURN_IF_ERROR(expectCodes(op, candidates));
  if (total < 0)
    return Status(Code::kInvalidArgument,
                  std::string(op) + ": expected total >= 0, got " + std::to_string(total));
  const int64_t rows = candidates.values.rows, slots = candidates.values.cols;
  Buffer<float> sorted;
  IAM_RETURN_IF_ERROR(sorted.resize(rows * slots, op));
  int64_t positive = 0;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < slots; ++j)
      if (candidates.values(r, j) > 0)
        sorted[positive++] = candidates.values(r, j);
  const int64_t keep = std::min(total, positive);
  float limit = std::numeric_limits<float>::infinity();
  int64_t ties = 0; // entries equal to limit that are kept
  if (keep > 0) {
    std::nth_element(sorted.begin(), sorted.begin() + (keep - 1), sorted.begin() + positive,
                     [](float a, float b) { return a > b; });
    limit = sorted[keep - 1];
    ties = std::count(sorted.begin(), sorted.begin() + keep, limit);
  }
  IAM_RETURN_IF_ERROR(codes.values.resize(keep, op));
  IAM_RETURN_IF_ERROR(codes.indices.resize(keep, op));
  IAM_RETURN_IF_ERROR(codes.offsets.resize(rows + 1, op));
  Buffer<std::pair<int32_t, float>> row;
  IAM_RETURN_IF_ERROR(row.resize(slots, op));
  exact = true;
  int64_t at = 0;
  codes.offsets[0] = 0;
  for (int64_t r = 0; r < rows; ++r) {
    int64_t count = 0;
    for (int64_t j = 0; j < slots; ++j) {
      const float v = candidates.values(r, j);
      if (!(v > 0) || v < limit || (v == limit && ties == 0))
        continue;
      ties -= v == limit;
      row[count++] = {candidates.indices(r, j), v};
    }
    exact = exact && (count < slots || slots == 0);
    std::sort(row.begin(), row.begin() + count);
    for (int64_t j = 0; j < count; ++j, ++at) {
      codes.indices[at] = row[j].first;
      codes.values[at] = row[j].second;
    }
    codes.offsets[r + 1] = at;
  }
  return {};
}

Status jumpreluGrad(const JumpReLU &j, Vec<const float> dF, Vec<const float> dS, Vec<float> dH,
                    Vec<float> dTheta) {
  constexpr const char *op = "iam.training.jumprelu_grad";
  const int64_t n = j.h.size;
  IAM_RETURN_IF_ERROR(expectSize(op, "indices", j.indices, n, "one per entry"));
  IAM_RETURN_IF_ERROR(expectSize(op, "d_f", dF, n, "one per entry"));
  if (!dS.empty())
    IAM_RETURN_IF_ERROR(expectSize(op, "d_step", dS, n, "one per entry"));
  IAM_RETURN_IF_ERROR(expectSize(op, "d_h", dH, n, "one per entry"));
  IAM_RETURN_IF_ERROR(expectSize(op, "d_theta", dTheta, n, "one per entry"));
  if (!(j.eps > 0 && std::isfinite(j.eps)))
    return Status(Code::kInvalidArgument, std::string(op) + ": expected bandwidth > 0, got " +
                                              printed(static_cast<float>(j.eps)));
  const auto eps = static_cast<float>(j.eps);
  for (int64_t e = 0; e < n; ++e) {
    const int32_t f = j.indices[e];
    if (f < 0 || f >= j.theta.size)
      return Status(Code::kFeatureRange, std::string(op) + ": expected feature indices in 0.." +
                                             std::to_string(j.theta.size - 1) + ", got " +
                                             std::to_string(f) + " at entry " + std::to_string(e));
    const float theta = j.theta[f], h = j.h[e];
    const bool open = h > theta, near = std::fabs((h - theta) / eps) < 0.5f;
    const float through = near ? theta / eps * dF[e] + (dS.empty() ? 0.0f : dS[e] / eps) : 0.0f;
    dH[e] = (open ? dF[e] : 0.0f) + (j.toInput ? through : 0.0f);
    dTheta[e] = -through;
  }
  return {};
}

} // namespace iam::rt
