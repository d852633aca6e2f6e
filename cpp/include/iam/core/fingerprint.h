// Whether memory holds what it held.
#pragma once

#include "iam/core/export.h"
#include "iam/core/status.h"

#include <array>
#include <cstddef>
#include <cstdint>

namespace iam::rt {

using Fingerprint = std::array<uint64_t, 2>;

/// A hash of `bytes` bytes at `data`, at about the speed of memory. Equal memory has equal fingerprints, on every number of
/// threads. Changes go unnoticed with a probability of about 2^-64, when they are not made for it: it is no cryptographic hash.
/// One of 8 bytes or less, aligned to 8, in at most 1 MB never does.
/// Cost:   O(bytes), in parallel.
/// Errors: none but kOutOfMemory.
IAM_RT_EXPORT Status fingerprint(const void *data, std::size_t bytes, Fingerprint &out) noexcept;

} // namespace iam::rt
