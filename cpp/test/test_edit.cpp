#include "testing.h"

#include "iam/clt/activation.h"
#include "iam/clt/decode.h"
#include "iam/clt/edit.h"

namespace iam::rt::test {
namespace {

constexpr int64_t kRows = 9, kFeatures = 30, kK = 6;
const std::vector<int32_t> kEdited = {29, 3, 7, 0};

struct Case {
  EditMode mode;
  std::vector<float> a, b;
};
const Case kCases[] = {{EditMode::kSet, {5, 0, -2, 1}, {}},
                       {EditMode::kScale, {2, 0, -1, 3}, {}},
                       {EditMode::kClamp, {-1, 1, 0, 0}, {0, 2, 0, 5}},
                       {EditMode::kAblate, {}, {}}};

Edit editOf(const Case &c) {
  const auto view = [](const std::vector<float> &v) {
    return Vec<const float>(v.data(), static_cast<int64_t>(v.size()));
  };
  return {c.mode, {kEdited.data(), static_cast<int64_t>(kEdited.size())}, view(c.a), view(c.b)};
}

float apply(const Case &c, std::size_t i, float f) {
  switch (c.mode) {
  case EditMode::kSet:
    return c.a[i];
  case EditMode::kScale:
    return f * c.a[i];
  case EditMode::kClamp:
    return std::min(std::max(f, c.a[i]), c.b[i]);
  case EditMode::kAblate:
    return 0;
  }
  return f;
}

struct Both : BothForms {
  Both() : BothForms(kRows, kFeatures, kK, 4, 5) {}
};

Floats edited(const Case &c, Floats dense) {
  for (int64_t r = 0; r < dense.rows; ++r)
    for (std::size_t i = 0; i < kEdited.size(); ++i)
      dense(r, kEdited[i]) = apply(c, i, dense(r, kEdited[i]));
  return dense;
}

TEST(Edit, MatchesTheDenseEdit) {
  const Both codes;
  for (const Case &c : kCases) {
    const int64_t n = static_cast<int64_t>(kEdited.size());
    Codes out(kRows, mayActivate(c.mode) ? kK + n : kK);
    Floats dense(kRows, kFeatures);
    expectOk(edit(codes.fixed.view(), editOf(c), out.out()));
    expectOk(densify(out.view(), dense.mat()));
    EXPECT_EQ(dense.at, edited(c, codes.denseFixed).at) << static_cast<int>(c.mode);
    CsrResult csr;
    expectOk(edit(codes.csr.view(), editOf(c), csr));
    expectOk(densify(csr.view(), dense.mat()));
    EXPECT_EQ(dense.at, edited(c, codes.denseCsr).at) << static_cast<int>(c.mode);
    for (const float v : csr.values)
      EXPECT_NE(v, 0);
  }
}

TEST(Delta, IsTheEditMinusTheCodes) {
  const Both codes;
  for (const Case &c : kCases) {
    for (const bool fixed : {true, false}) {
      const Floats &before = fixed ? codes.denseFixed : codes.denseCsr;
      Codes out(kRows, static_cast<int64_t>(kEdited.size()));
      expectOk(fixed ? delta(codes.fixed.view(), editOf(c), out.out())
                     : delta(codes.csr.view(), editOf(c), out.out()));
      const Floats after = edited(c, before);
      for (int64_t r = 0; r < kRows; ++r)
        for (std::size_t i = 0; i < kEdited.size(); ++i) {
          EXPECT_EQ(out.indices(r, static_cast<int64_t>(i)), kEdited[i]);
          EXPECT_EQ(out.values(r, static_cast<int64_t>(i)),
                    after(r, kEdited[i]) - before(r, kEdited[i]));
        }
    }
  }
}

TEST(Sub, MatchesTheDenseDifference) {
  const Both p;
  const Case c = kCases[0];
  Codes q(kRows, kK + 4), out(kRows, 2 * kK + 4);
  expectOk(edit(p.fixed.view(), editOf(c), q.out()));
  expectOk(sub(q.view(), p.fixed.view(), out.out()));
  Floats dense(kRows, kFeatures);
  expectOk(densify(out.view(), dense.mat()));
  Floats expected = edited(c, p.denseFixed);
  for (std::size_t i = 0; i < expected.at.size(); ++i)
    EXPECT_EQ(dense.at[i], expected.at[i] - p.denseFixed.at[i]);
  CsrResult q2, out2;
  expectOk(edit(p.csr.view(), editOf(c), q2));
  expectOk(sub(q2.view(), p.csr.view(), out2));
  expectOk(densify(out2.view(), dense.mat()));
  expected = edited(c, p.denseCsr);
  for (std::size_t i = 0; i < expected.at.size(); ++i)
    EXPECT_EQ(dense.at[i], expected.at[i] - p.denseCsr.at[i]);
  for (const float v : out2.values)
    EXPECT_NE(v, 0);
}

TEST(Edit, BadEditsAreRefused) {
  const Both codes;
  Codes out(kRows, kK), grown(kRows, kK + 2);
  const auto run = [&](EditMode mode, std::vector<int32_t> f, std::vector<float> a,
                       std::vector<float> b) {
    const bool grows = mayActivate(mode);
    return edit(codes.fixed.view(),
                {mode,
                 {f.data(), static_cast<int64_t>(f.size())},
                 {a.data(), static_cast<int64_t>(a.size())},
                 {b.data(), static_cast<int64_t>(b.size())}},
                grows ? grown.out() : out.out());
  };
  expectError(run(EditMode::kScale, {1, 1}, {1, 1}, {}), Code::kFeatureDuplicate,
              "feature 1 twice");
  expectError(run(EditMode::kScale, {-1}, {1}, {}), Code::kFeatureRange, "got -1");
  expectError(run(EditMode::kScale, {1, 2}, {1}, {}), Code::kShapeMismatch,
              "expected a of shape [2]");
  expectError(run(EditMode::kClamp, {1, 2}, {1, 3}, {2, 2}), Code::kInvalidArgument, "a <= b");
  expectError(run(EditMode::kAblate, {1}, {1}, {}), Code::kInvalidArgument, "no operands");
  expectError(run(static_cast<EditMode>(4), {1}, {}, {}), Code::kMode, "got 4");
}

} // namespace
} // namespace iam::rt::test
