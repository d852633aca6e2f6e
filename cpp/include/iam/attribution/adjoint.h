// Derivatives of other kernels: what takes the cotangent of a result to that of an operand.
//
// The cotangent of codes is codes with entries at active features: a slot of value 0 in `codes` is
// padding in the result, too. k-form: out has the slots of codes. CSR: entries that are 0 are left
// out.
#pragma once

#include "iam/clt/edit.h"
#include "iam/clt/features.h"
#include "iam/core/enums.h"
#include "iam/core/export.h"
#include "iam/core/status.h"
#include "iam/steering/sets.h"

namespace iam::rt {

/// out[r, j] = dy[r] . wDec[j] at the active features j of row r; inner products are float32 sums in
/// the order of the CPU level's kernel, the same for every row.
/// Shapes:   codes [rows, F], wDec [F, d], dy [rows, d].
/// Cost:     O(nnz d): an active row of wDec each.
/// Errors:   kShapeMismatch, kFeatureRange.
/// Spec:     docs/spec.md#iamcltdecode_adjoint
IAM_RT_EXPORT Status decodeAdjoint(FixedCodes codes, Mat<const float> wDec, Mat<const float> dy,
                                   FixedCodesOut out);
IAM_RT_EXPORT Status decodeAdjoint(CsrCodes codes, Mat<const float> wDec, Mat<const float> dy,
                                   CsrResult &out);

/// out[r, j] = dd[r, j] at the active features j; with columns, dd[r, i] where columns[i] = j, else
/// 0.
/// Shapes:   dd [rows, F], or [rows, columns.size].
/// Errors:   kShapeMismatch, kFeatureRange, kFeatureDuplicate.
/// Spec:     docs/spec.md#iamcltdensify_adjoint
IAM_RT_EXPORT Status densifyAdjoint(FixedCodes codes, Mat<const float> dd,
                                    const Vec<const int32_t> *columns, FixedCodesOut out);
IAM_RT_EXPORT Status densifyAdjoint(CsrCodes codes, Mat<const float> dd,
                                    const Vec<const int32_t> *columns, CsrResult &out);

/// Codes in either form, to be read.
struct AnyCodes {
  const FixedCodes *fixed = nullptr;
  const CsrCodes *csr = nullptr;
};

/// out[r, j] = m[j] dg[r, j] at the active features j of codes; m as docs/spec.md#iamcltedit_adjoint
/// says: of the edit, or, if isDelta, of its delta.
/// Cost:     O(rows (k + n) log) for k-form, O(nnz log) for CSR.
/// Errors:   those of edit; kShapeMismatch.
/// Spec:     docs/spec.md#iamcltedit_adjoint
IAM_RT_EXPORT Status editAdjoint(FixedCodes codes, AnyCodes dg, const Edit &e, bool isDelta,
                                 FixedCodesOut out);
IAM_RT_EXPORT Status editAdjoint(CsrCodes codes, AnyCodes dg, const Edit &e, bool isDelta,
                                 CsrResult &out);

/// out = the derivative of the projection onto set at h, times dy, row by row.
/// Shapes:   h, dy, out [rows, d].
/// Errors:   those of project.
/// Spec:     docs/spec.md#iampolicyproject_adjoint
IAM_RT_EXPORT Status projectAdjoint(Mat<const float> h, Mat<const float> dy, const Set &set,
                                    Mat<float> out);

/// The n entries of largest magnitude of each row, by descending magnitude, ties to the lowest index.
/// Shapes:   scores [rows, F], indices and top [rows, n], 1 <= n <= F.
/// Cost:     O(rows F log n).
/// Errors:   kShapeMismatch, kKRange, kNonFinite for NaN.
/// Spec:     docs/spec.md#iamattrselect
IAM_RT_EXPORT Status select(Mat<const float> scores, Mat<int32_t> indices, Mat<float> top);

/// Fails with kNonFinite when gradients, `points` blocks of equally many rows, hold NaN or infinity;
/// block i belongs to point first + i of a path.
/// Spec:     docs/spec.md#iamattrcheck
IAM_RT_EXPORT Status checkGradients(Mat<const float> gradients, int64_t first, int64_t points);

} // namespace iam::rt
