// How kernels report failure: a code and a message, never an exception.
#pragma once

#include "iam/core/export.h"

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

namespace iam::rt {

/// Every code has one class and one `code` word in python/iam/core/errors.py
/// (python/bindings/errors.cpp has the table).
enum class Code : int {
  kOk = 0,
  kInvalidArgument,  ///< right type, value not taken
  kShapeMismatch,    ///< wrong rank or size
  kKRange,           ///< k outside 1..features
  kMode,             ///< unknown edit or steer mode
  kNonFinite,        ///< NaN or infinity in an input
  kFeatureRange,     ///< a feature index outside the dictionary
  kFeatureDuplicate, ///< an edit names a feature twice
  kPolicy,           ///< an asserted policy does not hold
  kOutOfMemory,
  kInternal, ///< a broken invariant of ours
};

/// The outcome of a call. Success holds no memory; failure holds a message that says op, expected,
/// got and where.
class [[nodiscard]] Status {
public:
  Status() = default;
  Status(Code code, std::string message)
      : rep(code == Code::kOk ? nullptr
                              : std::make_shared<const Rep>(Rep{code, std::move(message)})) {}
  /// A policy that row `row` breaks by `margin`.
  static Status policy(std::string message, int64_t row, float margin) {
    Status status;
    status.rep = std::make_shared<const Rep>(Rep{Code::kPolicy, std::move(message), row, margin});
    return status;
  }

  bool ok() const { return rep == nullptr; }
  Code code() const { return rep ? rep->code : Code::kOk; }
  const std::string &message() const {
    static const std::string none;
    return rep ? rep->message : none;
  }

  /// Of a kPolicy: the first row that breaks it, and its margin.
  int64_t row() const { return rep ? rep->row : -1; }
  float margin() const { return rep ? rep->margin : 0; }

private:
  struct Rep {
    Code code;
    std::string message;
    int64_t row = -1;
    float margin = 0;
  };
  std::shared_ptr<const Rep> rep;
};

/// Runs `body` (returning Status) and turns what it throws into a Status: the last line of defence
/// of every boundary.
template <typename Body> Status guarded(const char *op, Body &&body) noexcept;

/// The out-of-memory Status for `op`; does not allocate more than its message.
IAM_RT_EXPORT Status outOfMemory(const char *op);

} // namespace iam::rt

#define IAM_RETURN_IF_ERROR(expr)                                                                  \
  do {                                                                                             \
    if (::iam::rt::Status iamStatus_ = (expr); !iamStatus_.ok())                                   \
      return iamStatus_;                                                                           \
  } while (false)

#include <exception>
#include <new>

template <typename Body> iam::rt::Status iam::rt::guarded(const char *op, Body &&body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc &) {
    return outOfMemory(op);
  } catch (const std::exception &error) {
    return Status(Code::kInternal, std::string(op) + ": unexpected exception: " + error.what());
  } catch (...) {
    return Status(Code::kInternal, std::string(op) + ": unexpected exception");
  }
}
