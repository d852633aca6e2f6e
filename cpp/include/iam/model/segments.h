// Parts of a language model, which lives outside of the runtime: programs ask for them by number.
#pragma once

#include "iam/core/export.h"
#include "iam/core/status.h"
#include "iam/core/view.h"

#include <string>

namespace iam::rt::model {

/// A part of a model to run: docs/spec.md#iammodelrun.
struct Part {
  int64_t model = 0;
  Mat<const float> h;                            ///< [n rows, d]; no data: from the tokens
  std::string from, to;                          ///< names of sites; from is empty without h
  const Vec<const int32_t> *tokens = nullptr;    ///< all, if none
  const Vec<const int32_t> *positions = nullptr; ///< all, if none
  int64_t width = -1;                            ///< of the result; -1: any
};

/// An activation that somebody else made. `data` is contiguous; it is adopted by the pool
/// (iam/core/pool.h) or lies in it.
struct Activation {
  float *data = nullptr;
  int64_t rows = 0, cols = 0;
};

/// Who has the models. Calls come from the thread that runs the program.
struct Host {
  /// The activation at the end of a part.
  Status (*run)(const Part &part, Activation &y) = nullptr;
  /// As run; tape is a number for pullback that holds until the program returns.
  Status (*linearize)(const Part &part, Activation &y, int64_t &tape) = nullptr;
  /// The transposed Jacobian of the part with this tape, times dy.
  Status (*pullback)(int64_t tape, Mat<const float> dy, Activation &dh) = nullptr;
  /// After a failure programs go on until they return, on zeros: the rows that the result of a part
  /// would have had, a number for a tape of which nothing is known but the rows of h, and the rows
  /// of h for a tape. They do not fail.
  int64_t (*rows)(const Part &part) = nullptr;
  int64_t (*failedTape)(int64_t rows) = nullptr;
  int64_t (*rowsOfTape)(int64_t tape) = nullptr;
};

/// Whom programs ask. Nobody, until it is set; set it before programs run.
IAM_RT_EXPORT void setHost(const Host &host);

IAM_RT_EXPORT const Host &host();

/// What compiled programs call. Errors: kInvalidArgument without a host, kShapeMismatch when a
/// result has not the width that the program was compiled for; what the host says.
IAM_RT_EXPORT Status run(const Part &part, Activation &y);
IAM_RT_EXPORT Status linearize(const Part &part, Activation &y, int64_t &tape);
IAM_RT_EXPORT Status pullback(int64_t tape, Mat<const float> dy, int64_t width, Activation &dh);

} // namespace iam::rt::model
