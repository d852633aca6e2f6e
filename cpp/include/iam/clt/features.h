// Sparse codes as kernels see them. Component order everywhere: values, indices(, offsets).
#pragma once

#include "iam/core/pool.h"
#include "iam/core/view.h"

namespace iam::rt {

/// k-form: exactly k slots a row. A slot with value 0 is padding and its index means nothing; the
/// indices of the other slots of a row are distinct.
struct FixedCodes {
  Mat<const float> values;    // [rows, k]
  Mat<const int32_t> indices; // [rows, k]
};
struct FixedCodesOut {
  Mat<float> values;
  Mat<int32_t> indices;
};

/// CSR form: row r owns entries offsets[r] .. offsets[r+1]-1, by ascending index, nonzero values
/// only.
struct CsrCodes {
  Vec<const float> values;    // [nnz]
  Vec<const int32_t> indices; // [nnz]
  Vec<const int64_t> offsets; // [rows + 1]
};
/// CSR codes made by a kernel, in pool memory.
struct CsrResult {
  Buffer<float> values;
  Buffer<int32_t> indices;
  Buffer<int64_t> offsets;

  CsrCodes view() const {
    return {{values.data(), values.size()},
            {indices.data(), indices.size()},
            {offsets.data(), offsets.size()}};
  }
};

} // namespace iam::rt
