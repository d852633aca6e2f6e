// Low-rank affine maps of rows, y = x + C(<x, v>) v, with what they need to run at the speed of memory: several rows share
// what is loaded of the directions, the next rows are on their way meanwhile, and large results go past the caches.
#pragma once

#include "simd.h"
#include "table.h"

#include <algorithm>

namespace {

constexpr int64_t kLine = 64 / sizeof(float);

/// Sums of R rows and K directions from column 0 to width; with kSquares also of the rows' squares, in sums[r][K].
template <int R, int K, bool kSquares>
inline void sumProducts(const float *x, int64_t stride, int64_t width, const double *v,
                        int64_t vStride, double (*sums)[kSums + 1][8], const float *&next) {
  static_assert(kSumRows <= 4, "prefetches are counted for at most 4 rows");
  constexpr int kLanes = sizeof(Vd) / sizeof(double), kParts = 8 / kLanes;
  Vd sum[R][K + 1][kParts];
  for (int r = 0; r < R; ++r)
    for (int k = 0; k <= K; ++k)
      for (int part = 0; part < kParts; ++part)
        sum[r][k][part] = zero64();
  const auto step = [&](const float *from, int64_t rowStride, int64_t column) {
    for (int part = 0; part < kParts; ++part) {
      Vd w[K + 1];
      for (int k = 0; k < K; ++k)
        w[k] = load64(v + k * vStride + column + part * kLanes);
      for (int r = 0; r < R; ++r) {
        const Vd row = widen(from + r * rowStride + part * kLanes);
        for (int k = 0; k < K; ++k)
          sum[r][k][part] = madd64(row, w[k], sum[r][k][part]);
        if constexpr (kSquares)
          sum[r][K][part] = madd64(row, row, sum[r][K][part]);
      }
    }
  };
  int64_t i = 0;
  for (; i + 8 <= width; i += 8) {
    if (next && i % (2 * kLine / R) == 0) { // half of R rows, a line each time
      __builtin_prefetch(next);
      next += kLine;
    }
    step(x + i, stride, i);
  }
  if (i < width) {
    float rest[R][8] = {};
    for (int r = 0; r < R; ++r)
      std::memcpy(rest[r], x + r * stride + i, static_cast<std::size_t>(width - i) * sizeof(float));
    step(rest[0], 8, i);
  }
  for (int r = 0; r < R; ++r)
    for (int k = 0; k < K + kSquares; ++k)
      for (int part = 0; part < kParts; ++part)
        store64(sums[r][k] + part * kLanes, sum[r][k][part]);
}

template <int R, bool kSquares>
inline void sumProducts(int64_t count, const float *x, int64_t stride, int64_t width,
                        const double *v, int64_t vStride, double (*sums)[kSums + 1][8],
                        const float *&next) {
  static_assert(kSums == 2 || kSums == 4, "one case for each number of directions");
  switch (count) {
  case 0:
    return sumProducts<R, 0, kSquares>(x, stride, width, v, vStride, sums, next);
  case 1:
    return sumProducts<R, 1, kSquares>(x, stride, width, v, vStride, sums, next);
  case 2:
    return sumProducts<R, 2, kSquares>(x, stride, width, v, vStride, sums, next);
  default:
    if constexpr (kSums == 4) {
      if (count == 3)
        return sumProducts<R, 3, kSquares>(x, stride, width, v, vStride, sums, next);
      return sumProducts<R, 4, kSquares>(x, stride, width, v, vStride, sums, next);
    }
  }
}

template <int R>
inline void innerProductsOf(const Block<const float> &x, int64_t row, const double *v,
                            int64_t count, double *out, double *squares, const float *&next) {
  const auto halved = [](const double (&sums)[8]) {
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) +
           ((sums[1] + sums[5]) + (sums[3] + sums[7]));
  };
  const float *rows = x.data + row * x.stride, *none = nullptr;
  const int64_t vStride = paddedTo8(x.width);
  for (int64_t first = 0; first < std::max<int64_t>(count, squares != nullptr); first += kSums) {
    const int64_t some = std::min<int64_t>(kSums, count - first);
    const bool withSquares = squares && first == 0;
    double sums[R][kSums + 1][8];
    if (withSquares)
      sumProducts<R, true>(some, rows, x.stride, x.width, v, vStride, sums, next);
    else
      sumProducts<R, false>(some, rows, x.stride, x.width, v + first * vStride, vStride, sums,
                            first == 0 ? next : none);
    for (int r = 0; r < R; ++r) {
      for (int64_t k = 0; k < some; ++k)
        out[(row + r) * count + first + k] = halved(sums[r][k]);
      if (withSquares)
        squares[row + r] = halved(sums[r][some]);
    }
  }
}

void innerProducts(const Block<const float> &x, const double *v, int64_t count, double *out,
                   double *squares, const float *next) {
  int64_t row = 0;
  for (; row + kSumRows <= x.rows; row += kSumRows)
    innerProductsOf<kSumRows>(x, row, v, count, out, squares, next);
  for (; row < x.rows; ++row)
    innerProductsOf<1>(x, row, v, count, out, squares, next);
}

constexpr int kCombineRows = kWidth == 16 ? 8 : 4, kCombineVectors = 2;

/// R rows from `row`, N vectors from `column`; adds to checked[r] the sums before the last term, times zero.
template <int R, int N>
inline void combineTile(const Block<const float> &x, int64_t row, int64_t column, const float *v,
                        int64_t vStride, const float *c, int64_t count, const Block<float> &y,
                        bool past, Vf *checked) {
  const float *from = x.data + row * x.stride + column;
  float *to = y.data + row * y.stride + column;
  Vf sums[R][N];
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n)
      sums[r][n] = load(from + r * x.stride + n * kWidth);
  const auto check = [&] {
    for (int r = 0; r < R; ++r)
      for (int n = 0; n < N; ++n)
        checked[r] = madd(sums[r][n], zero(), checked[r]);
  };
  for (int64_t i = 0; i < count; ++i) {
    if (i + 1 == count)
      check();
    Vf w[N];
    for (int n = 0; n < N; ++n)
      w[n] = load(v + i * vStride + column + n * kWidth);
    for (int r = 0; r < R; ++r) {
      const Vf factor = splat(c[(row + r) * count + i]);
      for (int n = 0; n < N; ++n)
        sums[r][n] = madd(factor, w[n], sums[r][n]);
    }
  }
  if (count == 0)
    check();
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n)
      past ? stream(to + r * y.stride + n * kWidth, sums[r][n])
           : store(to + r * y.stride + n * kWidth, sums[r][n]);
}

template <int R>
inline uint32_t combineRows(const Block<const float> &x, int64_t row, const float *v,
                            int64_t vStride, const float *c, int64_t count, const Block<float> &y,
                            bool past, const float *&next) {
  Vf checked[R];
  for (int r = 0; r < R; ++r)
    checked[r] = zero();
  constexpr int kStep = kCombineVectors * kWidth, kLines = R * kStep / (2 * kLine);
  int64_t i = 0;
  for (; i + kStep <= x.width; i += kStep) {
    if (next)
      for (int line = 0; line < kLines; ++line, next += kLine)
        __builtin_prefetch(next);
    combineTile<R, kCombineVectors>(x, row, i, v, vStride, c, count, y, past, checked);
  }
  for (; i + kWidth <= x.width; i += kWidth)
    combineTile<R, 1>(x, row, i, v, vStride, c, count, y, past, checked);
  uint32_t bad = 0;
  for (int r = 0; r < R; ++r) {
    float rest = 0;
    for (int64_t j = i; j < x.width; ++j) {
      float sum = x.data[(row + r) * x.stride + j];
      for (int64_t s = 0; s < count; ++s) {
        if (s + 1 == count)
          rest += sum * 0;
        sum = maddScalar(c[(row + r) * count + s], v[s * vStride + j], sum);
      }
      if (count == 0)
        rest += sum * 0;
      y.data[(row + r) * y.stride + j] = sum;
    }
    bad |= static_cast<uint32_t>(anyNan(checked[r]) || rest != 0) << (row + r);
  }
  return bad;
}

uint32_t combine(const Block<const float> &x, const float *v, int64_t vStride, const float *c,
                 int64_t count, const Block<float> &y, bool past, const float *next) {
  constexpr auto kBytes = static_cast<int64_t>(sizeof(Vf));
  past = past && reinterpret_cast<intptr_t>(y.data) % kBytes == 0 &&
         y.stride * static_cast<int64_t>(sizeof(float)) % kBytes == 0;
  uint32_t bad = 0;
  int64_t row = 0;
  for (; row + kCombineRows <= x.rows; row += kCombineRows)
    bad |= combineRows<kCombineRows>(x, row, v, vStride, c, count, y, past, next);
  for (; row < x.rows; ++row)
    bad |= combineRows<1>(x, row, v, vStride, c, count, y, past, next);
  if (past)
    streamed();
  return bad;
}

} // namespace
