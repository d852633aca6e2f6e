//===- Adjoints.h - Reverse-mode differentiation of a function ------*- C++ -*-===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_LIB_DIALECT_IAM_TRANSFORMS_ADJOINTS_H
#define IAM_LIB_DIALECT_IAM_TRANSFORMS_ADJOINTS_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Builders.h"
#include "llvm/ADT/DenseMap.h"

namespace iam {

/// Why the rows of `function`'s first argument cannot be multiplied, so that several inputs are
/// differentiated at once; none if they can: then row r of the result depends on row r alone.
std::optional<std::string> whyNotRowWise(mlir::func::FuncOp function);

/// Writes the gradient of the sum of a function's result.
class Differentiator {
public:
  /// What depends on weights only is built by `outside`, which comes before every use.
  Differentiator(mlir::func::FuncOp function, mlir::OpBuilder outside)
      : function(function), outside(outside) {}

  /// The gradient at `x`, in the type of `x`. The function is written out at `builder`, on `x` and
  /// `captures`. Fails with an error at the op that has no derivative.
  mlir::FailureOr<mlir::Value> gradientAt(mlir::OpBuilder &builder, mlir::Value x,
                                          mlir::ValueRange captures);

  /// `matrix` with rows and columns exchanged; once for each matrix that is made outside.
  mlir::Value transposed(mlir::OpBuilder &builder, mlir::Value matrix);

private:
  mlir::func::FuncOp function;
  mlir::OpBuilder outside;
  llvm::DenseMap<mlir::Value, mlir::Value> transposes;
};

} // namespace iam

#endif // IAM_LIB_DIALECT_IAM_TRANSFORMS_ADJOINTS_H
