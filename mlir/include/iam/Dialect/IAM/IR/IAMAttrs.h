//===- IAMAttrs.h - Enumerations of the iam dialect ----------------------*- C++ -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_DIALECT_IAM_IR_IAMATTRS_H
#define IAM_DIALECT_IAM_IR_IAMATTRS_H

#include "mlir/IR/BuiltinAttributes.h"

#include "iam/Dialect/IAM/IR/IAMAttrs.h.inc"

#endif // IAM_DIALECT_IAM_IR_IAMATTRS_H
