// Inside the runtime: the fused search that encodeTopK, encodeAbsTopK and matchingPursuit share.
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

} // namespace iam::rt
