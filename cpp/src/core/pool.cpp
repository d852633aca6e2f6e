#include "iam/core/pool.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace iam::rt::pool {
namespace {

// Kept blocks beyond this are returned to the system, so one huge call does not pin its memory.
constexpr std::size_t kMaxCachedBytes = std::size_t(256) << 20;
constexpr std::size_t kClasses = 4 * 48;

// New memory of the system. Of large blocks the first touch of every page costs more than the work on it: pages of 2 MB, where
// the system gives them to who asks.
void *newBlock(std::size_t bytes) {
#ifdef __linux__
  constexpr std::size_t kHugePage = std::size_t(2) << 20;
  if (bytes >= 4 * kHugePage) {
    const std::size_t rounded = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    if (void *block = std::aligned_alloc(kHugePage, rounded)) {
      madvise(block, rounded, MADV_HUGEPAGE); // only advice: what it returns does not matter
      return block;
    }
  }
#endif
  return std::aligned_alloc(kAlignment, bytes);
}

// Four classes an octave, so rounding up wastes at most a fifth: 64 B, 80 -> 128 B aligned, ... up
// to 2^48.
std::size_t classOf(std::size_t bytes, std::size_t &rounded) {
  std::size_t index = 0, octave = 256;
  rounded = 64;
  if (bytes <= 64)
    return 0;
  if (bytes <= 256) { // 128, 192, 256
    index = (bytes + 63) / 64 - 1;
    rounded = (index + 1) * 64;
    return index;
  }
  index = 3;
  while (octave * 2 < bytes) {
    octave *= 2;
    index += 4;
  }
  const std::size_t step = octave / 4, steps = (bytes - octave + step - 1) / step;
  rounded = octave + steps * step;
  return index + steps;
}

struct Pool {
  std::mutex mutex;
  std::vector<void *> kept[kClasses];
  std::unordered_map<void *, std::size_t> live; // block -> size asked of the system
  struct Foreign {
    void (*drop)(void *);
    void *owner;
  };
  std::unordered_map<void *, Foreign> foreign; // memory of others
  Stats stats;

  std::size_t trimLocked() {
    std::size_t freed = stats.bytesCached;
    for (auto &blocks : kept) {
      for (void *block : blocks)
        std::free(block);
      blocks.clear();
    }
    stats.bytesCached = 0;
    return freed;
  }
};

// Never destroyed: arrays that outlive main() still give their blocks back.
Pool &instance() {
  static Pool *pool = new Pool;
  return *pool;
}

} // namespace

void *allocate(std::size_t bytes) noexcept {
  if (bytes > std::size_t(1) << 46)
    return nullptr;
  std::size_t rounded = 0;
  const std::size_t index = classOf(bytes, rounded);
  Pool &pool = instance();
  std::lock_guard<std::mutex> lock(pool.mutex);
  ++pool.stats.requests;
  void *block = nullptr;
  bool reused = false;
  if (auto &blocks = pool.kept[index]; !blocks.empty()) {
    block = blocks.back();
    blocks.pop_back();
    pool.stats.bytesCached -= rounded;
    reused = true;
  } else {
    block = newBlock(rounded);
    if (!block && pool.trimLocked() > 0)
      block = newBlock(rounded);
    if (!block)
      return nullptr;
  }
  try {
    pool.live.emplace(block, rounded);
  } catch (const std::bad_alloc &) {
    std::free(block);
    return nullptr;
  }
  pool.stats.reuses += reused;
  ++pool.stats.blocksInUse;
  pool.stats.bytesInUse += rounded;
  pool.stats.peakBytes = std::max(pool.stats.peakBytes, pool.stats.bytesInUse);
  return block;
}

bool release(void *block) noexcept {
  if (!block)
    return true;
  Pool &pool = instance();
  std::unique_lock<std::mutex> lock(pool.mutex);
  const auto found = pool.live.find(block);
  if (found == pool.live.end()) {
    const auto other = pool.foreign.find(block);
    if (other == pool.foreign.end())
      return false;
    const Pool::Foreign memory = other->second;
    pool.foreign.erase(other);
    lock.unlock();
    memory.drop(memory.owner);
    return true;
  }
  const std::size_t bytes = found->second;
  pool.live.erase(found);
  --pool.stats.blocksInUse;
  pool.stats.bytesInUse -= bytes;
  if (pool.stats.bytesCached + bytes <= kMaxCachedBytes) {
    std::size_t rounded = 0;
    try {
      pool.kept[classOf(bytes, rounded)].push_back(block);
      pool.stats.bytesCached += bytes;
      return true;
    } catch (const std::bad_alloc &) {
    }
  }
  std::free(block);
  return true;
}

bool adopt(void *block, void (*drop)(void *), void *owner) noexcept {
  Pool &pool = instance();
  std::lock_guard<std::mutex> lock(pool.mutex);
  try {
    return pool.live.count(block) == 0 &&
           pool.foreign.emplace(block, Pool::Foreign{drop, owner}).second;
  } catch (const std::bad_alloc &) {
    return false;
  }
}

bool owns(const void *block) noexcept {
  Pool &pool = instance();
  std::lock_guard<std::mutex> lock(pool.mutex);
  void *key = const_cast<void *>(block);
  return pool.live.count(key) != 0 || pool.foreign.count(key) != 0;
}

std::size_t trim() noexcept {
  Pool &pool = instance();
  std::lock_guard<std::mutex> lock(pool.mutex);
  return pool.trimLocked();
}

Stats stats() noexcept {
  Pool &pool = instance();
  std::lock_guard<std::mutex> lock(pool.mutex);
  return pool.stats;
}

void resetPeak() noexcept {
  Pool &pool = instance();
  std::lock_guard<std::mutex> lock(pool.mutex);
  pool.stats.peakBytes = pool.stats.bytesInUse;
}

} // namespace iam::rt::pool
