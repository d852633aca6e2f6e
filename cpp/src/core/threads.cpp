#include "iam/core/threads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace iam::rt {
namespace {

constexpr int kMaxThreads = 1024;

int defaultThreads() {
  if (const char *text = std::getenv("IAM_NUM_THREADS")) {
    char *end = nullptr;
    const long n = std::strtol(text, &end, 10);
    if (end != text && *end == '\0' && n >= 1 && n <= kMaxThreads)
      return static_cast<int>(n);
  }
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMaxThreads);
}

struct Job {
  void *context = nullptr;
  detail::Task task = nullptr;
  int64_t count = 0;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  const char *op = nullptr;
  Status status; // of the first failure; guarded by `failed`

  void run(int worker) {
    for (int64_t i; !failed.load(std::memory_order_relaxed) && (i = next.fetch_add(1)) < count;) {
      Status outcome = guarded(op, [&] {
        task(context, i, worker);
        return Status();
      });
      if (!outcome.ok() && !failed.exchange(true))
        status = std::move(outcome);
    }
  }
};

// Workers sleep between jobs. Worker 0 is whoever calls.
class Workers {
public:
  explicit Workers(int n) {
    try {
      for (int i = 1; i < n; ++i)
        threads.emplace_back([this, i] { loop(i); });
    } catch (const std::system_error &) {
      // The system gives no more threads: go on with those we have.
    }
  }
  ~Workers() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      stop = true;
    }
    wake.notify_all();
    for (std::thread &thread : threads)
      thread.join();
  }

  void run(Job &job) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      current = &job;
      ++generation;
      running = static_cast<int>(threads.size());
    }
    wake.notify_all();
    job.run(0);
    std::unique_lock<std::mutex> lock(mutex);
    done.wait(lock, [this] { return running == 0; });
    current = nullptr;
  }

private:
  void loop(int worker) {
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      wake.wait(lock, [&] { return stop || generation != seen; });
      if (stop)
        return;
      seen = generation;
      Job *job = current;
      lock.unlock();
      job->run(worker);
      lock.lock();
      if (--running == 0)
        done.notify_one();
    }
  }

  std::vector<std::thread> threads;
  std::mutex mutex;
  std::condition_variable wake, done;
  Job *current = nullptr;
  uint64_t generation = 0;
  int running = 0;
  bool stop = false;
};

struct State {
  std::mutex busy; // held by the thread whose job runs
  std::atomic<int> wanted{defaultThreads()};
  std::unique_ptr<Workers> workers;
  int built = 0;
};

// Never destroyed: joining threads during process exit is asking for trouble.
State *&slot() {
  static State *state = new State;
  return state;
}
State &state() {
  // A child of fork() has none of the parent's threads and may have inherited a held lock: it
  // starts afresh.
  static const int registered = pthread_atfork(nullptr, nullptr, [] {
    const int wanted = slot()->wanted.load();
    slot() = new State;
    slot()->wanted = wanted;
  });
  (void)registered;
  return *slot();
}

thread_local bool insideJob = false;

} // namespace

int numThreads() {
  State &s = state();
  return s.wanted;
}

Status setNumThreads(int n) {
  if (n < 1 || n > kMaxThreads)
    return Status(Code::kInvalidArgument, "set_num_threads: expected 1.." +
                                              std::to_string(kMaxThreads) + ", got " +
                                              std::to_string(n));
  State &s = state();
  std::lock_guard<std::mutex> lock(s.busy);
  s.wanted = n;
  return {};
}

Status detail::parallelFor(const char *op, int64_t count, void *context, Task task) noexcept {
  return guarded(op, [&]() -> Status {
    if (count <= 0)
      return {};
    Job job;
    job.context = context;
    job.task = task;
    job.count = count;
    job.op = op;
    State &s = state();
    std::unique_lock<std::mutex> lock(s.busy, std::defer_lock);
    if (!insideJob && count > 1 && s.wanted > 1 && lock.try_lock()) {
      if (s.built != s.wanted) {
        s.workers.reset();
        s.workers = std::make_unique<Workers>(s.wanted);
        s.built = s.wanted;
      }
      insideJob = true;
      s.workers->run(job);
      insideJob = false;
    } else {
      const bool outer = insideJob;
      insideJob = true;
      job.run(0);
      insideJob = outer;
    }
    return job.status;
  });
}

} // namespace iam::rt
