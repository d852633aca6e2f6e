// Screening with bfloat16 products, at about twice the rate of float32. Included by kernels.cpp.
//
// With ^ for rounding to bfloat16, |x.w - ^x.^w| <= |x - ^x| |w| + |^x| |w - ^w| (Cauchy-Schwarz),
// all four norms being computed, not estimated. Both sums are also rounded: the one here takes at
// most 2 depth roundings, the float32 one that defines a pre-activation at most depth, so each
// differs from its real value by at most gamma times the product of the norms, gamma < 1.01 n 2^-24
// for n roundings. Together:
//
//   |pre - screened| <= A1 |w| + A2 |w - ^w| + rel |screened|
//   A1 = |x - ^x| + c (|x| + |^x|),  A2 = |^x| + c (|x| + |^x|),  c = 1.01 (3 depth + 16) 2^-24
//
// where rel = 2^-22 covers the additions of the bias and of the bound itself. Norms and A are
// rounded up by more than the roundings of their own computation, and kTiny covers what is flushed
// to zero. Rows::slack holds A1, A2, rel, all 0 for a row of zeros, whose screened values are
// exact.
#pragma once

namespace {

constexpr float kTiny = 1e-30f;
constexpr int64_t kScreenFromRows = 9, kSlacks = 3;
constexpr int64_t kScreenPackBytes = 320 * 1024;

int64_t pairsOf(int64_t depth) { return (depth + 1) / 2; }

int64_t screenPackedStride(int64_t depth) { return (pairsOf(depth) * 4 + 63) / 64 * 64; }

int64_t screenTilesPerPack(int64_t depth) {
  return std::clamp<int64_t>(kScreenPackBytes / (std::max<int64_t>(pairsOf(depth), 1) * kTile * 4),
                             1, 8);
}

// Bits of sixteen bfloat16 values, one in the low half of each lane.
__m512i rounded(Vf v) { return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(v)); }
Vf widened(__m512i bits) { return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)); }

void screenPrepare(const Rows &rows, int64_t begin, int64_t end, void *packed, float *slack) {
  const int64_t stride = screenPackedStride(rows.depth);
  for (int64_t r = begin; r < end; ++r) {
    auto *to = reinterpret_cast<uint16_t *>(static_cast<char *>(packed) + r * stride);
    std::memset(to, 0, static_cast<std::size_t>(stride));
    const float *x = rows.x + r * rows.stride;
    double norm = 0, normRounded = 0, error = 0; // squared
    for (int64_t i = 0; i < rows.depth; i += kWidth) {
      const int64_t n = std::min<int64_t>(kWidth, rows.depth - i);
      const Vf v = loadSome(x + i, n);
      const __m512i bits = rounded(v);
      _mm512_mask_cvtepi32_storeu_epi16(to + i, static_cast<__mmask16>(lanesBelow(n)), bits);
      const Vf w = widened(bits), e = _mm512_sub_ps(v, w);
      for (const __m256 h : {_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)}) {
        const __m512d d = _mm512_cvtps_pd(h);
        norm += _mm512_reduce_add_pd(_mm512_mul_pd(d, d));
      }
      for (const __m256 h : {_mm512_castps512_ps256(w), _mm512_extractf32x8_ps(w, 1)}) {
        const __m512d d = _mm512_cvtps_pd(h);
        normRounded += _mm512_reduce_add_pd(_mm512_mul_pd(d, d));
      }
      for (const __m256 h : {_mm512_castps512_ps256(e), _mm512_extractf32x8_ps(e, 1)}) {
        const __m512d d = _mm512_cvtps_pd(h);
        error += _mm512_reduce_add_pd(_mm512_mul_pd(d, d));
      }
    }
    float *s = slack + 3 * r;
    if (norm == 0) {
      s[0] = s[1] = s[2] = 0;
      continue;
    }
    const double c = 1.01 * (3.0 * static_cast<double>(rows.depth) + 16) / 16777216.0,
                 up = 1 + 1.0 / 1024;
    const double both = std::sqrt(norm) + std::sqrt(normRounded);
    s[0] = static_cast<float>(up * (std::sqrt(error) + c * both));
    s[1] = static_cast<float>(up * (std::sqrt(normRounded) + c * both));
    s[2] = 1.0f / 4194304.0f;
  }
}

// Tiles of W in bfloat16, [pairs, kTile, 2], with |w| and |w - ^w| of each feature after them in
// norms and errors.
void screenPack(const Rows &rows, const Weights &weights, int64_t begin, int64_t end,
                uint32_t *packed, float *norms, float *errors) {
  const int64_t tiles = (end - begin + kTile - 1) / kTile, pairs = pairsOf(rows.depth);
  std::fill(norms, norms + tiles * kTile, 0.0f);
  std::fill(errors, errors + tiles * kTile, 0.0f);
  for (int64_t p = 0; p < pairs; ++p) {
    const float *from = weights.w + 2 * p * weights.stride + begin;
    const bool two = 2 * p + 1 < rows.depth;
    for (int s = 8; s < 10; ++s) // rows of W are far apart: no hardware prefetcher follows
      if (2 * p + s < rows.depth)
        for (int64_t j = 0; j < end - begin; j += 16)
          __builtin_prefetch(from + s * weights.stride + j);
    for (int64_t t = 0; t < tiles; ++t)
      for (int v = 0; v < kVectors; ++v) {
        const int64_t j = t * kTile + v * kWidth, left = end - begin - j;
        const Vf w0 = loadSome(from + j, left),
                 w1 = two ? loadSome(from + weights.stride + j, left) : zero();
        const __m512i b0 = rounded(w0), b1 = rounded(w1);
        _mm512_storeu_si512(packed + (t * pairs + p) * kTile + v * kWidth,
                            _mm512_or_si512(b0, _mm512_slli_epi32(b1, 16)));
        const Vf e0 = _mm512_sub_ps(w0, widened(b0)), e1 = _mm512_sub_ps(w1, widened(b1));
        store(norms + j, madd(w1, w1, madd(w0, w0, load(norms + j))));
        store(errors + j, madd(e1, e1, madd(e0, e0, load(errors + j))));
      }
  }
  const float depth = static_cast<float>(rows.depth);
  const Vf up = splat(1 + (depth + 8) / 8388608.0f), least = splat(depth * 1.1754944e-38f);
  for (int64_t j = 0; j < tiles * kTile; j += kWidth) {
    store(norms + j, _mm512_mul_ps(_mm512_sqrt_ps(add(load(norms + j), least)), up));
    store(errors + j, _mm512_mul_ps(_mm512_sqrt_ps(add(load(errors + j), least)), up));
  }
}

// Adds the candidates of lanes `mask` with their bounds. What is not a number is unknown: -inf ..
// inf.
void pushBounds(const TopKState &state, int64_t row, int64_t feature, Vf value, Vf bound,
                uint32_t mask) {
  Search &search = state.searches[row];
  Candidate *held = state.candidates + row * state.capacity;
  float uppers[kWidth], lowers[kWidth], values[kWidth];
  const Vf key = keyOf(state, value);
  store(uppers, add(key, bound));
  store(lowers, _mm512_sub_ps(key, bound));
  store(values, value);
  do {
    const int lane = __builtin_ctz(mask);
    mask &= mask - 1;
    const float upper = uppers[lane], lower = lowers[lane];
    const auto index = static_cast<int32_t>(feature + lane);
    if (upper == lower)
      held[search.count++] = exactly(values[lane], index, state.magnitude);
    else if (upper == upper && lower == lower)
      held[search.count++] = {upper, lower, index};
    else
      held[search.count++] = {kInf, -kInf, index};
  } while (mask);
}

template <int R>
void screenTile(const Rows &rows, const Weights &weights, int64_t row, const uint32_t *packed,
                const float *norms, const float *errors, int64_t feature, int64_t end,
                const TopKState &state) {
  Vf sums[R][kVectors];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < kVectors; ++v)
      sums[r][v] = zero();
  const int64_t stride = screenPackedStride(rows.depth) / 4, pairs = pairsOf(rows.depth);
  const auto *x = static_cast<const int32_t *>(rows.packed) + row * stride;
  for (int64_t p = 0; p < pairs; ++p, packed += kTile) {
    __m512bh w[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      w[v] = (__m512bh)_mm512_loadu_si512(packed + v * kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512bh s = (__m512bh)_mm512_set1_epi32(x[r * stride + p]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        sums[r][v] = _mm512_dpbf16_ps(sums[r][v], s, w[v]);
    }
  }
  for (int v = 0; v < kVectors && feature + v * kWidth < end; ++v) {
    const int64_t j = feature + v * kWidth, lanes = end - j;
    const Vf norm = load(norms + v * kWidth), error = load(errors + v * kWidth);
    const Vf bias = weights.bias ? loadSome(weights.bias + j, lanes) : zero();
    for (int r = 0; r < R; ++r) {
      const float *slack = rows.slack + 3 * (row + r);
      Search &search = state.searches[row + r];
      const Vf value = add(sums[r][v], bias);
      Vf bound = madd(splat(slack[1]), error, splat(slack[2] != 0 ? kTiny : 0.0f));
      bound = madd(splat(slack[0]), norm, bound);
      bound = madd(splat(slack[2]), absolute(value), bound);
      const uint32_t mask =
          notLess(add(keyOf(state, value), bound), splat(search.limit)) & lanesBelow(lanes);
      if (__builtin_expect(mask == 0, 1))
        continue;
      pushBounds(state, row + r, j, value, bound, mask);
      if (search.count >= search.pruneAt)
        makeRoom(state, row + r, &rows, &weights);
    }
  }
}

template <int R>
void screenTileOfUpTo(int64_t count, const Rows &rows, const Weights &weights, int64_t row,
                      const uint32_t *packed, const float *norms, const float *errors,
                      int64_t feature, int64_t end, const TopKState &state) {
  if constexpr (R > 0) {
    if (count == R)
      screenTile<R>(rows, weights, row, packed, norms, errors, feature, end, state);
    else
      screenTileOfUpTo<R - 1>(count, rows, weights, row, packed, norms, errors, feature, end,
                              state);
  }
}

int64_t screenScratchBytes(int64_t depth) {
  return screenTilesPerPack(depth) * kTile * 4 * (std::max<int64_t>(pairsOf(depth), 1) + 2);
}

void screenTopK(const Rows &rows, const Weights &weights, int64_t begin, int64_t end,
                const TopKState &state, void *scratch) {
  const int64_t tiles = screenTilesPerPack(rows.depth), step = tiles * kTile,
                pairs = pairsOf(rows.depth);
  auto *norms = static_cast<float *>(scratch), *errors = norms + step;
  auto *packed = reinterpret_cast<uint32_t *>(errors + step);
  for (int64_t j = begin; j < end; j += step) {
    const int64_t to = std::min(end, j + step);
    screenPack(rows, weights, j, to, packed, norms, errors);
    for (int64_t row = 0; row < rows.rows; row += kRowTile)
      for (int64_t feature = j; feature < to; feature += kTile)
        screenTileOfUpTo<kRowTile>(std::min<int64_t>(kRowTile, rows.rows - row), rows, weights, row,
                                   packed + (feature - j) * pairs, norms + (feature - j),
                                   errors + (feature - j), feature, to, state);
  }
}

} // namespace
