//===- IAMDialect.h - The iam dialect ------------------------------------*- C++ -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_DIALECT_IAM_IR_IAMDIALECT_H
#define IAM_DIALECT_IAM_IR_IAMDIALECT_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/Dialect.h"

#include "iam/Dialect/IAM/IR/IAMDialect.h.inc"

#endif // IAM_DIALECT_IAM_IR_IAMDIALECT_H
