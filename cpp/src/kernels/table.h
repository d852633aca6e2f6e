// The kernels that are compiled once per CPU level, as a table of functions. Each library
// libiam_kernels_<level>.so exports one symbol, `iam_kernels`, and links nothing of the runtime:
// plain pointers in, no allocation, no exceptions, no threads. The runtime checks shapes, owns the
// memory and splits the work.
#pragma once

#include <cstdint>

namespace iam::rt::kernels {

/// Rows of activations, ready to encode: finite, b_dec subtracted.
struct Rows {
  const float *x = nullptr; // [rows, depth]
  int64_t stride = 0, rows = 0, depth = 0;
  /// What `prepare` made for screening (only if the table screens; else null).
  const void *packed = nullptr; // packedStride(depth) bytes a row
  const float *slack = nullptr; // [rows, Table::slacks]; see bf16.h and int16.h
};

/// Rows of activations, [rows, width].
template <typename T> struct Block {
  T *data = nullptr;
  int64_t stride = 0, rows = 0, width = 0;
};

struct Weights {
  const float *w = nullptr; // [depth, features]
  int64_t stride = 0, features = 0;
  const float *bias = nullptr; // [features] or null
};

/// A feature that may be among the k largest of its row: lower <= key <= upper, exact if they are
/// equal. The key is the pre-activation, or its magnitude (TopKState::magnitude).
struct Candidate {
  float upper, lower;
  int32_t
      index; // the feature; plus kNegative if the key is the exact magnitude of a negative value
};

inline constexpr int32_t kNegative = INT32_MIN;

static inline int32_t featureOf(const Candidate &c) { return c.index & ~kNegative; }

/// The order of results: larger first, ties to the lowest feature.
static inline bool better(const Candidate &a, const Candidate &b) {
  return a.lower > b.lower || (a.lower == b.lower && featureOf(a) < featureOf(b));
}

/// The candidate of a value that is not NaN.
static inline Candidate exactly(float value, int32_t feature, bool magnitude) {
  const bool negative = magnitude && value < 0;
  const float key = negative ? -value : value;
  return {key, key, negative ? feature | kNegative : feature};
}

/// The search of one row for its k largest.
struct Search {
  int32_t count;   // candidates held
  int32_t pruneAt; // prune when count reaches this
  int32_t nan;     // a feature whose pre-activation is NaN, or -1
  float limit;     // a feature whose upper bound is below this is not among the k largest
};

/// Searches of a block of rows by one worker, over the columns that it was given so far.
struct TopKState {
  int64_t k = 0, capacity = 0;     // capacity >= minCapacity(k)
  bool magnitude = false;          // search by |pre-activation|, which keeps its sign
  Search *searches = nullptr;      // [rows]
  Candidate *candidates = nullptr; // [rows, capacity]
  /// Entries that were recomputed one at a time, because their bounds did not decide and there was
  /// no room. Past kPatience, screening does not pay: topk may then leave the searches incomplete,
  /// and the caller starts them again without Rows::packed.
  int64_t *recomputed = nullptr;
};

inline constexpr int64_t kPatience = 2048;

inline int64_t minCapacity(int64_t k) { return 2 * k + 448; }

struct Pair {
  int32_t row, feature;
};

/// One step of Adam, as the kernel wants it; see iam/training/optimiser.h.
struct AdamScalars {
  float beta1, rest1; // rest = 1 - beta
  float beta2, rest2;
  float eps, stepSize;  // stepSize = lr / (1 - beta1^t)
  float rootCorrection; // 1 / sqrt(1 - beta2^t)
  float scale, keep;    // of the gradient; of the parameter
};
struct SignumScalars {
  float beta, rest, rate, scale, keep;
};

struct Table {
  uint32_t version = 0; // kVersion
  const char *level = nullptr;
  /// From this many rows, topk bounds pre-activations with cheaper arithmetic first.
  int64_t screenFrom = 0, slacks = 0;

  /// Scratch that a worker needs for the functions below, 64-byte aligned.
  int64_t (*scratchBytes)(int64_t depth) = nullptr;
  /// Bytes of Rows::packed per row; 0 if the table does not screen (rows of this depth).
  int64_t (*packedStride)(int64_t depth) = nullptr;
  /// Fills packed and slack for rows begin..end-1.
  void (*prepare)(const Rows &rows, int64_t begin, int64_t end, void *packed,
                  float *slack) = nullptr;

  /// out[r, j] = pre(r, j) + addend[r, j] for j in begin..end-1; addend may be null.
  void (*dense)(const Rows &rows, const Weights &weights, int64_t begin, int64_t end,
                const float *addend, int64_t addendStride, float *out, int64_t outStride,
                void *scratch) = nullptr;
  /// Continues the searches with columns begin..end-1.
  void (*topk)(const Rows &rows, const Weights &weights, int64_t begin, int64_t end,
               const TopKState &state, void *scratch) = nullptr;
  /// Row r: the entries of columns begin..end-1 above max(0, theta), ascending, at values + r *
  /// capacity; their number in counts[r]. capacity >= end - begin. Returns a (row, feature) that is
  /// NaN, or {-1, -1}.
  Pair (*threshold)(const Rows &rows, const Weights &weights, const float *theta, int64_t begin,
                    int64_t end, float *values, int32_t *indices, int32_t *counts, int64_t capacity,
                    void *scratch) = nullptr;
  /// The largest entry of each group of `width` features among columns begin..end-1, ties to the
  /// lowest feature; begin and end are multiples of width, or the end of the features. Row r, group g:
  /// values[r * stride + g] and indices[r * stride + g]. Returns as `threshold`.
  Pair (*groupMax)(const Rows &rows, const Weights &weights, int64_t width, int64_t begin,
                   int64_t end, float *values, int64_t valuesStride, int32_t *indices,
                   int64_t indicesStride, void *scratch) = nullptr;
  /// out[i] = pre(pairs[i]), bit for bit what `dense` gives. Fast where pairs whose features share
  /// a group of kExactGroup come one after another.
  void (*exact)(const Rows &rows, const Weights &weights, const Pair *pairs, int64_t count,
                float *out) = nullptr;
  /// Starts a search.
  void (*start)(const TopKState &state, int64_t row) = nullptr;
  /// Continues the search of `row` with given values, value[j] being that of feature `first + j`.
  void (*scan)(const float *values, int64_t count, int64_t first, const TopKState &state,
               int64_t row) = nullptr;
  /// Leaves in candidates only those that may be among the k largest, those k with the largest
  /// lower bounds first; returns their number. Works on any array of candidates.
  int64_t (*prune)(Candidate *candidates, int64_t count, int64_t k) = nullptr;

  /// The first i in 0..count-1 with values[i] NaN or infinite, or -1.
  int64_t (*findNonFinite)(const float *values, int64_t count) = nullptr;
  /// y[i] += a * x[i]
  void (*axpy)(float a, const float *x, float *y, int64_t count) = nullptr;

  /// Sum of x[i] y[i]: 32 sums over i modulo 32, then halves added.
  float (*dot)(const float *x, const float *y, int64_t count) = nullptr;
  /// Sum of x[i] y[i] in float64: 32 sums over i modulo 32, then halves added.
  double (*dot64)(const float *x, const float *y, int64_t count) = nullptr;
  /// Sum of |x[i] y[i]| in float64, as dot64.
  double (*absDot64)(const float *x, const float *y, int64_t count) = nullptr;
  /// y[i] = x[i] + a v[i], in float64, rounded once. y may be x.
  void (*move64)(double a, const float *v, const float *x, float *y, int64_t count) = nullptr;
  /// Sum of x[i]^2 in float64: 8 sums over i modulo 8, then halves added.
  double (*sumSquares)(const float *x, int64_t count) = nullptr;
  /// Steps of optimisers; g may be null (zeros), and so may signum's m.
  void (*adam)(float *p, const float *g, float *m, float *v, int64_t count,
               const AdamScalars &scalars) = nullptr;
  void (*signum)(float *p, const float *g, float *m, int64_t count,
                 const SignumScalars &scalars) = nullptr;

  /// out[r * count + i] = <x_r, v_i> and, where squares is not null, squares[r] = |x_r|^2, in float64: 8 sums over columns
  /// modulo 8, then halves added. Rows of v have paddedTo8(width) columns, zeros after width. Meanwhile, rows * width / 2
  /// floats from `next`, if any, come to the cache.
  void (*innerProducts)(const Block<const float> &x, const double *v, int64_t count, double *out,
                        double *squares, const float *next) = nullptr;
  /// y_r = x_r + sum of c[r * count + i] v_i, added in the order of i, each sum rounded. y may be x. At most 32 rows.
  /// Returns a bit for each row: NaN or infinity in it before the last term. Where `past`, y goes to memory past the
  /// caches. `next` as above.
  uint32_t (*combine)(const Block<const float> &x, const float *v, int64_t vStride, const float *c,
                      int64_t count, const Block<float> &y, bool past, const float *next) = nullptr;
};

inline constexpr int64_t paddedTo8(int64_t width) { return (width + 7) / 8 * 8; }

inline constexpr int64_t kExactGroup = 64;
inline constexpr uint32_t kVersion = 6;

} // namespace iam::rt::kernels
