#include "iam/core/fingerprint.h"

#include "iam/core/threads.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace iam::rt {
namespace {

constexpr int kLanes = 8;
constexpr std::size_t kPart = std::size_t(1) << 20;
constexpr uint64_t kOdd = 0x9E3779B97F4A7C15ull; // 2^64 / golden ratio: odd

inline uint64_t rotated(uint64_t h, int by) { return h << by | h >> (64 - by); }

// One to one in each argument: what differs in one word stays different. The rotation brings high bits down, which a product
// alone never does.
inline uint64_t mixed(uint64_t h, uint64_t word) { return rotated((h ^ word) * kOdd, 29); }

/// Lanes of words i modulo kLanes; the last bytes count as a word with zeros.
Fingerprint hashOf(const unsigned char *data, std::size_t bytes) {
  uint64_t lanes[kLanes];
  for (int lane = 0; lane < kLanes; ++lane)
    lanes[lane] = kOdd * static_cast<uint64_t>(lane + 1);
  constexpr std::size_t kStep = kLanes * sizeof(uint64_t);
  uint64_t words[kLanes];
  std::size_t i = 0;
  for (; i + kStep <= bytes; i += kStep) {
    std::memcpy(words, data + i, kStep);
    for (int lane = 0; lane < kLanes; ++lane)
      lanes[lane] = mixed(lanes[lane], words[lane]);
  }
  std::memset(words, 0, kStep);
  if (i < bytes)
    std::memcpy(words, data + i, bytes - i);
  Fingerprint out{bytes, ~static_cast<uint64_t>(bytes)};
  for (int lane = 0; lane < kLanes; ++lane) {
    const uint64_t last = mixed(mixed(lanes[lane], words[lane]), kOdd);
    out[0] = mixed(out[0], last);
    out[1] = mixed(out[1], rotated(last, 17));
  }
  return out;
}

} // namespace

Status fingerprint(const void *data, std::size_t bytes, Fingerprint &out) noexcept {
  constexpr const char *op = "iam.fingerprint";
  return guarded(op, [&] {
    const auto *from = static_cast<const unsigned char *>(data);
    std::vector<Fingerprint> parts(std::max<std::size_t>(1, (bytes + kPart - 1) / kPart));
    IAM_RETURN_IF_ERROR(parallelFor(op, static_cast<int64_t>(parts.size()), [&](int64_t part, int) {
      const std::size_t begin = static_cast<std::size_t>(part) * kPart;
      parts[static_cast<std::size_t>(part)] = hashOf(from + begin, std::min(kPart, bytes - begin));
    }));
    out = parts.size() == 1 ? parts.front()
                            : hashOf(reinterpret_cast<const unsigned char *>(parts.data()),
                                     parts.size() * sizeof(Fingerprint));
    return Status();
  });
}

} // namespace iam::rt
