// The C ABI: descriptors with strides, sticky errors, memory handed over.
#include "testing.h"

#include "iam/abi.h"
#include "iam/core/pool.h"

using iam::rt::MemRef;
using iam::rt::MemRefCsr;

extern "C" {
void _mlir_ciface_iam_rt_topk(MemRef<float, 2> *, MemRef<float, 2> *, MemRef<int32_t, 2> *);
void _mlir_ciface_iam_rt_threshold(MemRefCsr *, MemRef<float, 2> *, MemRef<float, 1> *);
void *_mlir_memref_to_llvm_alloc(uint64_t);
void *_mlir_memref_to_llvm_aligned_alloc(uint64_t, uint64_t);
void _mlir_memref_to_llvm_free(void *);
extern const void *const iam_rt_entry_points[];
}

namespace iam::rt::test {
namespace {

template <typename T> MemRef<T, 2> ref(Array<T> &a) {
  return {a.at.data(), a.at.data(), 0, {a.rows, a.cols}, {a.cols, 1}};
}

TEST(Abi, TransposedInputs) {
  Floats pre = integers(4, 9, 1), transposed(9, 4);
  for (int64_t r = 0; r < 4; ++r)
    for (int64_t c = 0; c < 9; ++c)
      transposed(c, r) = pre(r, c);
  Codes a(4, 3), b(4, 3);
  auto plain = ref(pre), values = ref(a.values), values2 = ref(b.values);
  auto indices = ref(a.indices), indices2 = ref(b.indices);
  MemRef<float, 2> view = {transposed.at.data(), transposed.at.data(), 0, {4, 9}, {1, 4}};
  _mlir_ciface_iam_rt_topk(&plain, &values, &indices);
  _mlir_ciface_iam_rt_topk(&view, &values2, &indices2);
  expectOk(takeStatus());
  EXPECT_TRUE(a == b);
}

TEST(Abi, TheFirstErrorSticksAndLaterCallsDoNothing) {
  Floats pre = normal(2, 5, 1);
  Codes wide(2, 6), fine(2, 2);
  auto in = ref(pre), wideValues = ref(wide.values), values = ref(fine.values);
  auto wideIndices = ref(wide.indices), indices = ref(fine.indices);
  _mlir_ciface_iam_rt_topk(&in, &wideValues, &wideIndices);
  _mlir_ciface_iam_rt_topk(&in, &values, &indices);
  EXPECT_EQ(fine.values.at, std::vector<float>(4, 0.0f));
  MemRef<float, 1> none = {nullptr, nullptr, 0, {0}, {1}};
  MemRefCsr csr;
  const auto before = pool::stats().blocksInUse;
  _mlir_ciface_iam_rt_threshold(&csr, &in, &none);
  ASSERT_EQ(csr.offsets.sizes[0], 3); // empty, but valid
  EXPECT_EQ(csr.values.sizes[0], 0);
  EXPECT_EQ(csr.offsets.aligned[2], 0);
  for (void *p :
       {static_cast<void *>(csr.values.allocated), static_cast<void *>(csr.indices.allocated),
        static_cast<void *>(csr.offsets.allocated)})
    _mlir_memref_to_llvm_free(p);
  EXPECT_EQ(pool::stats().blocksInUse, before);
  expectError(takeStatus(), Code::kKRange, "iam.clt.topk: expected k in 1..5 (features), got k=6");
  expectOk(takeStatus());
  _mlir_ciface_iam_rt_topk(&in, &values, &indices);
  expectOk(takeStatus());
}

TEST(Abi, GenericAllocationIsThePool) {
  void *a = _mlir_memref_to_llvm_alloc(0), *b = _mlir_memref_to_llvm_aligned_alloc(64, 100);
  EXPECT_TRUE(pool::owns(a) && pool::owns(b));
  _mlir_memref_to_llvm_free(a);
  _mlir_memref_to_llvm_free(b);
  EXPECT_FALSE(pool::owns(a) || pool::owns(b));
}

TEST(Abi, EveryEntryPointOfTheListExists) {
  std::size_t i = 0;
#define IAM_RT_ENTRY(name, result, arguments) EXPECT_NE(iam_rt_entry_points[i++], nullptr) << #name;
#include "iam/entry_points.def"
  EXPECT_GT(i, 15u);
}

} // namespace
} // namespace iam::rt::test
