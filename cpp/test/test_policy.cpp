#include "testing.h"

#include "iam/core/threads.h"
#include "iam/steering/compose.h"
#include "iam/steering/sets.h"

#include <limits>

namespace iam::rt::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

Vec<float> writable(Floats &a) { return {a.at.data(), a.rows * a.cols}; }

Set halfspace(const Floats &normal, float bound) {
  return {SetKind::kHalfspace, normal.vec(), {}, bound, {}};
}
Set ball(const Floats &centre, float radius) {
  return {SetKind::kBall, centre.vec(), {}, radius, {}};
}
Set subspace(const Floats &basis) { return {SetKind::kSubspace, {}, basis.mat(), 0, {}}; }
Set box(const Floats &low, const Floats &high) {
  return {SetKind::kBox, low.vec(), {}, 0, high.vec()};
}

TEST(Compose, FollowsTheRule) {
  Floats v(3, 2), s(1, 3), out(1, 2);
  v.at = {1, 0, 1, 1, 2, 2};
  s.at = {1, 2, 3};
  expectOk(compose(v.mat(), s.vec(), ComposeRule::kSum, writable(out)));
  EXPECT_EQ(out.at, (std::vector<float>{9, 8}));
  expectOk(compose(v.mat(), s.vec(), ComposeRule::kMean, writable(out)));
  EXPECT_EQ(out.at, (std::vector<float>{3, 8.0f / 3}));
  // The third direction lies in the span of the first two.
  expectOk(compose(v.mat(), s.vec(), ComposeRule::kOrthogonal, writable(out)));
  EXPECT_EQ(out.at, (std::vector<float>{1, 2}));
}

TEST(Compose, NoDirectionsGiveZero) {
  const Floats v(0, 3), s(1, 0);
  for (const ComposeRule rule : {ComposeRule::kSum, ComposeRule::kMean, ComposeRule::kOrthogonal}) {
    Floats out = normal(1, 3, 1);
    expectOk(compose(v.mat(), s.vec(), rule, writable(out)));
    EXPECT_EQ(out.at, (std::vector<float>{0, 0, 0}));
  }
}

TEST(Compose, WhatIsNotFinitePassesThrough) {
  for (const ComposeRule rule : {ComposeRule::kSum, ComposeRule::kMean, ComposeRule::kOrthogonal})
    for (const float value : {NAN, kInfinity}) {
      Floats v = normal(3, 4, 1), out(1, 4);
      const Floats s = normal(1, 3, 2);
      v(1, 2) = value;
      expectOk(compose(v.mat(), s.vec(), rule, writable(out)));
      for (int64_t c = 0; c < 4; ++c)
        EXPECT_EQ(std::isfinite(out(0, c)), c != 2);
    }
}

TEST(Compose, RefusesWhatDoesNotFit) {
  const Floats v = normal(3, 4, 1), s = normal(1, 2, 2);
  Floats out(1, 4);
  expectError(compose(v.mat(), s.vec(), ComposeRule::kSum, writable(out)), Code::kShapeMismatch,
              "strengths");
  expectError(compose(v.mat(), v.vec(), static_cast<ComposeRule>(5), writable(out)), Code::kMode,
              "got 5");
}

TEST(Sets, RowsInsideStayAndMovedRowsAreInside) {
  for (const int64_t d : {1, 3, 64, 577})
    for (const float size : {1e-3f, 1.0f, 1e4f, 1e20f}) {
      Floats h = normal(70, d, 1), low(1, d), high(1, d);
      const Floats p = normal(1, d, 2);
      for (float &x : h.at)
        x *= size;
      for (int64_t c = 0; c < d; ++c)
        low(0, c) = -0.5f * size, high(0, c) = 0.25f * size;
      for (const Set &set :
           {halfspace(p, 0.1f), halfspace(p, -1.0f), ball(p, 0.7f), ball(p, 0), box(low, high)}) {
        Floats out(70, d), again(70, d), margin(1, 70);
        expectOk(project(h.mat(), set, out.mat()));
        expectOk(verify(out.mat(), set, 0, "inside", writable(margin)));
        expectOk(project(out.mat(), set, again.mat()));
        EXPECT_EQ(out.at, again.at);
      }
    }
}

TEST(Sets, MarginsAreDistances) {
  Floats h(2, 2), centre(1, 2), margin(1, 2), low(1, 2), high(1, 2), line(2, 2);
  h.at = {3, 4, 0, 0.5f};
  expectOk(verify(h.mat(), ball(centre, 1), 4, "m", writable(margin)));
  EXPECT_EQ(margin.at, (std::vector<float>{-4, 0.5f}));
  high.at = {1, 1};
  expectOk(verify(h.mat(), box(low, high), 4, "m", writable(margin)));
  EXPECT_FLOAT_EQ(margin(0, 0), -std::sqrt(13.0f));
  EXPECT_EQ(margin(0, 1), 0);
  line.at = {0, 2, 0, 3}; // of rank 1
  expectOk(verify(h.mat(), subspace(line), 4, "m", writable(margin)));
  EXPECT_EQ(margin.at, (std::vector<float>{-3, 0}));
  Floats up(1, 2);
  up.at = {0, 2};
  expectOk(verify(h.mat(), halfspace(up, 2), 4, "m", writable(margin)));
  EXPECT_EQ(margin.at, (std::vector<float>{-3, 0.5f}));
}

TEST(Sets, SpansOfDependentRowsNothingAndEverything) {
  const Floats h = normal(5, 3, 1);
  Floats out(5, 3), basis = normal(4, 3, 2);
  expectOk(project(h.mat(), subspace(basis), out.mat()));
  EXPECT_EQ(out.at, h.at);
  expectOk(project(h.mat(), subspace(Floats(0, 3)), out.mat()));
  EXPECT_EQ(out.at, Floats(5, 3).at);
  expectOk(project(h.mat(), subspace(Floats(2, 3)), out.mat()));
  EXPECT_EQ(out.at, Floats(5, 3).at);
  for (int64_t c = 0; c < 3; ++c) {
    basis(1, c) = -2 * basis(0, c);
    basis(2, c) = basis(3, c) = 0;
  }
  Floats one(5, 3);
  expectOk(project(h.mat(), subspace(basis), out.mat()));
  expectOk(project(h.mat(), {SetKind::kSubspace, {}, {basis.at.data(), 1, 3}, 0, {}}, one.mat()));
  EXPECT_EQ(out.at, one.at);
}

TEST(Sets, InfiniteBoundsAreNoBounds) {
  const Floats h = normal(3, 4, 1), p = normal(1, 4, 2);
  Floats low(1, 4), high(1, 4), out(3, 4), margin(1, 3);
  low.at.assign(4, -kInfinity);
  high.at.assign(4, kInfinity);
  for (const Set &set : {halfspace(p, kInfinity), ball(p, kInfinity), box(low, high)}) {
    expectOk(project(h.mat(), set, out.mat()));
    EXPECT_EQ(out.at, h.at);
    expectOk(verify(h.mat(), set, 0, "m", writable(margin)));
    EXPECT_EQ(margin(0, 0), kInfinity);
  }
}

TEST(Sets, EmptySetsAreRefused) {
  const Floats h = normal(2, 3, 1), zero(1, 3);
  Floats p = normal(1, 3, 2), out(2, 3), margin(1, 2), low = p;
  low(0, 1) = p(0, 1) + 1;
  const auto refused = [&](const Set &set, Code code, const char *text) {
    expectError(project(h.mat(), set, out.mat()), code, text);
    expectError(verify(h.mat(), set, 0, "m", writable(margin)), code, text);
  };
  refused(halfspace(zero, 1), Code::kInvalidArgument, "got norm 0");
  refused(halfspace(p, -kInfinity), Code::kInvalidArgument, "got -inf");
  refused(halfspace(p, NAN), Code::kNonFinite, "a bound, got nan");
  refused(ball(p, -1), Code::kInvalidArgument, "got -1");
  refused(ball(p, NAN), Code::kNonFinite, "a radius, got nan");
  refused(box(low, p), Code::kInvalidArgument, "at index 1");
  refused({static_cast<SetKind>(4), p.vec(), {}, 0, {}}, Code::kMode, "got 4");
  refused(ball(Floats(1, 2), 1), Code::kShapeMismatch, "centre");
  refused(subspace(Floats(2, 2)), Code::kShapeMismatch, "basis");
  p(0, 2) = NAN;
  refused(halfspace(p, 1), Code::kNonFinite, "nan at index 2");
  refused(ball(p, 1), Code::kNonFinite, "nan at index 2");
  refused(box(p, low), Code::kNonFinite, "nan at index 2");
  refused(subspace(p), Code::kNonFinite, "nan at row 0, column 2");
}

TEST(Sets, TheFirstRowThatFailsIsNamed) {
  Floats h = normal(200, 5, 1), out(200, 5), margin(1, 200);
  const Floats centre(1, 5);
  h(130, 4) = INFINITY;
  h(77, 3) = NAN;
  expectError(project(h.mat(), ball(centre, 100), out.mat()), Code::kNonFinite,
              "nan at row 77, column 3");
  Status status = verify(h.mat(), ball(centre, 100), 0, "small", writable(margin));
  expectError(status, Code::kPolicy, "small: expected margins >= 0, got nan at row 77");
  EXPECT_EQ(status.row(), 77);
  h(77, 3) = 0;
  h(120, 0) = 1000;
  for (const int threads : {1, 2})
    withThreads(threads, [&] {
      status = verify(h.mat(), ball(centre, 100), 0.5f, "small", writable(margin));
      expectError(status, Code::kPolicy, "expected margins >= -0.5, got -900");
      EXPECT_EQ(status.row(), 120);
      EXPECT_NEAR(status.margin(), -900, 0.1);
    });
  for (const float tolerance : {-1.0f, kInfinity, NAN})
    expectError(verify(h.mat(), ball(centre, 1), tolerance, "m", writable(margin)),
                Code::kInvalidArgument, "tolerance");
}

} // namespace
} // namespace iam::rt::test
