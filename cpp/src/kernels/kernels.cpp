// Kernels of one CPU level; see table.h. Compiled once per level with that level's flags and
// IAM_LEVEL set to its name.
//
// All paths to a pre-activation sum over the depth in order, in float32, into one register a
// feature: the tiles of many rows, the streams of few rows and the recomputation of single entries
// agree bit for bit.

#include "simd.h"
#include "table.h"

#include <algorithm>
#include <cmath>
#include <limits>

using namespace iam::rt::kernels;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// ----------------------------------------------------------------------------------------------------------
// searches

int64_t prune(Candidate *candidates, int64_t count, int64_t k) {
  if (count <= k)
    return count;
  std::nth_element(candidates, candidates + (k - 1), candidates + count, better);
  // k entries have lower bounds >= limit. An exact entry outside them is beaten by all k, on the
  // index if not on the value; any other stays while its upper bound reaches them.
  const float limit = candidates[k - 1].lower;
  Candidate *kept = std::remove_if(candidates + k, candidates + count, [limit](const Candidate &c) {
    return c.upper < limit || c.upper == c.lower;
  });
  return kept - candidates;
}

void start(const TopKState &state, int64_t row) {
  state.searches[row] = {
      0, static_cast<int32_t>(std::min(state.capacity - kTile, 2 * state.k + kTile)), -1, -kInf};
}

float preActivation(const Rows &rows, const Weights &weights, int64_t row, int64_t feature) {
  const float *x = rows.x + row * rows.stride, *w = weights.w + feature;
  float sum = 0;
  for (int64_t i = 0; i < rows.depth; ++i, w += weights.stride)
    sum = maddScalar(x[i], *w, sum);
  return weights.bias ? sum + weights.bias[feature] : sum;
}

// Makes room in the search of a row. `rows` and `weights` are needed when bounds alone cannot
// decide.
void makeRoom(const TopKState &state, int64_t row, const Rows *rows, const Weights *weights) {
  Search &search = state.searches[row];
  Candidate *held = state.candidates + row * state.capacity;
  int64_t count = prune(held, search.count, state.k);
  if (rows && count > state.capacity - 2 * kTile) {
    for (Candidate *c = held; c != held + count; ++c) {
      if (c->lower == c->upper)
        continue;
      ++*state.recomputed;
      const int32_t feature = featureOf(*c);
      const float value = preActivation(*rows, *weights, row, feature);
      if (value != value)
        search.nan = feature;
      *c = exactly(value != value ? kInf : value, feature, state.magnitude);
    }
    count = prune(held, count, state.k);
  }
  search.count = static_cast<int32_t>(count);
  search.pruneAt = static_cast<int32_t>(std::min(state.capacity - kTile, count + state.k + kTile));
  if (count >= state.k)
    search.limit = held[state.k - 1].lower;
}

// Adds the exact values of lanes `mask`; their first feature is `feature`.
inline void push(const TopKState &state, int64_t row, int64_t feature, Vf values, uint32_t mask) {
  Search &search = state.searches[row];
  Candidate *held = state.candidates + row * state.capacity;
  float lanes[kWidth];
  store(lanes, values);
  do {
    const int lane = __builtin_ctz(mask);
    mask &= mask - 1;
    const float value = lanes[lane];
    if (value != value) {
      search.nan = static_cast<int32_t>(feature + lane);
      continue;
    }
    held[search.count++] = exactly(value, static_cast<int32_t>(feature + lane), state.magnitude);
  } while (mask);
}

// What a search compares.
inline Vf keyOf(const TopKState &state, Vf value) {
  return state.magnitude ? absolute(value) : value;
}

void scan(const float *values, int64_t count, int64_t first, const TopKState &state, int64_t row) {
  Search &search = state.searches[row];
  Vf limit = splat(search.limit);
  for (int64_t j = 0; j < count; j += kWidth) {
    const Vf v = loadSome(values + j, count - j);
    const uint32_t mask = notLess(keyOf(state, v), limit) & lanesBelow(count - j);
    if (mask == 0)
      continue;
    push(state, row, first + j, v, mask);
    if (search.count >= search.pruneAt) {
      makeRoom(state, row, nullptr, nullptr);
      limit = splat(search.limit);
    }
  }
}

// -------------------------------------------------------------------------------------------------------------
// sinks A sink takes the sums of one row for one vector of features: `lanes` of them are valid.

struct DenseSink {
  const float *bias, *addend;
  int64_t addendStride;
  float *out;
  int64_t outStride;

  void operator()(int64_t row, int64_t feature, int64_t lanes, Vf sum) const {
    if (bias)
      sum = add(sum, loadSome(bias + feature, lanes));
    if (addend)
      sum = add(sum, loadSome(addend + row * addendStride + feature, lanes));
    float *to = out + row * outStride + feature;
    if (lanes >= kWidth) {
      store(to, sum);
    } else {
      float last[kWidth];
      store(last, sum);
      std::memcpy(to, last, static_cast<std::size_t>(lanes) * sizeof(float));
    }
  }
};

struct TopKSink {
  const float *bias;
  const TopKState &state;

  void operator()(int64_t row, int64_t feature, int64_t lanes, Vf sum) const {
    if (bias)
      sum = add(sum, loadSome(bias + feature, lanes));
    const uint32_t mask =
        notLess(keyOf(state, sum), splat(state.searches[row].limit)) & lanesBelow(lanes);
    if (__builtin_expect(mask == 0, 1))
      return;
    push(state, row, feature, sum, mask);
    if (state.searches[row].count >= state.searches[row].pruneAt)
      makeRoom(state, row, nullptr, nullptr);
  }
};

struct ThresholdSink {
  const float *bias, *theta;
  float *values;
  int32_t *indices, *counts;
  int64_t capacity;
  Pair *nan;

  void operator()(int64_t row, int64_t feature, int64_t lanes, Vf sum) const {
    if (bias)
      sum = add(sum, loadSome(bias + feature, lanes));
    uint32_t mask = notLessEqual(sum, zero()) & lanesBelow(lanes);
    if (theta)
      mask &= notLessEqual(sum, loadSome(theta + feature, lanes));
    if (mask == 0)
      return;
    float last[kWidth];
    store(last, sum);
    int64_t at = row * capacity + counts[row];
    counts[row] += __builtin_popcount(mask);
    for (; mask; mask &= mask - 1, ++at) {
      const int lane = __builtin_ctz(mask);
      values[at] = last[lane];
      indices[at] = static_cast<int32_t>(feature + lane);
      if (last[lane] != last[lane])
        *nan = {static_cast<int32_t>(row), static_cast<int32_t>(feature + lane)};
    }
  }
};

struct GroupMaxSink {
  const float *bias;
  uint32_t width;
  float *values;
  int64_t valuesStride;
  int32_t *indices;
  int64_t indicesStride;
  Pair *nan;

  void operator()(int64_t row, int64_t feature, int64_t lanes, Vf sum) const {
    if (bias)
      sum = add(sum, loadSome(bias + feature, lanes));
    float *best = values + row * valuesStride;
    int32_t *where = indices + row * indicesStride;
    const auto first = static_cast<uint32_t>(feature),
               count = static_cast<uint32_t>(lanes < kWidth ? lanes : kWidth);
    uint32_t group = first / width;
    if (first + count <= (group + 1) * width &&
        (notLessEqual(sum, splat(best[group])) & lanesBelow(lanes)) == 0)
      return;
    float last[kWidth];
    store(last, sum);
    uint32_t left = (group + 1) * width - first; // of the group
    for (uint32_t lane = 0; lane < count; ++lane, --left) {
      if (left == 0)
        ++group, left = width;
      if (last[lane] <= best[group])
        continue;
      best[group] = last[lane];
      where[group] = static_cast<int32_t>(first + lane);
      if (last[lane] != last[lane])
        *nan = {static_cast<int32_t>(row), static_cast<int32_t>(first + lane)};
    }
  }
};

// -------------------------------------------------------------------------------------------------------
// the products

// Weights are packed in tiles of kTile features, [depth, kTile], as many tiles at a time as fit
// half an L2 cache.
constexpr int64_t kPackBytes = 512 * 1024;
constexpr int64_t kStreamRows = 8, kStreamFeatures = 4096;
// Sums of different rows go to different sets of the L1 cache.
constexpr int64_t kStreamStride = kStreamFeatures + 80;
// Rows of W are far apart, so no hardware prefetcher follows; they are often multiples of a page
// apart, so that the same line of each goes to one set of the L1 cache, which has 8 ways.
constexpr int64_t kPackAhead = 4;

int64_t tilesPerPack(int64_t depth) {
  const int64_t tile = std::max<int64_t>(depth, 1) * kTile * static_cast<int64_t>(sizeof(float));
  return std::clamp<int64_t>(kPackBytes / tile, 1, 8);
}

void pack(const Rows &rows, const Weights &weights, int64_t begin, int64_t end, float *packed) {
  const int64_t tiles = (end - begin + kTile - 1) / kTile;
  for (int64_t i = 0; i < rows.depth; ++i) {
    const float *from = weights.w + i * weights.stride + begin;
    if (i + kPackAhead < rows.depth)
      for (int64_t j = 0; j < end - begin; j += 16)
        __builtin_prefetch(from + kPackAhead * weights.stride + j);
    for (int64_t t = 0; t < tiles; ++t) {
      float *to = packed + (t * rows.depth + i) * kTile;
      const int64_t left = end - begin - t * kTile;
      for (int v = 0; v < kVectors; ++v)
        store(to + v * kWidth, loadSome(from + t * kTile + v * kWidth, left - v * kWidth));
    }
  }
}

// Rows row..row+R-1 times one tile.
template <int R, typename Sink>
void tile(const Rows &rows, int64_t row, const float *packed, int64_t feature, int64_t end,
          const Sink &sink) {
  Vf sums[R][kVectors];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < kVectors; ++v)
      sums[r][v] = zero();
  const float *x = rows.x + row * rows.stride;
  for (int64_t i = 0; i < rows.depth; ++i, packed += kTile) {
    Vf w[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      w[v] = load(packed + v * kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vf s = splat(x[r * rows.stride + i]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        sums[r][v] = madd(s, w[v], sums[r][v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < kVectors && feature + v * kWidth < end; ++v)
      sink(row + r, feature + v * kWidth, end - feature - v * kWidth, sums[r][v]);
}

template <int R, typename Sink>
void tileOfUpTo(int64_t count, const Rows &rows, int64_t row, const float *packed, int64_t feature,
                int64_t end, const Sink &sink) {
  if constexpr (R > 0) {
    if (count == R)
      tile<R>(rows, row, packed, feature, end, sink);
    else
      tileOfUpTo<R - 1>(count, rows, row, packed, feature, end, sink);
  }
}

// Few rows: packing would cost more than it saves, so W is read once as it lies.
template <int R, typename Sink>
void stream(const Rows &rows, int64_t row, const Weights &weights, int64_t begin, int64_t end,
            float *sums, const Sink &sink) {
  const int64_t width = end - begin, whole = width / kWidth * kWidth;
  std::fill(sums, sums + R * kStreamStride, 0.0f);
  const float *x = rows.x + row * rows.stride;
  constexpr int kSteps = R <= 2 ? 6 : 8; // rows of W at a time
  for (int64_t i = 0; i < rows.depth; i += kSteps) {
    const int64_t steps = std::min<int64_t>(kSteps, rows.depth - i);
    const float *w = weights.w + i * weights.stride + begin;
    if (steps == kSteps) {
      for (int64_t j = 0; j < whole; j += kWidth) {
        Vf acc[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
          acc[r] = load(sums + r * kStreamStride + j);
#pragma GCC unroll 8
        for (int s = 0; s < kSteps; ++s) {
          const Vf ws = load(w + s * weights.stride + j);
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r)
            acc[r] = madd(splat(x[r * rows.stride + i + s]), ws, acc[r]);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
          store(sums + r * kStreamStride + j, acc[r]);
      }
    }
    for (int64_t s = 0; s < steps; ++s)
      for (int r = 0; r < R; ++r)
        for (int64_t j = steps == kSteps ? whole : 0; j < width; ++j)
          sums[r * kStreamStride + j] = maddScalar(
              x[r * rows.stride + i + s], w[s * weights.stride + j], sums[r * kStreamStride + j]);
  }
  for (int r = 0; r < R; ++r)
    for (int64_t j = 0; j < width; j += kWidth)
      sink(row + r, begin + j, width - j, load(sums + r * kStreamStride + j));
}

template <int R, typename Sink>
void streamOfUpTo(const Rows &rows, const Weights &weights, int64_t begin, int64_t end, float *sums,
                  const Sink &sink) {
  if constexpr (R > 0) {
    if (rows.rows == R)
      stream<R>(rows, 0, weights, begin, end, sums, sink);
    else
      streamOfUpTo<R - 1>(rows, weights, begin, end, sums, sink);
  }
}

template <typename Sink>
void product(const Rows &rows, const Weights &weights, int64_t begin, int64_t end, void *scratch,
             const Sink &sink) {
  float *packed = static_cast<float *>(scratch);
  if (rows.rows <= kStreamRows) {
    for (int64_t j = begin; j < end; j += kStreamFeatures) {
      const int64_t to = std::min(end, j + kStreamFeatures);
      streamOfUpTo<kStreamRows>(rows, weights, j, to, packed, sink);
    }
    return;
  }
  const int64_t step = tilesPerPack(rows.depth) * kTile;
  for (int64_t j = begin; j < end; j += step) {
    const int64_t to = std::min(end, j + step);
    pack(rows, weights, j, to, packed);
    for (int64_t row = 0; row < rows.rows; row += kRowTile)
      for (int64_t feature = j; feature < to; feature += kTile)
        tileOfUpTo<kRowTile>(std::min<int64_t>(kRowTile, rows.rows - row), rows, row,
                             packed + (feature - j) * rows.depth, feature, to, sink);
  }
}

} // namespace

#if defined(__AVX512BF16__)
#include "bf16.h"
#define IAM_SCREENS 1
#elif defined(__SSE4_1__) && !defined(__AVX512F__)
#include "int16.h"
#define IAM_SCREENS 1
#endif

namespace {

int64_t scratchBytes(int64_t depth) {
  const int64_t packed = tilesPerPack(depth) * kTile * std::max<int64_t>(depth, 1);
  const int64_t bytes =
      static_cast<int64_t>(sizeof(float)) * std::max(packed, kStreamRows * kStreamStride);
#if defined(IAM_SCREENS)
  return std::max(bytes, screenScratchBytes(depth));
#else
  return bytes;
#endif
}

void dense(const Rows &rows, const Weights &weights, int64_t begin, int64_t end,
           const float *addend, int64_t addendStride, float *out, int64_t outStride,
           void *scratch) {
  product(rows, weights, begin, end, scratch,
          DenseSink{weights.bias, addend, addendStride, out, outStride});
}

#if defined(IAM_SCREENS)
constexpr int64_t kScreenFrom = kScreenFromRows, kScreenSlacks = kSlacks;
constexpr auto packedStride = screenPackedStride;
constexpr auto prepare = screenPrepare;
#else
constexpr int64_t kScreenFrom = std::numeric_limits<int64_t>::max(), kScreenSlacks = 0;
int64_t packedStride(int64_t) { return 0; }
void prepare(const Rows &, int64_t, int64_t, void *, float *) {}
#endif

void topk(const Rows &rows, const Weights &weights, int64_t begin, int64_t end,
          const TopKState &state, void *scratch) {
#if defined(IAM_SCREENS)
  if (rows.packed)
    return screenTopK(rows, weights, begin, end, state, scratch);
#endif
  product(rows, weights, begin, end, scratch, TopKSink{weights.bias, state});
}

Pair threshold(const Rows &rows, const Weights &weights, const float *theta, int64_t begin,
               int64_t end, float *values, int32_t *indices, int32_t *counts, int64_t capacity,
               void *scratch) {
  Pair nan = {-1, -1};
  std::fill(counts, counts + rows.rows, 0);
  product(rows, weights, begin, end, scratch,
          ThresholdSink{weights.bias, theta, values, indices, counts, capacity, &nan});
  return nan;
}

Pair groupMax(const Rows &rows, const Weights &weights, int64_t width, int64_t begin, int64_t end,
              float *values, int64_t valuesStride, int32_t *indices, int64_t indicesStride,
              void *scratch) {
  Pair nan = {-1, -1};
  const int64_t groups = (end - begin) / width, first = begin / width;
  for (int64_t r = 0; r < rows.rows; ++r)
    for (int64_t g = first; g < first + groups; ++g) {
      values[r * valuesStride + g] = -kInf;
      indices[r * indicesStride + g] = static_cast<int32_t>(g * width);
    }
  product(rows, weights, begin, end, scratch,
          GroupMaxSink{weights.bias, static_cast<uint32_t>(width), values, valuesStride, indices,
                       indicesStride, &nan});
  return nan;
}

// Continues the sums of `count` entries over depth begin..end-1. Entry i reads its weights at
// w[i], every `stride`.
void continueSums(const float *const *x, const float *const *w, int64_t stride, int64_t depth,
                  int64_t count, float *sums) {
  constexpr int kChains = 8; // independent sums hide the latency of the additions
  int64_t p = 0;
  for (; p + kChains <= count; p += kChains) {
    const float *xs[kChains], *ws[kChains];
    float held[kChains];
#pragma GCC unroll 8
    for (int c = 0; c < kChains; ++c)
      xs[c] = x[p + c], ws[c] = w[p + c], held[c] = sums[p + c];
    for (int64_t i = 0; i < depth; ++i)
#pragma GCC unroll 8
      for (int c = 0; c < kChains; ++c)
        held[c] = maddScalar(xs[c][i], ws[c][i * stride], held[c]);
#pragma GCC unroll 8
    for (int c = 0; c < kChains; ++c)
      sums[p + c] = held[c];
  }
  for (; p < count; ++p)
    for (int64_t i = 0; i < depth; ++i)
      sums[p] = maddScalar(x[p][i], w[p][i * stride], sums[p]);
}

void exact(const Rows &rows, const Weights &weights, const Pair *pairs, int64_t count, float *out) {
  // Pairs with features near each other come one after another. Their strip of W is copied first:
  // rows of W are multiples of a page apart more often than not, and would evict each other. That
  // also limits how far ahead to ask for them.
  constexpr int64_t kGroup = kExactGroup, kDepth = 96, kAhead = 6, kMost = 128;
  alignas(64) float strip[kDepth * kGroup];
  for (int64_t begin = 0, end; begin < count; begin = end) {
    const int64_t group = pairs[begin].feature / kGroup * kGroup;
    for (end = begin + 1; end < count && end < begin + kMost; ++end)
      if (pairs[end].feature / kGroup * kGroup != group)
        break;
    const float *x[kMost], *w[kMost];
    const int64_t n = end - begin, width = std::min(kGroup, weights.features - group);
    for (int64_t p = 0; p < n; ++p) {
      w[p] = strip + (pairs[begin + p].feature - group);
      out[begin + p] = 0;
    }
    for (int64_t from = 0; from < rows.depth; from += kDepth) {
      const int64_t depth = std::min(kDepth, rows.depth - from);
      const float *source = weights.w + from * weights.stride + group;
      for (int64_t i = 0; i < depth; ++i, source += weights.stride) {
        if (from + i + kAhead < rows.depth)
          for (int64_t j = 0; j < width; j += 16)
            __builtin_prefetch(source + kAhead * weights.stride + j);
        if (width == kGroup)
          std::memcpy(strip + i * kGroup, source, kGroup * sizeof(float));
        else
          std::copy_n(source, width, strip + i * kGroup);
      }
      for (int64_t p = 0; p < n; ++p)
        x[p] = rows.x + pairs[begin + p].row * rows.stride + from;
      continueSums(x, w, kGroup, depth, n, out + begin);
    }
    if (weights.bias)
      for (int64_t p = begin; p < end; ++p)
        out[p] += weights.bias[pairs[p].feature];
  }
}

int64_t findNonFinite(const float *values, int64_t count) {
  constexpr int64_t kBlock = 1024;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(count, begin + kBlock);
    Vf sum = zero();
    int64_t i = begin;
    for (; i + kWidth <= end; i += kWidth)
      sum = madd(load(values + i), zero(), sum);
    sum = madd(loadSome(values + i, end - i), zero(), sum);
    if (!anyNan(sum))
      continue;
    for (i = begin; i < end; ++i)
      if (!(std::fabs(values[i]) <= std::numeric_limits<float>::max()))
        return i;
  }
  return -1;
}

void axpy(float a, const float *x, float *y, int64_t count) {
  const Vf s = splat(a);
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth)
    store(y + i, madd(s, load(x + i), load(y + i)));
  for (; i < count; ++i)
    y[i] = maddScalar(a, x[i], y[i]);
}

// Products of float32 are exact in float64, so all levels agree.
template <typename Term>
inline double sums64(const float *x, const float *y, int64_t count, Term &&term) {
  constexpr int kLanes = 32;
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane)
      lanes[lane] += term(static_cast<double>(x[i + lane]) * static_cast<double>(y[i + lane]));
  for (int lane = 0; i < count; ++i, ++lane)
    lanes[lane] += term(static_cast<double>(x[i]) * static_cast<double>(y[i]));
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane)
      lanes[lane] += lanes[lane + half];
  return lanes[0];
}

double dot64(const float *x, const float *y, int64_t count) {
  return sums64(x, y, count, [](double product) { return product; });
}

double absDot64(const float *x, const float *y, int64_t count) {
  return sums64(x, y, count, [](double product) { return product < 0 ? -product : product; });
}

void move64(double a, const float *v, const float *x, float *y, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    y[i] = static_cast<float>(static_cast<double>(x[i]) + a * static_cast<double>(v[i]));
}

} // namespace

#include "affine.h"
#include "training.h"

#define IAM_STRINGIFY_(x) #x
#define IAM_STRINGIFY(x) IAM_STRINGIFY_(x)

extern "C" __attribute__((visibility("default"))) const Table iam_kernels = {
    kVersion,      IAM_STRINGIFY(IAM_LEVEL),
    kScreenFrom,   kScreenSlacks,
    scratchBytes,  packedStride,
    prepare,       dense,
    topk,          threshold,
    groupMax,      exact,
    start,         scan,
    prune,         findNonFinite,
    axpy,          dot,
    dot64,         absDot64,
    move64,        sumSquares,
    adam,          signum,
    innerProducts, combine,
};
