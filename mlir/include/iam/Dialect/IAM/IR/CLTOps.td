//===- CLTOps.td - Sparse coders ------------------------------------*- tablegen -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_DIALECT_IAM_IR_CLTOPS_TD
#define IAM_DIALECT_IAM_IR_CLTOPS_TD

include "iam/Dialect/IAM/IR/IAMAttrs.td"
include "iam/Dialect/IAM/IR/IAMTypes.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

//===----------------------------------------------------------------------===//
// Encoding
//===----------------------------------------------------------------------===//

def IAM_CLTEncodeOp : IAM_Op<"clt.encode", [Pure]> {
  let summary = "Pre-activations of a sparse coder";
  let description = [{
    `pre = x·W_enc + b_enc`, or `(x − b_dec)·W_enc + b_enc` when `b_dec` is given:
    coders differ in whether they were trained to subtract the decoder's bias
    from their input.

    Rows: 0 rows give 0 rows. NaN or infinity in `x` is an error at run time that
    names the row and the column. The order of summation is not fixed, results
    agree within rounding.

    Folds: `subtract` of a constant zero is dropped.

    Spec: docs/spec.md#iamcltencode. Source: Bricken et al. 2023,
    https://transformer-circuits.pub/2023/monosemantic-features; Cunningham et
    al. 2023, arXiv:2309.08600.

    ```mlir
    func.func @encode(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>,
                      %b_dec: tensor<4xf32>) -> tensor<?x16xf32> {
      %pre = iam.clt.encode %x, %W, %b, subtract %b_dec
          : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4xf32>) -> tensor<?x16xf32>
      return %pre : tensor<?x16xf32>
    }
    ```
  }];
  let arguments = (ins IAM_Matrix:$x,                 /*clt_encode_i1*/
                       IAM_Matrix:$W_enc,             /*clt_encode_i2*/
                       IAM_Vector:$b_enc,             /*clt_encode_i3*/
                       Optional<IAM_Vector>:$b_dec);  /*clt_encode_i4*/
  let results = (outs IAM_Matrix:$pre);
  let assemblyFormat = [{
    $x `,` $W_enc `,` $b_enc (`,` `subtract` $b_dec^)? attr-dict
    `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;  // clt_encode_c1 .. c4
  let hasCanonicalizeMethod = 1;
}

def IAM_CLTTopKOp : IAM_Op<"clt.topk", [Pure]> {
  let summary = "Keep the k largest pre-activations of each row";
  let description = [{
    The `k` largest entries of each row of `pre`, then `relu`. The slots of a row
    are sorted by descending pre-activation; ties go to the lowest index, so the
    result does not depend on the backend. A kept entry that is not positive
    stays a slot, with its index and value 0: there are always exactly `k` slots.

    Rows: 0 rows give 0 rows. NaN in `pre` is an error at run time. There is no
    fold: `topk` gives features, so it is never applied twice.

    Spec: docs/spec.md#iamclttopk. Source: Gao et al. 2024, arXiv:2406.04093.

    ```mlir
    // 3 positions, 8 features; 2 slots for each position.
    func.func @topk(%pre: tensor<3x8xf32>) -> !iam.features<3x8xf32, k = 2> {
      %f = iam.clt.topk %pre, k = 2 : tensor<3x8xf32> -> !iam.features<3x8xf32, k = 2>
      return %f : !iam.features<3x8xf32, k = 2>
    }
    ```
  }];
  let arguments = (ins IAM_Matrix:$pre,                           /*clt_topk_i1*/
                       ConfinedAttr<I64Attr, [IntPositive]>:$k);  /*clt_topk_c1*/
  let results = (outs IAM_Features:$f);
  let assemblyFormat = [{
    $pre `,` `k` `=` $k attr-dict `:` type($pre) `->` qualified(type($f))
  }];
  let hasVerifier = 1;  // clt_topk_c2 .. c4
}

def IAM_CLTAbsTopKOp : IAM_Op<"clt.abstopk", [Pure]> {
  let summary = "Keep the k pre-activations of each row that are largest in magnitude";
  let description = [{
    The `k` entries of each row of `pre` with the largest magnitude, with their
    signs: there is no `relu`. The slots of a row are sorted by descending
    magnitude; ties, also between `v` and `-v`, go to the lowest index.

    Rows: 0 rows give 0 rows. NaN in `pre` is an error at run time.

    Spec: docs/spec.md#iamcltabstopk. Source: AbsTopK, arXiv:2510.00404.

    ```mlir
    func.func @abstopk(%pre: tensor<?x16xf32>) -> !iam.features<?x16xf32, k = 2> {
      %f = iam.clt.abstopk %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
      return %f : !iam.features<?x16xf32, k = 2>
    }
    ```
  }];
  let arguments = (ins IAM_Matrix:$pre,                           /*clt_abstopk_i1*/
                       ConfinedAttr<I64Attr, [IntPositive]>:$k);  /*clt_abstopk_c1*/
  let results = (outs IAM_Features:$f);
  let assemblyFormat = [{
    $pre `,` `k` `=` $k attr-dict `:` type($pre) `->` qualified(type($f))
  }];
  let hasVerifier = 1;  // clt_abstopk_c2 .. c4
}

def IAM_CLTGroupMaxOp : IAM_Op<"clt.groupmax", [Pure]> {
  let summary = "Keep the largest pre-activation of each group of features";
  let description = [{
    The features form `k` groups of `F / k` neighbours. Slot `g` holds the largest
    entry of group `g`, after `relu`; ties go to the lowest index. Where it is not
    positive, the slot keeps its index and holds 0.

    Rows: 0 rows give 0 rows. NaN in `pre` is an error at run time.

    Spec: docs/spec.md#iamcltgroupmax. Source: sparsify,
    https://github.com/EleutherAI/sparsify.

    ```mlir
    // 2 groups of 8 features.
    func.func @groupmax(%pre: tensor<?x16xf32>) -> !iam.features<?x16xf32, k = 2> {
      %f = iam.clt.groupmax %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
      return %f : !iam.features<?x16xf32, k = 2>
    }
    ```
  }];
  let arguments = (ins IAM_Matrix:$pre,                           /*clt_groupmax_i1*/
                       ConfinedAttr<I64Attr, [IntPositive]>:$k);  /*clt_groupmax_c1*/
  let results = (outs IAM_Features:$f);
  let assemblyFormat = [{
    $pre `,` `k` `=` $k attr-dict `:` type($pre) `->` qualified(type($f))
  }];
  let hasVerifier = 1;  // clt_groupmax_c2 .. c4
}

def IAM_CLTMatchingPursuitOp : IAM_Op<"clt.matching_pursuit", [Pure]> {
  let summary = "Find features one at a time, each in what the others leave";
  let description = [{
    With `r = x`, or `r = x − b_dec`, each step takes `j = argmax r·W_dec[j]` (ties
    to the lowest index) and `v = relu(r·W_dec[j])`, adds `v` to `f[j]` and takes
    `v·W_dec[j]` from `r`. A row ends after `max_iterations` steps; with
    `‖r‖ < residual_threshold`, if that is above 0; with `v = 0`; and, with
    `stop_on_duplicate_support`, with a step whose feature was active before. What
    the last step found counts.

    Rows of `W_dec` are expected to have norm 1. A row depends on no other row.
    Rows: 0 rows give 0 rows. NaN or infinity in `x` or `W_dec` is an error at run
    time, as is a residual that grows out of float32.

    Folds: `subtract` of a constant zero is dropped.

    Spec: docs/spec.md#iamcltmatching_pursuit. Source: Mallat and Zhang 1993,
    doi:10.1109/78.258082.

    ```mlir
    func.func @pursue(%x: tensor<?x4xf32>, %W: tensor<16x4xf32>, %b: tensor<4xf32>) -> !iam.features<?x16xf32> {
      %f = iam.clt.matching_pursuit %x, %W, subtract %b
          residual_threshold = 1.0e-2 max_iterations = 4 stop_on_duplicate_support
          : (tensor<?x4xf32>, tensor<16x4xf32>, tensor<4xf32>) -> !iam.features<?x16xf32>
      return %f : !iam.features<?x16xf32>
    }
    ```
  }];
  let arguments = (ins IAM_Matrix:$x,                /*clt_matching_pursuit_i1*/
                       IAM_Matrix:$W_dec,            /*clt_matching_pursuit_i2*/
                       Optional<IAM_Vector>:$b_dec,  /*clt_matching_pursuit_i3*/
                       F32Attr:$residual_threshold,
                       ConfinedAttr<I64Attr, [IntPositive]>:$max_iterations,  /*clt_matching_pursuit_c1*/
                       UnitAttr:$stop_on_duplicate_support);
  let results = (outs IAM_Features:$f);
  let assemblyFormat = [{
    $x `,` $W_dec (`,` `subtract` $b_dec^)?
    `residual_threshold` `=` $residual_threshold `max_iterations` `=` $max_iterations
    (`stop_on_duplicate_support` $stop_on_duplicate_support^)? attr-dict
    `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;  // clt_matching_pursuit_c2 .. c6
  let hasCanonicalizeMethod = 1;
}

def IAM_CLTBatchTopKOp : IAM_Op<"clt.batch_topk", [Pure]> {
  let summary = "Keep the k · rows largest activations of the batch";
  let description = [{
    The `k · rows` largest entries of `relu(pre)` over all rows together; rows
    differ in how many they keep. Ties go to the lowest flat index (row, then
    feature). Only positive entries are kept, so there may be fewer.

    The result of a row depends on the other rows: this is how a BatchTopK coder
    trains. Rows: 0 rows give 0 rows. NaN in `pre` is an error at run time.

    Spec: docs/spec.md#iamcltbatch_topk. Source: Bussmann et al. 2024,
    arXiv:2412.06410.

    ```mlir
    func.func @batch_topk(%pre: tensor<?x16xf32>) -> !iam.features<?x16xf32> {
      %f = iam.clt.batch_topk %pre, k = 4 : tensor<?x16xf32> -> !iam.features<?x16xf32>
      return %f : !iam.features<?x16xf32>
    }
    ```
  }];
  let arguments = (ins IAM_Matrix:$pre,                           /*clt_batch_topk_i1*/
                       ConfinedAttr<I64Attr, [IntPositive]>:$k);  /*clt_batch_topk_c1*/
  let results = (outs IAM_Features:$f);
  let assemblyFormat = [{
    $pre `,` `k` `=` $k attr-dict `:` type($pre) `->` qualified(type($f))
  }];
  let hasVerifier = 1;  // clt_batch_topk_c2 .. c4
}

def IAM_CLTJumpReLUOp : IAM_Op<"clt.jumprelu", [Pure]> {
  let summary = "Keep activations above a threshold per feature";
  let description = [{
    `f[r, j] = relu(pre[r, j])` where `pre[r, j] > threshold[j]`, else 0. The
    comparison is strict: a value equal to its threshold is dropped.

    Rows: 0 rows give 0 rows. NaN in `pre` is an error at run time.

    Folds: with a constant threshold of which no entry is positive it is
    `iam.clt.relu`, since the positive values are then all above it.

    Spec: docs/spec.md#iamcltjumprelu. Source: Rajamanoharan et al. 2024,
    arXiv:2407.14435.

    ```mlir
    func.func @jumprelu(%pre: tensor<?x16xf32>, %threshold: tensor<16xf32>) -> !iam.features<?x16xf32> {
      %f = iam.clt.jumprelu %pre, %threshold : tensor<?x16xf32>, tensor<16xf32> -> !iam.features<?x16xf32>
      return %f : !iam.features<?x16xf32>
    }
    ```
  }];
  let arguments = (ins IAM_Matrix:$pre,         /*clt_jumprelu_i1*/
                       IAM_Vector:$threshold);  /*clt_jumprelu_i2*/
  let results = (outs IAM_Features:$f);
  let assemblyFormat = [{
    $pre `,` $threshold attr-dict `:` type($pre) `,` type($threshold) `->` qualified(type($f))
  }];
  let hasVerifier = 1;  // clt_jumprelu_c1 .. c3
  let hasCanonicalizeMethod = 1;
}

def IAM_CLTReLUOp : IAM_Op<"clt.relu", [Pure]> {
  let summary = "Keep positive activations";
  let description = [{
    `f = max(pre, 0)`, without its zeroes: the features of a standard SAE.

    Rows: 0 rows give 0 rows. NaN in `pre` is an error at run time.

    Spec: docs/spec.md#iamcltrelu. Source: Cunningham et al. 2023,
    arXiv:2309.08600.

    ```mlir
    func.func @relu(%pre: tensor<?x16xf32>) -> !iam.features<?x16xf32> {
      %f = iam.clt.relu %pre : tensor<?x16xf32> -> !iam.features<?x16xf32>
      return %f : !iam.features<?x16xf32>
    }
    ```
  }];
  let arguments = (ins IAM_Matrix:$pre);  /*clt_relu_i1*/
  let results = (outs IAM_Features:$f);
  let assemblyFormat = "$pre attr-dict `:` type($pre) `->` qualified(type($f))";
  let hasVerifier = 1;  // clt_relu_c1, c2
}

def IAM_CLTGateOp : IAM_Op<"clt.gate", [Pure]> {
  let summary = "One path decides which features are active, another how strongly";
  let description = [{
    `f[r, j] = relu(magnitude_pre[r, j])` where `gate_pre[r, j] > 0`, else 0. A gate
    of exactly 0 is closed.

    Rows: 0 rows give 0 rows. NaN in either operand is an error at run time.

    Spec: docs/spec.md#iamcltgate. Source: Rajamanoharan et al. 2024,
    arXiv:2404.16014.

    ```mlir
    func.func @gate(%gate: tensor<?x16xf32>, %magnitude: tensor<?x16xf32>) -> !iam.features<?x16xf32> {
      %f = iam.clt.gate %gate, %magnitude : tensor<?x16xf32>, tensor<?x16xf32> -> !iam.features<?x16xf32>
      return %f : !iam.features<?x16xf32>
    }
    ```
  }];
  let arguments = (ins IAM_Matrix:$gate_pre,        /*clt_gate_i1*/
                       IAM_Matrix:$magnitude_pre);  /*clt_gate_i2*/
  let results = (outs IAM_Features:$f);
  let assemblyFormat = [{
    $gate_pre `,` $magnitude_pre attr-dict
    `:` type($gate_pre) `,` type($magnitude_pre) `->` qualified(type($f))
  }];
  let hasVerifier = 1;  // clt_gate_c1 .. c3
}

def IAM_CLTEncodeSparseOp : IAM_Op<"clt.encode_sparse", [Pure, AttrSizedOperandSegments]> {
  let summary = "Encode and activate in one pass";
  let description = [{
    `activation(encode(x))`: the same features as `iam.clt.encode` followed by
    `iam.clt.topk`, `abstopk`, `groupmax`, `batch_topk`, `jumprelu` or `relu`, without
    the `[rows, dict]` pre-activations ever being in memory. CLTFusion makes it; its
    ties, empty rows and NaN are those of the two ops.

    `gate` is `iam.clt.gate` of two encodes of one `x`: the gate with `W_enc` and
    `b_enc`, the magnitude with `W_mag` and `b_mag`. A magnitude is computed where
    its gate is open, so a NaN among the others is not seen.

    `k` belongs to `topk`, `abstopk`, `groupmax` and `batch_topk`, `threshold` to
    `jumprelu`, `magnitude` to `gate`; none may be given for another activation.

    `only`, for `jumprelu`, `relu` and `gate`, lists the features that are encoded;
    the others are not active, and a NaN among their pre-activations is not seen.
    `iam-demand-driven-encode` makes it.

    Spec: docs/spec.md#iamcltencode_sparse. Original to IAM.

    ```mlir
    func.func @encode_topk(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>,
                           %b_dec: tensor<4xf32>) -> !iam.features<?x16xf32, k = 2> {
      %f = iam.clt.encode_sparse topk %x, %W, %b subtract %b_dec k = 2
          : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4xf32>)
          -> !iam.features<?x16xf32, k = 2>
      return %f : !iam.features<?x16xf32, k = 2>
    }
    ```
  }];
  let arguments = (ins IAM_Activation:$activation,
                       IAM_Matrix:$x,                    /*clt_encode_sparse_i1*/
                       IAM_Matrix:$W_enc,                /*clt_encode_sparse_i2*/
                       IAM_Vector:$b_enc,                /*clt_encode_sparse_i3*/
                       Optional<IAM_Vector>:$b_dec,      /*clt_encode_sparse_i4*/
                       Optional<IAM_Vector>:$threshold,  /*clt_encode_sparse_i5*/
                       Optional<IAM_Matrix>:$W_mag,      /*clt_encode_sparse_i6*/
                       Optional<IAM_Vector>:$b_mag,      /*clt_encode_sparse_i7*/
                       OptionalAttr<ConfinedAttr<I64Attr, [IntPositive]>>:$k,   /*clt_encode_sparse_c1*/
                       OptionalAttr<DenseI64ArrayAttr>:$only);
  let results = (outs IAM_Features:$f);
  let assemblyFormat = [{
    $activation $x `,` $W_enc `,` $b_enc (`subtract` $b_dec^)?
    (`threshold` $threshold^)? (`magnitude` $W_mag^ (`,` $b_mag^)?)?
    (`k` `=` $k^)? (`only` $only^)? attr-dict
    `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;  // clt_encode_sparse_c2 .. c16
  let hasCanonicalizeMethod = 1;
}

//===----------------------------------------------------------------------===//
// Decoding
//===----------------------------------------------------------------------===//

def IAM_CLTDecodeOp : IAM_Op<"clt.decode", [Pure]> {
  let summary = "From features back to an activation";
  let description = [{
    `y = f·W_dec + b_dec`, reading only the rows of `W_dec` whose features are
    active. Without `bias` nothing is added: the decoding of a difference of
    features.

    Rows without an active feature give the bias, or 0. The terms of a row are
    added in the order of its slots.

    Folds: a `bias` that is a constant zero is dropped.

    Spec: docs/spec.md#iamcltdecode. Source: Bricken et al. 2023,
    https://transformer-circuits.pub/2023/monosemantic-features; Cunningham et
    al. 2023, arXiv:2309.08600.

    ```mlir
    func.func @decode(%f: !iam.features<?x16xf32, k = 2>, %W: tensor<16x4xf32>,
                      %b: tensor<4xf32>) -> tensor<?x4xf32> {
      %y = iam.clt.decode %f, %W, bias %b
          : (!iam.features<?x16xf32, k = 2>, tensor<16x4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
      return %y : tensor<?x4xf32>
    }
    ```
  }];
  let arguments = (ins IAM_Features:$f,               /*clt_decode_i1*/
                       IAM_Matrix:$W_dec,             /*clt_decode_i2*/
                       Optional<IAM_Vector>:$b_dec);  /*clt_decode_i3*/
  let results = (outs IAM_Matrix:$y);
  let assemblyFormat = [{
    $f `,` $W_dec (`,` `bias` $b_dec^)? attr-dict
    `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;  // clt_decode_c1 .. c3
  let hasCanonicalizeMethod = 1;
}

def IAM_CLTDensifyOp : IAM_Op<"clt.densify", [Pure]> {
  let summary = "Features as a dense tensor";
  let description = [{
    `d[r, j]` is the activation of feature `j` in row `r`, 0 where it is inactive.
    The only op that holds a `[rows, dict]` tensor of features.

    Rows: 0 rows give 0 rows. Padding slots (value 0) are skipped.

    Spec: docs/spec.md#iamcltdensify. Original to IAM.

    ```mlir
    func.func @densify(%f: !iam.features<?x16xf32>) -> tensor<?x16xf32> {
      %d = iam.clt.densify %f : !iam.features<?x16xf32> -> tensor<?x16xf32>
      return %d : tensor<?x16xf32>
    }
    ```
  }];
  let arguments = (ins IAM_Features:$f);  /*clt_densify_i1*/
  let results = (outs IAM_Matrix:$d);
  let assemblyFormat = "$f attr-dict `:` qualified(type($f)) `->` type($d)";
  let hasVerifier = 1;  // clt_densify_c1
}

def IAM_CLTResidualOp : IAM_Op<"clt.residual", [Pure]> {
  let summary = "The skip connection of a coder";
  let description = [{
    `z = y + x`, or `z = y + x·W_skip`, with `W_skip` of shape `[d_in, d_out]` (a
    weight stored as `[d_out, d_in]` is transposed when it is loaded).

    Rows: 0 rows give 0 rows. NaN and infinity pass through as in any addition.

    Spec: docs/spec.md#iamcltresidual. Source: Paulo et al. 2025,
    arXiv:2501.18823.

    ```mlir
    func.func @residual(%y: tensor<?x6xf32>, %x: tensor<?x4xf32>, %W: tensor<4x6xf32>) -> tensor<?x6xf32> {
      %z = iam.clt.residual %y, %x, skip %W
          : (tensor<?x6xf32>, tensor<?x4xf32>, tensor<4x6xf32>) -> tensor<?x6xf32>
      return %z : tensor<?x6xf32>
    }
    ```
  }];
  let arguments = (ins IAM_Matrix:$y,                  /*clt_residual_i1*/
                       IAM_Matrix:$x,                  /*clt_residual_i2*/
                       Optional<IAM_Matrix>:$W_skip);  /*clt_residual_i3*/
  let results = (outs IAM_Matrix:$z);
  let assemblyFormat = [{
    $y `,` $x (`,` `skip` $W_skip^)? attr-dict
    `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;  // clt_residual_c1 .. c4
}

//===----------------------------------------------------------------------===//
// Editing
//===----------------------------------------------------------------------===//

def IAM_CLTEditOp : IAM_Op<"clt.edit", [Pure, AttrSizedOperandSegments]> {
  let summary = "Change chosen features of every row";
  let description = [{
    For each listed feature `j = features[i]`, in every row; the others stay.

    | mode | effect | operands |
    |---|---|---|
    | `set` | `f[j] = a[i]` | `a` |
    | `scale` | `f[j] = f[j] * a[i]` | `a` |
    | `clamp` | `f[j] = min(max(f[j], a[i]), b[i])` | `a`, `b` |
    | `ablate` | `f[j] = 0` | none |

    An inactive feature has the value 0, so `set` and `clamp` may activate it.
    Compressed rows stay compressed rows. In k-form `scale` and `ablate` keep `k`;
    `set` and `clamp` give `k + n` slots, the last `n` for the listed features that
    had none (padding where not needed).

    `clamp` with `a > b`, and NaN in `a` or `b`, are errors at run time.

    Folds: no listed feature is no edit; an `ablate` after an `ablate` of the same
    features or more is dropped, of other features is merged; an edit that
    overwrites (`set`, `ablate`) every feature of the edit before it replaces it
    where the form of the result allows.

    Spec: docs/spec.md#iamcltedit. Original to IAM; the edits are those of
    Templeton et al. 2024,
    https://transformer-circuits.pub/2024/scaling-monosemanticity.

    ```mlir
    func.func @edit(%f: !iam.features<?x64xf32, k = 8>, %a: tensor<2xf32>,
                    %b: tensor<2xf32>) -> !iam.features<?x64xf32, k = 10> {
      %0 = iam.clt.edit ablate %f features [3]
          : (!iam.features<?x64xf32, k = 8>) -> !iam.features<?x64xf32, k = 8>
      %1 = iam.clt.edit clamp %0 features [7, 19] by %a, %b
          : (!iam.features<?x64xf32, k = 8>, tensor<2xf32>, tensor<2xf32>)
          -> !iam.features<?x64xf32, k = 10>
      return %1 : !iam.features<?x64xf32, k = 10>
    }
    ```
  }];
  let arguments = (ins IAM_EditMode:$mode,
                       IAM_Features:$f,            /*clt_edit_i1*/
                       DenseI64ArrayAttr:$features,
                       Optional<IAM_Vector>:$a,    /*clt_edit_i2*/
                       Optional<IAM_Vector>:$b);   /*clt_edit_i3*/
  let results = (outs IAM_Features:$result);
  let assemblyFormat = [{
    $mode $f `features` $features (`by` $a^ (`,` $b^)?)? attr-dict
    `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;  // clt_edit_c1 .. c5
  let hasFolder = 1;
  let hasCanonicalizeMethod = 1;
  let extraClassDeclaration = [{
    /// The type of the result of an edit of `n` features of `f`.
    static FeaturesType resultType(FeaturesType f, EditMode mode, int64_t n) {
      bool mayActivate = mode == EditMode::Set || mode == EditMode::Clamp;
      return f.isKForm() && mayActivate ? f.withK(*f.getK() + n) : f;
    }
  }];
}

def IAM_CLTDeltaOp : IAM_Op<"clt.delta", [Pure, AttrSizedOperandSegments]> {
  let summary = "What an edit changes, for the edited features alone";
  let description = [{
    `edit(f) − f` in `n` slots a row: slot `i` is feature `features[i]`, with value
    `edit(f)[j] − f[j]`. Modes, operands and NaN are those of `iam.clt.edit`; an
    empty list is refused. CLTFusion makes it from
    `decode(edit(f)) − decode(f)`, so that an edit costs `n` rows of the decoder.

    Spec: docs/spec.md#iamcltdelta. Original to IAM.

    ```mlir
    func.func @delta(%f: !iam.features<?x64xf32, k = 8>, %a: tensor<2xf32>)
        -> !iam.features<?x64xf32, k = 2> {
      %e = iam.clt.delta scale %f features [7, 19] by %a
          : (!iam.features<?x64xf32, k = 8>, tensor<2xf32>) -> !iam.features<?x64xf32, k = 2>
      return %e : !iam.features<?x64xf32, k = 2>
    }
    ```
  }];
  let arguments = (ins IAM_EditMode:$mode,
                       IAM_Features:$f,           /*clt_delta_i1*/
                       DenseI64ArrayAttr:$features,
                       Optional<IAM_Vector>:$a,   /*clt_delta_i2*/
                       Optional<IAM_Vector>:$b);  /*clt_delta_i3*/
  let results = (outs IAM_Features:$result);
  let assemblyFormat = [{
    $mode $f `features` $features (`by` $a^ (`,` $b^)?)? attr-dict
    `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;  // clt_delta_c1 .. c6
}

def IAM_CLTSubOp : IAM_Op<"clt.sub", [Pure]> {
  let summary = "Difference of two features values";
  let description = [{
    `f1 − f2`, feature by feature. Both operands have the same form. Compressed
    rows give compressed rows without the features that cancel; in k-form the
    result has `k1 + k2` slots, a feature that is in both holds the difference in
    one slot and leaves the other as padding.

    Rows: 0 rows give 0 rows.

    Spec: docs/spec.md#iamcltsub. Original to IAM.

    ```mlir
    func.func @sub(%f1: !iam.features<?x64xf32, k = 8>, %f2: !iam.features<?x64xf32, k = 2>)
        -> !iam.features<?x64xf32, k = 10> {
      %g = iam.clt.sub %f1, %f2
          : !iam.features<?x64xf32, k = 8>, !iam.features<?x64xf32, k = 2>
          -> !iam.features<?x64xf32, k = 10>
      return %g : !iam.features<?x64xf32, k = 10>
    }
    ```
  }];
  let arguments = (ins IAM_Features:$f1,   /*clt_sub_i1*/
                       IAM_Features:$f2);  /*clt_sub_i2*/
  let results = (outs IAM_Features:$g);
  let assemblyFormat = [{
    $f1 `,` $f2 attr-dict `:`
    qualified(type($f1)) `,` qualified(type($f2)) `->` qualified(type($g))
  }];
  let hasVerifier = 1;  // clt_sub_c1 .. c3
}

#endif // IAM_DIALECT_IAM_IR_CLTOPS_TD
