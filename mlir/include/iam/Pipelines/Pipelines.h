//===- Pipelines.h - the one table of pass pipelines -----------------*- C++ -*-===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_PIPELINES_PIPELINES_H
#define IAM_PIPELINES_PIPELINES_H

#include "mlir/Support/LLVM.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/STLFunctionalExtras.h"
#include "llvm/ADT/StringRef.h"

#include <string>

namespace mlir {
class DialectRegistry;
} // namespace mlir

namespace iam {

/// One pass (or named pipeline) in textual form, and why it stands where it does.
struct PipelineStep {
  llvm::StringLiteral pass;
  llvm::StringLiteral why;
};

/// A pipeline over a module: `iam-opt --<name>`, or `builtin.module(<name>)` in text.
struct Pipeline {
  llvm::StringLiteral name;
  llvm::StringLiteral why;
  llvm::ArrayRef<PipelineStep> steps;

  /// The steps, separated by commas.
  std::string passes() const;
};

/// The table. A pipeline names only pipelines that stand before it.
llvm::ArrayRef<Pipeline> pipelines();

/// Calls `callback(name, passes, why)` for each pipeline, in order. The strings live as long as the
/// call.
void enumeratePipelines(
    llvm::function_ref<void(llvm::StringRef, llvm::StringRef, llvm::StringRef)> callback);

/// Registers the pipelines of the table. registerPasses() does it.
void registerPipelines();

/// Every dialect, interface and translation that the pipelines use.
void registerDialects(mlir::DialectRegistry &registry);

/// IAM's passes and pipelines, and the upstream passes that they use. Call once.
void registerPasses();

} // namespace iam

#endif // IAM_PIPELINES_PIPELINES_H
