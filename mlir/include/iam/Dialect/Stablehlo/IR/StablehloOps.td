//===- StablehloOps.td - the StableHLO ops that iam emits -----------*- tablegen -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

//
// No package ships StableHLO's headers, and its whole source would triple the build. So the ops
// that iam-to-stablehlo emits are declared here once more: the same names, operands and attributes
// (https://openxla.org/stablehlo/spec, version 1.0), without verifiers, folds or custom syntax.
// They print in the generic form, which every StableHLO parser takes; the real verifier checks
// them in tests/integration/test_stablehlo_jax.py. Programs are written, not read: StableHLO in its
// pretty form does not parse here.
//
//===----------------------------------------------------------------------===//

#ifndef IAM_DIALECT_STABLEHLO_IR_STABLEHLOOPS_TD
#define IAM_DIALECT_STABLEHLO_IR_STABLEHLOOPS_TD

include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"
include "mlir/IR/OpBase.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

def Stablehlo_Dialect : Dialect {
  let name = "stablehlo";
  let cppNamespace = "::iam::stablehlo";
  let summary = "the part of StableHLO that iam emits";
  let useDefaultAttributePrinterParser = 1;
}

//===----------------------------------------------------------------------===//
// Attributes
//===----------------------------------------------------------------------===//

class Stablehlo_EnumInfo<string name, list<I32EnumAttrCase> cases> : I32EnumAttr<name, "", cases> {
  let cppNamespace = "::iam::stablehlo";
  let genSpecializedAttr = 0;
}

def Stablehlo_Precision : Stablehlo_EnumInfo<"Precision", [
  I32EnumAttrCase<"DEFAULT", 0>, I32EnumAttrCase<"HIGH", 1>, I32EnumAttrCase<"HIGHEST", 2>,
]>;
def Stablehlo_PrecisionAttr : EnumAttr<Stablehlo_Dialect, Stablehlo_Precision, "precision">;

def Stablehlo_ComparisonDirection : Stablehlo_EnumInfo<"ComparisonDirection", [
  I32EnumAttrCase<"EQ", 0>, I32EnumAttrCase<"NE", 1>, I32EnumAttrCase<"GE", 2>,
  I32EnumAttrCase<"GT", 3>, I32EnumAttrCase<"LE", 4>, I32EnumAttrCase<"LT", 5>,
]>;
def Stablehlo_ComparisonDirectionAttr
    : EnumAttr<Stablehlo_Dialect, Stablehlo_ComparisonDirection, "comparison_direction">;

def Stablehlo_ComparisonType : Stablehlo_EnumInfo<"ComparisonType", [
  I32EnumAttrCase<"NOTYPE", 0>, I32EnumAttrCase<"FLOAT", 1>, I32EnumAttrCase<"TOTALORDER", 2>,
]>;
def Stablehlo_ComparisonTypeAttr
    : EnumAttr<Stablehlo_Dialect, Stablehlo_ComparisonType, "comparison_type">;

class Stablehlo_Attr<string name, string attrMnemonic> : AttrDef<Stablehlo_Dialect, name> {
  let mnemonic = attrMnemonic;
}

def Stablehlo_DotDimensionNumbers : Stablehlo_Attr<"DotDimensionNumbers", "dot"> {
  let parameters = (ins ArrayRefParameter<"int64_t">:$lhsContractingDimensions,
                        ArrayRefParameter<"int64_t">:$rhsContractingDimensions);
  let assemblyFormat = [{
    `<` `lhs_contracting_dimensions` `=` `[` $lhsContractingDimensions `]` `,`
        `rhs_contracting_dimensions` `=` `[` $rhsContractingDimensions `]` `>`
  }];
}

def Stablehlo_GatherDimensionNumbers : Stablehlo_Attr<"GatherDimensionNumbers", "gather"> {
  let parameters = (ins OptionalArrayRefParameter<"int64_t">:$offsetDims,
                        OptionalArrayRefParameter<"int64_t">:$collapsedSliceDims,
                        OptionalArrayRefParameter<"int64_t">:$operandBatchingDims,
                        OptionalArrayRefParameter<"int64_t">:$startIndicesBatchingDims,
                        OptionalArrayRefParameter<"int64_t">:$startIndexMap,
                        "int64_t":$indexVectorDim);
  let assemblyFormat = [{
    `<` (`offset_dims` `=` `[` $offsetDims^ `]` `,`)?
        (`collapsed_slice_dims` `=` `[` $collapsedSliceDims^ `]` `,`)?
        (`operand_batching_dims` `=` `[` $operandBatchingDims^ `]` `,`)?
        (`start_indices_batching_dims` `=` `[` $startIndicesBatchingDims^ `]` `,`)?
        (`start_index_map` `=` `[` $startIndexMap^ `]` `,`)?
        `index_vector_dim` `=` $indexVectorDim `>`
  }];
}

def Stablehlo_ScatterDimensionNumbers : Stablehlo_Attr<"ScatterDimensionNumbers", "scatter"> {
  let parameters = (ins OptionalArrayRefParameter<"int64_t">:$updateWindowDims,
                        OptionalArrayRefParameter<"int64_t">:$insertedWindowDims,
                        OptionalArrayRefParameter<"int64_t">:$inputBatchingDims,
                        OptionalArrayRefParameter<"int64_t">:$scatterIndicesBatchingDims,
                        OptionalArrayRefParameter<"int64_t">:$scatterDimsToOperandDims,
                        "int64_t":$indexVectorDim);
  let assemblyFormat = [{
    `<` (`update_window_dims` `=` `[` $updateWindowDims^ `]` `,`)?
        (`inserted_window_dims` `=` `[` $insertedWindowDims^ `]` `,`)?
        (`input_batching_dims` `=` `[` $inputBatchingDims^ `]` `,`)?
        (`scatter_indices_batching_dims` `=` `[` $scatterIndicesBatchingDims^ `]` `,`)?
        (`scatter_dims_to_operand_dims` `=` `[` $scatterDimsToOperandDims^ `]` `,`)?
        `index_vector_dim` `=` $indexVectorDim `>`
  }];
}

//===----------------------------------------------------------------------===//
// Ops
//===----------------------------------------------------------------------===//

class Stablehlo_Op<string mnemonic, list<Trait> traits = []>
    : Op<Stablehlo_Dialect, mnemonic, traits>;

class Stablehlo_UnaryOp<string mnemonic> : Stablehlo_Op<mnemonic, [Pure]> {
  let arguments = (ins AnyRankedTensor:$operand);
  let results = (outs AnyRankedTensor:$result);
}
def Stablehlo_AbsOp : Stablehlo_UnaryOp<"abs">;
def Stablehlo_NegOp : Stablehlo_UnaryOp<"negate">;
def Stablehlo_NotOp : Stablehlo_UnaryOp<"not">;
def Stablehlo_SqrtOp : Stablehlo_UnaryOp<"sqrt">;
def Stablehlo_ReshapeOp : Stablehlo_UnaryOp<"reshape">;

class Stablehlo_BinaryOp<string mnemonic> : Stablehlo_Op<mnemonic, [Pure]> {
  let arguments = (ins AnyRankedTensor:$lhs, AnyRankedTensor:$rhs);
  let results = (outs AnyRankedTensor:$result);
}
def Stablehlo_AddOp : Stablehlo_BinaryOp<"add">;
def Stablehlo_AndOp : Stablehlo_BinaryOp<"and">;
def Stablehlo_DivOp : Stablehlo_BinaryOp<"divide">;
def Stablehlo_MaxOp : Stablehlo_BinaryOp<"maximum">;
def Stablehlo_MinOp : Stablehlo_BinaryOp<"minimum">;
def Stablehlo_MulOp : Stablehlo_BinaryOp<"multiply">;
def Stablehlo_OrOp : Stablehlo_BinaryOp<"or">;
def Stablehlo_SubtractOp : Stablehlo_BinaryOp<"subtract">;

def Stablehlo_CompareOp : Stablehlo_Op<"compare", [Pure]> {
  let arguments = (ins AnyRankedTensor:$lhs, AnyRankedTensor:$rhs,
                       Stablehlo_ComparisonDirectionAttr:$comparison_direction,
                       OptionalAttr<Stablehlo_ComparisonTypeAttr>:$compare_type);
  let results = (outs AnyRankedTensor:$result);
}

def Stablehlo_SelectOp : Stablehlo_Op<"select", [Pure]> {
  let arguments = (ins AnyRankedTensor:$pred, AnyRankedTensor:$on_true, AnyRankedTensor:$on_false);
  let results = (outs AnyRankedTensor:$result);
}

def Stablehlo_ConstantOp : Stablehlo_Op<"constant", [Pure]> {
  let arguments = (ins ElementsAttr:$value);
  let results = (outs AnyRankedTensor:$output);
}

def Stablehlo_GetDimensionSizeOp : Stablehlo_Op<"get_dimension_size", [Pure]> {
  let arguments = (ins AnyRankedTensor:$operand, I64Attr:$dimension);
  let results = (outs AnyRankedTensor:$result);
}

def Stablehlo_ConcatenateOp : Stablehlo_Op<"concatenate", [Pure]> {
  let arguments = (ins Variadic<AnyRankedTensor>:$inputs, I64Attr:$dimension);
  let results = (outs AnyRankedTensor:$result);
}

def Stablehlo_SliceOp : Stablehlo_Op<"slice", [Pure]> {
  let arguments = (ins AnyRankedTensor:$operand, DenseI64ArrayAttr:$start_indices,
                       DenseI64ArrayAttr:$limit_indices, DenseI64ArrayAttr:$strides);
  let results = (outs AnyRankedTensor:$result);
}

def Stablehlo_RealDynamicSliceOp : Stablehlo_Op<"real_dynamic_slice", [Pure]> {
  let arguments = (ins AnyRankedTensor:$operand, AnyRankedTensor:$start_indices,
                       AnyRankedTensor:$limit_indices, AnyRankedTensor:$strides);
  let results = (outs AnyRankedTensor:$result);
}

def Stablehlo_IotaOp : Stablehlo_Op<"iota", [Pure]> {
  let arguments = (ins I64Attr:$iota_dimension);
  let results = (outs AnyRankedTensor:$output);
}

def Stablehlo_DynamicIotaOp : Stablehlo_Op<"dynamic_iota", [Pure]> {
  let arguments = (ins AnyRankedTensor:$output_shape, I64Attr:$iota_dimension);
  let results = (outs AnyRankedTensor:$result);
}

def Stablehlo_DynamicReshapeOp : Stablehlo_Op<"dynamic_reshape", [Pure]> {
  let arguments = (ins AnyRankedTensor:$operand, AnyRankedTensor:$output_shape);
  let results = (outs AnyRankedTensor:$result);
}

def Stablehlo_BroadcastInDimOp : Stablehlo_Op<"broadcast_in_dim", [Pure]> {
  let arguments = (ins AnyRankedTensor:$operand, DenseI64ArrayAttr:$broadcast_dimensions);
  let results = (outs AnyRankedTensor:$result);
}

def Stablehlo_DynamicBroadcastInDimOp : Stablehlo_Op<"dynamic_broadcast_in_dim", [Pure]> {
  let arguments = (ins AnyRankedTensor:$operand, AnyRankedTensor:$output_dimensions,
                       DenseI64ArrayAttr:$broadcast_dimensions);
  let results = (outs AnyRankedTensor:$result);
}

def Stablehlo_DotGeneralOp : Stablehlo_Op<"dot_general", [Pure]> {
  let arguments = (ins AnyRankedTensor:$lhs, AnyRankedTensor:$rhs,
                       Stablehlo_DotDimensionNumbers:$dot_dimension_numbers,
                       TypedArrayAttrBase<Stablehlo_PrecisionAttr, "one for each operand">:$precision_config);
  let results = (outs AnyRankedTensor:$result);
}

def Stablehlo_GatherOp : Stablehlo_Op<"gather", [Pure]> {
  let arguments = (ins AnyRankedTensor:$operand, AnyRankedTensor:$start_indices,
                       Stablehlo_GatherDimensionNumbers:$dimension_numbers,
                       DenseI64ArrayAttr:$slice_sizes, BoolAttr:$indices_are_sorted);
  let results = (outs AnyRankedTensor:$result);
}

// Ops with a body: it combines two numbers, or compares them, or is a loop, and ends in
// stablehlo.return.

def Stablehlo_ReturnOp : Stablehlo_Op<"return", [Pure, Terminator]> {
  let arguments = (ins Variadic<AnyRankedTensor>:$results);
}

def Stablehlo_SortOp : Stablehlo_Op<"sort", [RecursiveMemoryEffects]> {
  let arguments = (ins Variadic<AnyRankedTensor>:$inputs, I64Attr:$dimension, BoolAttr:$is_stable);
  let regions = (region SizedRegion<1>:$comparator);
  let results = (outs Variadic<AnyRankedTensor>:$outputs);
}

def Stablehlo_ReduceOp : Stablehlo_Op<"reduce", [RecursiveMemoryEffects]> {
  let arguments = (ins AnyRankedTensor:$input, AnyRankedTensor:$init_value,
                       DenseI64ArrayAttr:$dimensions);
  let regions = (region SizedRegion<1>:$body);
  let results = (outs AnyRankedTensor:$result);
}

def Stablehlo_ScatterOp : Stablehlo_Op<"scatter", [RecursiveMemoryEffects]> {
  let arguments = (ins AnyRankedTensor:$input, AnyRankedTensor:$scatter_indices,
                       AnyRankedTensor:$updates,
                       Stablehlo_ScatterDimensionNumbers:$scatter_dimension_numbers,
                       BoolAttr:$indices_are_sorted, BoolAttr:$unique_indices);
  let regions = (region SizedRegion<1>:$update_computation);
  let results = (outs AnyRankedTensor:$result);
}

// Values from outside come in as operands: implicit captures are not in StableHLO's specification.
def Stablehlo_WhileOp : Stablehlo_Op<"while", [RecursiveMemoryEffects, IsolatedFromAbove]> {
  let arguments = (ins Variadic<AnyRankedTensor>:$operands);
  let regions = (region SizedRegion<1>:$cond, SizedRegion<1>:$body);
  let results = (outs Variadic<AnyRankedTensor>:$outputs);
}

#endif // IAM_DIALECT_STABLEHLO_IR_STABLEHLOOPS_TD
