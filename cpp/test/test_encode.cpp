// Encoders against a float64 oracle with a derived bound, and against each other bit for bit.
#include "testing.h"

#include "iam/clt/activation.h"
#include "iam/clt/decode.h"
#include "iam/clt/encode.h"
#include "iam/core/pool.h"

#include <limits>
#include <numeric>

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
