// Optimiser steps, fused: one pass over parameter and moments.
//
// Adam, step t = 1, 2, ... (Kingma and Ba 2015, arXiv:1412.6980), with g' = scale g:
//
//   m <- beta1 m + (1 - beta1) g'
//   v <- beta2 v + (1 - beta2) g'^2
//   p <- (1 - lr decay) p - lr / (1 - beta1^t)  m / (sqrt(v / (1 - beta2^t)) + eps)
//
// `scale` is the factor of clipping; `decay` is decoupled (Loshchilov and Hutter 2019,
// arXiv:1711.05101). To keep denormals out, |m| below 2^-100 and v below 2^-120 become 0: with eps
// >= 1e-12 such moments move a parameter by less than 1e-18 lr.
//
// Sparse gradients. A feature without entries in a batch has gradient zero, but its moments decay
// and its momentum still moves it. Two forms:
//
//   exact   (last empty): every feature takes the step, with gradient 0 where there is none. Equal
//           to the dense optimiser, without a dense gradient.
//   lazy    (last given): only features with a gradient are touched. last[f] is the step up to
//           which f is current; when f is touched at step t, the steps last[f] + 1 .. t - 1 are
//           done first, with gradient 0 and the learning rates that they had. So after a catch-up
//           of all features everything equals the exact form; what differs is that a feature
//           is stale when it is read between its steps. Catch up what is read (the decoder rows of
//           a batch's active features, before they are used) and lazy is exact; an encoder, of
//           which every column is read at every step, is approximate (stale by its momentum).
//
// With gradient 0, moments decay geometrically: update number n after a gradient is at most
// proportional to rho^n, rho = beta1 / sqrt(beta2). Once rho^n < 2^-40 the rest is one closed
// step, m beta1^r and v beta2^r: the parameter then misses less than 2^-40 / (1 - rho) of one update
// (8e-12 with 0.9 and 0.999).
#pragma once

#include "iam/training/gradients.h"

namespace iam::rt {

struct Adam {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, decay = 0, scale = 1;
  int64_t step = 1; ///< t
  /// The learning rate of the step; in lazy form and in catch-ups those of steps 1 .. step (that
  /// of step t is rates[t - 1]).
  Vec<const double> rates;
};

/// p <- ... as above, for an array of any shape.
/// Shapes:   p, g, m, v of one size. Aliasing: none. In place: p, m, v.
/// Errors:   kShapeMismatch; kInvalidArgument for step < 1, betas outside [0, 1), eps <= 0, a rate
///           or scale that is not finite.
IAM_RT_EXPORT Status adamStep(Vec<float> p, Vec<const float> g, Vec<float> m, Vec<float> v,
                              const Adam &adam);

/// Weights of features, with their moments, as rows or (columns = true) as columns of p.
struct FeatureWeights {
  Mat<float> p;           // [features, d], or [d, features] if columns
  Mat<float> m, v;        // [features, d] in both cases
  bool columns = false;   // an encoder at rest
  Vec<int64_t> last;      // [features], or empty: exact form
  bool normalize = false; ///< p[f] /= |p[f]| after each step of f (rows only)
  bool project = false;   ///< gradient rows lose their part along p[f] first (rows only)
};

/// One step with a sparse gradient. An encoder's [d, features] is updated in blocks of columns,
/// through a transposed tile: nothing of its size is allocated.
/// Cost:     O(features d) in exact form; O((active + skipped steps) d) in lazy form. Scratch: a
///           tile a thread, one int32 a feature.
/// Errors:   kShapeMismatch, kInvalidArgument.
IAM_RT_EXPORT Status adamFeatures(const FeatureWeights &w, const SparseGradient &g,
                                  const Adam &adam);

/// Lazy form: brings the given features, all if `all`, up to and including adam.step.
/// Errors:   kShapeMismatch, kInvalidArgument, kFeatureRange.
IAM_RT_EXPORT Status adamCatchUp(const FeatureWeights &w, Vec<const int32_t> features, bool all,
                                 const Adam &adam);

/// Signum: m <- beta m + (1 - beta) scale g; p <- (1 - lr decay) p - lr sign(m), sign(0) = 0. With
/// m empty it is signSGD: p <- ... - lr sign(g).
/// Source:   Bernstein et al. 2018, arXiv:1802.04434.
struct Signum {
  double rate = 0, beta = 0, decay = 0, scale = 1;
};
IAM_RT_EXPORT Status signumStep(Vec<float> p, Vec<const float> g, Vec<float> m,
                                const Signum &signum);
/// With a sparse gradient; exact form only. Without m and decay, features without a gradient stay.
/// w.v and w.last are not used.
IAM_RT_EXPORT Status signumFeatures(const FeatureWeights &w, const SparseGradient &g,
                                    const Signum &signum);

} // namespace iam::rt
