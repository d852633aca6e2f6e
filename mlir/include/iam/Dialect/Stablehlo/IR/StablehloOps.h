//===- StablehloOps.h - the StableHLO ops that iam emits -----------------*- C++ -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_DIALECT_STABLEHLO_IR_STABLEHLOOPS_H
#define IAM_DIALECT_STABLEHLO_IR_STABLEHLOOPS_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "iam/Dialect/Stablehlo/IR/StablehloDialect.h.inc"

#include "iam/Dialect/Stablehlo/IR/StablehloEnums.h.inc"

#define GET_ATTRDEF_CLASSES
#include "iam/Dialect/Stablehlo/IR/StablehloAttrs.h.inc"

#define GET_OP_CLASSES
#include "iam/Dialect/Stablehlo/IR/StablehloOps.h.inc"

#endif // IAM_DIALECT_STABLEHLO_IR_STABLEHLOOPS_H
