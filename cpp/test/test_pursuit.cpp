// Matching pursuit against a float64 oracle, and against itself for other batches and threads.
#include "testing.h"

#include "iam/clt/decode.h"
#include "iam/clt/pursuit.h"

#include <limits>

namespace iam::rt::test {
namespace {

struct Problem {
  Problem(int64_t rows, int64_t d, int64_t features, unsigned seed)
      : x(normal(rows, d, seed)), wDec(normal(features, d, seed + 1)),
        bDec(normal(1, d, seed + 2)) {
    for (int64_t f = 0; f < features; ++f) {
      double square = 0;
      for (int64_t i = 0; i < d; ++i)
        square += static_cast<double>(wDec(f, i)) * wDec(f, i);
      for (int64_t i = 0; i < d; ++i)
        wDec(f, i) = static_cast<float>(wDec(f, i) / std::sqrt(square));
    }
  }
  Pursuit view() const { return rows(0, x.rows); }
  Pursuit rows(int64_t begin, int64_t end) const {
    return {x.part(begin, end), wDec.mat(), bDec.vec(), threshold, steps, stop};
  }
  Floats x, wDec, bDec;
  float threshold = 0.01f;
  int64_t steps = 20;
  bool stop = true;
};

Floats dense(const Pursuit &p) {
  CsrResult codes;
  Floats out(p.x.rows, p.wDec.rows);
  expectOk(matchingPursuit(p, codes));
  expectOk(densify(codes.view(), out.mat()));
  return out;
}

// The definition, in float64.
std::vector<double> oracle(const Problem &p, int64_t row) {
  const int64_t d = p.x.cols, features = p.wDec.rows;
  std::vector<double> r(static_cast<std::size_t>(d)), f(static_cast<std::size_t>(features));
  for (int64_t i = 0; i < d; ++i)
    r[static_cast<std::size_t>(i)] = static_cast<double>(p.x(row, i)) - p.bDec(0, i);
  for (int64_t step = 0; step < p.steps; ++step) {
    int64_t best = 0;
    double most = -std::numeric_limits<double>::infinity();
    for (int64_t j = 0; j < features; ++j) {
      double dot = 0;
      for (int64_t i = 0; i < d; ++i)
        dot += r[static_cast<std::size_t>(i)] * p.wDec(j, i);
      if (dot > most)
        most = dot, best = j;
    }
    const double v = std::max(most, 0.0);
    const bool wakes = v > 0 && f[static_cast<std::size_t>(best)] == 0;
    f[static_cast<std::size_t>(best)] += v;
    double square = 0;
    for (int64_t i = 0; i < d; ++i) {
      r[static_cast<std::size_t>(i)] -= v * p.wDec(best, i);
      square += r[static_cast<std::size_t>(i)] * r[static_cast<std::size_t>(i)];
    }
    if ((p.stop && !wakes) || (p.threshold > 0 && std::sqrt(square) < p.threshold))
      break;
  }
  return f;
}

TEST(MatchingPursuit, MatchesFloat64) {
  for (const bool stop : {true, false})
    for (const float threshold : {0.0f, 0.5f})
      for (const int64_t steps : {1, 2, 25}) {
        Problem p(23, 12, 70, 3);
        p.stop = stop, p.threshold = threshold, p.steps = steps;
        const Floats f = dense(p.view());
        for (int64_t r = 0; r < 23; ++r) {
          const std::vector<double> expected = oracle(p, r);
          for (int64_t j = 0; j < 70; ++j)
            ASSERT_NEAR(f(r, j), expected[static_cast<std::size_t>(j)], 1e-4)
                << "row " << r << " feature " << j << " steps " << steps;
        }
      }
}

TEST(MatchingPursuit, OrthogonalFeaturesAreFoundExactly) {
  Problem p(2, 4, 8, 1);
  std::fill(p.wDec.at.begin(), p.wDec.at.end(), 0.0f);
  for (int64_t i = 0; i < 4; ++i)
    p.wDec(i, i) = 1, p.wDec(i + 4, i) = -1; // + and - of each axis
  p.x.at = {3, -2, 0, 1, 0, 0, 0, 0};
  p.bDec.at = {0, 0, 0, 0};
  const Floats f = dense(p.view());
  EXPECT_EQ(f.at, (std::vector<float>{3, 0, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
}

TEST(MatchingPursuit, TiesGoToTheLowestFeature) {
  Problem p(1, 2, 4, 1);
  p.wDec.at = {0, 1, 1, 0, 1, 0, 0, 1};
  p.x.at = {2, 2};
  p.bDec.at = {0, 0};
  CsrResult codes;
  expectOk(matchingPursuit(p.view(), codes));
  ASSERT_EQ(codes.values.size(), 2);
  EXPECT_EQ(codes.indices[0], 0);
  EXPECT_EQ(codes.indices[1], 1);
}

TEST(MatchingPursuit, BatchAndThreadsDoNotChangeABit) {
  for (const int64_t rows : {1, 9, 200, 1100}) { // streamed, tiled, screened, more than a block
    const Problem p(rows, 24, 190, 7);
    const Floats whole = dense(p.view());
    withThreads(1, [&] { EXPECT_EQ(whole.at, dense(p.view()).at); });
    for (int64_t r = 0; r < rows; r += 31) {
      const Floats one = dense(p.rows(r, r + 1));
      for (int64_t j = 0; j < 190; ++j)
        ASSERT_EQ(one(0, j), whole(r, j)) << "row " << r << " of " << rows;
    }
  }
}

TEST(MatchingPursuit, NoRowsAndNoWidth) {
  const Problem none(0, 5, 7, 1), flat(3, 0, 7, 1);
  CsrResult codes;
  expectOk(matchingPursuit(none.view(), codes));
  EXPECT_EQ(codes.offsets.size(), 1);
  expectOk(matchingPursuit(flat.view(), codes));
  EXPECT_EQ(codes.values.size(), 0);
  EXPECT_EQ(codes.offsets[3], 0);
}

TEST(MatchingPursuit, NamesWhatItCannotTake) {
  Problem p(40, 6, 30, 1);
  CsrResult codes;
  const auto refuse = [&](Code code, const std::string &part) {
    expectError(matchingPursuit(p.view(), codes), code, part);
  };
  p.steps = 0;
  refuse(Code::kInvalidArgument, "max_iterations >= 1, got 0");
  p.steps = 3;
  for (const float bad : {-0.5f, std::nanf(""), std::numeric_limits<float>::infinity()}) {
    p.threshold = bad;
    refuse(Code::kInvalidArgument, "finite residual_threshold >= 0");
  }
  p.threshold = 0.1f;
  p.wDec(17, 4) = std::numeric_limits<float>::infinity();
  refuse(Code::kNonFinite, "expected finite W_dec, got inf at row 17, column 4");
  p.x(33, 5) = std::nanf("");
  refuse(Code::kNonFinite, "expected finite x, got nan at row 33, column 5");
  const Floats wide(2, 7), empty(0, 6);
  const Problem q(4, 6, 30, 1);
  expectError(matchingPursuit({q.x.mat(), wide.mat(), {}, 0, 1, true}, codes), Code::kShapeMismatch,
              "expected W_dec of shape [features, 6]");
  expectError(matchingPursuit({q.x.mat(), empty.mat(), {}, 0, 1, true}, codes),
              Code::kShapeMismatch, "at least one row");
  expectError(matchingPursuit({q.x.mat(), q.wDec.mat(), wide.vec(), 0, 1, true}, codes),
              Code::kShapeMismatch, "b_dec");
}

TEST(MatchingPursuit, ResidualsThatGrowAreAnError) {
  Problem p(3, 2, 2, 1);
  p.wDec.at = {10, 0, -10, 0}; // norm 10: each step makes the residual 99 times as large
  p.x.at = {0, 0, 1, 0, 0, 0};
  p.bDec.at = {0, 0};
  p.steps = 1000;
  p.stop = false;
  CsrResult codes;
  expectError(matchingPursuit(p.view(), codes), Code::kNonFinite, "row 1 of x left the range");
}

} // namespace
} // namespace iam::rt::test
