#include "testing.h"

#include "iam/steering/sequence.h"
#include "iam/steering/sets.h"
#include "iam/steering/steer.h"

#include <limits>

namespace iam::rt::test {
namespace {

constexpr int32_t kAdd = 0, kAblate = 1, kClamp = 2, kHalfspace = 3;

struct Steps {
  Steps(std::vector<int32_t> kinds, int64_t width, unsigned seed)
      : kinds(std::move(kinds)), v(normal(count(), width, seed)), s(normal(1, count(), seed + 1)) {}
  int64_t count() const { return static_cast<int64_t>(kinds.size()); }
  Status operator()(Mat<const float> h, Mat<float> out) const {
    return sequence(h, v.mat(), s.vec(), {kinds.data(), count()}, out);
  }
  Floats operator()(const Floats &h) const {
    Floats out(h.rows, h.cols);
    expectOk((*this)(h.mat(), out.mat()));
    return out;
  }
  std::vector<int32_t> kinds;
  Floats v, s;
};

double dot(const double *a, const float *b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i)
    sum += a[i] * static_cast<double>(b[i]);
  return sum;
}

/// The steps one after the other on a row of float64, and how far float32 may be off: every step rounds its factor and its
/// sum, and a half-space at the end stays inside by as much.
void expectSteps(const Steps &steps, const Floats &h, const Floats &out) {
  const int64_t d = h.cols;
  for (int64_t r = 0; r < h.rows; ++r) {
    std::vector<double> row(h.mat().row(r), h.mat().row(r) + d), magnitude(row);
    double size = 0;
    for (double &m : magnitude) {
      size += m * m;
      m = std::abs(m);
    }
    size = std::sqrt(size);
    std::vector<double> share(
        static_cast<std::size_t>(d)); // of the directions in an error along them
    for (int64_t i = 0; i < steps.count(); ++i) {
      const float *v = steps.v.mat().row(i);
      const double s = static_cast<double>(steps.s(0, i)), at = dot(row.data(), v, d);
      const std::vector<double> wide(v, v + d);
      const double square = dot(wide.data(), v, d);
      const double factors[] = {s, -s * at / square, s / std::sqrt(square) - at / square,
                                -std::max(0.0, at - s) / square};
      const double c = factors[steps.kinds[static_cast<std::size_t>(i)]];
      size += std::abs(c) * std::sqrt(square);
      for (std::size_t j = 0; j < row.size(); ++j) {
        row[j] += c * wide[j];
        magnitude[j] += std::abs(c * wide[j]);
        share[j] += std::abs(wide[j]) / std::sqrt(square);
      }
    }
    const double u = static_cast<double>(steps.count() + 4) * 0x1.0p-24;
    for (std::size_t j = 0; j < row.size(); ++j)
      ASSERT_LE(std::abs(row[j] - static_cast<double>(out(r, static_cast<int64_t>(j)))),
                u * (magnitude[j] + size * share[j]))
          << "row " << r << ", column " << j << ", " << steps.count() << " steps of width " << d;
  }
}

TEST(Sequence, IsItsSteps) {
  for (const int64_t width : {1, 7, 8, 9, 33, 64, 130})
    for (const int64_t rows : {0, 1, 3, 8, 9, 41})
      for (int count = 0; count <= 19; count += count < 10 ? 1 : 3) {
        std::vector<int32_t> kinds;
        for (int i = 0; i < count; ++i)
          kinds.push_back((i + count) % 4);
        const Steps steps(kinds, width, static_cast<unsigned>(width + count));
        const Floats h = normal(rows, width, 7);
        expectSteps(steps, h, steps(h));
      }
}

TEST(Sequence, AdditionsAloneAreThoseOfTheSingleOp) {
  const Steps steps({kAdd, kAdd, kAdd}, 37, 3);
  Floats h = normal(11, 37, 4);
  const Floats out = steps(h);
  for (int64_t i = 0; i < 3; ++i)
    expectOk(steer(h.mat(), {steps.v.mat().row(i), 37}, steps.s(0, i), SteerMode::kAdd, h.mat()));
  EXPECT_EQ(out.at, h.at);
}

TEST(Sequence, EveryRowIsInsideOfTheHalfspaceAtItsEnd) {
  for (const int64_t width : {1, 3, 64, 257})
    for (const float scale : {1e-20f, 1e-3f, 1.0f, 1e4f, 1e15f})
      for (int count = 1; count <= 9; ++count) {
        std::vector<int32_t> kinds(static_cast<std::size_t>(count), kAblate);
        kinds[static_cast<std::size_t>(count / 2)] = kAdd;
        kinds.back() = kHalfspace;
        Steps steps(kinds, width, static_cast<unsigned>(count));
        const Floats h = normal(60, width, 5, scale), out = steps(h);
        const float *v = steps.v.mat().row(count - 1);
        for (int64_t r = 0; r < out.rows; ++r) {
          const std::vector<double> row(out.mat().row(r), out.mat().row(r) + width);
          EXPECT_LE(dot(row.data(), v, width), static_cast<double>(steps.s(0, count - 1)));
        }
      }
}

TEST(Sequence, ARowInsideThatNothingMovesStays) {
  Steps steps({kHalfspace, kAblate, kHalfspace}, 50, 3);
  steps.s.at = {std::numeric_limits<float>::infinity(), 0, 3};
  const Floats once = steps(normal(64, 50, 1)), twice = steps(once);
  EXPECT_EQ(once.at, twice.at);
}

TEST(Sequence, DoesNotDependOnThreadsBatchesOrPlace) {
  const Steps steps({kAblate, kAdd, kClamp, kHalfspace, kAblate, kHalfspace}, 2304, 9);
  const Floats h = normal(4100, 2304, 1); // large enough to be written past the caches
  Floats whole = steps(h), parts(h.rows, h.cols), place = h;
  withThreads(1, [&] { expectOk(steps(place.mat(), place.mat())); });
  EXPECT_EQ(whole.at, place.at);
  for (int64_t r = 0, n = 1; r < h.rows; r += n, n = n * 3 + 1)
    expectOk(steps(h.part(r, std::min(h.rows, r + n)),
                   {parts.mat().row(r), std::min(n, h.rows - r), h.cols}));
  EXPECT_EQ(whole.at, parts.at);
}

TEST(Sequence, WhatIsNotFiniteIsNamed) {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinity = std::numeric_limits<float>::infinity();
  for (const int64_t width : {5, 40})
    for (const float wrong : {nan, infinity, -infinity})
      for (const std::vector<int32_t> &kinds : {std::vector<int32_t>{},
                                                {kAdd},
                                                {kClamp, kAblate},
                                                std::vector<int32_t>(9, kHalfspace)}) {
        const Steps steps(kinds, width, 2);
        Floats h = normal(70, width, 3), out(70, width);
        h(44, 2) = h(66, 1) = wrong;
        expectError(steps(h.mat(), out.mat()), Code::kNonFinite, "at row 44, column 2");
        expectError(steps(h.mat(), h.mat()), Code::kNonFinite, "in row 44");
      }
}

TEST(Sequence, AnOverflowBetweenStepsIsAnErrorAsBeforeTheNextOp) {
  Steps steps({kAdd, kAdd}, 40, 1);
  std::fill(steps.v.at.begin(), steps.v.at.end(), 1e38f);
  Floats h = normal(9, 40, 3), out(9, 40);
  steps.s.at = {5, 0};
  expectError(steps(h.mat(), out.mat()), Code::kNonFinite,
              "before every step, got NaN or infinity in row 0");
  steps.s.at = {0, 5};
  expectOk(steps(h.mat(), out.mat())); // as after a single op
  EXPECT_EQ(out(8, 39), std::numeric_limits<float>::infinity());
}

TEST(Sequence, SaysWhatIsWrongOfWhichStep) {
  Steps steps({kAdd, kClamp}, 4, 1);
  Floats h = normal(3, 4, 3), out(3, 4);
  steps.kinds[1] = 4;
  expectError(steps(h.mat(), out.mat()), Code::kMode, "or 3 (halfspace), got 4");
  steps.kinds[1] = kClamp;
  std::fill(steps.v.at.begin() + 4, steps.v.at.end(), 0.0f);
  expectError(steps(h.mat(), out.mat()), Code::kInvalidArgument,
              "step 1: expected a v with a finite norm > 0");
}

} // namespace
} // namespace iam::rt::test
