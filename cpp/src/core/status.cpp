#include "iam/core/status.h"

namespace iam::rt {

Status outOfMemory(const char *op) {
  return Status(Code::kOutOfMemory, std::string(op) + ": out of memory");
}

} // namespace iam::rt
