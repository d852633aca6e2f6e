#include "testing.h"

#include "iam/clt/activation.h"
#include "iam/clt/decode.h"

namespace iam::rt::test {
namespace {

TEST(Decode, MatchesTheDenseProduct) {
  for (const auto &[rows, features, d] :
       {std::tuple<int64_t, int64_t, int64_t>{0, 5, 3}, {1, 1, 1}, {9, 100, 37}, {40, 64, 16}}) {
    const Floats pre = integers(rows, features, 1), w = integers(features, d, 2),
                 b = integers(1, d, 3);
    CsrResult csr;
    expectOk(threshold(pre.mat(), {}, csr));
    Codes fixed(rows, features);
    expectOk(topK(pre.mat(), fixed.out()));
    Floats y(rows, d), z(rows, d);
    expectOk(decode(csr.view(), w.mat(), b.vec(), y.mat()));
    expectOk(decode(fixed.view(), w.mat(), b.vec(), z.mat()));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < d; ++c) {
        float sum = b(0, c); // integers: exact in any order
        for (int64_t f = 0; f < features; ++f)
          sum += std::max(0.0f, pre(r, f)) * w(f, c);
        ASSERT_EQ(y(r, c), sum);
        ASSERT_EQ(z(r, c), sum);
      }
  }
}

TEST(Decode, IndicesOutsideTheDictionaryAreErrors) {
  const Floats w = normal(10, 4, 1);
  Floats y(2, 4), dense(2, 10);
  for (const int32_t bad : {-1, 10, 1 << 30}) {
    Codes codes(2, 3);
    std::fill(codes.values.at.begin(), codes.values.at.end(), 1.0f);
    codes.indices(1, 2) = bad;
    expectError(decode(codes.view(), w.mat(), {}, y.mat()), Code::kFeatureRange, "in row 1");
    expectError(densify(codes.view(), dense.mat()), Code::kFeatureRange, std::to_string(bad));
    codes.values(1, 2) = 0; // padding
    expectOk(decode(codes.view(), w.mat(), {}, y.mat()));
  }
}

TEST(Decode, OffsetsAreChecked) {
  const Floats w = normal(10, 4, 1);
  Floats y(2, 4);
  const float values[] = {1, 2};
  const int32_t indices[] = {0, 1};
  for (const std::vector<int64_t> &offsets :
       {std::vector<int64_t>{0, 3, 2}, {1, 1, 2}, {0, 1, 3}, {0, -1, 2}, {}})
    EXPECT_FALSE(decode(CsrCodes{{values, 2},
                                 {indices, 2},
                                 {offsets.data(), static_cast<int64_t>(offsets.size())}},
                        w.mat(), {}, y.mat())
                     .ok());
}

TEST(Residual, AddsInputOrSkip) {
  const Floats y = integers(13, 40, 1), x = integers(13, 21, 2), w = integers(21, 40, 3);
  Floats z(13, 40);
  expectOk(residual(y.mat(), x.mat(), w.mat(), z.mat()));
  for (int64_t r = 0; r < 13; ++r)
    for (int64_t c = 0; c < 40; ++c) {
      float sum = y(r, c);
      for (int64_t i = 0; i < 21; ++i)
        sum += x(r, i) * w(i, c);
      ASSERT_EQ(z(r, c), sum);
    }
  expectError(residual(y.mat(), x.mat(), {}, z.mat()), Code::kShapeMismatch,
              "expected x of shape [13, 40]");
  Floats same = y;
  expectOk(residual(same.mat(), y.mat(), {}, same.mat())); // in place
  for (std::size_t i = 0; i < y.at.size(); ++i)
    EXPECT_EQ(same.at[i], 2 * y.at[i]);
}

} // namespace
} // namespace iam::rt::test
