// What compiled programs see: memref descriptors in, a sticky per-thread Status out.
// entry_points.def lists the functions.
#pragma once

#include "iam/core/export.h"
#include "iam/core/status.h"

#include <cstdint>

namespace iam::rt {

/// MLIR's descriptor of a memref of rank N. Element (i, j) is aligned[offset + i strides[0] + j
/// strides[1]].
template <typename T, int N> struct MemRef {
  T *allocated;
  T *aligned;
  int64_t offset;
  int64_t sizes[N];
  int64_t strides[N];
};

/// What functions that make CSR codes return.
struct MemRefCsr {
  MemRef<float, 1> values;
  MemRef<int32_t, 1> indices;
  MemRef<int64_t, 1> offsets;
};

/// The first failure of an entry point on this thread since the last call, which it clears.
IAM_RT_EXPORT Status takeStatus();

} // namespace iam::rt
