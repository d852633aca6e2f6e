// Prints what one core can do at most with the two inner loops of x86-64-v3: fused multiply-adds of
// float32, and int16 pair products each followed by an addition. Registers only, no memory.
//
//   iam_peak_bench
#include <cstdio>
#include <ctime>

#if defined(__x86_64__)

#define FMA(j) "vfmadd231ps %%ymm15, %%ymm15, %%ymm" #j "\n\t"
#define PAIR(j) "vpmaddwd %%ymm15, %%ymm15, %%ymm14\n\tvpaddd %%ymm14, %%ymm" #j ", %%ymm" #j "\n\t"
#define TWELVE(OP) OP(0) OP(1) OP(2) OP(3) OP(4) OP(5) OP(6) OP(7) OP(8) OP(9) OP(10) OP(11)

namespace {

/// Nanoseconds of CPU time of a body, the best of several runs.
template <typename Body> double best(Body &&body) {
  constexpr long kTimes = 10000000;
  double least = 1e9;
  for (int run = 0; run < 8; ++run) {
    const std::clock_t start = std::clock();
    for (long i = 0; i < kTimes; ++i)
      body();
    const double ns = 1e9 * static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC / kTimes;
    least = ns < least ? ns : least;
  }
  return least;
}

} // namespace

int main() {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
    return std::puts("this CPU has no AVX2 and FMA"), 1;
  const double fma = best([] {
    asm volatile(TWELVE(FMA)::
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                       "xmm9", "xmm10", "xmm11", "xmm15");
  });
  const double pair = best([] {
    asm volatile(TWELVE(PAIR)::
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                       "xmm9", "xmm10", "xmm11", "xmm14", "xmm15");
  });
  std::printf("float32 multiply-add: %.1f GFLOP/s a core; int16 pair product and addition: %.1f "
              "Gop/s a core\n",
              12 * 16 / fma, 12 * 32 / pair);
}

#else

int main() { std::puts("written for x86-64 only"); }

#endif
