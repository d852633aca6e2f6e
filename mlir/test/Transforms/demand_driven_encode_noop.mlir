// Where iam-demand-driven-encode leaves an encode alone, and what it says to that.
// RUN: iam-opt %s --iam-demand-driven-encode 2>/dev/null | FileCheck %s --implicit-check-not='only ['
// RUN: iam-opt %s --iam-demand-driven-encode -o /dev/null 2>&1 | FileCheck %s --check-prefix=REMARK

// A return reads all.
// CHECK-LABEL: func.func @returned(
func.func @returned(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>) -> !iam.features<?x64xf32> {
  %f = iam.clt.encode_sparse relu %x, %E, %b : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> !iam.features<?x64xf32>
  return %f : !iam.features<?x64xf32>
}

// One reader of all is enough, here and after an edit.
// CHECK-LABEL: func.func @decoded(
func.func @decoded(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>, %W: tensor<64x4xf32>) -> (tensor<?x4xf32>, !iam.features<?x64xf32, k = 1>) {
  %f = iam.clt.encode_sparse relu %x, %E, %b : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> !iam.features<?x64xf32>
  %y = iam.clt.decode %f, %W : (!iam.features<?x64xf32>, tensor<64x4xf32>) -> tensor<?x4xf32>
  %d = iam.clt.delta ablate %f features [3] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 1>
  return %y, %d : tensor<?x4xf32>, !iam.features<?x64xf32, k = 1>
}

// The edit's result is decoded as a whole.
// CHECK-LABEL: func.func @decoded_after_an_edit(
func.func @decoded_after_an_edit(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>, %W: tensor<64x4xf32>) -> tensor<?x4xf32> {
  %f = iam.clt.encode_sparse relu %x, %E, %b : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> !iam.features<?x64xf32>
  %g = iam.clt.edit ablate %f features [3] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32>
  %y = iam.clt.decode %g, %W : (!iam.features<?x64xf32>, tensor<64x4xf32>) -> tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// Which column is known at run time.
// CHECK-LABEL: func.func @unknown_columns(
func.func @unknown_columns(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>, %n: index, %c: index) -> tensor<?x1xf32> {
  %f = iam.clt.encode_sparse relu %x, %E, %b : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> !iam.features<?x64xf32>
  %d = iam.clt.densify %f : !iam.features<?x64xf32> -> tensor<?x64xf32>
  %y = tensor.extract_slice %d[0, %c] [%n, 1] [1, 1] : tensor<?x64xf32> to tensor<?x1xf32>
  return %y : tensor<?x1xf32>
}

// The same for one element.
// CHECK-LABEL: func.func @unknown_element(
func.func @unknown_element(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>, %n: index, %c: index) -> f32 {
  %f = iam.clt.encode_sparse relu %x, %E, %b : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> !iam.features<?x64xf32>
  %d = iam.clt.densify %f : !iam.features<?x64xf32> -> tensor<?x64xf32>
  %y = tensor.extract %d[%n, %c] : tensor<?x64xf32>
  return %y : f32
}

// A column that the dictionary does not have.
// CHECK-LABEL: func.func @outside(
func.func @outside(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>, %r: index) -> f32 {
  %f = iam.clt.encode_sparse relu %x, %E, %b : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> !iam.features<?x64xf32>
  %c = arith.constant 64 : index
  %d = iam.clt.densify %f : !iam.features<?x64xf32> -> tensor<?x64xf32>
  %y = tensor.extract %d[%r, %c] : tensor<?x64xf32>
  return %y : f32
}

// Arithmetic on all columns.
// CHECK-LABEL: func.func @dense(
func.func @dense(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>) -> tensor<?x64xf32> {
  %f = iam.clt.encode_sparse relu %x, %E, %b : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> !iam.features<?x64xf32>
  %d = iam.clt.densify %f : !iam.features<?x64xf32> -> tensor<?x64xf32>
  %y = arith.negf %d : tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// No reader: others erase it.
// CHECK-LABEL: func.func @dead(
func.func @dead(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>) -> tensor<?x4xf32> {
  %f = iam.clt.encode_sparse relu %x, %E, %b : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> !iam.features<?x64xf32>
  return %x : tensor<?x4xf32>
}

// More than one feature in 16.
// CHECK-LABEL: func.func @many(
// REMARK: remark: encodes all 64 features although 5 would do: gathering more than one in 16 may read more memory than encoding all
func.func @many(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>) -> !iam.features<?x64xf32, k = 5> {
  %f = iam.clt.encode_sparse relu %x, %E, %b : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> !iam.features<?x64xf32>
  %d = iam.clt.delta ablate %f features [1, 20, 30, 40, 50] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 5>
  return %d : !iam.features<?x64xf32, k = 5>
}

// Remark only.
// CHECK-LABEL: func.func @fused_topk(
// REMARK: remark: encodes all features although 1 would do: topk cannot be sliced, whether a feature is active depends on all others of its row
func.func @fused_topk(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>) -> !iam.features<?x64xf32, k = 1> {
  %f = iam.clt.encode_sparse topk %x, %E, %b k = 2 : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> !iam.features<?x64xf32, k = 2>
  %d = iam.clt.delta ablate %f features [3] : (!iam.features<?x64xf32, k = 2>) -> !iam.features<?x64xf32, k = 1>
  return %d : !iam.features<?x64xf32, k = 1>
}

// Remark only.
// CHECK-LABEL: func.func @fused_abstopk(
// REMARK: remark: encodes all features although 1 would do: abstopk cannot be sliced, whether a feature is active depends on all others of its row
func.func @fused_abstopk(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>) -> !iam.features<?x64xf32, k = 1> {
  %f = iam.clt.encode_sparse abstopk %x, %E, %b k = 2 : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> !iam.features<?x64xf32, k = 2>
  %d = iam.clt.delta ablate %f features [3] : (!iam.features<?x64xf32, k = 2>) -> !iam.features<?x64xf32, k = 1>
  return %d : !iam.features<?x64xf32, k = 1>
}

// Remark only.
// CHECK-LABEL: func.func @fused_groupmax(
// REMARK: remark: encodes all features although 1 would do: groupmax cannot be sliced, whether a feature is active depends on all others of its group
func.func @fused_groupmax(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>) -> !iam.features<?x64xf32, k = 1> {
  %f = iam.clt.encode_sparse groupmax %x, %E, %b k = 2 : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> !iam.features<?x64xf32, k = 2>
  %d = iam.clt.delta ablate %f features [3] : (!iam.features<?x64xf32, k = 2>) -> !iam.features<?x64xf32, k = 1>
  return %d : !iam.features<?x64xf32, k = 1>
}

// Remark only.
// CHECK-LABEL: func.func @topk(
// REMARK: remark: encodes all features although 1 would do: topk cannot be sliced, whether a feature is active depends on all others of its row
func.func @topk(%p: tensor<?x64xf32>) -> !iam.features<?x64xf32, k = 1> {
  %f = iam.clt.topk %p, k = 2 : tensor<?x64xf32> -> !iam.features<?x64xf32, k = 2>
  %d = iam.clt.delta ablate %f features [3] : (!iam.features<?x64xf32, k = 2>) -> !iam.features<?x64xf32, k = 1>
  return %d : !iam.features<?x64xf32, k = 1>
}

// Remark only.
// CHECK-LABEL: func.func @abstopk(
// REMARK: remark: encodes all features although 1 would do: abstopk cannot be sliced, whether a feature is active depends on all others of its row
func.func @abstopk(%p: tensor<?x64xf32>) -> !iam.features<?x64xf32, k = 1> {
  %f = iam.clt.abstopk %p, k = 2 : tensor<?x64xf32> -> !iam.features<?x64xf32, k = 2>
  %d = iam.clt.delta ablate %f features [3] : (!iam.features<?x64xf32, k = 2>) -> !iam.features<?x64xf32, k = 1>
  return %d : !iam.features<?x64xf32, k = 1>
}

// Remark only.
// CHECK-LABEL: func.func @groupmax(
// REMARK: remark: encodes all features although 1 would do: groupmax cannot be sliced, whether a feature is active depends on all others of its group
func.func @groupmax(%p: tensor<?x64xf32>) -> !iam.features<?x64xf32, k = 1> {
  %f = iam.clt.groupmax %p, k = 2 : tensor<?x64xf32> -> !iam.features<?x64xf32, k = 2>
  %d = iam.clt.delta ablate %f features [3] : (!iam.features<?x64xf32, k = 2>) -> !iam.features<?x64xf32, k = 1>
  return %d : !iam.features<?x64xf32, k = 1>
}

// Remark only.
// CHECK-LABEL: func.func @batch_topk(
// REMARK: remark: encodes all features although 1 would do: batch_topk cannot be sliced, whether a feature is active depends on all others of the batch
func.func @batch_topk(%p: tensor<?x64xf32>) -> !iam.features<?x64xf32, k = 1> {
  %f = iam.clt.batch_topk %p, k = 2 : tensor<?x64xf32> -> !iam.features<?x64xf32>
  %d = iam.clt.delta ablate %f features [3] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 1>
  return %d : !iam.features<?x64xf32, k = 1>
}

// Remark only.
// CHECK-LABEL: func.func @matching_pursuit(
// REMARK: remark: encodes all features although 1 would do: matching_pursuit cannot be sliced, whether a feature is active depends on all others of its row
func.func @matching_pursuit(%x: tensor<?x4xf32>, %W: tensor<64x4xf32>) -> !iam.features<?x64xf32, k = 1> {
  %f = iam.clt.matching_pursuit %x, %W residual_threshold = 0.0 max_iterations = 7 : (tensor<?x4xf32>, tensor<64x4xf32>) -> !iam.features<?x64xf32>
  %d = iam.clt.delta ablate %f features [3] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 1>
  return %d : !iam.features<?x64xf32, k = 1>
}

// Remark only.
// CHECK-LABEL: func.func @gate(
// REMARK: remark: encodes all features although 1 would do: gate cannot be sliced, it is not fused with its encode, which makes all pre-activations
func.func @gate(%p: tensor<?x64xf32>, %q: tensor<?x64xf32>) -> !iam.features<?x64xf32, k = 1> {
  %f = iam.clt.gate %p, %q : tensor<?x64xf32>, tensor<?x64xf32> -> !iam.features<?x64xf32>
  %d = iam.clt.delta ablate %f features [3] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 1>
  return %d : !iam.features<?x64xf32, k = 1>
}

// Remark only.
// CHECK-LABEL: func.func @relu(
// REMARK: remark: encodes all features although 1 would do: relu cannot be sliced, it is not fused with its encode, which makes all pre-activations
func.func @relu(%p: tensor<?x64xf32>) -> !iam.features<?x64xf32, k = 1> {
  %f = iam.clt.relu %p : tensor<?x64xf32> -> !iam.features<?x64xf32>
  %d = iam.clt.delta ablate %f features [3] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 1>
  return %d : !iam.features<?x64xf32, k = 1>
}

// Remark only.
// CHECK-LABEL: func.func @jumprelu(
// REMARK: remark: encodes all features although 1 would do: jumprelu cannot be sliced, it is not fused with its encode, which makes all pre-activations
func.func @jumprelu(%p: tensor<?x64xf32>, %t: tensor<64xf32>) -> !iam.features<?x64xf32, k = 1> {
  %f = iam.clt.jumprelu %p, %t : tensor<?x64xf32>, tensor<64xf32> -> !iam.features<?x64xf32>
  %d = iam.clt.delta ablate %f features [3] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 1>
  return %d : !iam.features<?x64xf32, k = 1>
}

// Remark only.
// CHECK-LABEL: func.func @fused_batch_topk(
// REMARK: remark: encodes all features although 1 would do: batch_topk cannot be sliced, whether a feature is active depends on all others of the batch
func.func @fused_batch_topk(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>) -> !iam.features<?x64xf32, k = 1> {
  %f = iam.clt.encode_sparse batch_topk %x, %E, %b k = 2 : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> !iam.features<?x64xf32>
  %d = iam.clt.delta ablate %f features [3] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 1>
  return %d : !iam.features<?x64xf32, k = 1>
}

// One of the activations is read as a whole: the pre-activations are needed.
// CHECK-LABEL: func.func @shared_encode_is_needed(
// CHECK-NEXT: iam.clt.encode %
// REMARK: remark: encodes all features although 1 would do: relu cannot be sliced, it is not fused with its encode
func.func @shared_encode_is_needed(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>, %t: tensor<64xf32>) -> (!iam.features<?x64xf32, k = 1>, !iam.features<?x64xf32>) {
  %pre = iam.clt.encode %x, %E, %b : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %f = iam.clt.relu %pre : tensor<?x64xf32> -> !iam.features<?x64xf32>
  %g = iam.clt.jumprelu %pre, %t : tensor<?x64xf32>, tensor<64xf32> -> !iam.features<?x64xf32>
  %d = iam.clt.delta ablate %f features [3] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 1>
  return %d, %g : !iam.features<?x64xf32, k = 1>, !iam.features<?x64xf32>
}

// Together they read more than one feature in 16.
// CHECK-LABEL: func.func @shared_encode_of_many(
// CHECK-NEXT: iam.clt.encode %
func.func @shared_encode_of_many(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>) -> (!iam.features<?x64xf32, k = 3>, !iam.features<?x64xf32, k = 2>) {
  %pre = iam.clt.encode %x, %E, %b : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %f = iam.clt.relu %pre : tensor<?x64xf32> -> !iam.features<?x64xf32>
  %g = iam.clt.relu %pre : tensor<?x64xf32> -> !iam.features<?x64xf32>
  %d = iam.clt.delta ablate %f features [1, 20, 30] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 3>
  %e = iam.clt.delta ablate %g features [40, 50] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 2>
  return %d, %e : !iam.features<?x64xf32, k = 3>, !iam.features<?x64xf32, k = 2>
}

// Encoded once, before the loop.
// CHECK-LABEL: func.func @shared_encode_outside_the_loop(
// CHECK: iam.clt.encode %
// CHECK: scf.for
func.func @shared_encode_outside_the_loop(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>, %W: tensor<64x4xf32>, %n: index) -> tensor<?x4xf32> {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %pre = iam.clt.encode %x, %E, %b : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %last = scf.for %i = %zero to %n step %one iter_args(%h = %x) -> tensor<?x4xf32> {
    %f = iam.clt.relu %pre : tensor<?x64xf32> -> !iam.features<?x64xf32>
    %d = iam.clt.delta ablate %f features [1] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 1>
    %y = iam.clt.decode %d, %W : (!iam.features<?x64xf32, k = 1>, tensor<64x4xf32>) -> tensor<?x4xf32>
    %s = arith.addf %h, %y : tensor<?x4xf32>
    scf.yield %s : tensor<?x4xf32>
  }
  return %last : tensor<?x4xf32>
}
