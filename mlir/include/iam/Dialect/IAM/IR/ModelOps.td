//===- ModelOps.td - Segments of a language model -------------------*- tablegen -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_DIALECT_IAM_IR_MODELOPS_TD
#define IAM_DIALECT_IAM_IR_MODELOPS_TD

include "iam/Dialect/IAM/IR/IAMAttrs.td"
include "iam/Dialect/IAM/IR/IAMTypes.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

def IAM_ModelRunOp : IAM_Op<"model.run", [Pure]> {
  let summary = "Run a language model from one site to another";
  let description = [{
    The activations at `to` of the model on its prompt: from the tokens, or with the
    activations at `from` replaced by `h`. Blocks below `from` and above `to` are not
    computed. Rows are those of the prompt, `batch·position`, position fastest; `h`
    may hold `n` variants of them, one after the other, and so does the result.

    `to` is a site (`resid_post.20`) or `logits`. `tokens` takes these columns of the
    logits and computes no others. `positions` takes these positions of each text
    (negative: from its end; padding is not counted), so that the result has
    `n·batch·|positions|` rows.

    A site inside a block leaves the block's other inputs as they are in the prompt:
    from `mlp_out.3` on, the residual stream beside the MLP is the prompt's. Rows at
    padding are zero, in `h` and in the result.

    Pure: equal operands give equal results, so that runs are shared, hoisted and
    dropped. Errors at run time: a site that the model lacks, a width that is not the
    site's, rows that are no multiple of the prompt's, a position that a text lacks.

    Spec: docs/spec.md#iammodelrun. Original to IAM.

    ```mlir
    func.func @logits(%m: !iam.model) -> tensor<?x2xf32> {
      %h = iam.model.run %m to "resid_post.20" : (!iam.model) -> tensor<?x576xf32>
      %l = iam.model.run %m, %h from "resid_post.20" to "logits" tokens [11, 42] positions [-1]
          : (!iam.model, tensor<?x576xf32>) -> tensor<?x2xf32>
      return %l : tensor<?x2xf32>
    }
    ```
  }];
  let arguments = (ins IAM_Model:$model,                            /*model_run_i1*/
                       Optional<IAM_Matrix>:$h,                     /*model_run_i2*/
                       OptionalAttr<StrAttr>:$from, StrAttr:$to,
                       OptionalAttr<DenseI64ArrayAttr>:$tokens,
                       OptionalAttr<DenseI64ArrayAttr>:$positions);
  let results = (outs IAM_Matrix:$y);
  let assemblyFormat = [{
    $model (`,` $h^)? (`from` $from^)? `to` $to (`tokens` $tokens^)? (`positions` $positions^)?
    attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;  // model_run_c1 .. c8
}

def IAM_ModelLinearizeOp : IAM_Op<"model.linearize", [Pure]> {
  let summary = "Run a segment and keep what its derivative needs";
  let description = [{
    `y` is what `iam.model.run` gives for the same operands; `tape` is what
    `iam.model.pullback` takes. A tape lives until the call of the program ends,
    whatever happens in it.

    Spec: docs/spec.md#iammodellinearize. Original to IAM.

    ```mlir
    func.func @logits(%m: !iam.model, %h: tensor<?x576xf32>, %dy: tensor<?x2xf32>) -> tensor<?x576xf32> {
      %y, %tape = iam.model.linearize %m, %h from "resid_post.20" to "logits" tokens [11, 42]
          : (!iam.model, tensor<?x576xf32>) -> (tensor<?x2xf32>, !iam.tape)
      %g = iam.model.pullback %tape, %dy : (!iam.tape, tensor<?x2xf32>) -> tensor<?x576xf32>
      return %g : tensor<?x576xf32>
    }
    ```
  }];
  let arguments = (ins IAM_Model:$model,                            /*model_linearize_i1*/
                       IAM_Matrix:$h,                               /*model_linearize_i2*/
                       StrAttr:$from, StrAttr:$to,
                       OptionalAttr<DenseI64ArrayAttr>:$tokens,
                       OptionalAttr<DenseI64ArrayAttr>:$positions);
  let results = (outs IAM_Matrix:$y, IAM_Tape:$tape);
  let assemblyFormat = [{
    $model `,` $h `from` $from `to` $to (`tokens` $tokens^)? (`positions` $positions^)?
    attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;  // model_linearize_c1 .. c7
}

def IAM_ModelPullbackOp : IAM_Op<"model.pullback", [Pure]> {
  let summary = "Transposed Jacobian of a segment times a matrix";
  let description = [{
    `g = Jᵀ·dy` for the Jacobian of the segment that `tape` was made for, at its `h`:
    the gradient by `h` of the sum of `dy * y`. A tape may be pulled back along any
    number of matrices. Rows of `g` at padding are zero.

    Spec: docs/spec.md#iammodelpullback. Original to IAM.

    ```mlir
    func.func @gradient(%m: !iam.model, %h: tensor<?x576xf32>, %dy: tensor<?x576xf32>) -> tensor<?x576xf32> {
      %y, %tape = iam.model.linearize %m, %h from "resid_post.20" to "resid_post.25"
          : (!iam.model, tensor<?x576xf32>) -> (tensor<?x576xf32>, !iam.tape)
      %g = iam.model.pullback %tape, %dy : (!iam.tape, tensor<?x576xf32>) -> tensor<?x576xf32>
      return %g : tensor<?x576xf32>
    }
    ```
  }];
  let arguments = (ins IAM_Tape:$tape,    /*model_pullback_i1*/
                       IAM_Matrix:$dy);   /*model_pullback_i2*/
  let results = (outs IAM_Matrix:$g);
  let assemblyFormat = "$tape `,` $dy attr-dict `:` functional-type(operands, results)";
  let hasVerifier = 1;  // model_pullback_c1, c2
}

#endif // IAM_DIALECT_IAM_IR_MODELOPS_TD
