//===- Verify.h - Comparing sizes in verifiers ---------------------------*- C++ -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_LIB_DIALECT_IAM_IR_VERIFY_H
#define IAM_LIB_DIALECT_IAM_IR_VERIFY_H

#include "iam/Dialect/IAM/IR/IAMTypes.h"

#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Operation.h"

namespace iam::detail {

/// Prints a size the way types do.
struct Size {
  int64_t value;
};
inline mlir::InFlightDiagnostic &operator<<(mlir::InFlightDiagnostic &out, Size size) {
  if (mlir::ShapedType::isDynamic(size.value))
    return out << "?";
  return out << size.value;
}
inline mlir::InFlightDiagnostic &&operator<<(mlir::InFlightDiagnostic &&out, Size size) {
  return std::move(out << size);
}

/// Sizes that may be equal at run time.
inline bool compatible(int64_t a, int64_t b) {
  return mlir::ShapedType::isDynamic(a) || mlir::ShapedType::isDynamic(b) || a == b;
}

/// One size of an operand or result, with the words that name it.
struct Dim {
  const char *what;
  int64_t size;
};

inline Dim dim(const char *what, mlir::Value value, unsigned index) {
  return {what, mlir::cast<mlir::RankedTensorType>(value.getType()).getDimSize(index)};
}
inline FeaturesType features(mlir::Value value) {
  return mlir::cast<FeaturesType>(value.getType());
}

/// "expected <got> to be <expected> (8), got 9".
inline mlir::LogicalResult expectEqual(mlir::Operation *op, Dim got, Dim expected) {
  if (compatible(got.size, expected.size))
    return mlir::success();
  return op->emitOpError("expected ") << got.what << " to be " << expected.what << " ("
                                      << Size{expected.size} << "), got " << Size{got.size};
}

} // namespace iam::detail

#endif // IAM_LIB_DIALECT_IAM_IR_VERIFY_H
