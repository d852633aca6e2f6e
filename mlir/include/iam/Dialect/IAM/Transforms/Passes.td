//===- Passes.td - transformations of the iam dialect ------------*- tablegen -*-===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_DIALECT_IAM_TRANSFORMS_PASSES
#define IAM_DIALECT_IAM_TRANSFORMS_PASSES

include "mlir/Pass/PassBase.td"

def CLTFusionPass : Pass<"iam-clt-fusion"> {
  let summary = "Remove dense codes and full passes over the dictionary from coder programs";
  let description = [{
    Three families of rewrites. `D` is the dictionary size, `k` the active
    features of a row, `n` the number of edited features.

    1. **encode + activation.** `activation(encode(x))` becomes `encode_sparse`,
       which keeps the activation state of a row in registers and never writes the
       `[rows, D]` pre-activations. `gate(encode(x, W, b), encode(x, V, c))` becomes
       one op, which computes a magnitude where its gate is open; `batch_topk`
       keeps `2 k rows` candidates at most, and skips what the rows before beat.
       Holds back when the pre-activations have another use (they would be
       computed twice), when they are made in another block (an encode could move
       into a loop), and for a `gate` whose two encodes read different
       activations or subtract different biases.
    2. **decode stays sparse.** `linalg.matmul(densify(f), W_dec)` into a zero
       destination becomes `decode(f)`: `k` rows of `W_dec` are read instead of
       `D`. Holds back when the product accumulates into something else than
       zeros, reads its operands by other maps, or has another element type than
       f32.
    3. **Differences of reconstructions.** A sum is read as its terms, through
       `arith.addf`, `subf`, `negf`, `mulf` and `divf` (in the dividend),
       `iam.clt.residual` and `iam.policy.steer add`, as far as they are in its block.
       Two terms `s decode(g)` and `-s decode(f)`, with the same `W_dec`, the same
       bias (or none) and the same factors and divisors `s`, leave
       `s decode(delta)` where one of them was:

       ```
       decode(g) - decode(f)                  ->  decode(delta)
       (x - decode(f)) + decode(g)            ->  x + decode(delta)
       x + s * decode(g) + y - s * decode(f)  ->  x + s * decode(delta) + y
       steer add (x - decode(f)) + decode(g)  ->  steer add x + decode(delta)
       residual(decode(g), x, skip S) - decode(f)  ->  residual(decode(delta), x, skip S)
       ```

       `delta` is `iam.clt.delta` of the edit when `g` is an edit of `f`: `n` rows of
       `W_dec` are read instead of `2k`. A chain of edits gives the sum of its
       deltas. Otherwise `delta` is `iam.clt.sub %g, %f`: one decode of `2k` rows, and
       the two `[rows, d]` intermediates are gone.
       Holds back when weights, biases or factors differ, when neither
       reconstruction dies by the rewrite (form `delta`), and unless both die
       (form `sub`): it would add work. A reconstruction in another block does not
       die. Also where the one that would go is what a steer or a skip adds to,
       and beyond 32 terms. A term that is used elsewhere in the sum, or outside of
       it, stays there.

    Not rewritten: `decode(f) + decode(g)`, which reads as many rows of `W_dec` either
    way, and `s * decode(f)`, whose multiplication joins the loop of the arithmetic
    around it. Whether merging them would pay was not measured.

    A remark at each op that is replaced says what it became.

    Idempotent: nothing that a rewrite produces matches a rewrite again.

    Accuracy. 1 is exact: the fused kernel computes the same sums in the same
    order. 2 leaves out products with zero, so it differs only where `W_dec`
    holds an infinity or NaN. 3 reassociates: with unit round-off `u = 2^-24`, to
    first order, both sides differ at output `o` by at most

    ```
    (k_f + k_g + n + 2 m + 4) * u * (sum_t |s_t| |t_o|)
    ```

    where `k_f`, `k_g` count the active features of the row, `n` the edited features
    and edits, `m` the ops of the sum, and `t` are its terms: `|t_o|` of a
    reconstruction stands for `|b_o| + sum_j |f_j| |W_jo|`. A product of a
    reconstruction is rounded at most `k_f + 1` times in its decode and `m` times
    above it; of a delta, once where it is subtracted, `n + 1` times in decodes and
    sums of deltas, and `m` times above; every other term `m` times on each side.

    Unsound when: `x` or the weights overflow (`inf - inf` is NaN before, finite
    after), which the runtime refuses for `x`; and it would be if
    decode(encode(x)) were replaced by `x`, which this pass never does.
  }];
  let statistics = [
    Statistic<"numEncodesFused", "num-encodes-fused", "Number of encode + activation pairs fused">,
    Statistic<"numDenseDecodes", "num-dense-decodes", "Number of dense decodes made sparse">,
    Statistic<"numDeltas", "num-deltas", "Number of differences that became the decode of an edit's delta">,
    Statistic<"numSubs", "num-subs", "Number of differences that became the decode of a difference of codes">,
  ];
  let dependentDialects = ["iam::IAMDialect", "mlir::arith::ArithDialect"];
}

def VerifyDischargePass : Pass<"iam-verify-discharge"> {
  let summary = "Remove assertions that a projection proves";
  let description = [{
    An `iam.policy.verify` whose value is the result of an `iam.policy.project` onto
    the same set (the same kind and the same SSA operands) or a set inside of it is
    proved, and erased if nothing reads its margins. Known to be inside are half-spaces
    and balls with the same normal or centre and ordered constant bounds, and boxes
    whose bounds are ordered constants or the same.

    ```mlir
    %p = iam.policy.project ball %h, %c, %r : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
    %m = iam.policy.verify ball %p, %c, %r message "small" : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
    ```

    Sound for every tolerance: the kernel of `iam.policy.project` leaves rows inside
    by the arithmetic of `iam.policy.verify`, except where it rounds to a subnormal
    number; what makes one an error (a set that is none, NaN, infinity) makes the other
    one. Margins only grow with the bound, so a set around it is as sound. Under XLA,
    which has its own arithmetic, within rounding.

    Holds back when bounds that differ are not constants; for a subspace, where a projection is inside only within rounding;
    when the value was changed after the projection; and when margins are read: they
    are the work, and the assertion on them is free.

    Remarks: what was proved and not checked; of what stays although its set was
    projected onto, the op that changed the value since, or that it is a subspace; of
    what stays right after a projection onto such a set with other bounds, that
    constants do not order them.

    An error at the assertion, which names the edit: one without tolerance on a
    half-space right after `iam.policy.steer add` of its normal, with a constant
    strength > 0, to what was projected onto that half-space or one around it. Every
    row that the projection moved to the border is outside then. Other edits are left
    to the check at run time.

    Idempotent. Run it after CSE, which makes equal operands one.
  }];
  let statistics = [
    Statistic<"numProved", "num-proved", "Number of assertions proved">,
    Statistic<"numErased", "num-erased", "Number of assertions erased">,
  ];
  let dependentDialects = ["iam::IAMDialect"];
}

def DemandDrivenEncodePass : Pass<"iam-demand-driven-encode"> {
  let summary = "Encode only the features that a program uses";
  let description = [{
    `encode_sparse jumprelu|relu|gate` gets `only`, the features that anything reads
    of its result. Then `|only|` columns of `W_enc` are read and multiplied
    instead of the whole dictionary. An `iam.clt.encode` that only `jumprelu`s and
    `relu`s read, which `iam-clt-fusion` leaves alone when they are several, becomes
    an `encode_sparse` of what is read for each of them, if all are in its block and
    together read few.

    Read are: by `iam.clt.delta` the features that it lists; by `iam.clt.edit`
    what is read of its result, without those that `set` and `ablate` overwrite;
    by `iam.clt.sub` what is read of its result; by `iam.clt.densify` the columns
    that `tensor.extract_slice` and `tensor.extract` name by constants. Runs after
    `iam-clt-fusion`, which turns error-preserving edits into deltas, and after
    dead decodes are gone.

    Holds back
    * when anything else reads the features: a decode, a call, control flow, a
      return, a slice whose columns are not constant;
    * for `topk`, `abstopk`, `groupmax`, `batch_topk` and `matching_pursuit`, where
      the activity of a feature depends on others: with a remark at the op;
    * for activations that are not fused with their encode: with a remark;
    * when more than one feature in 16 is used: a column costs a cache line a row
      of `W_enc`, as much as 16 neighbours. With a remark.

    A remark at the op also says what was done. Remarks carry the location of the
    op: the line of Python that recorded it.

    Memory floor for `n` scattered features of `d` elements: `64 n d` bytes of `W_enc`,
    `4 rows d` of `x`, and what the decode of the delta takes. The columns are gathered in
    every call. `densify` of a sliced encode still makes `rows * D` zeros.

    Idempotent: an op that has `only` keeps it, unless fewer of those are read.

    Exact: an encoded feature has the value that it has among all, to the bit. A
    NaN pre-activation of a feature that nothing uses is no error any more; NaN and
    infinity in `x` still are.
  }];
  let statistics = [
    Statistic<"numEncodesSliced", "num-encodes-sliced", "Number of encodes restricted to the features in use">,
  ];
  let dependentDialects = ["iam::IAMDialect"];
}

def PolicyProjectionPass : Pass<"iam-policy-projection"> {
  let summary = "Run steers and projections in one pass over the activations";
  let description = [{
    1. **One pass.** Steers (`add`, `ablate`, `clamp`) and projections onto half-spaces
       that follow each other become one `iam.policy.sequence`: each row is read once
       and written once, over the activations themselves where these die. Instead of one pass over memory for each step.
       Holds back for a step alone; for additions alone, which are one loop with the
       arithmetic around them; when something else reads what is between two steps;
       across blocks; and when the width is open.
    2. **Nested sets.** A projection onto a set right after one onto a set inside of
       it is dropped, and of two boxes the outer one that comes first. Known to be
       nested are sets with the same normal or centre and constant bounds, and boxes
       with constant (or the same) bounds. Holds back for subspaces, which have no
       inside, and when bounds are not constants.

    A sequence is one low-rank map: the factors of its steps follow in float64 from
    inner products with the row as it came and products of the directions, then each
    row takes all steps at once. Factors lack the rounding of the rows between the
    steps, so values differ from those of the single ops by rounding: each step rounds
    its factor and its sum to float32. A half-space at the end holds of the rounded
    row, as after the single op; a row inside that no step moves stays as it is. An
    error in a step says its number in the sequence instead of its op.

    Remarks say how many steps run together, and which projection is not computed.
    Idempotent. Run it after `iam-verify-discharge`, which looks for single
    projections.
  }];
  let statistics = [
    Statistic<"numSequences", "num-sequences", "Number of sequences made">,
    Statistic<"numProjections", "num-projections", "Number of projections dropped">,
  ];
  let dependentDialects = ["iam::IAMDialect", "mlir::tensor::TensorDialect"];
}

def DifferentiatePass : Pass<"iam-differentiate", "mlir::ModuleOp"> {
  let summary = "Write out the derivatives that attributions ask for";
  let description = [{
    Replaces `iam.attr.grad` by what it means: at each point of the path the callee
    and its reverse-mode derivative, the weighted sum of the gradients in float64, and
    the product with `x − baseline`.

    The derivative of features has entries at active features only: the adjoint of a
    decode reads one row of `W_dec` for each of them, that of an encode adds as many
    columns of `W_enc` (rows of its transpose, which is made once, before the path).
    Nothing `[rows, dictionary]` is made that the callee does not make itself. Run it
    after `iam-clt-fusion`, so that there are fused encodes and deltas to differentiate.

    When row `r` of the callee's result depends on row `r` of its argument alone, up to
    `points-at-once` points go through it together as more rows; this bounds the
    memory. Else the points follow each other, with a remark that says why.

    An error at the op, that is at the line of Python that recorded it: control flow,
    matching pursuit, margins of `iam.policy.verify`, derivatives of derivatives, ops
    of other dialects beside elementwise arithmetic, reshapes and slices, and
    weights, directions or bounds that depend on what is differentiated.

    A remark at each `iam.attr.grad` says how many points go together. Idempotent: no
    `iam.attr.grad` is left.

    Accuracy: that of float32 kernels for each gradient; sums over the path are float64
    and rounded once.
  }];
  let options = [
    Option<"pointsAtOnce", "points-at-once", "int64_t", /*default=*/"8",
           "Points of a path that go through a row-wise function together">,
  ];
  let statistics = [
    Statistic<"numGradients", "num-gradients", "Number of iam.attr.grad written out">,
  ];
  let dependentDialects = ["iam::IAMDialect", "mlir::arith::ArithDialect", "mlir::linalg::LinalgDialect",
                           "mlir::scf::SCFDialect", "mlir::tensor::TensorDialect"];
}

def AttributionCachePass : Pass<"iam-attribution-cache"> {
  let summary = "Compute once what several attributions of a prompt have in common";
  let description = [{
    What MLIR's CSE does not see: one forward pass can serve a run to a later site, a
    derivative, and other tokens. Run it after derivatives are written out. In this
    order:

    1. **Loops over one path.** `scf.for` loops of one block with the same bounds and step,
       which hold segments of a model, become one loop, when the second needs nothing of
       the first. Equal ops of the two are one then.
    2. **Hoisting.** Pure ops of this dialect (encodes, points, segments) leave loops in
       which they do not change, and both branches of an `scf.if` that have them.
    3. **A run beside a derivative.** `iam.model.run` with the operands and attributes of an
       `iam.model.linearize` is the value of that.
    4. **Tokens.** Segments of one model and input to the logits, at the same positions,
       that differ in `tokens` become one for all of them; each takes its columns, and
       cotangents get zeros in the others:

       ```mlir
       %y, %t = iam.model.linearize %m, %h from "resid_post.20" to "logits" tokens [1, 2] ...
       %z, %u = iam.model.linearize %m, %h from "resid_post.20" to "logits" tokens [3, 4] ...
       ```
    5. **Prefixes.** A run continues from the latest site that another run of the same
       model reaches from the same input: with `run %m to "resid_post.20"`, `run %m to
       "resid_post.25"` becomes `run %m, %a from "resid_post.20" to "resid_post.25"`.
    6. **Variants.** Runs of one segment on different inputs, such as an activation with one
       feature ablated after another, go through the model together, up to 8 at a time:
       one run on the stack of the inputs, whose weights are read once.

    Holds back
    * in 1 when the loops have other bounds, the second reads a result of the first, or
      something with an effect that is no assertion is in or between them;
    * in 3 to 5 for another model value or input, and where the op that would serve is not
      computed before on every way; a run in an enclosing block serves nested ones;
    * in 4 when a segment takes all tokens, or other positions, or its tape goes anywhere but to
      `iam.model.pullback`: with a remark;
    * in 5 for sites inside a block, where a run starts with the block's other inputs, and
      for runs of some positions only, which cannot be continued;
    * in 5 under a `budget`: kept activations count from where they are made to their last
      use, as rows times width times 4 bytes, unless the program keeps them as long anyway.
      While more than `budget` bytes are alive at one place, the site that saves the fewest
      blocks a byte is given up, and its users compute it again. Sizes that are not in
      the types are taken to be `assumed-rows` rows. Tapes are not counted: they hold
      what torch keeps, and live until the program ends;
    * in 6 where an input needs the result of another run, or of something with an effect;
      for derivatives; and under a `budget` that a stack would exceed.

    A remark at each op that was rewritten or held back says what for.

    Idempotent.

    Accuracy: 1, 2, 3 and 5 are exact: the same arithmetic in the same order. 4 multiplies with more
    columns of the unembedding at once, and 6 more rows, which torch may sum in another
    order: equal within its rounding. With assertions in both of two loops that become one, another one
    of several that fail may be the first.
  }];
  let options = [
    Option<"budget", "budget", "int64_t", /*default=*/"0",
           "Bytes of activations that may be kept for later runs; 0: no limit">,
    Option<"assumedRows", "assumed-rows", "int64_t", /*default=*/"64",
           "Rows of a prompt, where the types do not say">,
  ];
  let statistics = [
    Statistic<"numLoopsFused", "num-loops-fused", "Number of loops that joined another one">,
    Statistic<"numHoisted", "num-hoisted", "Number of ops moved out of loops and branches">,
    Statistic<"numRunsShared", "num-runs-shared", "Number of runs that are the value of a derivative">,
    Statistic<"numTokensMerged", "num-tokens-merged", "Number of segments that became columns of another one">,
    Statistic<"numPrefixes", "num-prefixes", "Number of runs that continue from another one">,
    Statistic<"numGivenUp", "num-given-up", "Number of sites computed again because of the budget">,
    Statistic<"numVariants", "num-variants", "Number of runs that go with others">,
  ];
  let dependentDialects = ["iam::IAMDialect", "mlir::arith::ArithDialect", "mlir::linalg::LinalgDialect",
                           "mlir::scf::SCFDialect", "mlir::tensor::TensorDialect"];
}

def HoistWeightsPass : Pass<"iam-hoist-weights", "mlir::ModuleOp"> {
  let summary = "Move what depends on weights only to an init function";
  let description = [{
    Splits each public function whose arguments carry `iam.weight` in two. The init
    function takes the weights that it needs and returns the values that depend on
    weights and constants only; the function takes these as further arguments, and is
    called with them as long as the weights are the same. `iam.compiler` does that:
    docs/jit.md.

    ```mlir
    func.func @main(%x: tensor<?x4xf32>, %v: tensor<2x4xf32> {iam.weight}) -> tensor<?x4xf32> {
      %one = arith.constant 1.0 : f32
      %s = arith.constant dense<[1.0, 2.0]> : tensor<2xf32>
      %d = iam.policy.compose orthogonal %v, %s : tensor<2x4xf32>, tensor<2xf32> -> tensor<4xf32>
      %y = iam.policy.steer add %x, %d, %one : tensor<?x4xf32>, tensor<4xf32>, f32
      return %y : tensor<?x4xf32>
    }
    // becomes (the attributes are in the order of arguments and results)
    // @main(%x, %v, %d {iam.hoisted = 0}) attributes {iam.init = @main.init}
    // @main.init(%v {iam.argument = 1}) -> tensor<4xf32>
    ```

    Moved are the values that the rest of the function reads and that ops without
    memory effects made in its entry block, of weights, constants and such values,
    with all that only they need. Arguments keep their places. Errors are the same
    and come from the init function: an op in the entry block always runs.

    Holds back, and computes at every call
    * views, sizes, constants, splats and broadcasts: they cost nothing, or fuse
      into the loop that reads them; numbers, and elements that a compiled function
      does not return (f32, f64, i32 and i64 are);
    * what would take more than `max-growth` times the memory of the weights, or
      memory whose size is not known: with a remark;
    * loops over fewer than `min-elements` elements, which cost less than seeing
      that weights are the same (ops of the iam dialect always move): with a remark;
    * what a branch guards: it might fail where it does not run;
    * all of a private function, and of one that the module calls: with a remark.
    A module without `iam.weight` stays as it is.

    A remark at the op says what moved. Idempotent: `iam.weight` is removed from
    functions that were looked at. Exact: the same ops compute the same values.
  }];
  let options = [
    Option<"maxGrowth", "max-growth", "int64_t", "4",
           "largest memory of a result, in multiples of the weights it is made of">,
    Option<"minElements", "min-elements", "int64_t", "4096",
           "fewest elements that loops outside of the iam dialect go over to be worth it">,
  ];
  let statistics = [
    Statistic<"numHoisted", "num-hoisted", "Number of values that an init function returns">,
    Statistic<"numInits", "num-inits", "Number of init functions">,
  ];
  let dependentDialects = ["iam::IAMDialect", "mlir::func::FuncDialect"];
}

#endif // IAM_DIALECT_IAM_TRANSFORMS_PASSES
