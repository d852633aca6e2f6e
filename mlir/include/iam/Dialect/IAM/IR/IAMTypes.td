//===- IAMTypes.td - Types of the iam dialect -----------------------*- tablegen -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_DIALECT_IAM_IR_IAMTYPES_TD
#define IAM_DIALECT_IAM_IR_IAMTYPES_TD

include "iam/Dialect/IAM/IR/IAMBase.td"
include "mlir/IR/AttrTypeBase.td"

class IAM_Type<string name, string typeMnemonic>
    : TypeDef<IAM_Dialect, name> {
  let mnemonic = typeMnemonic;
}

def IAM_Features : IAM_Type<"Features", "features"> {
  let summary = "sparse codes: rows of a dictionary";
  let description = [{
    A sparse `[rows, dict]` matrix of feature activations, in one of two forms.

    * With `k`, exactly `k` slots in each row: `values[rows, k]` f32 and
      `indices[rows, k]` i32.
    * Without `k`, compressed rows (CSR): `values[nnz]` f32, `indices[nnz]` i32
      and `offsets[rows + 1]` i64; row `r` owns entries `offsets[r]` to
      `offsets[r + 1]`, by ascending index, none of them zero.

    Slots of value 0 are padding: their index means nothing. The other slots of
    a row have distinct indices. `k` may exceed `dict`: an edit that sets `n`
    features adds `n` slots. `rows` is static or `?`, `dict` is static.

    Spec: docs/spec.md#iamfeatures. Original to IAM.

    ```mlir
    func.func private @exactly_32_slots_a_row(!iam.features<?x24576xf32, k = 32>)
    func.func private @compressed_rows(!iam.features<4x24576xf32>)
    ```
  }];
  let parameters = (ins
    "int64_t":$rows,
    "int64_t":$dict,
    "::mlir::Type":$elementType,
    OptionalParameter<"std::optional<int64_t>">:$k);
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;  // features_c1 .. features_c4
  let extraClassDeclaration = [{
    /// True for exactly k slots a row, false for compressed rows.
    bool isKForm() const { return getK().has_value(); }
    bool hasDynamicRows() const { return ::mlir::ShapedType::isDynamic(getRows()); }
    /// The same rows and dictionary with `k` slots a row, or compressed rows.
    FeaturesType withK(std::optional<int64_t> k) const {
      return get(getContext(), getRows(), getDict(), getElementType(), k);
    }
  }];
}

def IAM_Model : IAM_Type<"Model", "model"> {
  let summary = "a language model and a prompt";
  let description = [{
    An opaque handle: the weights and the forward pass stay where they are (torch).
    An argument of a program; `iam.model.run` is what it is for.

    Spec: docs/spec.md#iammodel. Original to IAM.

    ```mlir
    func.func private @of_a_prompt(!iam.model)
    ```
  }];
}

def IAM_Tape : IAM_Type<"Tape", "tape"> {
  let summary = "what the derivative of a segment needs";
  let description = [{
    Made by `iam.model.linearize`, read by `iam.model.pullback`, gone when the call of
    the program ends: public functions neither take nor return one.

    Spec: docs/spec.md#iamtape. Original to IAM.

    ```mlir
    func.func private @of_a_segment(!iam.tape)
    ```
  }];
}

#endif // IAM_DIALECT_IAM_IR_IAMTYPES_TD
