//===- IAMBase.td - The iam dialect ---------------------------------*- tablegen -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_DIALECT_IAM_IR_IAMBASE_TD
#define IAM_DIALECT_IAM_IR_IAMBASE_TD

include "mlir/IR/OpBase.td"

def IAM_Dialect : Dialect {
  let name = "iam";
  let cppNamespace = "::iam";
  let summary = "Interpretability of language models: sparse features, "
                "attribution, policies";
  let description = [{
    Programs over the activations of a model. Activations and weights are ranked
    f32 tensors, with one row per position; sparse codes are `!iam.features`.
    Weights are SSA operands, never attributes.

    Four families: `iam.clt.*` (sparse coders: SAEs and transcoders), `iam.attr.*`
    (attribution), `iam.policy.*` (steering and constraints) and `iam.model.*`
    (segments of a language model).
    Every op is pure, except the assertions `iam.policy.verify` and
    `iam.attr.check`. `docs/spec.md` is the specification; labels such as `clt_topk_c1` name its constraints.

    An argument of a function that is a weight, the same at many calls, may carry
    the unit attribute `iam.weight`: see `iam-hoist-weights`.
  }];
  let hasRegionArgAttrVerify = 1;
  let useDefaultTypePrinterParser = 1;
  let extraClassDeclaration = [{
    void registerTypes();
  }];
}

class IAM_Op<string mnemonic, list<Trait> traits = []>
    : Op<IAM_Dialect, mnemonic, traits>;

// Tensors of one element type and rank. Sizes are checked by the verifiers, which
// can name both sides.
def IAM_Tensor : RankedTensorOf<[F32]>;
def IAM_Vector : RankedTensorOf<[F32], [HasAnyRankOfPred<[1]>], "vector">;
def IAM_Matrix : RankedTensorOf<[F32], [HasAnyRankOfPred<[2]>], "matrix">;

#endif // IAM_DIALECT_IAM_IR_IAMBASE_TD
