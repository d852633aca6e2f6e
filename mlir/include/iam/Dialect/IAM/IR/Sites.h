//===- Sites.h - Names of places in a transformer ------------------------*- C++ -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_DIALECT_IAM_IR_SITES_H
#define IAM_DIALECT_IAM_IR_SITES_H

#include "llvm/ADT/StringRef.h"

#include <optional>
#include <tuple>

namespace iam {

/// What comes after every site.
inline constexpr llvm::StringLiteral kLogits = "logits";

/// "resid_post.20": python/iam/core/sites.py has the kinds and their order.
struct SiteName {
  int64_t layer;
  int kind;

  /// None for what is not the text of a site.
  static std::optional<SiteName> parse(llvm::StringRef text);
  /// The order of the forward pass.
  bool operator<(const SiteName &other) const {
    return std::tie(layer, kind) < std::tie(other.layer, other.kind);
  }
  /// False for hook_z, whose width is that of the heads.
  bool isInResidualWidth() const;
};

/// True if the forward pass reaches `from`, a site, before `to`, a site or the logits.
bool isBefore(llvm::StringRef from, llvm::StringRef to);

} // namespace iam

#endif // IAM_DIALECT_IAM_IR_SITES_H
