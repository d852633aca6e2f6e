// Screening with products of 16-bit integers, at about twice the rate of float32: one instruction
// multiplies pairs of int16 and adds each pair to 32 bits. Included by kernels.cpp for levels with
// AVX2 or SSE4.1.
//
// A row is scaled by a power of two, sx, so that y = sx x has a norm near 2^15, and rounded to
// integers ^y; a column likewise, z = sw w. Both scalings are exact. |^y| |^z| < 2^31, and by
// Cauchy-Schwarz no sum of products exceeds that, so the integer sum is exact: all that is lost is
// what rounding took away, and the computed norms of that bound the loss (Cauchy-Schwarz again):
//
//   |sx sw x.w - ^y.^z| <= |y - ^y| |z| + |^y| |z - ^z|
//
// A scale only decides how tight this is, never whether it holds: outliers cost candidates, not
// correctness. The float32 sum that defines a pre-activation takes n roundings, n = depth with
// fused multiply-add and 2 depth without, so it differs from the real value by at most gamma |x|
// |w|, gamma < 1.01 n 2^-24; the conversion of the integer sum to float32 costs another 2^-24 |x|
// |w|. Together, with "screened" for ^y.^z / (sx sw) + bias:
//
//   |pre - screened| <= A1 |w| + A2 |w - ^w| + rel |screened| + tiny
//   A1 = (|y - ^y| + c |y|) / sx,  A2 = |^y| / sx,  ^w = ^z / sw,  c = 1.01 (n + 16) 2^-24
//
// where rel = 2^-22 covers the additions of the bias and of the bound itself, and tiny covers
// underflow, here and in the float32 sum. Norms and A are rounded up by more than the roundings of
// their own computation. The derivation needs a float32 sum that does not overflow: where |x| |w|
// comes near that, and for columns that are not finite, screened is NaN, which counts as unknown.
#pragma once

namespace {

#if defined(__AVX2__)
using Vi = __m256i;
inline Vi zeroInts() { return _mm256_setzero_si256(); }
inline Vi loadInts(const uint32_t *p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
}
inline void storeInts(void *p, Vi v) { _mm256_storeu_si256(static_cast<__m256i *>(p), v); }
inline Vi splatInt(int32_t x) { return _mm256_set1_epi32(x); }
/// c[i] + a[i].low * b[i].low + a[i].high * b[i].high. In assembler, in order: GCC 12 moves the
/// splats of all rows to the front and then spills the sums (2x slower).
inline Vi maddPairs(Vi a, Vi b, Vi c) {
  Vi product;
  asm volatile("vpmaddwd %[b], %[a], %[product]\n\tvpaddd %[product], %[c], %[c]"
               : [c] "+x"(c), [product] "=&x"(product)
               : [a] "x"(a), [b] "x"(b));
  return c;
}
inline Vi nearestInts(Vf v) { return _mm256_cvtps_epi32(v); }
inline Vf toFloats(Vi v) { return _mm256_cvtepi32_ps(v); }
/// Lane i: a[i] in the low half, b[i] in the high half.
inline Vi pairUp(Vi a, Vi b) { return _mm256_blend_epi16(a, _mm256_slli_epi32(b, 16), 0xAA); }
inline Vf larger(Vf a, Vf b) { return _mm256_max_ps(a, b); }
#else
using Vi = __m128i;
inline Vi zeroInts() { return _mm_setzero_si128(); }
inline Vi loadInts(const uint32_t *p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
}
inline void storeInts(void *p, Vi v) { _mm_storeu_si128(static_cast<__m128i *>(p), v); }
inline Vi splatInt(int32_t x) { return _mm_set1_epi32(x); }
inline Vi maddPairs(Vi a, Vi b, Vi c) { return _mm_add_epi32(c, _mm_madd_epi16(a, b)); }
inline Vi nearestInts(Vf v) { return _mm_cvtps_epi32(v); }
inline Vf toFloats(Vi v) { return _mm_cvtepi32_ps(v); }
inline Vi pairUp(Vi a, Vi b) { return _mm_blend_epi16(a, _mm_slli_epi32(b, 16), 0xAA); }
inline Vf larger(Vf a, Vf b) { return _mm_max_ps(a, b); }
#endif

constexpr float kTiny = 1e-30f, kLeast = std::numeric_limits<float>::min(),
                kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kMostProduct = 1e37f; // |x| |w| above this: float32 sums might overflow
constexpr int64_t kScreenPackBytes = 208 * 1024, kScreenRows = 48, kMaxScreenDepth = 1 << 16;
// Where screening overtakes float32: it reads W twice to pack it, and once more for what is left.
constexpr int64_t kScreenFromRows = kWidth == 8 ? 144 : 32;
constexpr int64_t kSlacks = 5; // a row's A1, A2, rel, 1 / sx, |x|

int64_t pairsOf(int64_t depth) { return (depth + 1) / 2; }

// 0 for depths where the norms of the roundings alone might pass 2^31; the caller then does not
// screen.
int64_t screenPackedStride(int64_t depth) {
  return depth > kMaxScreenDepth ? 0 : std::max<int64_t>(64, (pairsOf(depth) * 4 + 63) / 64 * 64);
}

int64_t screenTilesPerPack(int64_t depth) {
  return std::clamp<int64_t>(kScreenPackBytes / (std::max<int64_t>(pairsOf(depth), 1) * kTile * 4),
                             1, 24);
}

// What the norm of a column or row may be after scaling: rounding adds at most sqrt(depth) / 2, and
// 46000^2 < 2^31 by a margin above that of the computed norm.
float targetNorm(int64_t depth) { return 45900.0f - 0.5f * std::sqrt(static_cast<float>(depth)); }

// The power of two that scales a vector with this sum of squares and this largest magnitude. The
// sum is not used where it over- or underflowed.
float scaleFor(float squares, float most, int64_t depth) {
  if (!(most > 0))
    return 1;
  const float root = std::sqrt(static_cast<float>(depth));
  const float norm = squares > 1e-25f && squares < 1e30f
                         ? std::sqrt(squares) * (1 + static_cast<float>(depth + 8) / 8388608.0f)
                         : most * root;
  const float room = std::min(targetNorm(depth) / norm, 32767.0f / most);
  // Powers of two from 2^-120 to 2^120 have exact inverses. A larger vector is not screened.
  if (!(room >= 7.6e-37f))
    return 0;
  return std::ldexp(1.0f, std::min(120, std::ilogb(room)));
}

// sqrt(squares), rounded up; the sum had `depth` terms.
double normAbove(double squares, int64_t depth) {
  return (1 + static_cast<double>(depth + 8) / 8388608.0) *
         std::sqrt(squares + static_cast<double>(depth) * kLeast);
}

double sumOf(Vf v) {
  float lanes[kWidth];
  store(lanes, v);
  double sum = 0;
  for (const float lane : lanes)
    sum += lane;
  return sum;
}

void screenPrepare(const Rows &rows, int64_t begin, int64_t end, void *packed, float *slack) {
  const int64_t stride = screenPackedStride(rows.depth);
  for (int64_t r = begin; r < end; ++r) {
    auto *to = reinterpret_cast<int16_t *>(static_cast<char *>(packed) + r * stride);
    std::memset(to, 0, static_cast<std::size_t>(stride));
    const float *x = rows.x + r * rows.stride;
    float *s = slack + kSlacks * r;
    Vf squares = zero(), most = zero();
    for (int64_t i = 0; i < rows.depth; i += kWidth) {
      const Vf v = loadSome(x + i, rows.depth - i);
      squares = madd(v, v, squares);
      most = larger(most, absolute(v));
    }
    float mosts[kWidth];
    store(mosts, most);
    const float scale = scaleFor(static_cast<float>(sumOf(squares)),
                                 *std::max_element(mosts, mosts + kWidth), rows.depth);
    if (scale == 0) { // close to overflow: nothing is known
      s[0] = s[1] = s[2] = s[3] = s[4] = kNan;
      continue;
    }
    Vf norm = zero(), normRounded = zero(), error = zero(); // squared, of the scaled row
    for (int64_t i = 0; i < rows.depth; i += kWidth) {
      const int64_t n = std::min<int64_t>(kWidth, rows.depth - i);
      const Vf y = mul(loadSome(x + i, n), splat(scale));
      const Vi integers = nearestInts(y);
      const Vf back = toFloats(integers), e = sub(y, back);
      norm = madd(y, y, norm);
      normRounded = madd(back, back, normRounded);
      error = madd(e, e, error);
      int32_t lanes[kWidth];
      storeInts(lanes, integers);
      for (int64_t j = 0; j < n; ++j)
        to[i + j] = static_cast<int16_t>(lanes[j]);
    }
    if (*std::max_element(mosts, mosts + kWidth) == 0) { // the bias alone: exact
      s[0] = s[1] = s[2] = s[4] = 0;
      s[3] = 1;
      continue;
    }
    const double n = static_cast<double>(rows.depth) * kRoundings, c = 1.01 * (n + 16) / 16777216.0,
                 up = 1 + 1.0 / 1024, inverse = 1.0 / scale;
    const double whole = normAbove(sumOf(norm), rows.depth);
    s[0] = static_cast<float>(up * inverse * (normAbove(sumOf(error), rows.depth) + c * whole)) +
           kLeast;
    s[1] = static_cast<float>(up * inverse * normAbove(sumOf(normRounded), rows.depth)) + kLeast;
    s[2] = 1.0f / 4194304.0f;
    s[3] = static_cast<float>(inverse);
    s[4] = static_cast<float>(up * inverse * whole);
  }
}

// What screening needs of the features of a pack, [tiles * kTile] each.
struct ScreenColumns {
  float *norms, *errors,
      *inverses; // |w|, |w - ^w|, 1 / sw; an inverse is NaN where w is not finite
};

// Tiles of W in int16, [pairs, kTile, 2].
void screenPack(const Rows &rows, const Weights &weights, int64_t begin, int64_t end,
                uint32_t *packed, const ScreenColumns &columns) {
  const int64_t tiles = (end - begin + kTile - 1) / kTile, width = tiles * kTile,
                pairs = pairsOf(rows.depth);
  float *squares = columns.norms, *mosts = columns.errors, *scales = columns.inverses;
  std::fill(squares, squares + width, 0.0f);
  std::fill(mosts, mosts + width, 0.0f);
  for (int64_t i = 0; i < rows.depth; ++i) {
    const float *from = weights.w + i * weights.stride + begin;
    if (i + kPackAhead < rows.depth)
      for (int64_t j = 0; j < end - begin; j += 16)
        __builtin_prefetch(from + kPackAhead * weights.stride + j);
    for (int64_t j = 0; j < width; j += kWidth) {
      const Vf w = loadSome(from + j, end - begin - j);
      store(squares + j, madd(w, w, load(squares + j)));
      store(mosts + j, larger(load(mosts + j), absolute(w)));
    }
  }
  const float root = std::sqrt(static_cast<float>(rows.depth)) * 1.001f;
  for (int64_t j = 0; j < width; ++j) {
    const float sum = squares[j], most = mosts[j];
    // A NaN shows in the sum, an infinity in both.
    const bool finite = sum == sum && most <= std::numeric_limits<float>::max();
    scales[j] = finite ? scaleFor(sum, most, rows.depth) : 0;
    if (scales[j] == 0)
      squares[j] = 0;
    else if (sum > 1e-25f && sum < 1e30f)
      squares[j] = static_cast<float>(normAbove(sum, rows.depth)) * (1 + 1.0f / 1024);
    else
      squares[j] = most * root + kLeast;
  }
  float *errors = mosts;
  std::fill(errors, errors + width, 0.0f);
  for (int64_t p = 0; p < pairs; ++p) {
    const float *from = weights.w + 2 * p * weights.stride + begin;
    const bool two = 2 * p + 1 < rows.depth;
    for (int s = kPackAhead; s < kPackAhead + 2; ++s)
      if (2 * p + s < rows.depth)
        for (int64_t j = 0; j < end - begin; j += 16)
          __builtin_prefetch(from + s * weights.stride + j);
    for (int64_t t = 0; t < tiles; ++t)
      for (int v = 0; v < kVectors; ++v) {
        const int64_t j = t * kTile + v * kWidth, left = end - begin - j;
        const Vf scale = load(scales + j), z0 = mul(loadSome(from + j, left), scale),
                 z1 = two ? mul(loadSome(from + weights.stride + j, left), scale) : zero();
        const Vi i0 = nearestInts(z0), i1 = nearestInts(z1);
        storeInts(packed + (t * pairs + p) * kTile + v * kWidth, pairUp(i0, i1));
        const Vf e0 = sub(z0, toFloats(i0)), e1 = sub(z1, toFloats(i1));
        store(errors + j, madd(e1, e1, madd(e0, e0, load(errors + j))));
      }
  }
  for (int64_t j = 0; j < width; ++j) {
    if (scales[j] == 0) {
      errors[j] = 0;
      scales[j] = kNan;
      continue;
    }
    const double inverse = 1.0 / scales[j];
    errors[j] =
        static_cast<float>(normAbove(errors[j], rows.depth) * inverse) * (1 + 1.0f / 1024) + kLeast;
    scales[j] = static_cast<float>(inverse);
  }
}

// Adds features whose upper bound reaches the limit. Bounds that are NaN count as unknown.
void pushBounds(const TopKState &state, int64_t row, int64_t feature, Vf value, Vf bound,
                uint32_t mask) {
  Search &search = state.searches[row];
  Candidate *held = state.candidates + row * state.capacity;
  float uppers[kWidth], lowers[kWidth], values[kWidth];
  const Vf key = keyOf(state, value);
  store(uppers, add(key, bound));
  store(lowers, sub(key, bound));
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

// The integer sums of R rows and one tile. The loops over `held` are all unrolled, so that it lives
// in registers.
template <int R>
void screenProducts(const Rows &rows, int64_t row, const uint32_t *packed,
                    Vi (&sums)[R][kVectors]) {
  const int64_t stride = screenPackedStride(rows.depth) / 4, pairs = pairsOf(rows.depth);
  const auto *x = static_cast<const int32_t *>(rows.packed) + row * stride;
  Vi held[R][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      held[r][v] = zeroInts();
  for (int64_t p = 0; p < pairs; ++p, packed += kTile) {
    Vi w[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      w[v] = loadInts(packed + v * kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vi s = splatInt(x[r * stride + p]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        held[r][v] = maddPairs(s, w[v], held[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      sums[r][v] = held[r][v];
}

template <int R>
void screenTile(const Rows &rows, const Weights &weights, int64_t row, const uint32_t *packed,
                const ScreenColumns &columns, float mostNorm, int64_t feature, int64_t end,
                const TopKState &state) {
  Vi sums[R][kVectors];
  screenProducts<R>(rows, row, packed, sums);
  for (int v = 0; v < kVectors && feature + v * kWidth < end; ++v) {
    const int64_t j = feature + v * kWidth, lanes = end - j;
    const Vf norm = load(columns.norms + v * kWidth), error = load(columns.errors + v * kWidth),
             inverse = load(columns.inverses + v * kWidth);
    const Vf bias = weights.bias ? loadSome(weights.bias + j, lanes) : zero();
    for (int r = 0; r < R; ++r) {
      const float *slack = rows.slack + kSlacks * (row + r);
      Search &search = state.searches[row + r];
      const float scale = slack[4] * mostNorm < kMostProduct ? slack[3] : kNan;
      const Vf value = madd(toFloats(sums[r][v]), mul(inverse, splat(scale)), bias);
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
                      const uint32_t *packed, const ScreenColumns &columns, float mostNorm,
                      int64_t feature, int64_t end, const TopKState &state) {
  if constexpr (R > 0) {
    if (count == R)
      screenTile<R>(rows, weights, row, packed, columns, mostNorm, feature, end, state);
    else
      screenTileOfUpTo<R - 1>(count, rows, weights, row, packed, columns, mostNorm, feature, end,
                              state);
  }
}

int64_t screenScratchBytes(int64_t depth) {
  return screenTilesPerPack(depth) * kTile * 4 * (std::max<int64_t>(pairsOf(depth), 1) + 3);
}

void screenTopK(const Rows &rows, const Weights &weights, int64_t begin, int64_t end,
                const TopKState &state, void *scratch) {
  const int64_t tiles = screenTilesPerPack(rows.depth), step = tiles * kTile,
                pairs = pairsOf(rows.depth);
  auto *floats = static_cast<float *>(scratch);
  const ScreenColumns all = {floats, floats + step, floats + 2 * step};
  auto *packed = reinterpret_cast<uint32_t *>(floats + 3 * step);
  for (int64_t j = begin; j < end; j += step) {
    const int64_t to = std::min(end, j + step);
    screenPack(rows, weights, j, to, packed, all);
    // A tile stays in the L1 cache while a group of rows, which stays in L2, goes by.
    for (int64_t group = 0; group < rows.rows; group += kScreenRows) {
      const int64_t last = std::min(rows.rows, group + kScreenRows);
      for (int64_t feature = j; feature < to; feature += kTile) {
        const int64_t at = feature - j;
        const ScreenColumns columns = {all.norms + at, all.errors + at, all.inverses + at};
        const float mostNorm = *std::max_element(columns.norms, columns.norms + kTile);
        for (int64_t row = group; row < last; row += kRowTile)
          screenTileOfUpTo<kRowTile>(std::min<int64_t>(kRowTile, last - row), rows, weights, row,
                                     packed + at * pairs, columns, mostNorm, feature, to, state);
      }
      if (*state.recomputed > kPatience)
        return; // the caller starts again without screening
    }
  }
}

} // namespace
