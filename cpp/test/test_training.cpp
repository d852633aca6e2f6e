#include "testing.h"

#include "iam/clt/decode.h"
#include "iam/training/optimiser.h"
#include "iam/training/select.h"

#include <limits>
#include <map>
#include <utility>

namespace iam::rt::test {
namespace {

// k-form codes with distinct indices in a row; about a fifth of the slots are padding, whose index
// means nothing.
Codes randomCodes(int64_t rows, int64_t features, int64_t k, unsigned seed) {
  Codes codes(rows, k);
  std::mt19937 engine(seed);
  std::vector<int32_t> all(static_cast<std::size_t>(features));
  for (std::size_t f = 0; f < all.size(); ++f)
    all[f] = static_cast<int32_t>(f);
  codes.values = integers(rows, k, seed);
  for (int64_t r = 0; r < rows; ++r) {
    std::shuffle(all.begin(), all.end(), engine);
    for (int64_t j = 0; j < k; ++j)
      codes.indices(r, j) = codes.values(r, j) == 0 ? -7 : all[static_cast<std::size_t>(j)];
  }
  return codes;
}

using Shape = std::tuple<int64_t, int64_t, int64_t, int64_t>; // rows, features, d, k
const Shape kShapes[] = {
    {0, 3, 2, 1}, {1, 1, 1, 1}, {9, 20, 7, 5}, {40, 70, 65, 12}, {70, 33, 100, 33}};

std::vector<float> copyOf(const Buffer<float> &b) { return {b.begin(), b.end()}; }

SparseGradient factored(const GroupedResult &g, const Codes &codes, const Floats &basis) {
  SparseGradient gradient;
  gradient.factored = true;
  gradient.grouped = g.view();
  gradient.features = gradient.grouped.features;
  gradient.weights = codes.values.vec();
  gradient.basis = basis.mat();
  return gradient;
}

TEST(TrainingGroup, SortsEntriesByFeature) {
  for (const auto &[rows, features, d, k] : kShapes) {
    const Codes codes = randomCodes(rows, features, k, 1);
    GroupedResult g;
    expectOk(group(codes.view(), features, g));
    std::map<int32_t, std::vector<std::pair<int32_t, int32_t>>> want;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < k; ++j)
        if (codes.values(r, j) != 0)
          want[codes.indices(r, j)].push_back(
              {static_cast<int32_t>(r * k + j), static_cast<int32_t>(r)});
    ASSERT_EQ(g.features.size(), static_cast<int64_t>(want.size()));
    int64_t a = 0, i = 0;
    for (const auto &[feature, entries] : want) {
      ASSERT_EQ(g.features[a], feature);
      ASSERT_EQ(g.offsets[a++], i);
      for (const auto &[entry, row] : entries) {
        ASSERT_EQ(g.order[i], entry);
        ASSERT_EQ(g.rows[i++], row);
      }
    }
    EXPECT_EQ(g.offsets[a], i);
    EXPECT_EQ(g.order.size(), i);
  }
}

// Integers: sums are exact in any order, so the results must be equal.
TEST(TrainingGradients, MatchTheDenseProducts) {
  for (const auto &[rows, features, d, k] : kShapes) {
    const Codes codes = randomCodes(rows, features, k, 2);
    const Floats upstream = integers(rows, d, 3), w = integers(features, d, 4);
    GroupedResult g;
    expectOk(group(codes.view(), features, g));
    Floats dValues(rows, k);
    std::fill(dValues.at.begin(), dValues.at.end(), 9.0f); // padding must become 0
    expectOk(gradValues(g.view(), upstream.mat(), w.mat(), {dValues.at.data(), rows * k}));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < k; ++j) {
        float sum = 0;
        if (codes.values(r, j) != 0)
          for (int64_t c = 0; c < d; ++c)
            sum += upstream(r, c) * w(codes.indices(r, j), c);
        ASSERT_EQ(dValues(r, j), sum);
      }
    Floats dense(features, d);
    std::vector<float> sums(static_cast<std::size_t>(features));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < k; ++j)
        if (codes.values(r, j) != 0) {
          sums[static_cast<std::size_t>(codes.indices(r, j))] += codes.values(r, j);
          for (int64_t c = 0; c < d; ++c)
            dense(codes.indices(r, j), c) += codes.values(r, j) * upstream(r, c);
        }
    const int64_t active = g.features.size();
    Floats out(active, d);
    std::fill(out.at.begin(), out.at.end(), 9.0f);
    Buffer<float> rowSums;
    expectOk(rowSums.resize(active, "test"));
    expectOk(gradRows(factored(g, codes, upstream), false, out.mat()));
    expectOk(gradSums(g.view(), codes.values.vec(), rows, rowSums.vec()));
    double squares = 0, got = -1;
    for (int64_t a = 0; a < active; ++a) {
      ASSERT_EQ(rowSums[a], sums[static_cast<std::size_t>(g.features[a])]);
      for (int64_t c = 0; c < d; ++c) {
        ASSERT_EQ(out(a, c), dense(g.features[a], c));
        squares += static_cast<double>(out(a, c)) * out(a, c);
      }
    }
    expectOk(sumSquares(factored(g, codes, upstream), {}, got));
    EXPECT_EQ(got, squares);
    expectOk(sumSquares(Vec<const float>(out.at.data(), active * d), got));
    EXPECT_EQ(got, squares);
  }
}

TEST(TrainingGradients, BiasesMatchTheDenseSums) {
  const Floats m = integers(37, 130, 5), w = integers(11, 40, 6), weights = integers(1, 3, 7);
  Floats out(1, 130), back(1, 11);
  expectOk(columnSums(m.mat(), {out.at.data(), 130}));
  for (int64_t c = 0; c < 130; ++c) {
    float sum = 0;
    for (int64_t r = 0; r < 37; ++r)
      sum += m(r, c);
    ASSERT_EQ(out(0, c), sum);
  }
  const int32_t features[] = {0, 17, 39};
  expectOk(gradInput(w.mat(), {features, 3}, weights.vec(), {back.at.data(), 11}));
  for (int64_t i = 0; i < 11; ++i)
    ASSERT_EQ(back(0, i),
              w(i, 0) * weights(0, 0) + w(i, 17) * weights(0, 1) + w(i, 39) * weights(0, 2));
}

TEST(TrainingGradients, BrokenGroupingsAreErrors) {
  const Codes codes = randomCodes(9, 20, 5, 8);
  const Floats upstream = integers(9, 4, 9), w = integers(20, 4, 10);
  Floats dValues(9, 5);
  const auto run = [&](const GroupedResult &g) {
    return gradValues(g.view(), upstream.mat(), w.mat(), {dValues.at.data(), 45});
  };
  for (int part = 0; part < 4; ++part)
    for (const int32_t bad : {-1, 1 << 30}) {
      GroupedResult g;
      expectOk(group(codes.view(), 20, g));
      expectOk(run(g));
      if (part == 0)
        g.features[g.features.size() - 1] = bad;
      else if (part == 1)
        g.offsets[1] = bad;
      else if (part == 2)
        g.order[3] = bad;
      else
        g.rows[3] = bad;
      EXPECT_FALSE(run(g).ok());
    }
}

struct Weights {
  Weights(int64_t features, int64_t d, unsigned seed)
      : p(normal(features, d, seed)), m(features, d), v(features, d),
        last(static_cast<std::size_t>(features)) {}
  FeatureWeights view(bool lazy = false) {
    FeatureWeights w;
    w.p = p.mat();
    w.m = m.mat();
    w.v = v.mat();
    if (lazy)
      w.last = {last.data(), static_cast<int64_t>(last.size())};
    return w;
  }
  bool operator==(const Weights &o) const {
    return p.at == o.p.at && m.at == o.m.at && v.at == o.v.at;
  }
  Floats p, m, v;
  std::vector<int64_t> last;
};

Floats transposed(const Floats &a) {
  Floats b(a.cols, a.rows);
  for (int64_t r = 0; r < a.rows; ++r)
    for (int64_t c = 0; c < a.cols; ++c)
      b(c, r) = a(r, c);
  return b;
}

// Oracle: the definition, in float64.
void adamOracle(double &p, double g, double &m, double &v, double rate, int64_t t) {
  m = 0.9 * m + 0.1 * g;
  v = 0.999 * v + 0.001 * g * g;
  const auto steps = static_cast<double>(t);
  p -= rate * (m / (1 - std::pow(0.9, steps))) /
       (std::sqrt(v / (1 - std::pow(0.999, steps))) + 1e-8);
}

// Dense, by rows, by columns, lazy with a catch-up at the end: all take the same steps.
TEST(TrainingAdam, AllFormsAgree) {
  for (const auto &[features, d] :
       {std::pair<int64_t, int64_t>{1, 1}, {3, 5}, {64, 16}, {65, 33}, {200, 48}}) {
    Weights dense(features, d, 11), rows(features, d, 11), columns(features, d, 11),
        lazy(features, d, 11);
    Floats atRest = transposed(columns.p);
    std::vector<double> p(dense.p.at.begin(), dense.p.at.end()), m(p.size()), v(p.size());
    std::vector<double> rates;
    for (int64_t t = 1; t <= 12; ++t) {
      rates.push_back(0.01 / static_cast<double>(t));
      std::vector<int32_t> active;
      for (int64_t f = 0; f < features; ++f)
        if ((f * 7 + t * 5) % 3 == 0)
          active.push_back(static_cast<int32_t>(f));
      const auto count = static_cast<int64_t>(active.size());
      const Floats g = normal(count, d, static_cast<unsigned>(100 + t));
      Floats full(features, d);
      for (int64_t a = 0; a < count; ++a)
        for (int64_t c = 0; c < d; ++c)
          full(active[static_cast<std::size_t>(a)], c) = g(a, c);
      for (std::size_t i = 0; i < p.size(); ++i)
        adamOracle(p[i], static_cast<double>(full.at[i]), m[i], v[i], rates.back(), t);
      Adam adam;
      adam.step = t;
      adam.rates = {&rates.back(), 1};
      expectOk(adamStep({dense.p.at.data(), features * d}, full.vec(),
                        {dense.m.at.data(), features * d}, {dense.v.at.data(), features * d},
                        adam));
      SparseGradient gradient;
      gradient.features = {active.data(), count};
      gradient.rows = g.mat();
      expectOk(adamFeatures(rows.view(), gradient, adam));
      FeatureWeights w = columns.view();
      w.p = atRest.mat();
      w.columns = true;
      expectOk(adamFeatures(w, gradient, adam));
      adam.rates = {rates.data(), t};
      expectOk(adamFeatures(lazy.view(true), gradient, adam));
      if (t == 12)
        expectOk(adamCatchUp(lazy.view(true), {}, true, adam));
    }
    columns.p = transposed(atRest);
    EXPECT_TRUE(rows == dense);
    EXPECT_TRUE(columns == dense);
    EXPECT_TRUE(lazy == dense);
    for (std::size_t i = 0; i < p.size(); ++i)
      ASSERT_NEAR(dense.p.at[i], p[i], 2e-6);
  }
}

TEST(TrainingAdam, ArgumentsAreChecked) {
  Weights w(4, 3, 12);
  const Weights before(4, 3, 12);
  const Floats g = normal(2, 3, 13);
  const double rate = 0.1;
  const auto run = [&](std::vector<int32_t> active, Adam adam) {
    adam.rates = {&rate, 1};
    SparseGradient gradient;
    gradient.features = {active.data(), static_cast<int64_t>(active.size())};
    gradient.rows = g.mat();
    return adamFeatures(w.view(), gradient, adam);
  };
  Adam bad;
  bad.step = 0;
  expectError(run({1, 2}, bad), Code::kInvalidArgument, "step >= 1");
  bad = {};
  bad.beta2 = 1;
  expectError(run({1, 2}, bad), Code::kInvalidArgument, "beta2 in [0, 1)");
  bad = {};
  bad.eps = 0;
  expectError(run({1, 2}, bad), Code::kInvalidArgument, "eps > 0");
  expectError(run({1, 4}, {}), Code::kFeatureRange, "got 4");
  expectError(run({1, 1}, {}), Code::kFeatureDuplicate, "1 twice");
  expectError(run({2, 1}, {}), Code::kInvalidArgument, "1 after 2");
  expectError(run({1}, {}), Code::kShapeMismatch, "gradient");
  EXPECT_TRUE(w == before);
}

TEST(TrainingRows, ProjectionIsOrthogonalAndLengthsAreOne) {
  Floats w = normal(50, 37, 14), g = normal(50, 37, 15);
  std::fill_n(w.mat().row(3), 37, 0.0f);
  const Floats before = g;
  std::vector<int32_t> all(50);
  for (std::size_t f = 0; f < 50; ++f)
    all[f] = static_cast<int32_t>(f);
  SparseGradient held;
  held.features = {all.data(), 50};
  held.rows = g.mat();
  double ahead = -1, squares = -1;
  expectOk(sumSquares(held, w.mat(), ahead));
  EXPECT_EQ(g.at, before.at);
  expectOk(projectRows(g.mat(), {all.data(), 50}, w.mat()));
  expectOk(sumSquares(held, {}, squares));
  EXPECT_EQ(ahead, squares);
  expectError(sumSquares(held, {before.at.data(), 50, 36}, ahead), Code::kShapeMismatch,
              "project of shape");
  expectOk(normalizeRows(w.mat(), {}, true));
  for (int64_t f = 0; f < 50; ++f) {
    double along = 0, length = 0;
    for (int64_t c = 0; c < 37; ++c) {
      along += static_cast<double>(g(f, c)) * w(f, c);
      length += static_cast<double>(w(f, c)) * w(f, c);
    }
    EXPECT_NEAR(along, 0, 1e-5);
    EXPECT_NEAR(length, f == 3 ? 0 : 1, 1e-6);
  }
  for (int64_t c = 0; c < 37; ++c)
    EXPECT_EQ(g(3, c), before(3, c));
}

TEST(TrainingSteps, DoNotDependOnThreads) {
  const Codes codes = randomCodes(90, 300, 9, 16);
  const Floats basis = normal(90, 70, 17);
  GroupedResult g;
  expectOk(group(codes.view(), 300, g));
  const double rate = 0.1;
  Adam adam;
  adam.rates = {&rate, 1};
  Weights one(300, 70, 18), many(300, 70, 18);
  double squares1 = 0, squares4 = 0;
  for (auto [threads, w, squares] :
       {std::tuple<int, Weights *, double *>{1, &one, &squares1}, {4, &many, &squares4}})
    withThreads(threads, [&, w = w, squares = squares] {
      FeatureWeights view = w->view();
      view.project = view.normalize = true;
      expectOk(adamFeatures(view, factored(g, codes, basis), adam));
      expectOk(sumSquares(factored(g, codes, basis), {}, *squares));
    });
  EXPECT_TRUE(one == many);
  EXPECT_EQ(squares1, squares4);
}

TEST(TrainingSignum, MovesByTheSignOfTheMomentum) {
  for (const int64_t d : {int64_t{1}, int64_t{19}}) {
    Weights w(5, d, 19), plain(5, d, 19);
    const Floats start = w.p, g = integers(2, d, 20);
    const std::vector<int32_t> active = {1, 4};
    SparseGradient gradient;
    gradient.features = {active.data(), 2};
    gradient.rows = g.mat();
    const Signum signum = {0.5, 0.75, 0, 2};
    expectOk(signumFeatures(w.view(), gradient, signum));
    FeatureWeights view = plain.view();
    view.m = {};
    expectOk(signumFeatures(view, gradient, {0.5, 0, 0, 1}));
    for (int64_t f = 0; f < 5; ++f)
      for (int64_t c = 0; c < d; ++c) {
        const float grad = f == 1 ? g(0, c) : f == 4 ? g(1, c) : 0.0f;
        const float sign = static_cast<float>((grad > 0) - (grad < 0));
        EXPECT_EQ(w.m(f, c), 0.25f * 2 * grad);
        EXPECT_EQ(w.p(f, c), start(f, c) - 0.5f * sign);
        EXPECT_EQ(plain.p(f, c), w.p(f, c));
      }
  }
}

TEST(TrainingSelect, AmongIsTheTopOfThoseFeatures) {
  const Floats x = integers(270, 9, 21), w = integers(9, 60, 22), b = integers(1, 60, 23);
  std::vector<int32_t> among;
  for (int32_t f = 2; f < 60; f += 4)
    among.push_back(f);
  Codes codes(270, 4);
  expectOk(encodeAmong({x.mat(), w.mat(), b.vec(), {}},
                       {among.data(), static_cast<int64_t>(among.size())}, codes.out()));
  for (int64_t r = 0; r < 270; ++r) {
    std::vector<std::pair<float, int32_t>> pre;
    for (const int32_t f : among) {
      float sum = b(0, f);
      for (int64_t i = 0; i < 9; ++i)
        sum += x(r, i) * w(i, f);
      pre.push_back({-sum, f});
    }
    std::sort(pre.begin(), pre.end());
    for (int64_t j = 0; j < 4; ++j) {
      ASSERT_EQ(codes.values(r, j), -pre[static_cast<std::size_t>(j)].first);
      ASSERT_EQ(codes.indices(r, j), pre[static_cast<std::size_t>(j)].second);
    }
  }
}

TEST(TrainingSelect, WindowReachesBelowZero) {
  // Pre-activations are x: -2 .. 2 in steps of 1 / 4; the window is |h - 1 / 4| < 1 / 2.
  Floats x(17, 1), w(1, 1);
  for (int64_t r = 0; r < 17; ++r)
    x(r, 0) = -2 + 0.25f * static_cast<float>(r);
  w(0, 0) = 1;
  const float theta[] = {0.25f};
  CsrResult csr;
  expectOk(encodeWindow({x.mat(), w.mat(), {}, {}}, {theta, 1}, 1.0, csr));
  int64_t seen = 0;
  for (int64_t r = 0; r < 17; ++r) {
    const bool held = csr.offsets[r + 1] > csr.offsets[r];
    if (x(r, 0) != -0.25f) { // which lies on the edge
      ASSERT_EQ(held, x(r, 0) > -0.25f);
    }
    if (held) {
      ASSERT_NEAR(csr.values[seen++], x(r, 0), 1e-6);
    }
  }
  expectError(encodeWindow({x.mat(), w.mat(), {}, {}}, {theta, 1}, 0.0, csr),
              Code::kInvalidArgument, "bandwidth > 0");
}

TEST(TrainingSelect, BatchKeepsTheLargestAndSaysWhenItCannotKnow) {
  Codes codes(3, 2);
  codes.values.at = {9, 8, 5, 0, 7, 7};
  codes.indices.at = {4, 1, 3, 0, 2, 0};
  CsrResult csr;
  bool exact = true;
  expectOk(batchSelect(codes.view(), 3, csr, exact));
  EXPECT_FALSE(exact); // row 0 may hold more
  EXPECT_EQ(copyOf(csr.values), (std::vector<float>{8, 9, 7}));
  EXPECT_EQ((std::vector<int32_t>(csr.indices.begin(), csr.indices.end())),
            (std::vector<int32_t>{1, 4, 2}));
  EXPECT_EQ((std::vector<int64_t>(csr.offsets.begin(), csr.offsets.end())),
            (std::vector<int64_t>{0, 2, 2, 3}));
  expectOk(batchSelect(codes.view(), 1, csr, exact));
  EXPECT_TRUE(exact);
  expectOk(batchSelect(codes.view(), 100, csr, exact));
  EXPECT_EQ(csr.values.size(), 5);
  expectError(batchSelect(codes.view(), -1, csr, exact), Code::kInvalidArgument, "total");
}

TEST(TrainingSelect, JumpReLUWindow) {
  const float h[] = {1.0f, 1.2f, 1.3f, 0.8f, 0.7f}, theta[] = {1.0f}, dF[] = {1, 1, 1, 1, 1},
              dS[] = {2, 2, 2, 2, 2};
  const int32_t indices[] = {0, 0, 0, 0, 0};
  float dH[5], dTheta[5];
  JumpReLU j = {{h, 5}, {indices, 5}, {theta, 1}, 0.5, false};
  expectOk(jumpreluGrad(j, {dF, 5}, {dS, 5}, {dH, 5}, {dTheta, 5}));
  const float wantH[] = {0, 1, 1, 0, 0}, wantTheta[] = {-6, -6, 0, -6, 0};
  for (int e = 0; e < 5; ++e) {
    EXPECT_EQ(dH[e], wantH[e]) << e;
    EXPECT_EQ(dTheta[e], wantTheta[e]) << e;
  }
  j.toInput = true;
  expectOk(jumpreluGrad(j, {dF, 5}, {}, {dH, 5}, {dTheta, 5}));
  EXPECT_EQ(dH[0], 2);
  j.eps = 0;
  expectError(jumpreluGrad(j, {dF, 5}, {}, {dH, 5}, {dTheta, 5}), Code::kInvalidArgument,
              "bandwidth > 0");
}

} // namespace
} // namespace iam::rt::test
