//===- IAMDialect.cpp - The iam dialect ----------------------------------*- C++ -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "iam/Dialect/IAM/IR/IAMDialect.h"
#include "iam/Dialect/IAM/IR/IAMOps.h"

#include "mlir/IR/Builders.h"

using namespace mlir;

#include "iam/Dialect/IAM/IR/IAMDialect.cpp.inc"

#include "iam/Dialect/IAM/IR/IAMAttrs.cpp.inc"

// The steps of a sequence as words: `add, ablate, halfspace`.
static mlir::ParseResult parseSteps(mlir::OpAsmParser &parser, mlir::DenseI32ArrayAttr &steps) {
  mlir::SmallVector<int32_t> found;
  auto step = [&]() -> mlir::ParseResult {
    mlir::StringRef word;
    mlir::SMLoc loc = parser.getCurrentLocation();
    if (parser.parseKeyword(&word))
      return mlir::failure();
    std::optional<iam::PolicyStep> kind = iam::symbolizePolicyStep(word);
    if (!kind)
      return parser.emitError(loc, "expected add, ablate, clamp or halfspace, got ") << word;
    found.push_back(static_cast<int32_t>(*kind));
    return mlir::success();
  };
  if (step())
    return mlir::failure();
  while (mlir::succeeded(parser.parseOptionalComma()))
    if (step())
      return mlir::failure();
  steps = parser.getBuilder().getDenseI32ArrayAttr(found);
  return mlir::success();
}

static void printSteps(mlir::OpAsmPrinter &printer, mlir::Operation *,
                       mlir::DenseI32ArrayAttr steps) {
  llvm::interleaveComma(steps.asArrayRef(), printer, [&](int32_t step) {
    printer << iam::stringifyPolicyStep(static_cast<iam::PolicyStep>(step));
  });
}

#define GET_OP_CLASSES
#include "iam/Dialect/IAM/IR/IAMOps.cpp.inc"

void iam::IAMDialect::initialize() {
  registerTypes();
  addOperations<
#define GET_OP_LIST
#include "iam/Dialect/IAM/IR/IAMOps.cpp.inc"
      >();
}

LogicalResult iam::IAMDialect::verifyRegionArgAttribute(Operation *op, unsigned, unsigned argument,
                                                        NamedAttribute attribute) {
  if (attribute.getName() == "iam.weight" && !isa<UnitAttr>(attribute.getValue()))
    return op->emitOpError("expected iam.weight of argument ")
           << argument << " to be a unit attribute, got " << attribute.getValue();
  return success();
}
