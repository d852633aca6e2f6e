#include "testing.h"

#include "iam/steering/steer.h"

namespace iam::rt::test {
namespace {

TEST(Steer, MatchesFloat64) {
  for (const int64_t d : {1, 3, 64, 577}) {
    const Floats h = normal(11, d, 1), v = normal(1, d, 2);
    for (const SteerMode mode : {SteerMode::kAdd, SteerMode::kAblate, SteerMode::kClamp}) {
      const float s = 0.75f;
      Floats out(11, d);
      expectOk(steer(h.mat(), v.vec(), s, mode, out.mat()));
      for (int64_t r = 0; r < 11; ++r) {
        double inner = 0, square = 0;
        for (int64_t c = 0; c < d; ++c)
          inner += static_cast<double>(h(r, c)) * v(0, c),
              square += static_cast<double>(v(0, c)) * v(0, c);
        const double along = mode == SteerMode::kAdd      ? s
                             : mode == SteerMode::kAblate ? -s * inner / square
                                                          : s / std::sqrt(square) - inner / square;
        // The coefficient, the product and the sum round once each.
        for (int64_t c = 0; c < d; ++c)
          ASSERT_NEAR(out(r, c), h(r, c) + along * v(0, c),
                      4 * 6e-8 * (std::fabs(h(r, c)) + std::fabs(along * v(0, c))));
      }
      Floats same = h;
      expectOk(steer(same.mat(), v.vec(), s, mode, same.mat()));
      EXPECT_EQ(same.at, out.at);
    }
  }
}

TEST(Steer, DirectionsWithoutANormAreRefused) {
  const Floats h = normal(2, 5, 1);
  Floats v(1, 5), out(2, 5);
  expectOk(steer(h.mat(), v.vec(), 1, SteerMode::kAdd, out.mat()));
  expectError(steer(h.mat(), v.vec(), 1, SteerMode::kAblate, out.mat()), Code::kInvalidArgument,
              "got norm 0");
  expectError(steer(h.mat(), Vec<const float>(v.at.data(), 4), 1, SteerMode::kAdd, out.mat()),
              Code::kShapeMismatch, "v");
  expectError(steer(h.mat(), v.vec(), 1, static_cast<SteerMode>(7), out.mat()), Code::kMode,
              "got 7");
}

TEST(Steer, TheFirstValueThatIsNotFiniteIsNamed) {
  Floats h = normal(200, 5, 1), out(200, 5);
  Floats v = normal(1, 5, 2);
  h(130, 4) = INFINITY;
  h(77, 3) = NAN;
  for (SteerMode mode : {SteerMode::kAdd, SteerMode::kAblate, SteerMode::kClamp})
    expectError(steer(h.mat(), v.vec(), 1, mode, out.mat()), Code::kNonFinite,
                "nan at row 77, column 3");
  v(0, 1) = INFINITY;
  expectError(steer(h.mat(), v.vec(), 1, SteerMode::kAdd, out.mat()), Code::kNonFinite,
              "inf at index 1");
}

} // namespace
} // namespace iam::rt::test
