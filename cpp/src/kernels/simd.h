// The few vector operations that kernels need, for the level that this file is compiled for. `madd`
// is the arithmetic of a level: one rounding with fused multiply-add, two without; `maddScalar`
// rounds the same way.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {

#if defined(__AVX512F__)

using Vf = __m512;
constexpr int kWidth = 16, kRowTile = 8, kVectors = 3; // 24 sums + 3 weights in 32 registers
inline Vf zero() { return _mm512_setzero_ps(); }
inline Vf load(const float *p) { return _mm512_loadu_ps(p); }
inline void store(float *p, Vf v) { _mm512_storeu_ps(p, v); }
inline Vf splat(float x) { return _mm512_set1_ps(x); }
inline Vf add(Vf a, Vf b) { return _mm512_add_ps(a, b); }
inline Vf sub(Vf a, Vf b) { return _mm512_sub_ps(a, b); }
inline Vf mul(Vf a, Vf b) { return _mm512_mul_ps(a, b); }
inline Vf absolute(Vf a) { return _mm512_abs_ps(a); }
inline Vf madd(Vf a, Vf b, Vf c) { return _mm512_fmadd_ps(a, b, c); }
/// Bit i: not (a[i] < b[i]), so true for NaN.
inline uint32_t notLess(Vf a, Vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ); }
/// Bit i: not (a[i] <= b[i]), so true for NaN.
inline uint32_t notLessEqual(Vf a, Vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_NLE_UQ); }
inline void stream(float *p, Vf v) { _mm512_stream_ps(p, v); }

using Vd = __m512d;
constexpr int kSumRows = 4, kSums = 4; // 16 sums and 4 squares, 4 directions, a row in 32 registers
inline Vd zero64() { return _mm512_setzero_pd(); }
inline Vd load64(const double *p) { return _mm512_loadu_pd(p); }
inline void store64(double *p, Vd v) { _mm512_storeu_pd(p, v); }
inline Vd widen(const float *p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
inline Vd madd64(Vd a, Vd b, Vd c) { return _mm512_fmadd_pd(a, b, c); }

#elif defined(__AVX2__) && defined(__FMA__)

using Vf = __m256;
constexpr int kWidth = 8, kRowTile = 6, kVectors = 2; // 12 + 2 + 1 of 16 registers
inline Vf zero() { return _mm256_setzero_ps(); }
inline Vf load(const float *p) { return _mm256_loadu_ps(p); }
inline void store(float *p, Vf v) { _mm256_storeu_ps(p, v); }
inline Vf splat(float x) { return _mm256_set1_ps(x); }
inline Vf add(Vf a, Vf b) { return _mm256_add_ps(a, b); }
inline Vf sub(Vf a, Vf b) { return _mm256_sub_ps(a, b); }
inline Vf mul(Vf a, Vf b) { return _mm256_mul_ps(a, b); }
inline Vf absolute(Vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
inline Vf madd(Vf a, Vf b, Vf c) { return _mm256_fmadd_ps(a, b, c); }
inline uint32_t notLess(Vf a, Vf b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NLT_UQ)); }
inline uint32_t notLessEqual(Vf a, Vf b) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NLE_UQ));
}
inline void stream(float *p, Vf v) { _mm256_stream_ps(p, v); }

using Vd = __m256d;
constexpr int kSumRows = 2, kSums = 2; // 8 of sums, 4 of directions, 2 of a row, of 16 registers
inline Vd zero64() { return _mm256_setzero_pd(); }
inline Vd load64(const double *p) { return _mm256_loadu_pd(p); }
inline void store64(double *p, Vd v) { _mm256_storeu_pd(p, v); }
inline Vd widen(const float *p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
inline Vd madd64(Vd a, Vd b, Vd c) { return _mm256_fmadd_pd(a, b, c); }

#elif defined(__SSE2__)

using Vf = __m128;
constexpr int kWidth = 4, kRowTile = 4, kVectors = 2;
inline Vf zero() { return _mm_setzero_ps(); }
inline Vf load(const float *p) { return _mm_loadu_ps(p); }
inline void store(float *p, Vf v) { _mm_storeu_ps(p, v); }
inline Vf splat(float x) { return _mm_set1_ps(x); }
inline Vf add(Vf a, Vf b) { return _mm_add_ps(a, b); }
inline Vf sub(Vf a, Vf b) { return _mm_sub_ps(a, b); }
inline Vf mul(Vf a, Vf b) { return _mm_mul_ps(a, b); }
inline Vf absolute(Vf a) { return _mm_andnot_ps(_mm_set1_ps(-0.0f), a); }
inline Vf madd(Vf a, Vf b, Vf c) { return _mm_add_ps(_mm_mul_ps(a, b), c); }
inline uint32_t notLess(Vf a, Vf b) { return _mm_movemask_ps(_mm_cmpnlt_ps(a, b)); }
inline uint32_t notLessEqual(Vf a, Vf b) { return _mm_movemask_ps(_mm_cmpnle_ps(a, b)); }
inline void stream(float *p, Vf v) { _mm_stream_ps(p, v); }

using Vd = __m128d;
constexpr int kSumRows = 1, kSums = 2; // 8 of sums, 4 of a row, of 16 registers
inline Vd zero64() { return _mm_setzero_pd(); }
inline Vd load64(const double *p) { return _mm_loadu_pd(p); }
inline void store64(double *p, Vd v) { _mm_storeu_pd(p, v); }
inline Vd widen(const float *p) {
  return _mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p))));
}
inline Vd madd64(Vd a, Vd b, Vd c) { return _mm_add_pd(_mm_mul_pd(a, b), c); }

#elif defined(__aarch64__)

using Vf = float32x4_t;
constexpr int kWidth = 4, kRowTile = 6, kVectors = 4; // 24 + 4 + 1 of 32 registers
inline Vf zero() { return vdupq_n_f32(0); }
inline Vf load(const float *p) { return vld1q_f32(p); }
inline void store(float *p, Vf v) { vst1q_f32(p, v); }
inline Vf splat(float x) { return vdupq_n_f32(x); }
inline Vf add(Vf a, Vf b) { return vaddq_f32(a, b); }
inline Vf sub(Vf a, Vf b) { return vsubq_f32(a, b); }
inline Vf mul(Vf a, Vf b) { return vmulq_f32(a, b); }
inline Vf absolute(Vf a) { return vabsq_f32(a); }
inline Vf madd(Vf a, Vf b, Vf c) { return vfmaq_f32(c, a, b); }
inline uint32_t bits(uint32x4_t m) {
  const uint32x4_t weights = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(m, weights));
}
inline uint32_t notLess(Vf a, Vf b) { return bits(vmvnq_u32(vcltq_f32(a, b))); }
inline uint32_t notLessEqual(Vf a, Vf b) { return bits(vmvnq_u32(vcleq_f32(a, b))); }
inline void stream(float *p, Vf v) { store(p, v); }

using Vd = float64x2_t;
constexpr int kSumRows = 2, kSums = 2; // 16 of sums, 8 of directions, 4 of a row, of 32 registers
inline Vd zero64() { return vdupq_n_f64(0); }
inline Vd load64(const double *p) { return vld1q_f64(p); }
inline void store64(double *p, Vd v) { vst1q_f64(p, v); }
inline Vd widen(const float *p) { return vcvt_f64_f32(vld1_f32(p)); }
inline Vd madd64(Vd a, Vd b, Vd c) { return vfmaq_f64(c, a, b); }

#else
#error "no vector operations for this architecture: add a section to simd.h"
#endif

#if defined(__FMA__) || defined(__aarch64__)
constexpr int kRoundings = 1; // of a `madd`
#else
constexpr int kRoundings = 2;
#endif

inline float maddScalar(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c; // -ffp-contract=off
#endif
}

constexpr int kTile = kVectors * kWidth;

/// After the last `stream`: others see what was written.
inline void streamed() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

/// Whether a lane is NaN of `checked`, a sum of products with zero: 0 for finite factors, NaN for others.
inline bool anyNan(Vf checked) { return notLessEqual(checked, zero()) != 0; }

/// p[0..n-1], then zeros; n <= kWidth.
inline Vf loadSome(const float *p, int64_t n) {
  if (n >= kWidth)
    return load(p);
  float lanes[kWidth] = {};
  if (n > 0)
    std::memcpy(lanes, p, static_cast<std::size_t>(n) * sizeof(float));
  return load(lanes);
}

/// The lanes below n, as bits.
inline uint32_t lanesBelow(int64_t n) {
  return n >= kWidth ? (kWidth == 32 ? ~0u : (1u << kWidth) - 1) : n <= 0 ? 0u : (1u << n) - 1;
}

} // namespace
