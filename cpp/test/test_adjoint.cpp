#include "testing.h"

#include "iam/attribution/adjoint.h"
#include "iam/clt/activation.h"
#include "iam/clt/decode.h"

#include <limits>

namespace iam::rt::test {
namespace {

constexpr int64_t kFeatures = 20, kK = 5, kWidth = 7;

// Small integers throughout: results are exact.
struct Both : BothForms {
  explicit Both(int64_t rows, unsigned seed = 4) : BothForms(rows, kFeatures, kK, seed, 4) {}
};

Floats dense(const Codes &codes) {
  Floats out(codes.values.rows, kFeatures);
  expectOk(densify(codes.view(), out.mat()));
  return out;
}
Floats dense(const CsrResult &codes, int64_t rows) {
  Floats out(rows, kFeatures);
  expectOk(densify(codes.view(), out.mat()));
  return out;
}

// Oracle: df where f is active, else 0.
template <typename Value> Floats whereActive(const Floats &f, Value &&value) {
  Floats out(f.rows, f.cols);
  for (int64_t r = 0; r < f.rows; ++r)
    for (int64_t c = 0; c < f.cols; ++c)
      out(r, c) = f(r, c) == 0 ? 0.0f : value(r, c);
  return out;
}

TEST(DecodeAdjoint, IsTheProductAtActiveFeatures) {
  for (const int64_t rows : {0, 1, 9}) {
    const Both codes(rows);
    const Floats w = integers(kFeatures, kWidth, 2), dy = integers(rows, kWidth, 3);
    const auto product = [&](int64_t r, int64_t c) {
      float sum = 0;
      for (int64_t d = 0; d < kWidth; ++d)
        sum += dy(r, d) * w(c, d);
      return sum;
    };
    Codes out(rows, kK);
    expectOk(decodeAdjoint(codes.fixed.view(), w.mat(), dy.mat(), out.out()));
    EXPECT_EQ(out.indices.at, codes.fixed.indices.at);
    EXPECT_EQ(dense(out).at, whereActive(codes.denseFixed, product).at);
    CsrResult csr;
    expectOk(decodeAdjoint(codes.csr.view(), w.mat(), dy.mat(), csr));
    EXPECT_EQ(dense(csr, rows).at, whereActive(codes.denseCsr, product).at);
  }
}

TEST(DecodeAdjoint, BadShapesAndIndicesAreRefused) {
  Both codes(3);
  const Floats w = integers(kFeatures, kWidth, 2);
  Codes out(3, kK);
  expectError(decodeAdjoint(codes.fixed.view(), w.mat(), Floats(3, kWidth + 1).mat(), out.out()),
              Code::kShapeMismatch, "dy");
  codes.fixed.values(2, 1) = 1;
  codes.fixed.indices(2, 1) = kFeatures;
  expectError(decodeAdjoint(codes.fixed.view(), w.mat(), Floats(3, kWidth).mat(), out.out()),
              Code::kFeatureRange, "20");
}

TEST(DensifyAdjoint, ReadsColumnsAtActiveFeatures) {
  const int64_t rows = 9;
  const Both codes(rows);
  const Floats dd = integers(rows, kFeatures, 3), few = integers(rows, 2, 5);
  Codes out(rows, kK);
  expectOk(densifyAdjoint(codes.fixed.view(), dd.mat(), nullptr, out.out()));
  EXPECT_EQ(dense(out).at,
            whereActive(codes.denseFixed, [&](int64_t r, int64_t c) { return dd(r, c); }).at);
  const std::vector<int32_t> listed = {17, 3};
  const Vec<const int32_t> columns(listed.data(), 2);
  CsrResult csr;
  expectOk(densifyAdjoint(codes.csr.view(), few.mat(), &columns, csr));
  EXPECT_EQ(dense(csr, rows).at, whereActive(codes.denseCsr, [&](int64_t r, int64_t c) {
                                   return c == 17 ? few(r, 0) : c == 3 ? few(r, 1) : 0.0f;
                                 }).at);
  const std::vector<int32_t> twice = {3, 3};
  const Vec<const int32_t> same(twice.data(), 2);
  expectError(densifyAdjoint(codes.csr.view(), few.mat(), &same, csr), Code::kFeatureDuplicate,
              "column 3 twice");
}

TEST(EditAdjoint, HasTheFactorOfItsMode) {
  const int64_t rows = 9;
  const Both codes(rows), other(rows, 8);
  const std::vector<int32_t> edited = {19, 2, 7};
  const std::vector<float> a = {2, 1, -1}, b = {3, 1, 2};
  const Vec<const int32_t> features(edited.data(), 3);
  for (const EditMode mode :
       {EditMode::kSet, EditMode::kScale, EditMode::kClamp, EditMode::kAblate})
    for (const bool isDelta : {false, true}) {
      Edit e{mode, features, {}, {}};
      if (mode == EditMode::kScale || mode == EditMode::kClamp)
        e.a = Vec<const float>(a.data(), 3);
      if (mode == EditMode::kClamp)
        e.b = Vec<const float>(b.data(), 3);
      const auto expected = [&](const Floats &f, const Floats &dg) {
        return whereActive(f, [&](int64_t r, int64_t c) {
          float m = 1;
          for (std::size_t i = 0; i < edited.size(); ++i)
            if (edited[i] == c)
              m = mode == EditMode::kScale   ? a[i]
                  : mode == EditMode::kClamp ? float(a[i] <= f(r, c) && f(r, c) <= b[i])
                                             : 0.0f;
          const bool isListed = std::find(edited.begin(), edited.end(), c) != edited.end();
          if (isDelta)
            m = isListed ? m - 1 : 0;
          return m * dg(r, c);
        });
      };
      Codes out(rows, kK);
      const FixedCodes dgFixed = other.fixed.view();
      const CsrCodes dgCsr = other.csr.view();
      expectOk(editAdjoint(codes.fixed.view(), {nullptr, &dgCsr}, e, isDelta, out.out()));
      EXPECT_EQ(dense(out).at, expected(codes.denseFixed, other.denseCsr).at);
      CsrResult csr;
      expectOk(editAdjoint(codes.csr.view(), {&dgFixed, nullptr}, e, isDelta, csr));
      EXPECT_EQ(dense(csr, rows).at, expected(codes.denseCsr, other.denseFixed).at);
    }
}

TEST(Select, TiesGoToTheLowestIndexAndNaNIsAnError) {
  Floats scores(2, 4), top(2, 3);
  Ints indices(2, 3);
  scores.at = {1, -3, 3, 3, 0, 0, 0, -0.5f};
  expectOk(select(scores.mat(), indices.mat(), top.mat()));
  EXPECT_EQ(indices.at, (std::vector<int32_t>{1, 2, 3, 3, 0, 1}));
  EXPECT_EQ(top.at, (std::vector<float>{-3, 3, 3, -0.5f, 0, 0}));
  scores(1, 2) = std::numeric_limits<float>::quiet_NaN();
  expectError(select(scores.mat(), indices.mat(), top.mat()), Code::kNonFinite, "row 1, column 2");
  Ints none(2, 5);
  Floats noTop(2, 5);
  expectError(select(scores.mat(), none.mat(), noTop.mat()), Code::kKRange, "1..4");
}

TEST(CheckGradients, NamesThePoint) {
  Floats gradients(6, 2); // 3 points of 2 rows
  expectOk(checkGradients(gradients.mat(), 8, 3));
  gradients(5, 1) = std::numeric_limits<float>::infinity();
  gradients(3, 0) = std::numeric_limits<float>::quiet_NaN();
  expectError(checkGradients(gradients.mat(), 8, 3), Code::kNonFinite,
              "at point 9 of the path, row 1, column 0");
  expectError(checkGradients(gradients.mat(), 0, 4), Code::kShapeMismatch, "4 equal parts");
  expectOk(checkGradients(Floats(0, 2).mat(), 0, 3));
}

} // namespace
} // namespace iam::rt::test
