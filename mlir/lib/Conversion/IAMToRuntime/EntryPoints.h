//===- EntryPoints.h - the runtime's functions, seen from MLIR -------*- C++ -*-===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_LIB_CONVERSION_IAMTORUNTIME_ENTRYPOINTS_H
#define IAM_LIB_CONVERSION_IAMTORUNTIME_ENTRYPOINTS_H

#include "mlir/IR/BuiltinTypes.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringRef.h"

namespace iam::rt {

/// One enumerator per line of entry_points.def.
enum class EntryPoint {
#define IAM_RT_ENTRY(name, result, arguments) name,
#include "iam/entry_points.def"
};

/// An argument as entry_points.def writes it, for example `>pre:f32[2]` or `b_dec:f32[1]?`.
struct Argument {
  llvm::StringRef name;
  llvm::StringRef element; ///< f32, i32, i64
  int rank = -1;           ///< -1: a scalar, passed by value
  bool isDestination = false;
  bool isOptional = false;

  mlir::Type elementType(mlir::MLIRContext *context) const;
  /// A memref of dynamic sizes and strides, or the scalar type.
  mlir::Type type(mlir::MLIRContext *context) const;
};

struct Signature {
  llvm::StringRef symbol; ///< iam_rt_<name>
  enum class Result { None, Csr, Matrix, Taped };
  Result result = Result::None;
  llvm::SmallVector<Argument, 9> arguments;

  llvm::SmallVector<mlir::Type> resultTypes(mlir::MLIRContext *context) const;
};

/// Parsed from the list; a malformed line is a fatal error (and a failing test).
const Signature &signature(EntryPoint entry);

/// True if `symbol` is one of the list.
bool isEntryPoint(llvm::StringRef symbol);

} // namespace iam::rt

#endif // IAM_LIB_CONVERSION_IAMTORUNTIME_ENTRYPOINTS_H
