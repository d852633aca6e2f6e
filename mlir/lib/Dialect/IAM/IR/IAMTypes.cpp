//===- IAMTypes.cpp - Types of the iam dialect ---------------------------*- C++ -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "iam/Dialect/IAM/IR/IAMTypes.h"
#include "iam/Dialect/IAM/IR/IAMDialect.h"

#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace iam;

#define GET_TYPEDEF_CLASSES
#include "iam/Dialect/IAM/IR/IAMTypes.cpp.inc"

void IAMDialect::registerTypes() {
  addTypes<
#define GET_TYPEDEF_LIST
#include "iam/Dialect/IAM/IR/IAMTypes.cpp.inc"
      >();
}

// `<` rows `x` dict `x` element-type (`,` `k` `=` k)? `>`
Type FeaturesType::parse(AsmParser &parser) {
  SMLoc loc = parser.getCurrentLocation();
  SmallVector<int64_t, 2> dims;
  Type elementType;
  std::optional<int64_t> k;
  if (parser.parseLess() ||
      parser.parseDimensionList(dims, /*allowDynamic=*/true,
                                /*withTrailingX=*/true) ||
      parser.parseType(elementType))
    return {};
  if (succeeded(parser.parseOptionalComma())) {
    int64_t slots;
    if (parser.parseKeyword("k") || parser.parseEqual() || parser.parseInteger(slots))
      return {};
    k = slots;
  }
  if (parser.parseGreater())
    return {};
  if (dims.size() != 2) {
    parser.emitError(loc) << "expected features of shape [rows, dict], got " << dims.size()
                          << " dimensions";
    return {};
  }
  return parser.getChecked<FeaturesType>(loc, parser.getContext(), dims[0], dims[1], elementType,
                                         k);
}

void FeaturesType::print(AsmPrinter &printer) const {
  printer << '<';
  printer.printDimensionList({getRows(), getDict()});
  printer << 'x' << getElementType();
  if (getK())
    printer << ", k = " << *getK();
  printer << '>';
}

LogicalResult FeaturesType::verify(function_ref<InFlightDiagnostic()> emitError, int64_t rows,
                                   int64_t dict, Type elementType, std::optional<int64_t> k) {
  // features_c1
  if (rows < 0 && !ShapedType::isDynamic(rows))
    return emitError() << "expected a number of rows >= 0 or ?, got " << rows;
  // features_c2
  if (ShapedType::isDynamic(dict))
    return emitError() << "expected a static dictionary size, got ?";
  if (dict < 1)
    return emitError() << "expected a dictionary size >= 1, got " << dict;
  constexpr int64_t most = std::numeric_limits<int32_t>::max(); // indices are i32
  if (dict > most)
    return emitError() << "expected a dictionary size <= " << most << ", got " << dict;
  // features_c3
  if (!elementType.isF32())
    return emitError() << "expected element type f32, got " << elementType;
  // features_c4
  if (k && *k < 1)
    return emitError() << "expected k >= 1, got k = " << *k;
  if (k && *k > most)
    return emitError() << "expected k <= " << most << ", got k = " << *k;
  return success();
}
