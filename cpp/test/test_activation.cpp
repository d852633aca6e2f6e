#include "testing.h"

#include "iam/clt/activation.h"
#include "iam/clt/decode.h"

#include <limits>

namespace iam::rt::test {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// Oracle: the definition. f survives iff fewer than k entries beat it.
float topKOracle(const Floats &pre, int64_t k, int64_t r, int64_t f) {
  int64_t beatenBy = 0;
  for (int64_t g = 0; g < pre.cols; ++g)
    beatenBy += pre(r, g) > pre(r, f) || (pre(r, g) == pre(r, f) && g < f);
  return beatenBy < k ? std::max(0.0f, pre(r, f)) : 0.0f;
}

TEST(TopK, MatchesTheDefinition) {
  for (const int64_t features : {1, 2, 15, 16, 17, 100, 333})
    for (const int64_t k : {int64_t(1), (features + 1) / 2, features})
      for (const bool ties : {false, true}) {
        const Floats pre = ties ? integers(5, features, 1) : normal(5, features, 1);
        Codes codes(5, k);
        Floats dense(5, features);
        expectOk(topK(pre.mat(), codes.out()));
        expectOk(densify(codes.view(), dense.mat()));
        for (int64_t r = 0; r < 5; ++r) {
          for (int64_t f = 0; f < features; ++f)
            ASSERT_EQ(dense(r, f), topKOracle(pre, k, r, f)) << features << " " << k;
          for (int64_t i = 1; i < k; ++i) {
            const float before = pre(r, codes.indices(r, i - 1)),
                        here = pre(r, codes.indices(r, i));
            ASSERT_TRUE(before > here ||
                        (before == here && codes.indices(r, i - 1) < codes.indices(r, i)));
          }
        }
      }
}

TEST(TopK, InfinitiesHaveAnOrderAndNanHasNone) {
  Floats pre = normal(2, 40, 1);
  pre(0, 30) = kInf;
  pre(0, 3) = -kInf;
  Codes codes(2, 40);
  expectOk(topK(pre.mat(), codes.out()));
  EXPECT_EQ(codes.indices(0, 0), 30);
  EXPECT_EQ(codes.indices(0, 39), 3);
  pre(1, 39) = std::nanf("");
  expectError(topK(pre.mat(), codes.out()), Code::kNonFinite, "at row 1, column 39");
  Codes wide(2, 41);
  expectError(topK(pre.mat(), wide.out()), Code::kKRange, "got k=41");
}

TEST(GroupMax, NanAndGroupsThatDoNotFit) {
  Floats pre = normal(3, 12, 1);
  Codes four(3, 4), five(3, 5);
  expectOk(groupMax(pre.mat(), four.out()));
  expectError(groupMax(pre.mat(), five.out()), Code::kKRange, "divisor of 12 (features), got k=5");
  pre(2, 11) = std::nanf("");
  expectError(groupMax(pre.mat(), four.out()), Code::kNonFinite, "at row 2, column 11");
  expectError(absTopK(pre.mat(), four.out()), Code::kNonFinite, "at row 2, column 11");
}

TEST(Threshold, StrictlyAbove) {
  Floats pre(1, 5), theta(1, 5);
  pre.at = {1, 2, -1, 0, 3};
  theta.at = {1, 1, -2, -1, kInf};
  CsrResult codes;
  expectOk(threshold(pre.mat(), theta.vec(), codes));
  ASSERT_EQ(codes.values.size(), 1);
  EXPECT_EQ(codes.indices[0], 1);
  expectOk(threshold(pre.mat(), {}, codes));
  EXPECT_EQ(codes.values.size(), 3);
  pre.at[2] = std::nanf("");
  expectError(threshold(pre.mat(), {}, codes), Code::kNonFinite, "column 2");
  expectError(threshold(pre.mat(), Vec<const float>(theta.at.data(), 4), codes),
              Code::kShapeMismatch, "threshold");
}

TEST(BatchTopK, MatchesTheDefinition) {
  for (const bool ties : {false, true})
    for (const int64_t k : {1, 3, 20, 50}) {
      const Floats pre = ties ? integers(7, 50, 3) : normal(7, 50, 3);
      CsrResult codes;
      Floats dense(7, 50);
      expectOk(batchTopK(pre.mat(), k, codes));
      expectOk(densify(codes.view(), dense.mat()));
      for (std::size_t i = 0; i < pre.at.size(); ++i) {
        int64_t beatenBy = 0;
        for (std::size_t j = 0; j < pre.at.size(); ++j)
          beatenBy += pre.at[j] > pre.at[i] || (pre.at[j] == pre.at[i] && j < i);
        ASSERT_EQ(dense.at[i], beatenBy < 7 * k ? std::max(0.0f, pre.at[i]) : 0.0f);
      }
    }
  CsrResult codes;
  expectError(batchTopK(normal(2, 5, 1).mat(), 6, codes), Code::kKRange, "got k=6");
}

TEST(Gate, MatchesTheDefinition) {
  const Floats g = integers(4, 37, 1), m = integers(4, 37, 2);
  CsrResult codes;
  Floats dense(4, 37);
  expectOk(gate(g.mat(), m.mat(), codes));
  expectOk(densify(codes.view(), dense.mat()));
  for (std::size_t i = 0; i < g.at.size(); ++i)
    EXPECT_EQ(dense.at[i], g.at[i] > 0 && m.at[i] > 0 ? m.at[i] : 0.0f);
  Floats bad = m;
  bad(3, 36) = std::nanf("");
  expectError(gate(g.mat(), bad.mat(), codes), Code::kNonFinite, "magnitude_pre");
}

} // namespace
} // namespace iam::rt::test
