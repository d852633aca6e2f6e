//===- IAMOps.td - All ops of the iam dialect -----------------------*- tablegen -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_DIALECT_IAM_IR_IAMOPS_TD
#define IAM_DIALECT_IAM_IR_IAMOPS_TD

include "iam/Dialect/IAM/IR/CLTOps.td"
include "iam/Dialect/IAM/IR/AttributionOps.td"
include "iam/Dialect/IAM/IR/PolicyOps.td"
include "iam/Dialect/IAM/IR/AdjointOps.td"
include "iam/Dialect/IAM/IR/ModelOps.td"

#endif // IAM_DIALECT_IAM_IR_IAMOPS_TD
