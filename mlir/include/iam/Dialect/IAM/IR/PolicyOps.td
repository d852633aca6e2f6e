//===- PolicyOps.td - Steering and constraints ----------------------*- tablegen -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_DIALECT_IAM_IR_POLICYOPS_TD
#define IAM_DIALECT_IAM_IR_POLICYOPS_TD

include "iam/Dialect/IAM/IR/IAMAttrs.td"
include "iam/Dialect/IAM/IR/IAMTypes.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

def IAM_PolicySteerOp : IAM_Op<"policy.steer", [
    Pure, AllTypesMatch<["h", "result"]> /*policy_steer_c1*/]> {
  let summary = "Move activations along a direction";
  let description = [{
    With `v̂ = v/‖v‖`:

    * `add`: `h + s·v`
    * `ablate`: `h − s·(h·v/‖v‖²)·v`, which removes the component along `v` for
      `s = 1`
    * `clamp`: `h + (s − h·v̂)·v̂`, which sets that component to `s`

    The direction is not normalised first: the dose of `add` is `s·‖v‖`. A zero `v`
    is an error at run time for `ablate` and `clamp`. Rows: 0 rows give 0 rows. NaN
    or infinity in `h`, `v` or `s` is an error at run time.

    Folds: `add` with a constant strength of 0 is `h`.

    Spec: docs/spec.md#iampolicysteer. Source: Turner et al. 2023,
    arXiv:2308.10248 (add); Arditi et al. 2024, arXiv:2406.11717 (ablate).

    ```mlir
    func.func @steer(%h: tensor<?x4xf32>, %v: tensor<4xf32>, %s: f32) -> tensor<?x4xf32> {
      %0 = iam.policy.steer add %h, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
      return %0 : tensor<?x4xf32>
    }
    ```
  }];
  let arguments = (ins IAM_SteerMode:$mode,
                       IAM_Matrix:$h,   /*policy_steer_i1*/
                       IAM_Vector:$v,   /*policy_steer_i2*/
                       F32:$strength);  /*policy_steer_i3*/
  let results = (outs IAM_Matrix:$result);
  let assemblyFormat = [{
    $mode $h `,` $v `,` $strength attr-dict
    `:` type($h) `,` type($v) `,` type($strength)
  }];
  let hasVerifier = 1;  // policy_steer_c2
  let hasFolder = 1;
}

def IAM_PolicySequenceOp : IAM_Op<"policy.sequence", [
    Pure, AllTypesMatch<["h", "result"]> /*policy_sequence_c1*/]> {
  let summary = "Steers and projections in one pass over the activations";
  let description = [{
    The steps one after the other, on each row: step `i` along row `i` of
    `directions` with strength `strengths[i]`. `add`, `ablate` and `clamp` are those
    of `iam.policy.steer`; `halfspace` is `iam.policy.project` onto
    `directions[i]·h ≤ strengths[i]`. Memory is read and written once. The result is
    that of the single ops without the rounding between them, but for that of each
    factor and each sum; a half-space at the end holds of the rounded rows.
    `iam-policy-projection` makes it.

    Rows: 0 rows give 0 rows. Errors at run time are those of the single ops: a zero
    direction (of all but `add`), NaN or infinity.

    Spec: docs/spec.md#iampolicysequence. Original to IAM.

    ```mlir
    func.func @sequence(%h: tensor<?x4xf32>, %v: tensor<3x4xf32>, %s: tensor<3xf32>) -> tensor<?x4xf32> {
      %0 = iam.policy.sequence add, ablate, halfspace %h, %v, %s
          : tensor<?x4xf32>, tensor<3x4xf32>, tensor<3xf32>
      return %0 : tensor<?x4xf32>
    }
    ```
  }];
  let arguments = (ins DenseI32ArrayAttr:$steps,
                       IAM_Matrix:$h,           /*policy_sequence_i1*/
                       IAM_Matrix:$directions,  /*policy_sequence_i2*/
                       IAM_Vector:$strengths);  /*policy_sequence_i3*/
  let results = (outs IAM_Matrix:$result);
  let assemblyFormat = [{
    custom<Steps>($steps) $h `,` $directions `,` $strengths attr-dict
    `:` type($h) `,` type($directions) `,` type($strengths)
  }];
  let hasVerifier = 1;  // policy_sequence_c2 .. c5
}

def IAM_PolicyComposeOp : IAM_Op<"policy.compose", [Pure]> {
  let summary = "Several directions as one edit";
  let description = [{
    One direction `[d]` from `n` of them and their strengths, to be added to an
    activation. Where directions overlap, the rule decides:

    * `sum`: `Σ s_i·v_i`
    * `mean`: `Σ s_i·v_i / n`
    * `orthogonal`: each direction first loses what it shares with the directions
      before it, so a later one cannot undo an earlier one: the order is the
      priority. A direction in the span of the earlier ones (within 1e-6 of its
      norm) contributes nothing.

    No directions give 0. NaN and infinity pass through.

    Spec: docs/spec.md#iampolicycompose. Original to IAM.

    ```mlir
    func.func @compose(%v: tensor<3x4xf32>, %s: tensor<3xf32>) -> tensor<4xf32> {
      %edit = iam.policy.compose orthogonal %v, %s : tensor<3x4xf32>, tensor<3xf32> -> tensor<4xf32>
      return %edit : tensor<4xf32>
    }
    ```
  }];
  let arguments = (ins IAM_ComposeRule:$rule,
                       IAM_Matrix:$vectors,     /*policy_compose_i1*/
                       IAM_Vector:$strengths);  /*policy_compose_i2*/
  let results = (outs IAM_Vector:$result);
  let assemblyFormat = [{
    $rule $vectors `,` $strengths attr-dict
    `:` type($vectors) `,` type($strengths) `->` type($result)
  }];
  let hasVerifier = 1;  // policy_compose_c1, c2
}

// first and second of policy.project and policy.verify, which declare the same sets.
defvar IAM_SetFirst = AnyTypeOf<[IAM_Vector, IAM_Matrix]>;
defvar IAM_SetSecond = AnyTypeOf<[F32, IAM_Vector]>;

def IAM_PolicyProjectOp : IAM_Op<"policy.project", [
    Pure, AllTypesMatch<["h", "result"]> /*policy_project_c1*/]> {
  let summary = "The nearest point of a convex set";
  let description = [{
    Each row of `h` is moved to the nearest point (Euclidean) of a set:

    | kind | set | `first` | `second` |
    |---|---|---|---|
    | `halfspace` | `first·h ≤ second` | normal `[d]` | f32 |
    | `ball` | `‖h − first‖ ≤ second` | centre `[d]` | radius, f32 |
    | `subspace` | span of the rows of `first` | `[n, d]` | none |
    | `box` | `first ≤ h ≤ second` | `[d]` | `[d]` |

    A row inside the set stays as it is. Rows: 0 rows give 0 rows. A zero normal, a
    negative radius, or a lower bound above its upper bound is an error at run time;
    so is NaN.

    Folds: projecting twice onto the same set is projecting once.

    Spec: docs/spec.md#iampolicyproject. Source: Boyd and Vandenberghe 2004, Convex
    Optimization, section 8.1, doi:10.1017/CBO9780511804441.

    ```mlir
    func.func @project(%h: tensor<?x4xf32>, %centre: tensor<4xf32>, %radius: f32) -> tensor<?x4xf32> {
      %0 = iam.policy.project ball %h, %centre, %radius
          : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
      return %0 : tensor<?x4xf32>
    }
    ```
  }];
  let arguments = (ins IAM_SetKind:$kind,
                       IAM_Matrix:$h,                      /*policy_project_i1*/
                       IAM_SetFirst:$first,                /*policy_project_i2*/
                       Optional<IAM_SetSecond>:$second);   /*policy_project_i3*/
  let results = (outs IAM_Matrix:$result);
  let assemblyFormat = [{
    $kind $h `,` $first (`,` $second^)? attr-dict
    `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;  // policy_project_c2 .. c5
  let hasFolder = 1;
}

def IAM_PolicyVerifyOp : IAM_Op<"policy.verify", [MemoryEffects<[MemWrite]>]> {
  let summary = "Assert that activations stay inside a set";
  let description = [{
    `margin[r]` says how far inside the set row `r` is: positive inside, 0 on the
    border, minus the distance outside. The sets are those of
    `iam.policy.project`. The assertion fails, with `message`, the row and its
    margin, when a margin is below `-tolerance`.

    The op has an effect, so it is not removed when its margin is unused; a pass may
    erase it where it is proved. A subspace has no inside: its margins are at most
    0, so it wants a tolerance. Rows: 0 rows hold. NaN in a row fails.

    Spec: docs/spec.md#iampolicyverify. Original to IAM.

    ```mlir
    func.func @verify(%h: tensor<?x4xf32>, %normal: tensor<4xf32>, %bound: f32) -> tensor<?xf32> {
      %margin = iam.policy.verify halfspace %h, %normal, %bound tolerance 1.0e-5
          message "the refusal direction stays below its bound"
          : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
      return %margin : tensor<?xf32>
    }
    ```
  }];
  let arguments = (ins IAM_SetKind:$kind,
                       IAM_Matrix:$h,                     /*policy_verify_i1*/
                       IAM_SetFirst:$first,               /*policy_verify_i2*/
                       Optional<IAM_SetSecond>:$second,   /*policy_verify_i3*/
                       DefaultValuedAttr<F32Attr, "0.0f">:$tolerance,
                       StrAttr:$message);
  let results = (outs IAM_Vector:$margin);
  let assemblyFormat = [{
    $kind $h `,` $first (`,` $second^)? (`tolerance` $tolerance^)?
    `message` $message attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;  // policy_verify_c1 .. c7
}

#endif // IAM_DIALECT_IAM_IR_POLICYOPS_TD
