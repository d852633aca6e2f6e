//===- EntryPoints.cpp - the runtime's functions, seen from MLIR --------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "EntryPoints.h"
#include "mlir/IR/Builders.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/ErrorHandling.h"

#include <array>

using namespace mlir;
using namespace iam::rt;

namespace {
struct Line {
  StringRef symbol, result, arguments;
};
const Line kLines[] = {
#define IAM_RT_ENTRY(name, result, arguments) {"iam_rt_" #name, #result, arguments},
#include "iam/entry_points.def"
};

[[noreturn]] void malformed(const Line &line, StringRef what) {
  llvm::report_fatal_error("entry_points.def: " + line.symbol + ": cannot read '" + what + "'");
}

Argument parseArgument(const Line &line, StringRef text) {
  Argument argument;
  StringRef rest = text;
  argument.isDestination = rest.consume_front(">");
  argument.isOptional = rest.consume_back("?");
  std::tie(argument.name, rest) = rest.split(':');
  std::tie(argument.element, rest) = rest.split('[');
  if (!rest.empty() && (!rest.consume_back("]") || rest.getAsInteger(10, argument.rank)))
    malformed(line, text);
  if (argument.name.empty() ||
      (argument.element != "f32" && argument.element != "i32" && argument.element != "i64"))
    malformed(line, text);
  return argument;
}

Signature parseSignature(const Line &line) {
  Signature signature;
  signature.symbol = line.symbol;
  std::optional<Signature::Result> result =
      llvm::StringSwitch<std::optional<Signature::Result>>(line.result)
          .Case("none", Signature::Result::None)
          .Case("csr", Signature::Result::Csr)
          .Case("matrix", Signature::Result::Matrix)
          .Case("taped", Signature::Result::Taped)
          .Default(std::nullopt);
  if (!result)
    malformed(line, line.result);
  signature.result = *result;
  SmallVector<StringRef> words;
  line.arguments.split(words, ' ', /*MaxSplit=*/-1, /*KeepEmpty=*/false);
  for (StringRef word : words)
    signature.arguments.push_back(parseArgument(line, word));
  return signature;
}

const auto &signatures() {
  static const std::array<Signature, std::size(kLines)> all = [] {
    std::array<Signature, std::size(kLines)> parsed;
    for (auto [signature, line] : llvm::zip(parsed, kLines))
      signature = parseSignature(line);
    return parsed;
  }();
  return all;
}
} // namespace

Type Argument::elementType(MLIRContext *context) const {
  Builder builder(context);
  if (element == "f32")
    return builder.getF32Type();
  return element == "i32" ? builder.getI32Type() : builder.getI64Type();
}

Type Argument::type(MLIRContext *context) const {
  if (rank < 0)
    return elementType(context);
  SmallVector<int64_t> dynamic(rank, ShapedType::kDynamic);
  return MemRefType::get(dynamic, elementType(context),
                         StridedLayoutAttr::get(context, ShapedType::kDynamic, dynamic));
}

SmallVector<Type> Signature::resultTypes(MLIRContext *context) const {
  Builder builder(context);
  int64_t open = ShapedType::kDynamic;
  SmallVector<Type> types;
  if (result == Result::Csr)
    for (Type element :
         {Type(builder.getF32Type()), Type(builder.getI32Type()), Type(builder.getI64Type())})
      types.push_back(MemRefType::get(open, element));
  if (result == Result::Matrix || result == Result::Taped)
    types.push_back(MemRefType::get({open, open}, builder.getF32Type()));
  if (result == Result::Taped)
    types.push_back(builder.getI64Type());
  return types;
}

const Signature &iam::rt::signature(EntryPoint entry) {
  return signatures()[static_cast<size_t>(entry)];
}

bool iam::rt::isEntryPoint(StringRef symbol) {
  return llvm::any_of(kLines, [&](const Line &line) { return line.symbol == symbol; });
}
