// Edits of chosen features, and differences of codes.
#pragma once

#include "iam/clt/features.h"
#include "iam/core/enums.h"
#include "iam/core/export.h"
#include "iam/core/status.h"

namespace iam::rt {

/// An edit of features[i] with operands a[i], b[i] (see EditMode; a is absent for kAblate, b for
/// all but kClamp).
struct Edit {
  EditMode mode;
  Vec<const int32_t> features; // [n], distinct, >= 0
  Vec<const float> a;          // [n] or empty
  Vec<const float> b;          // [n] or empty
};

/// Whether an edit may make inactive features active, so that its k-form result has n more slots.
inline bool mayActivate(EditMode mode) {
  return mode == EditMode::kSet || mode == EditMode::kClamp;
}

/// edit(codes). k-form: out has the slots of codes in their order and, for kSet and kClamp, one
/// more slot per edited feature, used when the row did not hold it (else value 0). CSR: ascending,
/// only nonzero values.
/// Shapes:   k-form: out [rows, k + n] when mayActivate(mode), else [rows, k].
/// Cost:     O(rows (k + n)) after O(n log n).
/// Errors:   kShapeMismatch, kMode, kFeatureRange (negative), kFeatureDuplicate, kInvalidArgument
///           (a clamp with a > b or a NaN operand).
/// Spec:     docs/spec.md#iamcltedit
IAM_RT_EXPORT Status edit(FixedCodes codes, const Edit &e, FixedCodesOut out);
IAM_RT_EXPORT Status edit(CsrCodes codes, const Edit &e, CsrResult &out);

/// edit(codes) - codes on the edited features only: out[r, i] belongs to features[i].
/// Shapes:   out [rows, n].
/// Errors:   as edit.
/// Spec:     docs/spec.md#iamcltdelta
IAM_RT_EXPORT Status delta(FixedCodes codes, const Edit &e, FixedCodesOut out);
IAM_RT_EXPORT Status delta(CsrCodes codes, const Edit &e, FixedCodesOut out);

/// p - q. k-form: the k1 slots of p with the matching values of q subtracted, then the k2 slots of
/// q, negated, with 0 where p held the feature. CSR: merged, only nonzero values.
/// Shapes:   k-form: out [rows, k1 + k2].
/// Cost:     k-form: O(rows (k1 + k2) log k2); CSR: O(nnz).
/// Errors:   kShapeMismatch, kInvalidArgument (offsets).
/// Spec:     docs/spec.md#iamcltsub
IAM_RT_EXPORT Status sub(FixedCodes p, FixedCodes q, FixedCodesOut out);
IAM_RT_EXPORT Status sub(CsrCodes p, CsrCodes q, CsrResult &out);

} // namespace iam::rt
