// The kernels are compiled once per CPU level; this chooses among them.
#pragma once

#include "iam/core/export.h"
#include "iam/core/status.h"

#include <string>
#include <vector>

namespace iam::rt {

/// The level in use, e.g. "x86-64-v3". Loads it on first use: IAM_CPU_LEVEL if set, else the best
/// one this CPU runs.
IAM_RT_EXPORT Status cpuLevel(std::string &name);

/// Levels that were installed and that this CPU runs, weakest first.
IAM_RT_EXPORT std::vector<std::string> availableCpuLevels();

/// Uses another level from the next call on. Errors: kInvalidArgument, with the list of those
/// available.
IAM_RT_EXPORT Status setCpuLevel(const std::string &name);

} // namespace iam::rt
