// One pool of threads for all kernels.
#pragma once

#include "iam/core/export.h"
#include "iam/core/status.h"

#include <cstdint>
#include <type_traits>

namespace iam::rt {

/// Threads that kernels use, the caller's included. IAM_NUM_THREADS if set, else what the hardware
/// has.
IAM_RT_EXPORT int numThreads();

/// Errors: kInvalidArgument for n outside 1..1024.
IAM_RT_EXPORT Status setNumThreads(int n);

namespace detail {
using Task = void (*)(void *context, int64_t index, int worker);
IAM_RT_EXPORT Status parallelFor(const char *op, int64_t count, void *context, Task task) noexcept;
} // namespace detail

/// Calls body(index, worker) for index in 0..count-1, each once, in any order, on up to
/// numThreads() threads. `worker` is in 0..numThreads()-1 and no two calls with one worker overlap.
/// Called from inside a body, or while another thread holds the pool, it runs on the caller alone.
/// What a body throws becomes the Status.
template <typename Body> Status parallelFor(const char *op, int64_t count, Body &&body) noexcept {
  using Plain = std::remove_reference_t<Body>;
  return detail::parallelFor(op, count, const_cast<void *>(static_cast<const void *>(&body)),
                             [](void *context, int64_t index, int worker) {
                               (*static_cast<Plain *>(context))(index, worker);
                             });
}

} // namespace iam::rt
