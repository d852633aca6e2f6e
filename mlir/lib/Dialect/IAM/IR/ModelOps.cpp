//===- ModelOps.cpp - Verifiers of model segments ------------------------*- C++ -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Verify.h"

#include "iam/Dialect/IAM/IR/IAMOps.h"
#include "iam/Dialect/IAM/IR/Sites.h"

#include "llvm/ADT/StringExtras.h"

using namespace mlir;
using namespace iam;
using namespace iam::detail;

// The order of python/iam/core/sites.py: that in which a block reaches them.
static constexpr StringLiteral kKinds[] = {"resid_pre", "hook_z",  "attn_out",  "resid_mid",
                                           "mlp_in",    "mlp_out", "resid_post"};

std::optional<SiteName> SiteName::parse(StringRef text) {
  auto [kind, digits] = text.rsplit('.');
  const auto *found = llvm::find(kKinds, kind);
  int64_t layer;
  bool isCanonical = digits == "0" || (!digits.empty() && !digits.starts_with("0"));
  if (found == std::end(kKinds) || !isCanonical ||
      !llvm::all_of(digits, [](char c) { return llvm::isDigit(c); }) ||
      digits.getAsInteger(10, layer))
    return std::nullopt;
  return SiteName{layer, static_cast<int>(found - std::begin(kKinds))};
}

bool SiteName::isInResidualWidth() const { return kKinds[kind] != "hook_z"; }

bool iam::isBefore(StringRef from, StringRef to) {
  std::optional<SiteName> a = SiteName::parse(from), b = SiteName::parse(to);
  return a && (to == kLogits || (b && *a < *b));
}

/// What run and linearize have in common. `label` counts from c1: to; sites; order; tokens;
/// positions; widths; rows.
template <typename Op> static LogicalResult verifySegment(Op op) {
  StringRef to = op.getTo();
  std::optional<SiteName> target = SiteName::parse(to), source;
  const bool isLogits = to == kLogits;
  // c1
  if (!target && !isLogits)
    return op.emitOpError("expected to to be a site like \"resid_post.20\" or \"logits\", got \"")
           << to << "\"";
  std::optional<StringRef> from = op.getFrom();
  if (from) {
    // c2
    source = SiteName::parse(*from);
    if (!source)
      return op.emitOpError("expected from to be a site like \"resid_post.20\", got \"")
             << *from << "\"";
    // c3
    if (target && !(*source < *target))
      return op.emitOpError("expected from to come before to, got from ") << *from << " to " << to;
  }
  // c4
  Dim width = dim("the width of y", op.getY(), 1);
  if (std::optional<ArrayRef<int64_t>> tokens = op.getTokens()) {
    if (!isLogits)
      return op.emitOpError("expected tokens only with to = \"logits\", got to = \"") << to << "\"";
    if (tokens->empty())
      return op.emitOpError("expected at least one token, got none");
    for (int64_t token : *tokens)
      if (token < 0 || token > std::numeric_limits<int32_t>::max())
        return op.emitOpError("expected tokens to be ids >= 0 of 32 bits, got ") << token;
    if (failed(
            expectEqual(op, width, {"the number of tokens", static_cast<int64_t>(tokens->size())})))
      return failure();
  }
  // c5
  if (std::optional<ArrayRef<int64_t>> positions = op.getPositions()) {
    if (positions->empty())
      return op.emitOpError("expected at least one position, got none");
    for (int64_t position : *positions)
      if (position != static_cast<int32_t>(position))
        return op.emitOpError("expected positions of 32 bits, got ") << position;
  }
  if (!op.getH())
    return success();
  // c6
  if (source && target && source->isInResidualWidth() && target->isInResidualWidth() &&
      failed(expectEqual(op, width, dim("the width of h", op.getH(), 1))))
    return failure();
  // c7
  if (!op.getPositions())
    return expectEqual(op, dim("the number of rows of y", op.getY(), 0),
                       dim("the number of rows of h", op.getH(), 0));
  return success();
}

LogicalResult ModelRunOp::verify() {
  // model_run_c8
  if (static_cast<bool>(getH()) != getFrom().has_value())
    return emitOpError("expected h and from together, got ")
           << (getH() ? "h without from" : "from without h");
  return verifySegment(*this); // model_run_c1 .. c7
}

LogicalResult ModelLinearizeOp::verify() {
  return verifySegment(*this); // model_linearize_c1 .. c7
}

LogicalResult ModelPullbackOp::verify() {
  auto made = getTape().getDefiningOp<ModelLinearizeOp>();
  if (!made) // a block argument: the runtime checks it
    return success();
  // model_pullback_c1
  if (failed(expectEqual(*this, dim("the number of rows of dy", getDy(), 0),
                         dim("the number of rows of y", made.getY(), 0))) ||
      failed(expectEqual(*this, dim("the width of dy", getDy(), 1),
                         dim("the width of y", made.getY(), 1))))
    return failure();
  // model_pullback_c2
  if (failed(expectEqual(*this, dim("the number of rows of g", getG(), 0),
                         dim("the number of rows of h", made.getH(), 0))))
    return failure();
  return expectEqual(*this, dim("the width of g", getG(), 1),
                     dim("the width of h", made.getH(), 1));
}
