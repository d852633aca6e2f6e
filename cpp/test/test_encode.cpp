// Encoders against a float64 oracle with a derived bound, and against each other bit for bit.
#include "testing.h"

#include "iam/clt/activation.h"
#include "iam/clt/decode.h"
#include "iam/clt/encode.h"
#include "iam/core/pool.h"

#include <functional>
#include <limits>
#include <numeric>
#include <utility>

namespace iam::rt::test {
namespace {

struct Problem {
  Problem(int64_t rows, int64_t depth, int64_t features, unsigned seed = 1, bool exact = false)
      : x(exact ? integers(rows, depth, seed) : normal(rows, depth, seed)),
        w(exact ? integers(depth, features, seed + 1) : normal(depth, features, seed + 1)),
        bias(exact ? integers(1, features, seed + 2) : normal(1, features, seed + 2)),
        center(exact ? integers(1, depth, seed + 3) : normal(1, depth, seed + 3)) {}
  Encoder view() const { return {x.mat(), w.mat(), bias.vec(), center.vec()}; }
  Encoder rows(int64_t begin, int64_t end) const {
    return {x.part(begin, end), w.mat(), bias.vec(), center.vec()};
  }
  Floats x, w, bias, center;
};

// The definition, in float64, and how far float32 may be from it: depth products and additions, the
// subtraction of b_dec and the addition of b_enc each round once; x86-64-v2 rounds products too.
struct Oracle {
  double value, tolerance;
};
Oracle oracle(const Problem &p, int64_t r, int64_t f) {
  double value = p.bias(0, f), magnitude = std::fabs(value);
  for (int64_t i = 0; i < p.x.cols; ++i) {
    const double term = (static_cast<double>(p.x(r, i)) - p.center(0, i)) * p.w(i, f);
    value += term;
    magnitude += std::fabs(term);
  }
  const double n = 2.0 * static_cast<double>(p.x.cols) + 3, u = 1.0 / 16777216;
  return {value, n * u / (1 - n * u) * magnitude};
}

// Rows and features that are not multiples of any tile; depths around the unrolling.
const int64_t kSizes[][3] = {
    {0, 3, 5},   {1, 1, 1},    {1, 3, 7},     {2, 5, 33},    {3, 4, 47},      {4, 9, 49}, {5, 7, 1},
    {7, 16, 96}, {9, 31, 130}, {17, 64, 385}, {33, 65, 500}, {257, 12, 1100}, {5, 0, 9}};

TEST(EncodeDense, MatchesFloat64WithinTheDerivedBound) {
  for (const auto &[rows, depth, features] : kSizes) {
    const Problem p(rows, depth, features);
    Floats pre(rows, features);
    expectOk(encodeDense(p.view(), pre.mat()));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t f = 0; f < features; ++f) {
        const Oracle o = oracle(p, r, f);
        ASSERT_NEAR(pre(r, f), o.value, o.tolerance) << rows << " " << depth << " " << features;
      }
  }
}

TEST(EncodeDense, BatchAndThreadsDoNotChangeABit) {
  const Problem p(37, 65, 391);
  Floats whole(37, 391), split(37, 391), single(37, 391);
  expectOk(encodeDense(p.view(), whole.mat()));
  for (int64_t r = 0; r < 37; ++r)
    expectOk(encodeDense(p.rows(r, r + 1), Mat<float>(&split(r, 0), 1, 391)));
  withThreads(1, [&] { expectOk(encodeDense(p.view(), single.mat())); });
  EXPECT_EQ(whole.at, split.at);
  EXPECT_EQ(whole.at, single.at);
}

// The definition of the result, applied to the dense pre-activations.
Codes absTopKOracle(const Floats &pre, int64_t k) {
  Codes codes(pre.rows, k);
  std::vector<int32_t> order(static_cast<std::size_t>(pre.cols));
  for (int64_t r = 0; r < pre.rows; ++r) {
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return std::fabs(pre(r, a)) > std::fabs(pre(r, b));
    });
    for (int64_t i = 0; i < k; ++i) {
      codes.indices(r, i) = order[static_cast<std::size_t>(i)];
      codes.values(r, i) = pre(r, codes.indices(r, i));
    }
  }
  return codes;
}

Codes topKOracle(const Floats &pre, int64_t k) {
  Codes codes(pre.rows, k);
  std::vector<int32_t> order(static_cast<std::size_t>(pre.cols));
  for (int64_t r = 0; r < pre.rows; ++r) {
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return pre(r, a) > pre(r, b); });
    for (int64_t i = 0; i < k; ++i) {
      codes.indices(r, i) = order[static_cast<std::size_t>(i)];
      codes.values(r, i) = std::max(0.0f, pre(r, codes.indices(r, i)));
    }
  }
  return codes;
}

void checkTopK(const Problem &p, int64_t k) {
  Floats pre(p.x.rows, p.w.cols);
  expectOk(encodeDense(p.view(), pre.mat()));
  Codes fused(p.x.rows, k), dense(p.x.rows, k);
  expectOk(encodeTopK(p.view(), fused.out()));
  expectOk(topK(pre.mat(), dense.out()));
  const Codes expected = topKOracle(pre, k);
  EXPECT_TRUE(fused == expected) << "fused, k = " << k << ", features = " << p.w.cols;
  EXPECT_TRUE(dense == expected) << "dense, k = " << k << ", features = " << p.w.cols;
  // What is hard for one search is hard for the other.
  const Codes signedOnes = absTopKOracle(pre, k);
  expectOk(encodeAbsTopK(p.view(), fused.out()));
  expectOk(absTopK(pre.mat(), dense.out()));
  EXPECT_TRUE(fused == signedOnes) << "fused, by magnitude, k = " << k << ", " << p.w.cols;
  EXPECT_TRUE(dense == signedOnes) << "dense, by magnitude, k = " << k << ", " << p.w.cols;
}

TEST(EncodeTopK, IsTheTopKOfTheDensePreActivationsBitForBit) {
  for (const auto &[rows, depth, features] : kSizes)
    for (const int64_t k : {int64_t(1), features / 3, features})
      if (k >= 1)
        checkTopK(Problem(rows, depth, features), k);
}

TEST(EncodeTopK, ManyTiesGoToTheLowestFeature) {
  for (const int64_t k : {1, 31, 200})
    checkTopK(Problem(21, 3, 1000, 5, true), k);
}

TEST(EncodeTopK, LongSearchesPruneWithoutLosingAnEntry) {
  checkTopK(Problem(9, 24, 9000), 32);
  Problem rising(6, 1,
                 6000); // each feature beats all before it: the worst case of the running threshold
  for (int64_t i = 0; i < 6; ++i)
    rising.x(i, 0) = 1;
  rising.center(0, 0) = 0;
  for (int64_t f = 0; f < 6000; ++f) {
    rising.w(0, f) = static_cast<float>(f) * 1.0009765f;
    rising.bias(0, f) = 0;
  }
  checkTopK(rising, 17);
}

TEST(EncodeTopK, EqualColumnsAndZeroRows) {
  Problem p(8, 33, 3000);
  for (int64_t i = 0; i < 33; ++i)
    for (int64_t f = 0; f < 3000; ++f)
      p.w(i, f) = 0.3f + static_cast<float>(i);
  std::fill(p.bias.at.begin(), p.bias.at.end(), 0.7f);
  for (int64_t i = 0; i < 33; ++i)
    p.x(3, i) = p.center(0, i);
  checkTopK(p, 5);
}

TEST(EncodeTopK, OutliersTinyAndHugeValues) {
  Problem outliers(12, 70, 2500);
  for (int64_t r = 0; r < 12; ++r)
    outliers.x(r, 7) = 3000;
  checkTopK(outliers, 20);
  for (const float scale : {1e-38f, 1e-30f, 1e-20f, 1e17f}) {
    Problem p(9, 40, 700);
    for (float &v : p.x.at)
      v *= scale;
    for (float &v : p.center.at)
      v = 0;
    for (float &v : p.bias.at)
      v *= scale;
    checkTopK(p, 9);
  }
}

TEST(EncodeTopK, BatchAndThreadsDoNotChangeABit) {
  const Problem p(41, 50, 1777);
  Codes whole(41, 13), split(41, 13), single(41, 13);
  expectOk(encodeTopK(p.view(), whole.out()));
  for (int64_t r = 0; r < 41; r += 3) { // 3 rows stream, 41 are tiled
    const int64_t end = std::min<int64_t>(41, r + 3);
    expectOk(encodeTopK(p.rows(r, end), {Mat<float>(&split.values(r, 0), end - r, 13),
                                         Mat<int32_t>(&split.indices(r, 0), end - r, 13)}));
  }
  withThreads(1, [&] { expectOk(encodeTopK(p.view(), single.out())); });
  EXPECT_TRUE(whole == split);
  EXPECT_TRUE(whole == single);
}

TEST(EncodeAbsTopK, BatchAndThreadsDoNotChangeABit) {
  const Problem p(171, 50, 1777);
  Codes whole(171, 13), split(171, 13), single(171, 13);
  expectOk(encodeAbsTopK(p.view(), whole.out()));
  for (int64_t r = 0; r < 171; r += 19) // 19 rows are not screened
    expectOk(encodeAbsTopK(p.rows(r, r + 19), {Mat<float>(&split.values(r, 0), 19, 13),
                                               Mat<int32_t>(&split.indices(r, 0), 19, 13)}));
  withThreads(1, [&] { expectOk(encodeAbsTopK(p.view(), single.out())); });
  EXPECT_TRUE(whole == split);
  EXPECT_TRUE(whole == single);
}

TEST(EncodeAbsTopK, OppositeValuesTieAndZerosAreZero) {
  Problem p(1, 1, 6);
  p.x(0, 0) = 1;
  p.center(0, 0) = 0;
  p.w.at = {-2, 0, 2, -2, -0.0f, 3};
  std::fill(p.bias.at.begin(), p.bias.at.end(), 0.0f);
  Codes codes(1, 6);
  expectOk(encodeAbsTopK(p.view(), codes.out()));
  EXPECT_EQ(codes.indices.at, (std::vector<int32_t>{5, 0, 2, 3, 1, 4}));
  EXPECT_EQ(codes.values.at, (std::vector<float>{3, -2, 2, -2, 0, 0}));
  EXPECT_FALSE(std::signbit(codes.values(0, 5)));
}

void checkGroupMax(const Problem &p, int64_t k) {
  Floats pre(p.x.rows, p.w.cols);
  expectOk(encodeDense(p.view(), pre.mat()));
  const int64_t width = p.w.cols / k;
  Codes fused(p.x.rows, k), dense(p.x.rows, k), expected(p.x.rows, k);
  for (int64_t r = 0; r < p.x.rows; ++r)
    for (int64_t g = 0; g < k; ++g) {
      const float *group = &pre(r, g * width);
      const auto best = static_cast<int32_t>(std::max_element(group, group + width) - group);
      expected.values(r, g) = std::max(0.0f, group[best]);
      expected.indices(r, g) = static_cast<int32_t>(g * width) + best;
    }
  expectOk(encodeGroupMax(p.view(), fused.out()));
  expectOk(groupMax(pre.mat(), dense.out()));
  EXPECT_TRUE(fused == expected) << "fused, k = " << k << ", features = " << p.w.cols;
  EXPECT_TRUE(dense == expected) << "dense, k = " << k << ", features = " << p.w.cols;
}

TEST(EncodeGroupMax, IsTheGroupMaxOfTheDensePreActivationsBitForBit) {
  for (const auto &[rows, depth, features] : kSizes)
    for (int64_t k = 1; k <= features; ++k)
      if (features % k == 0)
        checkGroupMax(Problem(rows, depth, features), k);
  for (const int64_t k : {1, 2, 4, 1500, 3000}) // groups of more than a chunk of columns
    checkGroupMax(Problem(300, 5, 3000), k);
}

TEST(EncodeGroupMax, TiesAndInfinities) {
  for (const int64_t k : {1, 8, 100, 500, 1000})
    checkGroupMax(Problem(21, 3, 1000, 5, true), k);
  Problem p(3, 2, 12);
  for (int64_t f = 0; f < 12; ++f)
    p.bias(0, f) = (f < 4 ? -1.0f : 1.0f) * std::numeric_limits<float>::infinity();
  for (const int64_t k : {3, 6, 12})
    checkGroupMax(p, k);
}

TEST(EncodeGroupMax, BatchAndThreadsDoNotChangeABit) {
  const Problem p(41, 50, 1770);
  Codes whole(41, 30), split(41, 30), single(41, 30);
  expectOk(encodeGroupMax(p.view(), whole.out()));
  for (int64_t r = 0; r < 41; ++r)
    expectOk(encodeGroupMax(p.rows(r, r + 1), {Mat<float>(&split.values(r, 0), 1, 30),
                                               Mat<int32_t>(&split.indices(r, 0), 1, 30)}));
  withThreads(1, [&] { expectOk(encodeGroupMax(p.view(), single.out())); });
  EXPECT_TRUE(whole == split);
  EXPECT_TRUE(whole == single);
}

TEST(EncodeGroupMax, NamesWhatItCannotTake) {
  Problem p(4, 3, 12);
  Codes five(4, 5), four(4, 4);
  expectError(encodeGroupMax(p.view(), five.out()), Code::kKRange,
              "expected k to be a divisor of 12 (features), got k=5");
  p.w(1, 7) = std::numeric_limits<float>::quiet_NaN();
  expectError(encodeGroupMax(p.view(), four.out()), Code::kNonFinite, "feature 7 in row");
  expectError(encodeAbsTopK(p.view(), four.out()), Code::kNonFinite, "feature 7 in row 0");
  p.x(2, 1) = std::numeric_limits<float>::infinity();
  expectError(encodeGroupMax(p.view(), four.out()), Code::kNonFinite, "at row 2, column 1");
}

TEST(EncodeTopK, MoreRowsThanABlock) { checkTopK(Problem(1100, 4, 60), 3); }

TEST(EncodeTopK, StridedRows) {
  const Problem p(10, 20, 300);
  Floats wide = normal(10, 27, 9), wWide = normal(20, 311, 10);
  for (int64_t r = 0; r < 10; ++r)
    for (int64_t i = 0; i < 20; ++i)
      wide(r, i) = p.x(r, i);
  for (int64_t i = 0; i < 20; ++i)
    for (int64_t f = 0; f < 300; ++f)
      wWide(i, f) = p.w(i, f);
  Codes a(10, 6), b(10, 6);
  expectOk(encodeTopK(p.view(), a.out()));
  expectOk(
      encodeTopK({Mat<const float>(wide.at.data(), 10, 20, 27),
                  Mat<const float>(wWide.at.data(), 20, 300, 311), p.bias.vec(), p.center.vec()},
                 b.out()));
  EXPECT_TRUE(a == b);
}

// Levels that screen do so from 9 (bfloat16), 32 or 144 (int16) rows on, so these have more.
// Screening must not show: the result is that of the dense float32 sums, bit for bit.
constexpr int64_t kScreened = 150;

// No bias and no b_dec.
Problem bare(int64_t depth, int64_t features, unsigned seed, int64_t rows = kScreened) {
  Problem p(rows, depth, features, seed);
  std::fill(p.bias.at.begin(), p.bias.at.end(), 0.0f);
  std::fill(p.center.at.begin(), p.center.at.end(), 0.0f);
  return p;
}

TEST(ScreenedTopK, AnySizeAndK) {
  for (const auto &[depth, features] : {std::pair<int64_t, int64_t>{0, 9},
                                        {1, 1},
                                        {1, 50},
                                        {2, 17},
                                        {3, 385},
                                        {31, 1000},
                                        {64, 1537},
                                        {129, 400}})
    for (const int64_t k : {int64_t(1), features / 2, features})
      if (k >= 1)
        checkTopK(Problem(kScreened, depth, features, 21), k);
}

TEST(ScreenedTopK, AgreesWithFloat64) {
  const Problem p(kScreened, 96, 3001, 22);
  Codes codes(kScreened, 16);
  expectOk(encodeTopK(p.view(), codes.out()));
  for (int64_t r = 0; r < kScreened; r += 7) {
    std::vector<double> least;
    for (int64_t f = 0; f < 3001; ++f) {
      const Oracle o = oracle(p, r, f);
      least.push_back(o.value - o.tolerance);
    }
    std::nth_element(least.begin(), least.begin() + 15, least.end(), std::greater<>());
    for (int64_t i = 0; i < 16; ++i) {
      const Oracle o = oracle(p, r, codes.indices(r, i));
      ASSERT_NEAR(codes.values(r, i), o.value, o.tolerance);
      ASSERT_GE(o.value + o.tolerance, least[15]) << "not among the largest";
    }
  }
}

TEST(ScreenedTopK, NearTiesFarBelowTheBound) {
  for (const float step : {0.0f, 1e-7f, 1e-6f, 1e-5f, 1e-3f}) { // relative to the columns
    Problem p = bare(40, 1200, 23);
    for (int64_t i = 0; i < 40; ++i)
      for (int64_t f = 0; f < 1200; ++f)
        p.w(i, f) = p.w(i, f % 60) * (1 + step * static_cast<float>((f * 7919) % 20));
    checkTopK(p, 32);
  }
}

TEST(ScreenedTopK, EqualColumnsFallBackToFloat32) {
  Problem p = bare(64, 2000, 24);
  for (int64_t i = 0; i < 64; ++i)
    for (int64_t f = 0; f < 2000; ++f)
      p.w(i, f) = 0.1f * static_cast<float>(i + 1);
  checkTopK(p, 1);
  checkTopK(p, 40);
}

TEST(ScreenedTopK, RoundingErrorsThatAllPointOneWay) {
  // After scaling, every entry of x lies halfway between two integers, and all products have one
  // sign: the error is as large as the bound allows. The columns differ by less than that.
  for (const float fraction : {0.5f, 0.49f, 0.51f}) {
    Problem p = bare(64, 900, 25);
    for (int64_t r = 0; r < kScreened; ++r)
      for (int64_t i = 0; i < 64; ++i)
        p.x(r, i) = static_cast<float>(2900 + (r * 13 + i) % 7) + fraction;
    for (int64_t i = 0; i < 64; ++i)
      for (int64_t f = 0; f < 900; ++f)
        p.w(i, f) = (2800 + fraction + 0.01f * static_cast<float>((f * 331) % 97)) * 0.125f;
    checkTopK(p, 12);
  }
}

TEST(ScreenedTopK, RowsAndColumnsOfVeryDifferentScale) {
  Problem p = bare(48, 1100, 26);
  for (int64_t r = 0; r < kScreened; ++r)
    for (int64_t i = 0; i < 48; ++i)
      p.x(r, i) *= std::ldexp(1.0f, static_cast<int>(r % 61) - 30);
  for (int64_t i = 0; i < 48; ++i)
    for (int64_t f = 0; f < 1100; ++f)
      p.w(i, f) *= std::ldexp(1.0f, static_cast<int>(f % 81) - 40 + static_cast<int>(i % 5));
  checkTopK(p, 20);
  for (int64_t f = 0; f < 1100; ++f) // biases that cancel the sums, or drown them
    p.bias(0, f) = std::ldexp(f % 2 ? 1.0f : -1.0f, static_cast<int>(f % 90) - 45);
  checkTopK(p, 20);
}

TEST(ScreenedTopK, Outliers) {
  Problem p = bare(70, 2500, 27);
  for (int64_t r = 0; r < kScreened; ++r)
    p.x(r, 7) = r % 3 ? 3000.0f : -1e6f;
  for (int64_t f = 0; f < 2500; f += 5)
    p.w(f % 70, f) = 500;
  checkTopK(p, 20);
}

TEST(ScreenedTopK, DenormalsAndZeros) {
  for (const auto &[xScale, wScale] : {std::pair<float, float>{1e-40f, 1.0f},
                                       {1.0f, 1e-40f},
                                       {1e-22f, 1e-22f},
                                       {1e-40f, 1e37f},
                                       {1e30f, 1e-41f}}) {
    Problem p = bare(33, 800, 28);
    for (float &v : p.x.at)
      v *= xScale;
    for (float &v : p.w.at)
      v *= wScale;
    for (int64_t i = 0; i < 33; ++i) {
      p.x(5, i) = 0; // the bias alone decides
      for (int64_t f = 100; f < 120; ++f)
        p.w(i, f) = 0;
    }
    checkTopK(p, 9);
    p.bias = normal(1, 800, 29, 1e-3f);
    checkTopK(p, 9);
  }
}

TEST(ScreenedTopK, NearOverflow) {
  for (const float scale : {1e18f, 1e19f, 3e19f}) { // |x| |w| around and above the largest float
    Problem p = bare(30, 600, 30);
    for (int64_t r = 0; r < kScreened; r += 2) // the other rows are as usual
      for (int64_t i = 0; i < 30; ++i)
        p.x(r, i) = std::fabs(p.x(r, i)) * scale;
    for (int64_t i = 0; i < 30; ++i)
      for (int64_t f = 0; f < 600; ++f)
        p.w(i, f) = std::fabs(p.w(i, f)) * (f % 3 ? 1.0f : scale);
    checkTopK(p, 10); // infinities tie, and go to the lowest feature
  }
  Problem huge = bare(5, 300, 31);
  for (float &v : huge.x.at)
    v = std::fabs(v) < 1e-3f ? 1e30f : std::fabs(v) * 1e37f;
  for (float &v : huge.w.at)
    v = std::fabs(v) * 1e-3f;
  checkTopK(huge, 4);
}

TEST(ScreenedTopK, InfiniteWeightsAndBiases) {
  Problem p = bare(12, 500, 32);
  for (float &v : p.x.at)
    v = std::fabs(v) + 0.01f;
  for (int64_t i = 0; i < 12; ++i) {
    p.w(i, 41) = std::numeric_limits<float>::infinity();
    p.w(i, 42) = -std::numeric_limits<float>::infinity();
  }
  p.bias(0, 77) = std::numeric_limits<float>::infinity();
  p.bias(0, 78) = -std::numeric_limits<float>::infinity();
  checkTopK(p, 6);
  checkTopK(p, 500);
}

// Depths 1 and 2, where Cauchy-Schwarz is an equality, so that each term of the bound is needed in
// full: int16 keeps 15 bits of values near 1, and these differ in the bits after that. Rounding
// alone would keep their order; the biases, as small, mix it.
TEST(ScreenedTopK, OnlyTheErrorOfTheWeightsDecides) {
  for (const int64_t features : {200, 2000}) {
    Problem p = bare(1, features, 36);
    for (int64_t r = 0; r < kScreened; ++r)
      p.x(r, 0) = std::ldexp(1.0f, static_cast<int>(r % 9) - 4);
    for (int64_t f = 0; f < features; ++f)
      p.w(0, f) = 1 + 3e-4f * std::fabs(p.w(0, f));
    p.bias = normal(1, features, 39, 1e-4f);
    for (const int64_t k : {1, 3, 50})
      checkTopK(p, k);
  }
}

TEST(ScreenedTopK, OnlyTheErrorOfTheRowDecides) {
  Problem p = bare(2, 512, 37);
  for (int64_t r = 0; r < kScreened; ++r)
    for (int64_t i = 0; i < 2; ++i)
      p.x(r, i) = 1 + 2.5e-5f * p.x(r, i);
  for (int64_t f = 0; f < 512; ++f) { // exact in int16, with sums that are nearly equal
    p.w(0, f) = static_cast<float>((f * 199) % 512);
    p.w(1, f) = 512 - p.w(0, f);
  }
  p.bias = normal(1, 512, 40, 2e-3f);
  for (const int64_t k : {1, 7})
    checkTopK(p, k);
}

TEST(ScreenedTopK, SumsThatOverflowOnTheWay) {
  Problem p = bare(3, 300, 38);
  std::fill(p.x.at.begin(), p.x.at.end(), 1e19f);
  for (int64_t f = 0; f < 300; ++f) {
    const float big = 3e19f; // two of these overflow, the third does not bring that back
    p.w(0, f) = f == 205 ? big : 3.2e19f - 1e16f * static_cast<float>(f);
    p.w(1, f) = f == 205 ? big : 0.0f;
    p.w(2, f) = f == 205 ? -big : 0.0f;
  }
  checkTopK(p, 1);
  checkTopK(p, 5);
}

TEST(ScreenedTopK, WhatIsNotFiniteIsNamed) {
  Problem p(kScreened, 37, 600, 33);
  p.w(5, 77) = std::numeric_limits<float>::quiet_NaN();
  Codes codes(kScreened, 3);
  expectError(encodeTopK(p.view(), codes.out()), Code::kNonFinite, "feature 77 in row 0");
  p.w(5, 77) = 0;
  p.bias(0, 599) = std::numeric_limits<float>::quiet_NaN();
  expectError(encodeTopK(p.view(), codes.out()), Code::kNonFinite, "feature 599 in row 0");
  p.bias(0, 599) = 0;
  p.x(140, 36) = -std::numeric_limits<float>::infinity();
  expectError(encodeTopK(p.view(), codes.out()), Code::kNonFinite, "at row 140, column 36");
}

TEST(ScreenedTopK, BatchAndThreadsDoNotChangeABit) {
  const Problem p(2 * kScreened, 50, 1777, 34);
  const int64_t rows = 2 * kScreened;
  Codes whole(rows, 13), split(rows, 13), single(rows, 13);
  expectOk(encodeTopK(p.view(), whole.out()));
  // Streamed, tiled and screened parts.
  for (const auto &[begin, end] :
       {std::pair<int64_t, int64_t>{0, 1}, {1, 9}, {9, 40}, {40, 290}, {290, 300}})
    expectOk(
        encodeTopK(p.rows(begin, end), {Mat<float>(&split.values(begin, 0), end - begin, 13),
                                        Mat<int32_t>(&split.indices(begin, 0), end - begin, 13)}));
  withThreads(1, [&] { expectOk(encodeTopK(p.view(), single.out())); });
  EXPECT_TRUE(whole == split);
  EXPECT_TRUE(whole == single);
}

TEST(Encode, FewRowsOfAWideDictionary) { // longer than one run of the stream
  for (const int64_t rows : {1, 2, 3, 8, 9})
    for (const int64_t depth : {7, 8, 41})
      checkTopK(Problem(rows, depth, 9001, 35), 5);
}

TEST(EncodeThreshold, IsTheThresholdOfTheDensePreActivations) {
  for (const auto &[rows, depth, features] : kSizes) {
    const Problem p(rows, depth, features, 3,
                    depth < 10); // integers: values equal to a threshold occur
    const Floats theta = integers(1, features, 11);
    Floats pre(rows, features), fused(rows, features);
    expectOk(encodeDense(p.view(), pre.mat()));
    for (const bool jump : {false, true}) {
      CsrResult codes;
      expectOk(encodeThreshold(p.view(), jump ? theta.vec() : Vec<const float>(), codes));
      expectOk(densify(codes.view(), fused.mat()));
      int64_t nnz = 0;
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t f = 0; f < features; ++f) {
          const bool on = pre(r, f) > 0 && (!jump || pre(r, f) > theta(0, f));
          nnz += on;
          ASSERT_EQ(fused(r, f), on ? pre(r, f) : 0.0f);
        }
      EXPECT_EQ(nnz, codes.values.size());
      for (int64_t r = 0; r < rows; ++r)
        EXPECT_TRUE(std::is_sorted(codes.indices.data() + codes.offsets[r],
                                   codes.indices.data() + codes.offsets[r + 1]));
    }
  }
}

TEST(EncodeThresholdOnly, IsEncodeThresholdOfTheseFeatures) {
  for (const auto &[rows, depth, features] : kSizes) {
    const Problem p(rows, depth, features, 3, depth < 10);
    const Floats theta = integers(1, features, 11);
    Floats all(rows, features), some(rows, features);
    for (const int32_t step : {1, 2, 7, 1000}) {
      std::vector<int32_t> only; // the first feature always, the last with step 1
      for (int32_t f = 0; f < features; f += step)
        only.push_back(f);
      for (const bool jump : {false, true}) {
        const Vec<const float> limits = jump ? theta.vec() : Vec<const float>();
        CsrResult full, codes;
        expectOk(encodeThreshold(p.view(), limits, full));
        expectOk(encodeThresholdOnly(p.view(), limits,
                                     {only.data(), static_cast<int64_t>(only.size())}, codes));
        expectOk(densify(full.view(), all.mat()));
        expectOk(densify(codes.view(), some.mat()));
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t f = 0; f < features; ++f)
            ASSERT_EQ(some(r, f), f % step == 0 ? all(r, f) : 0.0f);
          EXPECT_TRUE(std::is_sorted(codes.indices.data() + codes.offsets[r],
                                     codes.indices.data() + codes.offsets[r + 1]));
        }
      }
    }
  }
}

TEST(EncodeThresholdOnly, FeaturesAreChecked) {
  Problem p(4, 6, 10);
  CsrResult codes;
  const auto with = [&](std::vector<int32_t> only) {
    return encodeThresholdOnly(p.view(), {}, {only.data(), static_cast<int64_t>(only.size())},
                               codes);
  };
  expectError(with({}), Code::kInvalidArgument, "expected at least one feature");
  expectError(with({3, 10}), Code::kFeatureRange, "expected features in 0..9, got 10");
  expectError(with({-1}), Code::kFeatureRange, "got -1");
  expectError(with({3, 3}), Code::kInvalidArgument, "got 3 after 3");
  expectError(with({5, 2}), Code::kInvalidArgument, "got 2 after 5");
  p.w(5, 7) = std::numeric_limits<float>::quiet_NaN();
  expectOk(with({6, 8}));
  expectError(with({6, 7}), Code::kNonFinite, "feature 7 in row");
  p.x(1, 5) = std::numeric_limits<float>::infinity();
  expectError(with({6, 8}), Code::kNonFinite, "at row 1, column 5");
}

TEST(EncodeGate, IsTheGateOfTwoDenseEncodes) {
  for (const auto &[rows, depth, features] : kSizes)
    for (const float bias : {0.0f, -4.0f, -60.0f}) { // many gates open, few, none
      Problem p(rows, depth, features, 3, depth < 10);
      const Problem m(rows, depth, features, 8, depth < 10);
      for (int64_t f = 0; f < features; ++f)
        p.bias(0, f) += bias;
      const Encoder magnitude = {p.x.mat(), m.w.mat(), m.bias.vec(), p.center.vec()};
      Floats gates(rows, features), sizes(rows, features), found(rows, features);
      expectOk(encodeDense(p.view(), gates.mat()));
      expectOk(encodeDense(magnitude, sizes.mat()));
      for (const int32_t step : {1, 3, 1000}) {
        std::vector<int32_t> only;
        for (int32_t f = 0; step > 1 && f < features; f += step)
          only.push_back(f);
        CsrResult codes;
        expectOk(encodeGate(p.view(), m.w.mat(), m.bias.vec(),
                            {only.data(), static_cast<int64_t>(only.size())}, codes));
        expectOk(densify(codes.view(), found.mat()));
        int64_t nnz = 0;
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t f = 0; f < features; ++f) {
            const bool on = f % step == 0 && gates(r, f) > 0 && sizes(r, f) > 0;
            nnz += on;
            ASSERT_EQ(found(r, f), on ? sizes(r, f) : 0.0f);
          }
        EXPECT_EQ(nnz, codes.values.size());
      }
    }
}

TEST(EncodeGate, NanIsNamed) {
  Problem p(40, 37, 600);
  Problem m(40, 37, 600, 8);
  m.w(5, 77) = std::numeric_limits<float>::quiet_NaN();
  CsrResult codes;
  const auto run = [&] { return encodeGate(p.view(), m.w.mat(), m.bias.vec(), {}, codes); };
  expectError(run(), Code::kNonFinite, "the magnitude of feature 77 in row");
  p.bias(0, 77) = -std::numeric_limits<float>::infinity(); // closed: nobody asks
  expectOk(run());
  p.w(5, 78) = std::numeric_limits<float>::quiet_NaN();
  expectError(run(), Code::kNonFinite, "the pre-activation of feature 78 in row");
  const Floats narrow = normal(37, 599, 1), shortBias = normal(1, 599, 1);
  expectError(encodeGate(p.view(), narrow.mat(), {}, {}, codes), Code::kShapeMismatch,
              "expected W_mag of shape [37, 600], got [37, 599]");
  expectError(encodeGate(p.view(), m.w.mat(), shortBias.vec(), {}, codes), Code::kShapeMismatch,
              "expected b_mag of shape [600]");
}

TEST(EncodeBatchTopK, IsBatchTopKOfTheDensePreActivations) {
  const int64_t sizes[][3] = {{0, 3, 5}, {1, 1, 1}, {5, 7, 33}, {1500, 3, 40}, {2100, 5, 21000}};
  for (const auto &[rows, depth, features] : sizes)
    for (const bool exact : {false, true}) { // integers: ties everywhere, across blocks, too
      if (rows * features > 10000000 && !exact)
        continue;
      const Problem p(rows, depth, features, 3, exact);
      Floats pre(rows, features);
      expectOk(encodeDense(p.view(), pre.mat()));
      for (const int64_t k : {int64_t{1}, std::min<int64_t>(features, 3), features}) {
        CsrResult expected, codes;
        expectOk(batchTopK(pre.mat(), k, expected));
        expectOk(encodeBatchTopK(p.view(), k, codes));
        ASSERT_EQ(codes.values.size(), expected.values.size());
        EXPECT_TRUE(std::equal(codes.values.begin(), codes.values.end(), expected.values.begin()));
        EXPECT_TRUE(
            std::equal(codes.indices.begin(), codes.indices.end(), expected.indices.begin()));
        EXPECT_TRUE(
            std::equal(codes.offsets.begin(), codes.offsets.end(), expected.offsets.begin()));
      }
    }
}

TEST(EncodeBatchTopK, ErrorsNameTheRowOfTheBatch) {
  Problem p(600, 4, 12);
  CsrResult codes;
  expectError(encodeBatchTopK(p.view(), 13, codes), Code::kKRange, "expected k in 1..12");
  expectError(encodeBatchTopK(p.view(), 0, codes), Code::kKRange, "got k=0");
  p.x(599, 2) = std::numeric_limits<float>::infinity();
  expectError(encodeBatchTopK(p.view(), 2, codes), Code::kNonFinite, "at row 599, column 2");
}

TEST(Encode, NonFiniteInputIsNamed) {
  for (const int64_t rows : {2, 40})
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
          -std::numeric_limits<float>::infinity()}) {
      Problem p(rows, 37, 60);
      p.x(1, 36) = bad;
      Codes codes(rows, 3);
      Floats pre(rows, 60);
      CsrResult csr;
      expectError(encodeTopK(p.view(), codes.out()), Code::kNonFinite, "at row 1, column 36");
      expectError(encodeDense(p.view(), pre.mat()), Code::kNonFinite, "at row 1, column 36");
      expectError(encodeThreshold(p.view(), {}, csr), Code::kNonFinite, "at row 1, column 36");
    }
}

TEST(Encode, NanWeightIsNamed) {
  for (const int64_t rows : {2, 40}) {
    Problem p(rows, 37, 600);
    p.w(5, 77) = std::numeric_limits<float>::quiet_NaN();
    Codes codes(rows, 3);
    CsrResult csr;
    expectError(encodeTopK(p.view(), codes.out()), Code::kNonFinite, "feature 77 in row 0");
    expectError(encodeThreshold(p.view(), {}, csr), Code::kNonFinite, "feature 77");
  }
}

TEST(Encode, ShapesAreChecked) {
  const Problem p(4, 6, 10);
  Codes codes(4, 3), tooMany(4, 11), none(4, 0);
  Floats pre(4, 9);
  const Floats narrow = normal(6, 9, 1), shortW = normal(5, 10, 1);
  expectError(encodeTopK(p.view(), tooMany.out()), Code::kKRange,
              "expected k in 1..10 (features), got k=11");
  expectError(encodeTopK(p.view(), none.out()), Code::kKRange, "got k=0");
  expectError(encodeTopK({p.x.mat(), shortW.mat(), p.bias.vec(), {}}, codes.out()),
              Code::kShapeMismatch, "W_enc");
  expectError(encodeTopK({p.x.mat(), narrow.mat(), p.bias.vec(), {}}, codes.out()),
              Code::kShapeMismatch, "b_enc");
  expectError(encodeTopK({p.x.mat(), p.w.mat(), p.bias.vec(), p.bias.vec()}, codes.out()),
              Code::kShapeMismatch, "b_dec");
  expectError(encodeDense(p.view(), pre.mat()), Code::kShapeMismatch,
              "expected pre of shape [4, 10], got [4, 9]");
}

TEST(EncodeTopK, MemoryDoesNotGrowWithTheDictionary) {
  const Problem p(64, 32, 20000);
  Codes codes(64, 8);
  pool::resetPeak();
  const uint64_t before = pool::stats().bytesInUse;
  expectOk(encodeTopK(p.view(), codes.out()));
  EXPECT_LT(pool::stats().peakBytes - before, 64u * 20000u * sizeof(float))
      << "room for a dense [rows, features]";
}

} // namespace
} // namespace iam::rt::test
