//===- Quadrature.h - Nodes and weights of iam.attr.path -----------------*- C++ -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_DIALECT_IAM_IR_QUADRATURE_H
#define IAM_DIALECT_IAM_IR_QUADRATURE_H

#include "iam/Dialect/IAM/IR/IAMAttrs.h"

#include "mlir/Support/LLVM.h"

namespace iam {
/// Where a rule evaluates on [0, 1], and its weights: docs/spec.md#iamattrpath. Computed in
/// float64; the sizes of the vectors say how many.
void quadrature(PathRule rule, mlir::SmallVectorImpl<float> &nodes,
                mlir::SmallVectorImpl<float> &weights);
} // namespace iam

#endif // IAM_DIALECT_IAM_IR_QUADRATURE_H
