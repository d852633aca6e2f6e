//===- IAM.h - The iam dialect ---------------------------------------*- C++ -*-===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_DIALECT_IAM_IR_IAM_H
#define IAM_DIALECT_IAM_IR_IAM_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include <optional>

#include "iam/Dialect/IAM/IR/IAMDialect.h.inc"
#include "iam/Dialect/IAM/IR/IAMEnums.h.inc"

#define GET_TYPEDEF_CLASSES
#include "iam/Dialect/IAM/IR/IAMTypes.h.inc"

#define GET_OP_CLASSES
#include "iam/Dialect/IAM/IR/IAMOps.h.inc"

#endif // IAM_DIALECT_IAM_IR_IAM_H
