//===- LowerOps.h - each iam op as StableHLO -----------------------------*- C++ -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_CONVERSION_IAMTOSTABLEHLO_LOWEROPS_H
#define IAM_CONVERSION_IAMTOSTABLEHLO_LOWEROPS_H

#include "mlir/IR/Builders.h"

namespace iam {

/// The tensors that stand for the results of an iam op: one range for each result. Features in
/// k-form are values and indices, compressed rows a dense matrix.
/// Fails with an error at the op where it has no StableHLO form.
/// `operands`: the tensors that stand for each operand.
mlir::FailureOr<llvm::SmallVector<llvm::SmallVector<mlir::Value>>>
lowerToStablehlo(mlir::Operation *op, llvm::ArrayRef<mlir::ValueRange> operands,
                 mlir::OpBuilder &builder);

} // namespace iam

#endif // IAM_CONVERSION_IAMTOSTABLEHLO_LOWEROPS_H
