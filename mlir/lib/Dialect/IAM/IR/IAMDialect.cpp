//===- IAMDialect.cpp - The iam dialect ----------------------------------*- C++ -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "iam/Dialect/IAM/IR/IAMDialect.h"
#include "iam/Dialect/IAM/IR/IAMOps.h"

#include "mlir/IR/Builders.h"

#include "iam/Dialect/IAM/IR/IAMDialect.cpp.inc"

#include "iam/Dialect/IAM/IR/IAMAttrs.cpp.inc"

#define GET_OP_CLASSES
#include "iam/Dialect/IAM/IR/IAMOps.cpp.inc"

void iam::IAMDialect::initialize() {
  registerTypes();
  addOperations<
#define GET_OP_LIST
#include "iam/Dialect/IAM/IR/IAMOps.cpp.inc"
      >();
}
