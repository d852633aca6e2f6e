// Gradients of sparse coders, for the entries that are active and nothing else.
//
// A coder's backward pass is three products with the sparse codes:
//
//   d_values[r, j]  = <upstream[r], W_dec[f]>           f = indices[r, j]   (gradValues)
//   d W_dec[f]      = sum over entries of f: value upstream[row]           (gradRows)
//   d W_enc[:, f]   = sum over entries of f: d_pre (x[row] - b_dec)        (gradRows)
//
// The two sums run over the entries of a feature, so entries are sorted by feature once (group); a
// feature's sum is then one thread's work, in order of ascending rows: results do not depend on the
// number of threads. Weight gradients are rows [active, d], one for each feature that occurs: never
// [features, d].
#pragma once

#include "iam/clt/features.h"
#include "iam/core/export.h"
#include "iam/core/status.h"

namespace iam::rt {

/// Entries of codes sorted by feature. Feature features[a] owns sorted entries offsets[a] ..
/// offsets[a + 1] - 1; sorted entry i is entry order[i] of the codes (row-major position in
/// values), and belongs to row rows[i]. features ascends; within a feature, order ascends.
struct Grouped {
  Vec<const int32_t> features; // [active]
  Vec<const int64_t> offsets;  // [active + 1]
  Vec<const int32_t> order;    // [entries]
  Vec<const int32_t> rows;     // [entries]
};
struct GroupedResult {
  Buffer<int32_t> features;
  Buffer<int64_t> offsets;
  Buffer<int32_t> order;
  Buffer<int32_t> rows;

  Grouped view() const {
    return {{features.data(), features.size()},
            {offsets.data(), offsets.size()},
            {order.data(), order.size()},
            {rows.data(), rows.size()}};
  }
};

/// Sorts the entries of codes by feature; entries with value 0 are left out (padding in k-form, a
/// closed ReLU: their gradient is 0).
/// Cost:     O(entries + features) time, O(features) scratch.
/// Errors:   kShapeMismatch (also for 2^31 entries and more), kFeatureRange, kInvalidArgument
///           (offsets).
IAM_RT_EXPORT Status group(FixedCodes codes, int64_t features, GroupedResult &out);
IAM_RT_EXPORT Status group(CsrCodes codes, int64_t features, GroupedResult &out);

/// The invariants above, for a grouping that was given from outside: kInvalidArgument if one is
/// broken. `entries` is the size of values, `rows` the number of rows, `features` of the
/// dictionary.
IAM_RT_EXPORT Status checkGrouped(const char *op, const Grouped &g, int64_t entries, int64_t rows,
                                  int64_t features);

/// dValues[e] = <upstream[row of e], wDec[feature of e]> for grouped entries e, 0 for the others:
/// the sampled dense-dense product. Each row of wDec is read once.
/// Shapes:   upstream [rows, d], wDec [features, d], dValues [entries].
/// Rounding: 32 partial sums in float32, then pairwise: |error| <= (d / 32 + 6) u sum |products|.
/// Cost:     O(entries d) time, no scratch.
/// Errors:   kShapeMismatch, kInvalidArgument (grouping).
IAM_RT_EXPORT Status gradValues(const Grouped &g, Mat<const float> upstream, Mat<const float> wDec,
                                Vec<float> dValues);

/// A gradient of weights that is zero except for some features: row a belongs to features[a]. Held
/// as rows, or as the factors that they are made of (grouped.order not empty): row a = sum over
/// the entries e of features[a]: weights[e] basis[row of e], computed when it is needed, so that
/// no [active, d] buffer exists.
struct SparseGradient {
  Vec<const int32_t> features; // [active], ascending
  Mat<const float> rows;       // [active, d], or empty if factored
  bool factored = false;
  Grouped grouped;          // its features are `features`
  Vec<const float> weights; // [entries of the codes]
  Mat<const float> basis;   // [rows of the codes, d]
};

/// Shapes, ascending features, and the grouping if factored.
IAM_RT_EXPORT Status checkGradient(const char *op, const SparseGradient &g, int64_t features,
                                   int64_t d);

/// out[a] = row a of g, or out[a] += it. weights are values of codes and basis is upstream for a
/// decoder; d_pre and x - b_dec for an encoder.
/// Shapes:   out [active, d].
/// Aliasing: out overlaps no input.
/// Rounding: float32, one madd an entry, by ascending rows.
/// Cost:     O(entries d) time, no scratch.
/// Errors:   kShapeMismatch, kInvalidArgument (grouping).
IAM_RT_EXPORT Status gradRows(const SparseGradient &g, bool accumulate, Mat<float> out);

/// out[a] = sum over the entries e of features[a]: weights[e]. Summed in float64. The gradient of
/// b_enc, given d_pre; of a threshold, given the gradients of its entries.
/// Errors:   kShapeMismatch, kInvalidArgument (grouping).
IAM_RT_EXPORT Status gradSums(const Grouped &g, Vec<const float> weights, int64_t rows,
                              Vec<float> out);

/// out[c] = sum over r of m[r, c], in float64 by ascending rows: the gradient of b_dec.
/// Errors:   kShapeMismatch.
IAM_RT_EXPORT Status columnSums(Mat<const float> m, Vec<float> out);

/// out[i] = sum over a of w[i, features[a]] weights[a], in float64: what a gradient of
/// pre-activations, summed over rows, is for the encoder's input. b_dec gets minus it where the
/// encoder subtracts b_dec.
/// Shapes:   w [d, features], weights [active], out [d].
/// Errors:   kShapeMismatch, kFeatureRange.
IAM_RT_EXPORT Status gradInput(Mat<const float> w, Vec<const int32_t> features,
                               Vec<const float> weights, Vec<float> out);

/// out = sum of squares of all rows of g (of the rows if held, of the factors' product if not), in
/// float64, in an order that depends on the shape alone. With `along` [features, d] not empty: of the
/// rows without their part along its rows, what projectRows would leave.
/// Errors:   as checkGradient; kShapeMismatch for along.
IAM_RT_EXPORT Status sumSquares(const SparseGradient &g, Mat<const float> along, double &out);
IAM_RT_EXPORT Status sumSquares(Vec<const float> g, double &out);

/// rows[a] -= (<rows[a], w[f]> / <w[f], w[f]>) w[f] with f = features[a]: takes out the part of a
/// gradient that only changes the length of a decoder row. Rows of w that are zero change nothing.
/// Shapes:   rows [active, d], w [features, d].
/// Aliasing: in place.
/// Source:   Bricken et al. 2023, transformer-circuits.pub/2023/monosemantic-features, appendix.
/// Errors:   kShapeMismatch, kFeatureRange.
IAM_RT_EXPORT Status projectRows(Mat<float> rows, Vec<const int32_t> features, Mat<const float> w);

/// w[f] /= |w[f]| for the given features, all if `all`; the length is computed in float64. Zero
/// rows stay.
/// Errors:   kFeatureRange; kFeatureDuplicate or kInvalidArgument where features do not ascend.
IAM_RT_EXPORT Status normalizeRows(Mat<float> w, Vec<const int32_t> features, bool all);

/// out[f] = |w[f]|, summed in float64.
IAM_RT_EXPORT Status rowNorms(Mat<const float> w, Vec<float> out);

} // namespace iam::rt
