//===- Passes.td - conversions out of the iam dialect -------------*- tablegen -*-===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_CONVERSION_PASSES
#define IAM_CONVERSION_PASSES

include "mlir/Pass/PassBase.td"

def IAMToLinalgPass : Pass<"iam-to-linalg"> {
  let summary = "Lower elementwise iam ops to arith and linalg, so that they fuse";
  let description = [{
    * `iam.clt.residual` without skip weight -> `arith.addf`;
    * `iam.policy.steer add` -> `linalg.generic`: `h + s * v`, `v` read by column;
    * `tensor.splat` -> `linalg.fill`, which elementwise fusion absorbs as a
      scalar operand;
    * `iam.attr.path` -> `linalg.generic`: nodes and weights of the rule are
      constants, and what reads single points fuses with them;
    * a slice of one entry along an axis loses its stride there, which means nothing.

    Everything else stays: matrix-sized and irregular work belongs to the
    runtime (see `iam-to-runtime`). Of the steering modes, `ablate` and `clamp`
    need a dot product per row first and go to the runtime as well. Note that the
    runtime refuses NaN and infinities in the operands of a steer with an error,
    while `add` lowered here lets them pass, as additions do.

    Idempotent. Never changes a value: `h + s * v` is computed as one product and
    one sum, as the runtime does.
  }];
  let dependentDialects = ["mlir::arith::ArithDialect", "mlir::linalg::LinalgDialect",
                           "mlir::tensor::TensorDialect"];
}

def IAMReuseOperandsPass : Pass<"iam-reuse-operands"> {
  let summary = "Let an elementwise op write over an operand that dies there";
  let description = [{
    A `linalg.generic` into a `tensor.empty` gets one of its inputs as its destination
    instead, when that input has the result's type and is read at the same index that is
    written, nothing else uses it, and it is the result of an op in the same
    block that made new memory (a runtime op or another `linalg` op). Bufferization then
    updates it in place: no second `[rows, d]` buffer, half the memory traffic.

    Holds back for function arguments (the caller's memory), values with
    another use, broadcast inputs and constants. Values never change.
    Idempotent.
  }];
  let statistics = [Statistic<"numReused", "num-reused", "Number of destinations reused">];
  let dependentDialects = ["mlir::linalg::LinalgDialect", "mlir::tensor::TensorDialect"];
}

def IAMLinalgToLoopsPass : Pass<"iam-linalg-to-loops"> {
  let summary = "Lower linalg ops on memory to loops that LLVM compiles quickly and well";
  let description = [{
    Like `convert-linalg-to-loops`, and
    1. dimensions that every operand has one after the other, or not at all, without a gap
       between them in memory, become one: an elementwise op on C-contiguous `[rows, d]`
       arrays is one loop over `rows * d` numbers;
    2. the innermost loop tells LLVM not to unroll it (the vectoriser interleaves
       iterations already), and not to vectorise it where an operand is read or
       written with a stride, as the columns of a matrix are.

    Most of the time of compilation goes to vectors of such loops: these two halve it.

    1 holds back for dimensions that an operand lacks (a vector added to each row), for
    views with gaps, for reductions beside other dimensions, and for bodies that read
    the index.

    Idempotent: no linalg op on memory is left. Values do not change.
  }];
  let statistics = [
    Statistic<"numCollapsed", "num-collapsed", "Number of ops with fewer loops">,
  ];
  let dependentDialects = ["mlir::affine::AffineDialect", "mlir::LLVM::LLVMDialect",
                           "mlir::linalg::LinalgDialect", "mlir::memref::MemRefDialect",
                           "mlir::scf::SCFDialect"];
}

def IAMToRuntimePass : Pass<"iam-to-runtime", "mlir::ModuleOp"> {
  let summary = "Lower iam ops to calls of the C++ runtime";
  let description = [{
    Every op with a kernel becomes a call of `@iam_rt_<name>`, one of the functions of
    `cpp/include/iam/entry_points.def`. That list is compiled into this pass: an
    unknown name does not build, and the types of a call come from it.

    A features value becomes its component tensors: `values`, `indices`, for compressed rows
    also `offsets`. Arguments, results, calls, `scf` regions, branches and
    `arith.select` are converted alike, so a public function with a features result
    returns the components.

    Tensors that are read become `bufferization.to_buffer read_only`; destinations
    are `memref.alloc` and come back by `to_tensor restrict writable`; functions
    that return compressed rows return new memory. An absent optional operand is
    a memref of size 0.

    One-shot bufferization must come next. In between, CSE must not run: it would merge
    two views of a tensor across a write, of which nothing in the IR tells.

    A tensor that the program made itself and that nothing else reads may be the
    destination of the op that reads it, where the kernel allows that
    (`iam.policy.sequence`).

    Errors at an op: `iam.attr.path` and `iam.attr.grad`, which other passes lower before
    this one; `iam.attr.circuit`, which has no compiled form; and a name of the
    runtime that the module gives to something else.
  }];
  let dependentDialects = ["mlir::arith::ArithDialect", "mlir::bufferization::BufferizationDialect",
                           "mlir::func::FuncDialect", "mlir::memref::MemRefDialect",
                           "mlir::tensor::TensorDialect"];
}

def IAMPrepareEntryPointsPass : Pass<"iam-prepare-entry-points", "mlir::ModuleOp"> {
  let summary = "Give public functions the calling convention that callers rely on";
  let description = [{
    For every public function with a body:

    * `llvm.emit_c_interface`, so that `_mlir_ciface_<name>` exists;
    * `bufferization.writable = false` on tensor arguments: the caller's arrays are
      never written;
    * results own distinct memory: a value that is returned twice, and one that may be
      part of another result (a slice, a reshape), is copied. A returned argument is
      copied by buffer deallocation, which runs later.

    Idempotent. Runs on tensors, before bufferization.
  }];
  let dependentDialects = ["mlir::bufferization::BufferizationDialect"];
}

def IAMSimplifyDeallocationsPass : Pass<"iam-simplify-deallocations"> {
  let summary = "Free what a function allocated without run-time alias checks";
  let description = [{
    Buffer deallocation does not know that the runtime returns new memory, and would compare
    pointers at run time. This pass does: results of external
    functions, `memref.alloc` and `bufferization.clone` are distinct allocations, so a
    `bufferization.dealloc` that frees one and retains others needs no check.

    Holds back when the origin of an operand is unknown (a block argument, a
    result of control flow), and when the updated conditions are used. It would be
    unsound for an external function that returns one of its arguments, or the same memory
    twice; functions of `entry_points.def` never do, only they are trusted.
  }];
  let dependentDialects = ["mlir::bufferization::BufferizationDialect", "mlir::memref::MemRefDialect"];
}

def IAMPrepareForLLVMPass : Pass<"iam-prepare-for-llvm"> {
  let summary = "Rewrite or refuse what the conversion to LLVM cannot take";
  let description = [{
    The general lowering of a `bufferization.dealloc` of several buffers keeps
    their conditions in a `memref<?xi1>`, and the memref conversion of MLIR 22.1 may
    stop the process at a store of less than a byte. So:

    * such a dealloc becomes one for each buffer, with conditions from comparisons
      of pointers in registers: `n * (n + r)` of them for `n` buffers and `r`
      retained ones. Each buffer is freed once, by its first owner, unless it is
      retained;
    * a copy from or to a view with strides becomes `linalg.copy`, a loop: MLIR
      would call `memrefCopy` of its own runtime library;
    * an allocation of elements of less than a byte is an error at its location.

    Idempotent. Runs after everything that simplifies deallocations.
  }];
  let dependentDialects = ["mlir::arith::ArithDialect", "mlir::bufferization::BufferizationDialect",
                           "mlir::linalg::LinalgDialect", "mlir::memref::MemRefDialect"];
}

def IAMToStablehloPass : Pass<"iam-to-stablehlo", "mlir::ModuleOp"> {
  let summary = "Write iam programs as StableHLO, for XLA and other StableHLO compilers";
  let description = [{
    Every function is written anew in the `stablehlo` dialect. Arguments stay in their
    order, so weights stay arguments; numbers become tensors of rank 0. The largest of a
    row are found by a stable sort and a slice, of which XLA makes its own top-k.

    Features become tensors. In k-form: `values[rows, k]` f32 and `indices[rows, k]` i32, as
    for the runtime. Compressed rows have a size that depends on the data, which
    StableHLO does not know: they become the dense `[rows, dict]`.

    `?` stays `?`, with `dynamic_broadcast_in_dim` where a shape is needed; the
    option `rows` fixes it. Types are found from those of the arguments, so the result
    has then no `?` left. `batch_topk` keeps `k · rows` entries and needs it.

    There are no errors at run time: where the runtime refuses an input, the rows
    concerned are NaN (docs/stablehlo.md has the list). Products ask for the precision
    `HIGHEST`: f32 on every device.

    Holds back, with an error at the op: `iam.attr.grad` (StableHLO has no gradients) and
    `iam.policy.verify` (no assertions); control flow, calls (inline first) and ops of other
    dialects beside elementwise `arith`, splats, fills, broadcasts and `linalg.matmul`.

    Not idempotent: it does not read StableHLO. Changes no value beyond the order
    of sums.
  }];
  let options = [ListOption<"rows", "rows", "int64_t",
                            "Sizes for the `?` in the types of the arguments, in their order; a "
                            "single one stands for all">];
  let dependentDialects = ["iam::stablehlo::StablehloDialect", "mlir::func::FuncDialect"];
}

#endif // IAM_CONVERSION_PASSES
