// What the tests share: random arrays, comparisons, the CPU level under test.
#pragma once

#include "iam/clt/activation.h"
#include "iam/clt/decode.h"
#include "iam/clt/features.h"
#include "iam/core/cpu.h"
#include "iam/core/threads.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

namespace iam::rt::test {

/// A row-major array that owns its memory.
template <typename T> struct Array {
  Array(int64_t rows, int64_t cols)
      : rows(rows), cols(cols), at(static_cast<std::size_t>(rows * cols)) {}
  Mat<T> mat() { return {at.data(), rows, cols}; }
  Mat<const T> mat() const { return {at.data(), rows, cols}; }
  Mat<const T> part(int64_t begin, int64_t end) const {
    return {at.data() + begin * cols, end - begin, cols};
  }
  Vec<const T> vec() const { return {at.data(), rows * cols}; }
  T &operator()(int64_t r, int64_t c) { return at[static_cast<std::size_t>(r * cols + c)]; }
  T operator()(int64_t r, int64_t c) const { return at[static_cast<std::size_t>(r * cols + c)]; }
  int64_t rows, cols;
  std::vector<T> at;
};
using Floats = Array<float>;
using Ints = Array<int32_t>;

inline Floats normal(int64_t rows, int64_t cols, unsigned seed, float scale = 1) {
  Floats a(rows, cols);
  std::mt19937 engine(seed);
  std::normal_distribution<float> draw(0, scale);
  for (float &v : a.at)
    v = draw(engine);
  return a;
}

/// Small integers: products and sums are exact, and there are many ties.
inline Floats integers(int64_t rows, int64_t cols, unsigned seed, int most = 2) {
  Floats a(rows, cols);
  std::mt19937 engine(seed);
  std::uniform_int_distribution<int> draw(-most, most);
  for (float &v : a.at)
    v = static_cast<float>(draw(engine));
  return a;
}

/// Codes with their memory.
struct Codes {
  Codes(int64_t rows, int64_t k) : values(rows, k), indices(rows, k) {}
  FixedCodesOut out() { return {values.mat(), indices.mat()}; }
  FixedCodes view() const { return {values.mat(), indices.mat()}; }
  bool operator==(const Codes &o) const {
    return values.at == o.values.at && indices.at == o.indices.at;
  }
  Floats values;
  Ints indices;
};

inline void expectOk(const Status &status) { EXPECT_TRUE(status.ok()) << status.message(); }

/// Codes of small integers in both forms, k largest and all positive ones, with the dense rows they stand for.
struct BothForms {
  BothForms(int64_t rows, int64_t features, int64_t k, unsigned seed, int most)
      : pre(integers(rows, features, seed, most)), fixed(rows, k), denseFixed(rows, features),
        denseCsr(rows, features) {
    expectOk(topK(pre.mat(), fixed.out()));
    expectOk(densify(fixed.view(), denseFixed.mat()));
    expectOk(threshold(pre.mat(), {}, csr));
    expectOk(densify(csr.view(), denseCsr.mat()));
  }
  Floats pre;
  Codes fixed;
  CsrResult csr;
  Floats denseFixed, denseCsr;
};

inline void expectError(const Status &status, Code code, const std::string &part) {
  EXPECT_EQ(status.code(), code) << status.message();
  EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
}

/// Runs a body with n threads, then goes back.
template <typename Body> void withThreads(int n, Body &&body) {
  const int before = numThreads();
  expectOk(setNumThreads(n));
  body();
  expectOk(setNumThreads(before));
}

} // namespace iam::rt::test
