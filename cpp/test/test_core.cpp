// Pool, threads, CPU levels; and the choice of the level that a run of the tests is for.
#include "testing.h"

#include "iam/clt/encode.h"
#include "iam/core/pool.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <thread>

namespace iam::rt::test {
namespace {

// IAM_TEST_LEVEL chooses the kernels that all tests run on.
class Level : public ::testing::Environment {
public:
  void SetUp() override {
    const char *level = std::getenv("IAM_TEST_LEVEL");
    if (!level)
      return;
    const auto available = availableCpuLevels();
    if (std::find(available.begin(), available.end(), level) == available.end()) {
      std::printf("this CPU does not run %s\n", level); // ctest reports the test as skipped
      std::exit(0);
    }
    expectOk(setCpuLevel(level));
  }
};
const auto *const registered = ::testing::AddGlobalTestEnvironment(new Level);

TEST(Pool, ReusesBlocks) {
  pool::trim();
  const auto before = pool::stats();
  void *a = pool::allocate(1000);
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a) % pool::kAlignment, 0u);
  EXPECT_TRUE(pool::owns(a));
  EXPECT_TRUE(pool::release(a));
  EXPECT_FALSE(pool::owns(a));
  void *b = pool::allocate(1010); // the same size class
  EXPECT_EQ(a, b);
  const auto after = pool::stats();
  EXPECT_EQ(after.requests, before.requests + 2);
  EXPECT_EQ(after.reuses, before.reuses + 1);
  pool::release(b);
  EXPECT_GT(pool::trim(), 0u);
  EXPECT_EQ(pool::stats().bytesInUse, before.bytesInUse);
}

TEST(Pool, ForeignAndRepeatedReleasesAreHarmless) {
  int local = 0;
  EXPECT_FALSE(pool::release(&local));
  void *a = pool::allocate(1);
  EXPECT_TRUE(pool::release(a));
  EXPECT_FALSE(pool::release(a));
  EXPECT_TRUE(pool::release(nullptr));
}

TEST(Pool, EverySizeHoldsWhatWasAsked) {
  for (std::size_t bytes = 0; bytes < 5000; bytes += bytes < 300 ? 1 : 97) {
    void *block = pool::allocate(bytes);
    ASSERT_NE(block, nullptr);
    std::memset(block, 1, bytes); // the address sanitizer watches
    pool::release(block);
  }
  EXPECT_EQ(pool::allocate(std::size_t(1) << 60), nullptr);
  Buffer<double> huge;
  expectError(huge.resize(int64_t(1) << 50, "op"), Code::kOutOfMemory, "op: could not allocate");
}

TEST(Pool, ManyThreads) {
  const auto before = pool::stats();
  std::vector<std::thread> threads;
  std::atomic<int> clashes{0};
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([t, &clashes] {
      std::vector<unsigned char *> held;
      for (int i = 0; i < 2000; ++i) {
        auto *p = static_cast<unsigned char *>(
            pool::allocate(64 + static_cast<std::size_t>(i % 7) * 100));
        *p = static_cast<unsigned char>(t);
        held.push_back(p);
        if (held.size() > 5) {
          clashes += *held.front() != t;
          pool::release(held.front());
          held.erase(held.begin());
        }
      }
      for (auto *p : held)
        pool::release(p);
    });
  for (auto &thread : threads)
    thread.join();
  EXPECT_EQ(clashes, 0);
  EXPECT_EQ(pool::stats().blocksInUse, before.blocksInUse);
}

TEST(Threads, EveryIndexOnceAndNoWorkerTwiceAtATime) {
  for (const int n : {1, 2, 5})
    withThreads(n, [n] {
      std::vector<std::atomic<int>> seen(1000), busy(static_cast<std::size_t>(n));
      std::atomic<bool> clash{false};
      expectOk(parallelFor("op", 1000, [&](int64_t i, int worker) {
        clash = clash || busy[static_cast<std::size_t>(worker)]++ != 0;
        ++seen[static_cast<std::size_t>(i)];
        --busy[static_cast<std::size_t>(worker)];
      }));
      EXPECT_FALSE(clash);
      EXPECT_TRUE(std::all_of(seen.begin(), seen.end(), [](const auto &s) { return s == 1; }));
    });
}

TEST(Threads, NestedCallsAndExceptions) {
  std::atomic<int> count{0};
  expectOk(parallelFor("op", 10, [&](int64_t, int) {
    expectOk(parallelFor("op", 10, [&](int64_t, int) { ++count; }));
  }));
  EXPECT_EQ(count, 100);
  expectError(parallelFor("op", 10, [](int64_t, int) { throw std::runtime_error("boom"); }),
              Code::kInternal, "boom");
  expectOk(parallelFor("op", 10, [](int64_t, int) {}));
  expectError(setNumThreads(0), Code::kInvalidArgument, "got 0");
}

TEST(Threads, CallersAtTheSameTimeGetTheirOwnResults) {
  const Floats x = normal(20, 30, 1), w = normal(30, 500, 2), b = normal(1, 500, 3);
  Codes expected(20, 7);
  expectOk(encodeTopK({x.mat(), w.mat(), b.vec(), {}}, expected.out()));
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) {
        Codes codes(20, 7);
        wrong +=
            !encodeTopK({x.mat(), w.mat(), b.vec(), {}}, codes.out()).ok() || !(codes == expected);
      }
    });
  for (auto &thread : threads)
    thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Cpu, UnknownLevelIsRefusedWithTheChoices) {
  std::string before, after;
  expectOk(cpuLevel(before));
  const auto available = availableCpuLevels();
  ASSERT_FALSE(available.empty());
  expectError(setCpuLevel("x86-64-v9"), Code::kInvalidArgument, available.front());
  expectOk(cpuLevel(after));
  EXPECT_EQ(before, after);
}

// Levels with fused multiply-add round alike, whatever their vector width.
TEST(Cpu, LevelsWithFusedMultiplyAddAgreeBitForBit) {
  std::string before;
  expectOk(cpuLevel(before));
  const Floats x = normal(19, 70, 1), w = normal(70, 900, 2), b = normal(1, 900, 3);
  std::vector<Codes> results;
  for (const std::string &level : availableCpuLevels()) {
    if (level == "x86-64-v2")
      continue;
    expectOk(setCpuLevel(level));
    results.emplace_back(19, 11);
    expectOk(encodeTopK({x.mat(), w.mat(), b.vec(), {}}, results.back().out()));
  }
  for (const Codes &codes : results)
    EXPECT_TRUE(codes == results.front());
  expectOk(setCpuLevel(before));
}

} // namespace
} // namespace iam::rt::test
