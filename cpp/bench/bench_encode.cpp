// Prints time, rate and memory of the fused encoder and the decoder, per CPU level, with the rate
// of the same level's dense float32 product as the floor that the fused encoder is measured
// against.
//
//   iam_runtime_bench [d features k rows...]        default: 768 24576 32 1024 16 1
//
// CPU time per core is what to compare on a shared machine: it does not count time in which others
// ran.
#include "iam/clt/decode.h"
#include "iam/clt/encode.h"
#include "iam/core/cpu.h"
#include "iam/core/pool.h"
#include "iam/core/threads.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>
#include <vector>

using namespace iam::rt;

namespace {

struct Cost {
  double wall = 1e9, cpu = 1e9; // milliseconds, best of several
};

template <typename Body> Cost measure(int repeats, Body &&body) {
  Cost best;
  for (int i = 0; i < repeats; ++i) {
    const auto wall = std::chrono::steady_clock::now();
    const std::clock_t cpu = std::clock();
    if (const Status status = body(); !status.ok()) {
      std::fprintf(stderr, "%s\n", status.message().c_str());
      std::exit(1);
    }
    best.cpu = std::min(best.cpu, 1e3 * static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC);
    best.wall = std::min(
        best.wall,
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - wall).count());
  }
  return best;
}

std::vector<float> normal(int64_t n, float scale) {
  std::vector<float> values(static_cast<std::size_t>(n));
  std::mt19937 engine(1);
  std::normal_distribution<float> draw(0, scale);
  for (float &v : values)
    v = draw(engine);
  return values;
}

} // namespace

int main(int argc, char **argv) {
  std::vector<int64_t> args;
  for (int i = 1; i < argc; ++i)
    args.push_back(std::atoll(argv[i]));
  const int64_t d = args.size() > 0 ? args[0] : 768, features = args.size() > 1 ? args[1] : 24576;
  const int64_t k = args.size() > 2 ? args[2] : 32;
  std::vector<int64_t> rowCounts = {1024, 16, 1};
  if (args.size() > 3)
    rowCounts.assign(args.begin() + 3, args.end());
  const std::vector<float> w = normal(d * features, 0.036f), wDec = w,
                           bias(static_cast<std::size_t>(features));
  std::printf("d %lld, features %lld, k %lld, %d threads; ms and GFLOP/s\n",
              static_cast<long long>(d), static_cast<long long>(features),
              static_cast<long long>(k), numThreads());
  std::printf("%6s  %-15s %9s %9s %12s %12s %9s %9s\n", "rows", "level", "encode", "decode",
              "encode rate", "per core", "dense f32", "extra MB");
  for (const int64_t rows : rowCounts) {
    const std::vector<float> x = normal(rows * d, 1);
    std::vector<float> values(static_cast<std::size_t>(rows * k)), y(x.size());
    std::vector<float> pre(static_cast<std::size_t>(rows * features));
    std::vector<int32_t> indices(values.size());
    const Encoder e = {{x.data(), rows, d}, {w.data(), d, features}, {bias.data(), features}, {}};
    const FixedCodesOut codes = {{values.data(), rows, k}, {indices.data(), rows, k}};
    const double flops = 2e-6 * static_cast<double>(rows * d * features); // per ms: GFLOP/s
    const int repeats = rows > 100 ? 4 : 20;
    for (const std::string &level : availableCpuLevels()) {
      if (const Status status = setCpuLevel(level); !status.ok())
        return 1;
      pool::trim();
      pool::resetPeak();
      const uint64_t before = pool::stats().bytesInUse;
      const Cost encode = measure(repeats, [&] { return encodeTopK(e, codes); });
      const double extra = static_cast<double>(pool::stats().peakBytes - before) / (1 << 20);
      const Cost back = measure(repeats, [&] {
        return decode(FixedCodes{codes.values, codes.indices}, {wDec.data(), features, d}, {},
                      {y.data(), rows, d});
      });
      const Cost dense = measure(rows > 100 ? 2 : 10,
                                 [&] { return encodeDense(e, {pre.data(), rows, features}); });
      std::printf("%6lld  %-15s %9.2f %9.2f %12.0f %12.0f %9.0f %9.1f\n",
                  static_cast<long long>(rows), level.c_str(), encode.wall, back.wall,
                  flops / encode.wall, flops / encode.cpu, flops / dense.cpu, extra);
    }
  }
}
