//===- Quadrature.cpp - Nodes and weights of iam.attr.path ---------------*- C++ -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "iam/Dialect/IAM/IR/Quadrature.h"

#include <cmath>

using namespace mlir;
using namespace iam;

/// Nodes and weights of the Gauss-Legendre rule on [0, 1]: the roots of the Legendre polynomial,
/// by Newton's method from Chebyshev's approximation.
static void gaussLegendre(SmallVectorImpl<float> &nodes, SmallVectorImpl<float> &weights) {
  const size_t n = nodes.size();
  for (size_t i = 0; i < n; ++i) {
    double x =
        std::cos(M_PI * (static_cast<double>(n - i) - 0.25) / (static_cast<double>(n) + 0.5));
    double slope = 0;
    for (int step = 0; step < 100; ++step) {
      double previous = 0, value = 1;
      for (size_t degree = 1; degree <= n; ++degree) {
        double next = ((2.0 * degree - 1) * x * value - (degree - 1.0) * previous) / degree;
        previous = value;
        value = next;
      }
      slope = n * (previous - x * value) / (1 - x * x);
      double change = value / slope;
      x -= change;
      if (std::abs(change) < 1e-15)
        break;
    }
    nodes[i] = static_cast<float>((x + 1) / 2);
    weights[i] = static_cast<float>(1 / ((1 - x * x) * slope * slope));
  }
}

void iam::quadrature(PathRule rule, SmallVectorImpl<float> &nodes,
                     SmallVectorImpl<float> &weights) {
  const size_t n = nodes.size();
  if (rule == PathRule::GaussLegendre)
    return gaussLegendre(nodes, weights);
  for (size_t i = 0; i < n; ++i) {
    double at = static_cast<double>(i), count = static_cast<double>(n), weight = 1;
    if (rule == PathRule::Right)
      at += 1;
    else if (rule == PathRule::Midpoint)
      at += 0.5;
    if (rule == PathRule::Trapezoid) {
      count -= 1;
      weight = i == 0 || i + 1 == n ? 0.5 : 1;
    }
    nodes[i] = static_cast<float>(at / count);
    weights[i] = static_cast<float>(weight / count);
  }
}
