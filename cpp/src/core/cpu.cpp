#include "iam/core/cpu.h"

#include "kernels.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>

namespace iam::rt {
namespace {

using kernels::Table;

// Weakest first. IAM_KERNEL_LEVELS comes from cmake/kernels.cmake: those that were built.
const char *const kBuilt[] = {IAM_KERNEL_LEVELS};

bool cpuRuns(const std::string &level) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (level == "x86-64-v2")
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  if (level == "x86-64-v3")
    return v3;
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  if (level == "x86-64-v4")
    return v4;
  if (level == "x86-64-v4-bf16")
    return v4 && __builtin_cpu_supports("avx512bf16");
  return false;
#else
  return level == "baseline";
#endif
}

// The folder that holds this library.
std::string ownFolder() {
  Dl_info info{};
  static const char anchor = 0;
  if (!dladdr(&anchor, &info) || !info.dli_fname)
    return ".";
  const std::string path = info.dli_fname;
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

std::string join(const std::vector<std::string> &names) {
  std::string text;
  for (const std::string &name : names)
    text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? "none" : text;
}

std::mutex mutex;
std::atomic<const Table *> current{nullptr};
std::map<std::string, const Table *> &loaded() { // guarded by mutex
  static auto *tables = new std::map<std::string, const Table *>;
  return *tables;
}

const Table *loadLocked(const std::string &level, std::string &why) {
  if (const auto found = loaded().find(level); found != loaded().end())
    return found->second;
  const std::string path = ownFolder() + "/libiam_kernels_" + level + ".so";
  void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char *error = dlerror();
    why = error ? error : path;
    return nullptr;
  }
  const auto *table = static_cast<const Table *>(dlsym(library, "iam_kernels"));
  if (!table || table->version != kernels::kVersion || level != table->level) {
    why = path + " does not fit this libiam_runtime.so: reinstall IAM";
    return nullptr;
  }
  return loaded()[level] = table;
}

Status useLocked(const std::string &level, const char *asked) {
  const std::vector<std::string> available = availableCpuLevels();
  for (const std::string &name : available) {
    if (name != level)
      continue;
    std::string why;
    const Table *table = loadLocked(level, why);
    if (!table)
      return Status(Code::kInternal,
                    std::string(asked) + ": could not load the kernels for " + level + ": " + why);
    current.store(table, std::memory_order_release);
    return {};
  }
  return Status(Code::kInvalidArgument,
                std::string(asked) +
                    ": expected a CPU level that was built and that this CPU "
                    "runs (" +
                    join(available) + "), got \"" + level + "\"");
}

} // namespace

std::vector<std::string> availableCpuLevels() {
  std::vector<std::string> names;
  for (const char *level : kBuilt)
    if (cpuRuns(level))
      names.emplace_back(level);
  return names;
}

Status setCpuLevel(const std::string &name) {
  return guarded("set_cpu_level", [&] {
    std::lock_guard<std::mutex> lock(mutex);
    return useLocked(name, "set_cpu_level");
  });
}

Status cpuLevel(std::string &name) {
  const Table *table = nullptr;
  IAM_RETURN_IF_ERROR(kernels::get(table));
  name = table->level;
  return {};
}

Status kernels::get(const Table *&table) noexcept {
  table = current.load(std::memory_order_acquire);
  if (table)
    return {};
  return guarded("cpu_level", [&]() -> Status {
    std::lock_guard<std::mutex> lock(mutex);
    if (!current.load(std::memory_order_acquire)) {
      if (const char *forced = std::getenv("IAM_CPU_LEVEL"); forced && *forced) {
        IAM_RETURN_IF_ERROR(useLocked(forced, "IAM_CPU_LEVEL"));
      } else {
        const std::vector<std::string> available = availableCpuLevels();
        if (available.empty())
          return Status(Code::kInternal,
                        "cpu_level: IAM has no kernels for this CPU (it needs at least x86-64-v2)");
        IAM_RETURN_IF_ERROR(useLocked(available.back(), "cpu_level"));
      }
    }
    table = current.load(std::memory_order_acquire);
    return {};
  });
}

} // namespace iam::rt
