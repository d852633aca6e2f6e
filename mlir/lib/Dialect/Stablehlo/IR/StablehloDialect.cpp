//===- StablehloDialect.cpp - the StableHLO ops that iam emits ----------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "iam/Dialect/Stablehlo/IR/StablehloOps.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/TypeSwitch.h"

#include "iam/Dialect/Stablehlo/IR/StablehloDialect.cpp.inc"

#include "iam/Dialect/Stablehlo/IR/StablehloEnums.cpp.inc"

#define GET_ATTRDEF_CLASSES
#include "iam/Dialect/Stablehlo/IR/StablehloAttrs.cpp.inc"

#define GET_OP_CLASSES
#include "iam/Dialect/Stablehlo/IR/StablehloOps.cpp.inc"

void iam::stablehlo::StablehloDialect::initialize() {
  addAttributes<
#define GET_ATTRDEF_LIST
#include "iam/Dialect/Stablehlo/IR/StablehloAttrs.cpp.inc"
      >();
  addOperations<
#define GET_OP_LIST
#include "iam/Dialect/Stablehlo/IR/StablehloOps.cpp.inc"
      >();
}
