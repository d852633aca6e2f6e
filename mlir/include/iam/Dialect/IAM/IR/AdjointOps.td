//===- AdjointOps.td - Derivatives of other ops ----------------------*- tablegen -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What iam-differentiate needs beside the other ops. An adjoint takes the cotangent
// of a result to the cotangent of an operand: the transposed Jacobian times it.
//
// The cotangent of features is a features value over the same dictionary, with
// entries at active features only: whether a feature is active does not depend on
// the input almost everywhere, so nothing flows through the others.
//
//===----------------------------------------------------------------------===//

#ifndef IAM_DIALECT_IAM_IR_ADJOINTOPS_TD
#define IAM_DIALECT_IAM_IR_ADJOINTOPS_TD

include "iam/Dialect/IAM/IR/IAMAttrs.td"
include "iam/Dialect/IAM/IR/IAMTypes.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

def IAM_CLTDecodeAdjointOp : IAM_Op<"clt.decode_adjoint", [
    Pure, AllTypesMatch<["f", "df"]> /*clt_decode_adjoint_c1*/]> {
  let summary = "Derivative of a reconstruction by its active features";
  let description = [{
    `df[j] = dy·W_dec[j]` at the active features of each row of `f`: what a change of
    feature `j` does to a number whose derivative by the reconstruction is `dy`. It
    costs one row of `W_dec` for each active feature, not a product with the whole
    of it.

    The result has the slots of `f`; compressed rows leave out zeros. NaN and
    infinity pass through.

    Spec: docs/spec.md#iamcltdecode_adjoint. Original to IAM.

    ```mlir
    func.func @decode_adjoint(%f: !iam.features<?x64xf32, k = 8>, %W: tensor<64x4xf32>,
                              %dy: tensor<?x4xf32>) -> !iam.features<?x64xf32, k = 8> {
      %df = iam.clt.decode_adjoint %f, %W, %dy
          : !iam.features<?x64xf32, k = 8>, tensor<64x4xf32>, tensor<?x4xf32>
      return %df : !iam.features<?x64xf32, k = 8>
    }
    ```
  }];
  let arguments = (ins IAM_Features:$f,    /*clt_decode_adjoint_i1*/
                       IAM_Matrix:$W_dec,  /*clt_decode_adjoint_i2*/
                       IAM_Matrix:$dy);    /*clt_decode_adjoint_i3*/
  let results = (outs IAM_Features:$df);
  let assemblyFormat = [{
    $f `,` $W_dec `,` $dy attr-dict
    `:` qualified(type($f)) `,` type($W_dec) `,` type($dy)
  }];
  let hasVerifier = 1;  // clt_decode_adjoint_c2 .. c4
}

def IAM_CLTDensifyAdjointOp : IAM_Op<"clt.densify_adjoint", [
    Pure, AllTypesMatch<["f", "df"]> /*clt_densify_adjoint_c1*/]> {
  let summary = "Derivative of dense features by the active ones";
  let description = [{
    `df[j] = dd[j]` at the active features of each row of `f`. With `columns`, `dd`
    holds the derivatives of these features only, in this order, and those of the
    others are 0: a program that reads two columns of `iam.clt.densify` makes no
    dense derivative either.

    The result has the slots of `f`; compressed rows leave out zeros. NaN and
    infinity pass through.

    Spec: docs/spec.md#iamcltdensify_adjoint. Original to IAM.

    ```mlir
    func.func @densify_adjoint(%f: !iam.features<?x64xf32>, %dd: tensor<?x2xf32>)
        -> !iam.features<?x64xf32> {
      %df = iam.clt.densify_adjoint %f, %dd columns [3, 7]
          : !iam.features<?x64xf32>, tensor<?x2xf32>
      return %df : !iam.features<?x64xf32>
    }
    ```
  }];
  let arguments = (ins IAM_Features:$f,  /*clt_densify_adjoint_i1*/
                       IAM_Matrix:$dd,   /*clt_densify_adjoint_i2*/
                       OptionalAttr<DenseI64ArrayAttr>:$columns);
  let results = (outs IAM_Features:$df);
  let assemblyFormat = [{
    $f `,` $dd (`columns` $columns^)? attr-dict
    `:` qualified(type($f)) `,` type($dd)
  }];
  let hasVerifier = 1;  // clt_densify_adjoint_c2 .. c5
}

def IAM_CLTEditAdjointOp : IAM_Op<"clt.edit_adjoint", [
    Pure, AttrSizedOperandSegments, AllTypesMatch<["f", "df"]> /*clt_edit_adjoint_c1*/]> {
  let summary = "Derivative of an edit by the active features";
  let description = [{
    `df[j] = m[j]·dg[j]` at the active features of each row of `f`, where `dg` is the
    derivative by the edited features, in any form:

    | mode | `m[j]` for `j` in `features` |
    |---|---|
    | `set`, `ablate` | 0 |
    | `scale` | `a[i]` |
    | `clamp` | 1 where `a[i] <= f[j] <= b[i]`, else 0 |

    For other features `m[j]` is 1. With `delta`, it is `m[j] − 1` for the listed
    features and 0 for the others: the derivative of `iam.clt.delta`. Without listed
    features, `df` is `dg` at the active features of `f`: the derivative of
    `iam.clt.sub`.

    The result has the slots of `f`; compressed rows leave out zeros. Bounds that are
    NaN or cross are errors at run time, as for the edit.

    Spec: docs/spec.md#iamcltedit_adjoint. Original to IAM.

    ```mlir
    func.func @edit_adjoint(%f: !iam.features<?x64xf32, k = 8>, %dg: !iam.features<?x64xf32, k = 9>,
                            %a: tensor<1xf32>, %b: tensor<1xf32>) -> !iam.features<?x64xf32, k = 8> {
      %df = iam.clt.edit_adjoint clamp %f, %dg features [7] by %a, %b
          : (!iam.features<?x64xf32, k = 8>, !iam.features<?x64xf32, k = 9>, tensor<1xf32>, tensor<1xf32>)
          -> !iam.features<?x64xf32, k = 8>
      return %df : !iam.features<?x64xf32, k = 8>
    }
    ```
  }];
  let arguments = (ins IAM_EditMode:$mode,
                       UnitAttr:$delta,
                       IAM_Features:$f,            /*clt_edit_adjoint_i1*/
                       IAM_Features:$dg,           /*clt_edit_adjoint_i2*/
                       DenseI64ArrayAttr:$features,
                       Optional<IAM_Vector>:$a,    /*clt_edit_adjoint_i3*/
                       Optional<IAM_Vector>:$b);   /*clt_edit_adjoint_i4*/
  let results = (outs IAM_Features:$df);
  let assemblyFormat = [{
    (`delta` $delta^)? $mode $f `,` $dg `features` $features (`by` $a^ (`,` $b^)?)? attr-dict
    `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;  // clt_edit_adjoint_c2 .. c6
}

def IAM_PolicyProjectAdjointOp : IAM_Op<"policy.project_adjoint", [
    Pure, AllTypesMatch<["dy", "dh"]> /*policy_project_adjoint_c1*/]> {
  let summary = "Derivative of a projection onto a set";
  let description = [{
    The transposed Jacobian of `iam.policy.project` at `h`, times `dy`, row by row:

    | kind | rows that stay | rows that move |
    |---|---|---|
    | `halfspace` | `dy` | `dy − (dy·n̂)·n̂` |
    | `ball` | `dy` | `(r/‖h − c‖)·(dy − (dy·û)·û)`, `û = (h − c)/‖h − c‖` |
    | `box` | `dy` | 0 in the columns that move |

    The Jacobian is symmetric. On the border, where there is none, it is that of a
    row that stays. A subspace has none of its own: it is `iam.policy.project` of `dy`.
    NaN in `h`, and sets that are none, are errors at run time.

    Spec: docs/spec.md#iampolicyproject_adjoint. Source: Boyd and Vandenberghe 2004,
    Convex Optimization, section 8.1, doi:10.1017/CBO9780511804441.

    ```mlir
    func.func @project_adjoint(%h: tensor<?x4xf32>, %dy: tensor<?x4xf32>, %centre: tensor<4xf32>,
                               %radius: f32) -> tensor<?x4xf32> {
      %dh = iam.policy.project_adjoint ball %h, %dy, %centre, %radius
          : (tensor<?x4xf32>, tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
      return %dh : tensor<?x4xf32>
    }
    ```
  }];
  let arguments = (ins IAM_SetKind:$kind,
                       IAM_Matrix:$h,                         /*policy_project_adjoint_i1*/
                       IAM_Matrix:$dy,                        /*policy_project_adjoint_i2*/
                       IAM_Vector:$first,                     /*policy_project_adjoint_i3*/
                       AnyTypeOf<[F32, IAM_Vector]>:$second); /*policy_project_adjoint_i4*/
  let results = (outs IAM_Matrix:$dh);
  let assemblyFormat = [{
    $kind $h `,` $dy `,` $first `,` $second attr-dict
    `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;  // policy_project_adjoint_c2 .. c5
}

def IAM_AttrCheckOp : IAM_Op<"attr.check", [MemoryEffects<[MemWrite]>]> {
  let summary = "Assert that gradients along a path are finite";
  let description = [{
    Fails when `gradients` holds NaN or infinity, and names the point: the rows are
    `points` equal parts, the first of which belongs to point `first` of the path.
    `iam-differentiate` makes it; the op has an effect, so it stays although
    it has no result.

    Spec: docs/spec.md#iamattrcheck. Original to IAM.

    ```mlir
    func.func @check(%gradients: tensor<?x4xf32>, %first: index) {
      iam.attr.check %gradients, %first points 8 : tensor<?x4xf32>
      return
    }
    ```
  }];
  let arguments = (ins IAM_Matrix:$gradients,                      /*attr_check_i1*/
                       Index:$first,                               /*attr_check_i2*/
                       ConfinedAttr<I64Attr, [IntPositive]>:$points);  /*attr_check_c1*/
  let assemblyFormat = [{
    $gradients `,` $first `points` $points attr-dict `:` type($gradients)
  }];
}

#endif // IAM_DIALECT_IAM_IR_ADJOINTOPS_TD
