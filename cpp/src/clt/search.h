// Inside the runtime: the fused search that encodeTopK, encodeAbsTopK and matchingPursuit share, and
// the selection of batchTopK and encodeBatchTopK.
#pragma once

#include "../core/kernels.h"
#include "iam/clt/encode.h"

namespace iam::rt {

/// The k = values.cols largest pre-activations of each row, by magnitude if asked. Where one is NaN,
/// `nan` names it, and codes are not complete; else nan stays as it is.
Status searchRows(const char *op, const Encoder &e, bool magnitude, FixedCodesOut codes,
                  kernels::Pair &nan);

/// What a search writes: the value with its sign, or its ReLU.
inline float valueOf(const kernels::Candidate &c) {
  return c.index < 0 ? -c.lower : c.lower > 0 ? c.lower : 0.0f;
}

/// The `wanted` largest of all entries, of which there are at least as many, in the order that they
/// have; ties to those that come first. `limit` is the smallest of them. wanted >= 1.
Status keepLargest(const char *op, const CsrResult &all, int64_t wanted, CsrResult &codes,
                   float &limit);

} // namespace iam::rt
