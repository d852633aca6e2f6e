//===- Passes.h - conversions out of the iam dialect -----------------*- C++ -*-===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_CONVERSION_PASSES_H
#define IAM_CONVERSION_PASSES_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"

namespace iam {
#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "iam/Conversion/Passes.h.inc"
} // namespace iam

#endif // IAM_CONVERSION_PASSES_H
