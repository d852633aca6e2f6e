// Memory for scratch and results: freed blocks are kept and handed out again, so a steady state
// allocates nothing.
#pragma once

#include "iam/core/export.h"
#include "iam/core/status.h"
#include "iam/core/view.h"

#include <cstddef>
#include <cstdint>
#include <utility>

namespace iam::rt::pool {

/// Blocks start at multiples of this many bytes (a cache line, and the widest vector).
inline constexpr std::size_t kAlignment = 64;

struct Stats {
  uint64_t requests = 0;    ///< calls of allocate()
  uint64_t reuses = 0;      ///< of which a kept block served
  uint64_t bytesInUse = 0;  ///< handed out now
  uint64_t bytesCached = 0; ///< kept for reuse now
  uint64_t peakBytes = 0;   ///< largest bytesInUse since the last resetPeak()
  uint64_t blocksInUse = 0;
};

/// At least `bytes` bytes, 64-byte aligned, uninitialised; nullptr if the system has no more.
/// Thread-safe.
IAM_RT_EXPORT void *allocate(std::size_t bytes) noexcept;

/// Gives a block back. nullptr is fine. A pointer that is not a live block of the pool is left
/// alone; returns false then.
IAM_RT_EXPORT bool release(void *block) noexcept;

/// Takes memory of somebody else as a live block, so that it can be given back like any other: then `drop(owner)` is
/// called, on whatever thread, without a lock held. False if `block` is live already or there is no memory to note it.
IAM_RT_EXPORT bool adopt(void *block, void (*drop)(void *owner), void *owner) noexcept;

/// True if `block` is the start of a live block.
IAM_RT_EXPORT bool owns(const void *block) noexcept;

/// Returns all kept blocks to the system; the number of bytes returned.
IAM_RT_EXPORT std::size_t trim() noexcept;

IAM_RT_EXPORT Stats stats() noexcept;
IAM_RT_EXPORT void resetPeak() noexcept;

} // namespace iam::rt::pool

namespace iam::rt {

/// Owns one pool block of `size` elements of T. T is trivial; elements start uninitialised.
template <typename T> class Buffer {
public:
  Buffer() = default;
  Buffer(Buffer &&other) noexcept
      : ptr(std::exchange(other.ptr, nullptr)), count(std::exchange(other.count, 0)) {}
  Buffer &operator=(Buffer &&other) noexcept {
    std::swap(ptr, other.ptr);
    std::swap(count, other.count);
    return *this;
  }
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;
  ~Buffer() { pool::release(ptr); }

  /// Room for `n` elements, instead of what was held before. `op` is named if memory runs out.
  Status resize(int64_t n, const char *op) {
    pool::release(std::exchange(ptr, nullptr));
    count = 0;
    const std::size_t bytes = static_cast<std::size_t>(n > 0 ? n : 1) * sizeof(T);
    ptr = static_cast<T *>(pool::allocate(bytes));
    if (!ptr)
      return Status(Code::kOutOfMemory,
                    std::string(op) + ": could not allocate " + std::to_string(bytes) + " bytes");
    count = n;
    return {};
  }

  T *data() const { return ptr; }
  int64_t size() const { return count; }
  T &operator[](int64_t i) const { return ptr[i]; }
  Vec<T> vec() const { return {ptr, count}; }
  T *begin() const { return ptr; }
  T *end() const { return ptr + count; }
  /// Gives up ownership: the caller releases the block through the pool.
  T *release() {
    count = 0;
    return std::exchange(ptr, nullptr);
  }

private:
  T *ptr = nullptr;
  int64_t count = 0;
};

} // namespace iam::rt
