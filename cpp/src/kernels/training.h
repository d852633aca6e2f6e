// Kernels of training, compiled once per CPU level. Elementwise arithmetic and `dot` agree bit for
// bit on all levels with fused multiply-add: `dot` keeps 32 sums on every width.
#pragma once

#include "simd.h"
#include "table.h"

#include <cmath>
#include <type_traits>

namespace {

#if defined(__AVX512F__)
inline Vf divide(Vf a, Vf b) { return _mm512_div_ps(a, b); }
inline Vf root(Vf a) { return _mm512_sqrt_ps(a); }
/// a where |a| >= least, else 0.
inline Vf flush(Vf a, Vf least) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(_mm512_abs_ps(a), least, _CMP_NLT_UQ), a);
}
#elif defined(__AVX2__) && defined(__FMA__)
inline Vf divide(Vf a, Vf b) { return _mm256_div_ps(a, b); }
inline Vf root(Vf a) { return _mm256_sqrt_ps(a); }
inline Vf flush(Vf a, Vf least) {
  const Vf magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
  return _mm256_and_ps(_mm256_cmp_ps(magnitude, least, _CMP_NLT_UQ), a);
}
#elif defined(__SSE2__)
inline Vf divide(Vf a, Vf b) { return _mm_div_ps(a, b); }
inline Vf root(Vf a) { return _mm_sqrt_ps(a); }
inline Vf flush(Vf a, Vf least) {
  return _mm_and_ps(_mm_cmpnlt_ps(_mm_andnot_ps(_mm_set1_ps(-0.0f), a), least), a);
}
#elif defined(__aarch64__)
inline Vf divide(Vf a, Vf b) { return vdivq_f32(a, b); }
inline Vf root(Vf a) { return vsqrtq_f32(a); }
inline Vf flush(Vf a, Vf least) {
  const uint32x4_t small = vcltq_f32(vabsq_f32(a), least);
  return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a), small));
}
#endif

constexpr float kLeastM = 0x1p-100f, kLeastV = 0x1p-120f;

float dot(const float *x, const float *y, int64_t count) {
  constexpr int kLanes = 32, kParts = kLanes / kWidth;
  Vf sums[kParts];
  for (int p = 0; p < kParts; ++p)
    sums[p] = zero();
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p)
      sums[p] = madd(load(x + i + p * kWidth), load(y + i + p * kWidth), sums[p]);
  float lanes[kLanes];
  for (int p = 0; p < kParts; ++p)
    store(lanes + p * kWidth, sums[p]);
  for (int lane = 0; i < count; ++i, ++lane)
    lanes[lane] = maddScalar(x[i], y[i], lanes[lane]);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane)
      lanes[lane] += lanes[lane + half];
  return lanes[0];
}

// Products of float32 are exact in float64, so all levels agree.
double sumSquares(const float *x, int64_t count) {
  constexpr int kLanes = 8;
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane)
      lanes[lane] += static_cast<double>(x[i + lane]) * static_cast<double>(x[i + lane]);
  for (int lane = 0; i < count; ++i, ++lane)
    lanes[lane] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane)
      lanes[lane] += lanes[lane + half];
  return lanes[0];
}

// Runs `body(p, g, m, v)` on vectors; a part of a vector goes through copies.
template <typename Body>
inline void eachVector(float *p, const float *g, float *m, float *v, int64_t count, Body &&body) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth)
    body(p + i, g ? g + i : nullptr, m ? m + i : nullptr, v ? v + i : nullptr);
  if (i == count)
    return;
  const auto bytes = static_cast<std::size_t>(count - i) * sizeof(float);
  float parts[4][kWidth] = {};
  std::memcpy(parts[0], p + i, bytes);
  if (g)
    std::memcpy(parts[1], g + i, bytes);
  if (m)
    std::memcpy(parts[2], m + i, bytes);
  if (v)
    std::memcpy(parts[3], v + i, bytes);
  body(parts[0], g ? parts[1] : nullptr, m ? parts[2] : nullptr, v ? parts[3] : nullptr);
  std::memcpy(p + i, parts[0], bytes);
  if (m)
    std::memcpy(m + i, parts[2], bytes);
  if (v)
    std::memcpy(v + i, parts[3], bytes);
}

void adam(float *p, const float *g, float *m, float *v, int64_t count, const AdamScalars &s) {
  const Vf beta1 = splat(s.beta1), rest1 = splat(s.rest1), beta2 = splat(s.beta2),
           rest2 = splat(s.rest2), eps = splat(s.eps), size = splat(s.stepSize),
           root2 = splat(s.rootCorrection), scale = splat(s.scale), keep = splat(s.keep),
           leastM = splat(kLeastM), leastV = splat(kLeastV);
  const auto step = [&](auto dense, float *pp, const float *gg, float *mm, float *vv) {
    Vf mNew = mul(beta1, load(mm)), vNew = mul(beta2, load(vv));
    if constexpr (decltype(dense)::value) {
      const Vf grad = mul(scale, load(gg));
      mNew = madd(rest1, grad, mNew);
      vNew = madd(mul(rest2, grad), grad, vNew);
    }
    mNew = flush(mNew, leastM);
    vNew = flush(vNew, leastV);
    store(mm, mNew);
    store(vv, vNew);
    const Vf update = divide(mul(size, mNew), madd(root(vNew), root2, eps));
    store(pp, sub(mul(keep, load(pp)), update));
  };
  if (g)
    eachVector(p, g, m, v, count, [&](float *a, const float *b, float *c, float *d) {
      step(std::true_type(), a, b, c, d);
    });
  else
    eachVector(p, g, m, v, count, [&](float *a, const float *b, float *c, float *d) {
      step(std::false_type(), a, b, c, d);
    });
}

void signum(float *p, const float *g, float *m, int64_t count, const SignumScalars &s) {
  for (int64_t i = 0; i < count; ++i) {
    float direction = g ? s.scale * g[i] : 0.0f;
    if (m) {
      direction = s.beta * m[i] + s.rest * direction;
      if (std::fabs(direction) < kLeastM)
        direction = 0;
      m[i] = direction;
    }
    p[i] = s.keep * p[i] - (direction > 0 ? s.rate : direction < 0 ? -s.rate : 0.0f);
  }
}

} // namespace
