#include "iam/training/optimiser.h"

#include "../core/kernels.h"
#include "common.h"
#include "iam/core/threads.h"

#include <cmath>
#include <vector>

namespace iam::rt {
namespace {

using kernels::AdamScalars;
using kernels::SignumScalars;
using kernels::Table;
using training::kFeaturePart;

// Of an encoder at rest, [d, features], this many columns are updated at a time: 256 bytes of each
// row, and with d = 768 a tile of 200 KB, which stays in the L2 cache.
constexpr int64_t kColumnPart = 64;
// An array of any shape is cut in parts of this many elements.
constexpr int64_t kFlatPart = 1 << 15;

Status argument(const char *op, const std::string &expected, double got) {
  return Status(Code::kInvalidArgument, std::string(op) + ": expected " + expected + ", got " +
                                            printed(static_cast<float>(got)));
}

Status checkAdam(const char *op, const Adam &adam, bool history) {
  if (adam.step < 1)
    return Status(Code::kInvalidArgument,
                  std::string(op) + ": expected step >= 1, got " + std::to_string(adam.step));
  if (!(adam.beta1 >= 0 && adam.beta1 < 1))
    return argument(op, "beta1 in [0, 1)", adam.beta1);
  if (!(adam.beta2 >= 0 && adam.beta2 < 1))
    return argument(op, "beta2 in [0, 1)", adam.beta2);
  if (!(adam.eps > 0 && std::isfinite(adam.eps)))
    return argument(op, "eps > 0", adam.eps);
  if (!std::isfinite(adam.decay))
    return argument(op, "a finite weight decay", adam.decay);
  if (!std::isfinite(adam.scale))
    return argument(op, "a finite scale", adam.scale);
  const int64_t rates = history ? adam.step : 1;
  if (adam.rates.size != rates)
    return shapeError(op,
                      "expected " + std::to_string(rates) + " learning rates (" +
                          (history ? "of steps 1.." + std::to_string(adam.step) : "of the step") +
                          "), got " + std::to_string(adam.rates.size));
  for (const double rate : adam.rates)
    if (!std::isfinite(rate))
      return argument(op, "finite learning rates", rate);
  return {};
}

// What the kernel needs for step t.
AdamScalars scalarsOf(const Adam &adam, int64_t t, double rate) {
  const auto steps = static_cast<double>(t);
  AdamScalars s;
  s.beta1 = static_cast<float>(adam.beta1);
  s.rest1 = static_cast<float>(1 - adam.beta1);
  s.beta2 = static_cast<float>(adam.beta2);
  s.rest2 = static_cast<float>(1 - adam.beta2);
  s.eps = static_cast<float>(adam.eps);
  s.stepSize = static_cast<float>(rate / (1 - std::pow(adam.beta1, steps)));
  s.rootCorrection = static_cast<float>(1 / std::sqrt(1 - std::pow(adam.beta2, steps)));
  s.scale = static_cast<float>(adam.scale);
  s.keep = static_cast<float>(1 - rate * adam.decay);
  return s;
}

// Steps with gradient 0 after which the next updates are below 2^-40 of the first.
int64_t patience(const Adam &adam) {
  const double rho = adam.beta2 > 0 ? adam.beta1 / std::sqrt(adam.beta2) : 1;
  if (adam.beta1 == 0)
    return 0;
  if (rho >= 1 || adam.decay != 0)
    return std::numeric_limits<int64_t>::max();
  return static_cast<int64_t>(std::ceil(-40 * std::log(2.0) / std::log(rho)));
}

// One Adam over the rows of features, p being a row wherever it lies.
struct AdamRows {
  const Table &table;
  const FeatureWeights &w;
  const Adam &adam;
  AdamScalars now;
  // Lazy form: scalars of recent steps; those of step t at recent[t - 1 - from].
  std::vector<AdamScalars> recent;
  int64_t from = 0, most = 0;

  AdamRows(const Table &table, const FeatureWeights &w, const Adam &adam)
      : table(table), w(w), adam(adam),
        now(scalarsOf(adam, adam.step, adam.rates[adam.rates.size - 1])) {
    if (w.last.empty())
      return;
    constexpr int64_t kRecent = 512;
    most = patience(adam);
    from = std::max<int64_t>(0, adam.step - kRecent);
    for (int64_t t = from + 1; t <= adam.step; ++t)
      recent.push_back(scalarsOf(adam, t, adam.rates[t - 1]));
  }

  AdamScalars scalars(int64_t t) const {
    return t > from ? recent[t - 1 - from] : scalarsOf(adam, t, adam.rates[t - 1]);
  }

  // Feature f, whose weights are at p, up to and including step `to`, with gradient 0.
  void catchUp(int64_t f, float *p, int64_t to) const {
    const int64_t d = w.m.cols, behind = to - w.last[f];
    if (behind <= 0)
      return;
    const int64_t single = std::min(behind, most);
    for (int64_t i = 0; i < single; ++i) {
      table.adam(p, nullptr, w.m.row(f), w.v.row(f), d, scalars(w.last[f] + i + 1));
      if (w.normalize)
        training::normalize(table, p, d);
    }
    if (const int64_t rest = behind - single; rest > 0) {
      // The closed step: p stays.
      const auto n = static_cast<double>(rest);
      w.m.vec(f).eigen() *= static_cast<float>(std::pow(adam.beta1, n));
      w.v.vec(f).eigen() *= static_cast<float>(std::pow(adam.beta2, n));
      const auto flush = [](float x, float least) { return std::fabs(x) < least ? 0.0f : x; };
      for (int64_t i = 0; i < d; ++i) {
        w.m(f, i) = flush(w.m(f, i), 0x1p-100f);
        w.v(f, i) = flush(w.v(f, i), 0x1p-120f);
      }
    }
    w.last[f] = to;
  }

  // The step of feature f; gradient row or null.
  void step(int64_t f, float *p, const float *g) const {
    if (!w.last.empty())
      catchUp(f, p, adam.step - 1);
    table.adam(p, g, w.m.row(f), w.v.row(f), w.m.cols, now);
    if (w.normalize)
      training::normalize(table, p, w.m.cols);
    if (!w.last.empty())
      w.last[f] = adam.step;
  }
};

Status checkWeights(const char *op, const FeatureWeights &w, bool needsV, int64_t step) {
  const int64_t features = w.columns ? w.p.cols : w.p.rows, d = w.columns ? w.p.rows : w.p.cols;
  IAM_RETURN_IF_ERROR(expectFeatureCount(op, features));
  if (needsV || w.m.data)
    IAM_RETURN_IF_ERROR(expectShape(op, "m", w.m, features, d));
  if (needsV)
    IAM_RETURN_IF_ERROR(expectShape(op, "v", w.v, features, d));
  if (w.columns && (w.normalize || w.project))
    return Status(Code::kInvalidArgument,
                  std::string(op) + ": normalize and project are for rows, not for columns");
  if (w.last.empty())
    return {};
  IAM_RETURN_IF_ERROR(expectSize(op, "last", w.last, features, "one per feature"));
  for (int64_t f = 0; f < features; ++f)
    if (w.last[f] < 0 || w.last[f] > step)
      return Status(Code::kInvalidArgument,
                    std::string(op) + ": expected last in 0.." + std::to_string(step) + ", got " +
                        std::to_string(w.last[f]) + " for feature " + std::to_string(f));
  return {};
}

// update(f, a, p) for features f = 0 .. features - 1, or those of `list` alone; a is the position
// of f in `list`, or -1. p is the row of f, or a copy of its column that is written back.
template <typename Update>
Status eachFeature(const char *op, const FeatureWeights &w, Vec<const int32_t> list, bool all,
                   Update &&update) {
  const int64_t features = w.columns ? w.p.cols : w.p.rows, d = w.columns ? w.p.rows : w.p.cols;
  const int64_t part = w.columns ? kColumnPart : kFeaturePart, parts = divideUp(features, part);
  // Where the features of each part start in the list.
  Buffer<int64_t> starts;
  IAM_RETURN_IF_ERROR(starts.resize(parts + 1, op));
  for (int64_t i = 0, a = 0; i <= parts; ++i) {
    while (a < list.size && list[a] < i * part)
      ++a;
    starts[i] = a;
  }
  // Rows of a tile start at different sets of the L1 cache.
  const int64_t stride = (divideUp(d, 16) | 1) * 16;
  Buffer<float> tiles;
  if (w.columns)
    IAM_RETURN_IF_ERROR(tiles.resize(kColumnPart * stride * numThreads(), op));
  return parallelFor(op, parts, [&](int64_t index, int worker) {
    const int64_t begin = index * part, end = std::min(features, begin + part);
    if (!all && starts[index] == starts[index + 1])
      return;
    float *tile = w.columns ? tiles.data() + kColumnPart * stride * worker : nullptr;
    if (tile)
      for (int64_t i = 0; i < d; ++i) {
        if (i + 4 < d)
          for (int64_t c = begin; c < end; c += 16)
            __builtin_prefetch(w.p.row(i + 4) + c);
        for (int64_t f = begin; f < end; ++f)
          tile[(f - begin) * stride + i] = w.p(i, f);
      }
    int64_t a = starts[index];
    for (int64_t f = begin; f < end; ++f) {
      const bool listed = a < starts[index + 1] && list[a] == f;
      if (listed || all)
        update(f, listed ? a : -1, tile ? tile + (f - begin) * stride : w.p.row(f), worker);
      a += listed;
    }
    if (tile)
      for (int64_t i = 0; i < d; ++i) {
        if (i + 4 < d)
          for (int64_t c = begin; c < end; c += 16)
            __builtin_prefetch(w.p.row(i + 4) + c, 1);
        for (int64_t f = begin; f < end; ++f)
          w.p(i, f) = tile[(f - begin) * stride + i];
      }
  });
}

// As eachFeature, with the gradient row of f: null where there is none.
template <typename Update>
Status eachGradient(const char *op, const Table &table, const FeatureWeights &w,
                    const SparseGradient &g, bool all, Update &&update) {
  const int64_t d = w.columns ? w.p.rows : w.p.cols;
  Buffer<float> scratch;
  IAM_RETURN_IF_ERROR(scratch.resize(d * numThreads(), op));
  return eachFeature(op, w, g.features, all, [&](int64_t f, int64_t a, float *p, int worker) {
    const float *row = nullptr;
    if (a >= 0) {
      float *own = scratch.data() + d * worker;
      row = training::rowOf(table, g, a, own);
      if (w.project)
        row = training::projected(table, p, row, own, d);
    }
    update(f, p, row);
  });
}

} // namespace

Status adamStep(Vec<float> p, Vec<const float> g, Vec<float> m, Vec<float> v, const Adam &adam) {
  constexpr const char *op = "iam.training.adam";
  IAM_RETURN_IF_ERROR(expectSize(op, "grad", g, p.size, "the size of param"));
  IAM_RETURN_IF_ERROR(expectSize(op, "m", m, p.size, "the size of param"));
  IAM_RETURN_IF_ERROR(expectSize(op, "v", v, p.size, "the size of param"));
  IAM_RETURN_IF_ERROR(checkAdam(op, adam, false));
  const Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  const AdamScalars s = scalarsOf(adam, adam.step, adam.rates[0]);
  return parallelFor(op, divideUp(p.size, kFlatPart), [&](int64_t part, int) {
    const int64_t at = part * kFlatPart, n = std::min(kFlatPart, p.size - at);
    table->adam(p.data + at, g.data + at, m.data + at, v.data + at, n, s);
  });
}

Status adamFeatures(const FeatureWeights &w, const SparseGradient &g, const Adam &adam) {
  constexpr const char *op = "iam.training.adam_features";
  const bool lazy = !w.last.empty();
  IAM_RETURN_IF_ERROR(checkAdam(op, adam, lazy));
  IAM_RETURN_IF_ERROR(checkWeights(op, w, true, adam.step - 1));
  IAM_RETURN_IF_ERROR(checkGradient(op, g, w.m.rows, w.m.cols));
  const Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  const AdamRows rows(*table, w, adam);
  if (lazy && w.project) // the projection is onto the row as it is before this step
    IAM_RETURN_IF_ERROR(
        eachFeature(op, w, g.features, false,
                    [&](int64_t f, int64_t, float *p, int) { rows.catchUp(f, p, adam.step - 1); }));
  return eachGradient(op, *table, w, g, !lazy,
                      [&](int64_t f, float *p, const float *row) { rows.step(f, p, row); });
}

Status adamCatchUp(const FeatureWeights &w, Vec<const int32_t> features, bool all,
                   const Adam &adam) {
  constexpr const char *op = "iam.training.adam_catch_up";
  IAM_RETURN_IF_ERROR(checkAdam(op, adam, true));
  IAM_RETURN_IF_ERROR(checkWeights(op, w, true, adam.step));
  IAM_RETURN_IF_ERROR(expectSize(op, "last", w.last, w.m.rows, "one per feature"));
  IAM_RETURN_IF_ERROR(training::expectAscending(op, features, w.m.rows));
  const Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  const AdamRows rows(*table, w, adam);
  return eachFeature(op, w, features, all,
                     [&](int64_t f, int64_t, float *p, int) { rows.catchUp(f, p, adam.step); });
}

namespace {

Status checkSignum(const char *op, const Signum &s) {
  if (!(s.beta >= 0 && s.beta < 1))
    return argument(op, "beta in [0, 1)", s.beta);
  for (const double value : {s.rate, s.decay, s.scale})
    if (!std::isfinite(value))
      return argument(op, "finite learning rate, weight decay and scale", value);
  return {};
}

SignumScalars scalarsOf(const Signum &s) {
  return {static_cast<float>(s.beta), static_cast<float>(1 - s.beta), static_cast<float>(s.rate),
          static_cast<float>(s.scale), static_cast<float>(1 - s.rate * s.decay)};
}

} // namespace

Status signumStep(Vec<float> p, Vec<const float> g, Vec<float> m, const Signum &signum) {
  constexpr const char *op = "iam.training.signum";
  IAM_RETURN_IF_ERROR(checkSignum(op, signum));
  IAM_RETURN_IF_ERROR(expectSize(op, "grad", g, p.size, "the size of param"));
  if (m.data)
    IAM_RETURN_IF_ERROR(expectSize(op, "m", m, p.size, "the size of param"));
  const Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  const SignumScalars s = scalarsOf(signum);
  return parallelFor(op, divideUp(p.size, kFlatPart), [&](int64_t part, int) {
    const int64_t at = part * kFlatPart, n = std::min(kFlatPart, p.size - at);
    table->signum(p.data + at, g.data + at, m.data ? m.data + at : nullptr, n, s);
  });
}

Status signumFeatures(const FeatureWeights &w, const SparseGradient &g, const Signum &signum) {
  constexpr const char *op = "iam.training.signum_features";
  IAM_RETURN_IF_ERROR(checkSignum(op, signum));
  IAM_RETURN_IF_ERROR(checkWeights(op, w, false, 0));
  const int64_t features = w.columns ? w.p.cols : w.p.rows, d = w.columns ? w.p.rows : w.p.cols;
  IAM_RETURN_IF_ERROR(checkGradient(op, g, features, d));
  const Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  const SignumScalars s = scalarsOf(signum);
  const bool all = w.m.data || s.keep != 1 || w.normalize;
  return eachGradient(op, *table, w, g, all, [&](int64_t f, float *p, const float *row) {
    table->signum(p, row, w.m.data ? w.m.row(f) : nullptr, d, s);
    if (w.normalize)
      training::normalize(*table, p, d);
  });
}

} // namespace iam::rt
