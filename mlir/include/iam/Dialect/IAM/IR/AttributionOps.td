//===- AttributionOps.td - Attribution ------------------------------*- tablegen -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_DIALECT_IAM_IR_ATTRIBUTIONOPS_TD
#define IAM_DIALECT_IAM_IR_ATTRIBUTIONOPS_TD

include "iam/Dialect/IAM/IR/IAMAttrs.td"
include "iam/Dialect/IAM/IR/IAMTypes.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

def IAM_AttrPathOp : IAM_Op<"attr.path", [Pure]> {
  let summary = "Points on the line from a baseline to an input, and their weights";
  let description = [{
    `points[i] = baseline + α_i·(x − baseline)` for the `steps` nodes `α_i` of a
    quadrature rule on [0, 1], and its weights, which sum to 1. Rules:
    `gauss_legendre`, `left` (i/n), `right` ((i+1)/n), `midpoint` ((i+½)/n) and
    `trapezoid` (i/(n−1), half weight at both ends; at least 2 steps).

    The trapezoid rule is the correct one: Captum's `riemann_trapezoid` has
    weights that sum to (n−1)/n. NaN and infinity pass through.

    Spec: docs/spec.md#iamattrpath. Source: Sundararajan et al. 2017,
    arXiv:1703.01365.

    ```mlir
    func.func @path(%x: tensor<?x4xf32>, %baseline: tensor<?x4xf32>) -> (tensor<20x?x4xf32>, tensor<20xf32>) {
      %points, %weights = iam.attr.path gauss_legendre %x, %baseline, steps = 20
          : tensor<?x4xf32>, tensor<?x4xf32> -> tensor<20x?x4xf32>, tensor<20xf32>
      return %points, %weights : tensor<20x?x4xf32>, tensor<20xf32>
    }
    ```
  }];
  let arguments = (ins IAM_PathRule:$rule,
                       IAM_Tensor:$x,                                 /*attr_path_i1*/
                       IAM_Tensor:$baseline,                          /*attr_path_i2*/
                       ConfinedAttr<I64Attr, [IntPositive, IntMaxValue<4096>]>:$steps);  /*attr_path_c1*/
  let results = (outs IAM_Tensor:$points, IAM_Vector:$weights);
  let assemblyFormat = [{
    $rule $x `,` $baseline `,` `steps` `=` $steps attr-dict
    `:` type($x) `,` type($baseline) `->` type($points) `,` type($weights)
  }];
  let hasVerifier = 1;  // attr_path_c2 .. c5
}

def IAM_AttrGradOp : IAM_Op<"attr.grad", [Pure, DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "Integrated gradients of a function along a path";
  let description = [{
    `attributions = (x − baseline) · Σ_i weights[i]·∇F(points[i])`, elementwise, for
    the function `F` named by the symbol. `F` takes one tensor of the type of `x`, then
    the captured values, which the derivative holds fixed, and returns one number (f32
    or a rank-0 tensor) or a vector, whose sum is what is differentiated. When row `r`
    of the result depends on row `r` of `x` alone, the attributions of a row add up to
    `F(x)[r] − F(baseline)[r]`, up to the error of the rule.

    Gradients, weights and their sum are combined in float64. `iam-differentiate`
    writes the derivative; at a kink the gradient is that of the side that the ops
    name (a ReLU has derivative 0 at 0, a feature that is not active has none). NaN in
    a gradient is an error at run time that names the point.

    Spec: docs/spec.md#iamattrgrad. Source: Sundararajan et al. 2017,
    arXiv:1703.01365.

    ```mlir
    func.func private @metric(%x: tensor<?x4xf32>, %s: f32, %v: tensor<4xf32>) -> tensor<?xf32> {
      %zero = arith.constant 0 : index
      %rows = tensor.dim %x, %zero : tensor<?x4xf32>
      %h = iam.policy.steer ablate %x, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
      %square = arith.mulf %h, %h : tensor<?x4xf32>
      %column = tensor.extract_slice %square[0, 2] [%rows, 1] [1, 1] : tensor<?x4xf32> to tensor<?xf32>
      return %column : tensor<?xf32>
    }
    func.func @grad(%x: tensor<?x4xf32>, %baseline: tensor<?x4xf32>, %s: f32, %v: tensor<4xf32>) -> tensor<?x4xf32> {
      %points, %weights = iam.attr.path gauss_legendre %x, %baseline, steps = 20
          : tensor<?x4xf32>, tensor<?x4xf32> -> tensor<20x?x4xf32>, tensor<20xf32>
      %a = iam.attr.grad @metric(%x, %baseline) captures(%s, %v : f32, tensor<4xf32>) along %points, %weights
          : tensor<?x4xf32>, tensor<?x4xf32>, tensor<20x?x4xf32>, tensor<20xf32> -> tensor<?x4xf32>
      return %a : tensor<?x4xf32>
    }
    ```
  }];
  let arguments = (ins FlatSymbolRefAttr:$callee,
                       IAM_Tensor:$x,           /*attr_grad_i1*/
                       IAM_Tensor:$baseline,    /*attr_grad_i2*/
                       IAM_Tensor:$points,      /*attr_grad_i3*/
                       IAM_Vector:$weights,     /*attr_grad_i4*/
                       Variadic<AnyType>:$captures);  /*attr_grad_i5*/
  let results = (outs IAM_Tensor:$attributions);
  let assemblyFormat = [{
    $callee `(` $x `,` $baseline `)` (`captures` `(` $captures^ `:` type($captures) `)`)?
    `along` $points `,` $weights attr-dict
    `:` type($x) `,` type($baseline) `,` type($points) `,` type($weights)
    `->` type($attributions)
  }];
  let hasVerifier = 1;  // attr_grad_c1 .. c4; the symbol: c5 .. c9
}

def IAM_AttrSelectOp : IAM_Op<"attr.select", [Pure]> {
  let summary = "The n attributions of largest magnitude in each row";
  let description = [{
    Indices and scores of the `n` entries of each row with the largest magnitude, by
    descending magnitude, with their sign. Ties go to the lowest index.

    Rows: 0 rows give 0 rows. NaN in the scores is an error at run time.

    Spec: docs/spec.md#iamattrselect. Original to IAM.

    ```mlir
    func.func @select(%scores: tensor<?x64xf32>) -> (tensor<?x10xi32>, tensor<?x10xf32>) {
      %indices, %top = iam.attr.select %scores, n = 10 : tensor<?x64xf32> -> tensor<?x10xi32>, tensor<?x10xf32>
      return %indices, %top : tensor<?x10xi32>, tensor<?x10xf32>
    }
    ```
  }];
  let arguments = (ins IAM_Matrix:$scores,                        /*attr_select_i1*/
                       ConfinedAttr<I64Attr, [IntPositive]>:$n);  /*attr_select_c1*/
  let results = (outs RankedTensorOf<[I32], [HasAnyRankOfPred<[2]>], "matrix">:$indices,
                      IAM_Matrix:$top);
  let assemblyFormat = [{
    $scores `,` `n` `=` $n attr-dict
    `:` type($scores) `->` type($indices) `,` type($top)
  }];
  let hasVerifier = 1;  // attr_select_c2, c3
}

def IAM_AttrCircuitOp : IAM_Op<"attr.circuit", [Pure]> {
  let summary = "Direct effects of source features on target features";
  let description = [{
    `edges[s, t] = activations[s] · (W_dec[s]·J·W_enc[:, t])`: what source feature `s`
    writes, carried by the linearised model between the two sites, read by target
    feature `t`. Without `through` the model between is the identity: the residual
    stream alone. A column adds up to the part of the target's pre-activation that
    comes from these sources.

    The rows of `W_dec` and the columns of `W_enc` are those of the selected nodes.
    `J` holds with attention patterns and norms frozen: effects through them are
    not in the edges. No nodes give no edges. NaN and infinity pass through.

    Spec: docs/spec.md#iamattrcircuit. Source: Ameisen et al. 2025,
    https://transformer-circuits.pub/2025/attribution-graphs/methods.html; Dunefsky
    et al. 2024, arXiv:2406.11944.

    ```mlir
    func.func @circuit(%f: tensor<5xf32>, %W_dec: tensor<5x4xf32>, %W_enc: tensor<4x3xf32>,
                       %J: tensor<4x4xf32>) -> tensor<5x3xf32> {
      %edges = iam.attr.circuit %f, %W_dec, %W_enc, through %J
          : (tensor<5xf32>, tensor<5x4xf32>, tensor<4x3xf32>, tensor<4x4xf32>) -> tensor<5x3xf32>
      return %edges : tensor<5x3xf32>
    }
    ```
  }];
  let arguments = (ins IAM_Vector:$activations,          /*attr_circuit_i1*/
                       IAM_Matrix:$W_dec,                /*attr_circuit_i2*/
                       IAM_Matrix:$W_enc,                /*attr_circuit_i3*/
                       Optional<IAM_Matrix>:$jacobian);  /*attr_circuit_i4*/
  let results = (outs IAM_Matrix:$edges);
  let assemblyFormat = [{
    $activations `,` $W_dec `,` $W_enc (`,` `through` $jacobian^)? attr-dict
    `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;  // attr_circuit_c1 .. c4
}

#endif // IAM_DIALECT_IAM_IR_ATTRIBUTIONOPS_TD
