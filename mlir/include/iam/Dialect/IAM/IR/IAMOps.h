//===- IAMOps.h - Ops of the iam dialect ---------------------------------*- C++ -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_DIALECT_IAM_IR_IAMOPS_H
#define IAM_DIALECT_IAM_IR_IAMOPS_H

#include "iam/Dialect/IAM/IR/IAMAttrs.h"
#include "iam/Dialect/IAM/IR/IAMDialect.h"
#include "iam/Dialect/IAM/IR/IAMTypes.h"

#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#define GET_OP_CLASSES
#include "iam/Dialect/IAM/IR/IAMOps.h.inc"

#endif // IAM_DIALECT_IAM_IR_IAMOPS_H
