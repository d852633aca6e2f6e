// Inside the runtime: the table of the CPU level in use.
#pragma once

#include "../kernels/table.h"
#include "iam/core/status.h"

namespace iam::rt::kernels {

/// Loads the kernels on first use. The table lives as long as the process.
Status get(const Table *&table) noexcept;

} // namespace iam::rt::kernels
