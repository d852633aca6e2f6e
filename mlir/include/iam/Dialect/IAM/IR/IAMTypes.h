//===- IAMTypes.h - Types of the iam dialect -----------------------------*- C++ -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_DIALECT_IAM_IR_IAMTYPES_H
#define IAM_DIALECT_IAM_IR_IAMTYPES_H

#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Types.h"

#include <optional>

#define GET_TYPEDEF_CLASSES
#include "iam/Dialect/IAM/IR/IAMTypes.h.inc"

#endif // IAM_DIALECT_IAM_IR_IAMTYPES_H
