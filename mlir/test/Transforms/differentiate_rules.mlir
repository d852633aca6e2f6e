// iam-differentiate: the derivative of each op, at one point.
// RUN: iam-opt %s --iam-differentiate --canonicalize --cse --split-input-file 2>/dev/null | FileCheck %s

// Dense pre-activations and a skip: products with the transposed weights.
func.func private @metric(%x: tensor<3x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %S: tensor<4x4xf32>) -> tensor<3xf32> {
  %q = iam.clt.encode %x, %W, %b : (tensor<3x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<3x16xf32>
  %d = iam.clt.residual %x, %x, skip %S : (tensor<3x4xf32>, tensor<3x4xf32>, tensor<4x4xf32>) -> tensor<3x4xf32>
  %u = tensor.extract_slice %q[0, 5] [3, 1] [1, 1] : tensor<3x16xf32> to tensor<3xf32>
  %k = tensor.extract_slice %d[0, 1] [3, 1] [1, 1] : tensor<3x4xf32> to tensor<3xf32>
  %r = arith.addf %u, %k : tensor<3xf32>
  return %r : tensor<3xf32>
}
// CHECK-LABEL: func.func @dense(
func.func @dense(%x: tensor<3x4xf32>, %z: tensor<3x4xf32>, %p: tensor<1x3x4xf32>, %w: tensor<1xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %S: tensor<4x4xf32>) -> tensor<3x4xf32> {
  // CHECK-DAG: %[[ST:.*]] = linalg.transpose {{.*}}tensor<4x4xf32>
  // CHECK-DAG: linalg.transpose {{.*}}tensor<4x16xf32>
  // CHECK-DAG: iam.clt.encode %{{.*}}, %{{.*}}, %{{.*}} : (tensor<3x4xf32>, tensor<4x4xf32>, tensor<4xf32>) -> tensor<3x4xf32>
  // CHECK-DAG: iam.clt.encode %{{.*}}, %{{.*}}, %{{.*}} : (tensor<3x16xf32>, tensor<16x4xf32>, tensor<4xf32>) -> tensor<3x4xf32>
  %g = iam.attr.grad @metric(%x, %z) captures(%W, %b, %S : tensor<4x16xf32>, tensor<16xf32>, tensor<4x4xf32>) along %p, %w : tensor<3x4xf32>, tensor<3x4xf32>, tensor<1x3x4xf32>, tensor<1xf32> -> tensor<3x4xf32>
  return %g : tensor<3x4xf32>
}

// -----

// topk: 1 where a feature is active. A cotangent of features stays sparse until the encoder.
func.func private @metric(%x: tensor<3x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>) -> tensor<3xf32> {
  %q = iam.clt.encode %x, %W, %b : (tensor<3x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<3x16xf32>
  %f = iam.clt.topk %q, k = 3 : tensor<3x16xf32> -> !iam.features<3x16xf32, k = 3>
  %y = iam.clt.decode %f, %D : (!iam.features<3x16xf32, k = 3>, tensor<16x4xf32>) -> tensor<3x4xf32>
  %r = tensor.extract_slice %y[0, 1] [3, 1] [1, 1] : tensor<3x4xf32> to tensor<3xf32>
  return %r : tensor<3xf32>
}
// CHECK-LABEL: func.func @topk(
func.func @topk(%x: tensor<3x4xf32>, %z: tensor<3x4xf32>, %p: tensor<1x3x4xf32>, %w: tensor<1xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>) -> tensor<3x4xf32> {
  // CHECK: %[[F:.*]] = iam.clt.topk
  // CHECK: %[[DF:.*]] = iam.clt.decode_adjoint %[[F]]
  // CHECK: iam.clt.decode %[[DF]], %{{.*}} -> tensor<3x4xf32>
  %g = iam.attr.grad @metric(%x, %z) captures(%W, %b, %D : tensor<4x16xf32>, tensor<16xf32>, tensor<16x4xf32>) along %p, %w : tensor<3x4xf32>, tensor<3x4xf32>, tensor<1x3x4xf32>, tensor<1xf32> -> tensor<3x4xf32>
  return %g : tensor<3x4xf32>
}

// -----

// abstopk: 1 where a feature is active. A cotangent of features stays sparse until the encoder.
func.func private @metric(%x: tensor<3x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>) -> tensor<3xf32> {
  %q = iam.clt.encode %x, %W, %b : (tensor<3x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<3x16xf32>
  %f = iam.clt.abstopk %q, k = 3 : tensor<3x16xf32> -> !iam.features<3x16xf32, k = 3>
  %y = iam.clt.decode %f, %D : (!iam.features<3x16xf32, k = 3>, tensor<16x4xf32>) -> tensor<3x4xf32>
  %r = tensor.extract_slice %y[0, 1] [3, 1] [1, 1] : tensor<3x4xf32> to tensor<3xf32>
  return %r : tensor<3xf32>
}
// CHECK-LABEL: func.func @abstopk(
func.func @abstopk(%x: tensor<3x4xf32>, %z: tensor<3x4xf32>, %p: tensor<1x3x4xf32>, %w: tensor<1xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>) -> tensor<3x4xf32> {
  // CHECK: %[[F:.*]] = iam.clt.abstopk
  // CHECK: %[[DF:.*]] = iam.clt.decode_adjoint %[[F]]
  // CHECK: iam.clt.decode %[[DF]], %{{.*}} -> tensor<3x4xf32>
  %g = iam.attr.grad @metric(%x, %z) captures(%W, %b, %D : tensor<4x16xf32>, tensor<16xf32>, tensor<16x4xf32>) along %p, %w : tensor<3x4xf32>, tensor<3x4xf32>, tensor<1x3x4xf32>, tensor<1xf32> -> tensor<3x4xf32>
  return %g : tensor<3x4xf32>
}

// -----

// groupmax: 1 where a feature is active. A cotangent of features stays sparse until the encoder.
func.func private @metric(%x: tensor<3x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>) -> tensor<3xf32> {
  %q = iam.clt.encode %x, %W, %b : (tensor<3x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<3x16xf32>
  %f = iam.clt.groupmax %q, k = 4 : tensor<3x16xf32> -> !iam.features<3x16xf32, k = 4>
  %y = iam.clt.decode %f, %D : (!iam.features<3x16xf32, k = 4>, tensor<16x4xf32>) -> tensor<3x4xf32>
  %r = tensor.extract_slice %y[0, 1] [3, 1] [1, 1] : tensor<3x4xf32> to tensor<3xf32>
  return %r : tensor<3xf32>
}
// CHECK-LABEL: func.func @groupmax(
func.func @groupmax(%x: tensor<3x4xf32>, %z: tensor<3x4xf32>, %p: tensor<1x3x4xf32>, %w: tensor<1xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>) -> tensor<3x4xf32> {
  // CHECK: %[[F:.*]] = iam.clt.groupmax
  // CHECK: %[[DF:.*]] = iam.clt.decode_adjoint %[[F]]
  // CHECK: iam.clt.decode %[[DF]], %{{.*}} -> tensor<3x4xf32>
  %g = iam.attr.grad @metric(%x, %z) captures(%W, %b, %D : tensor<4x16xf32>, tensor<16xf32>, tensor<16x4xf32>) along %p, %w : tensor<3x4xf32>, tensor<3x4xf32>, tensor<1x3x4xf32>, tensor<1xf32> -> tensor<3x4xf32>
  return %g : tensor<3x4xf32>
}

// -----

// batch_topk: 1 where a feature is active. A cotangent of features stays sparse until the encoder.
func.func private @metric(%x: tensor<3x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>) -> tensor<3xf32> {
  %q = iam.clt.encode %x, %W, %b : (tensor<3x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<3x16xf32>
  %f = iam.clt.batch_topk %q, k = 3 : tensor<3x16xf32> -> !iam.features<3x16xf32>
  %y = iam.clt.decode %f, %D : (!iam.features<3x16xf32>, tensor<16x4xf32>) -> tensor<3x4xf32>
  %r = tensor.extract_slice %y[0, 1] [3, 1] [1, 1] : tensor<3x4xf32> to tensor<3xf32>
  return %r : tensor<3xf32>
}
// CHECK-LABEL: func.func @batch_topk(
func.func @batch_topk(%x: tensor<3x4xf32>, %z: tensor<3x4xf32>, %p: tensor<1x3x4xf32>, %w: tensor<1xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>) -> tensor<3x4xf32> {
  // CHECK: %[[F:.*]] = iam.clt.batch_topk
  // CHECK: %[[DF:.*]] = iam.clt.decode_adjoint %[[F]]
  // CHECK: iam.clt.decode %[[DF]], %{{.*}} -> tensor<3x4xf32>
  %g = iam.attr.grad @metric(%x, %z) captures(%W, %b, %D : tensor<4x16xf32>, tensor<16xf32>, tensor<16x4xf32>) along %p, %w : tensor<3x4xf32>, tensor<3x4xf32>, tensor<1x3x4xf32>, tensor<1xf32> -> tensor<3x4xf32>
  return %g : tensor<3x4xf32>
}

// -----

// relu: 1 where a feature is active. A cotangent of features stays sparse until the encoder.
func.func private @metric(%x: tensor<3x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>) -> tensor<3xf32> {
  %q = iam.clt.encode %x, %W, %b : (tensor<3x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<3x16xf32>
  %f = iam.clt.relu %q : tensor<3x16xf32> -> !iam.features<3x16xf32>
  %y = iam.clt.decode %f, %D : (!iam.features<3x16xf32>, tensor<16x4xf32>) -> tensor<3x4xf32>
  %r = tensor.extract_slice %y[0, 1] [3, 1] [1, 1] : tensor<3x4xf32> to tensor<3xf32>
  return %r : tensor<3xf32>
}
// CHECK-LABEL: func.func @relu(
func.func @relu(%x: tensor<3x4xf32>, %z: tensor<3x4xf32>, %p: tensor<1x3x4xf32>, %w: tensor<1xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>) -> tensor<3x4xf32> {
  // CHECK: %[[F:.*]] = iam.clt.relu
  // CHECK: %[[DF:.*]] = iam.clt.decode_adjoint %[[F]]
  // CHECK: iam.clt.decode %[[DF]], %{{.*}} -> tensor<3x4xf32>
  %g = iam.attr.grad @metric(%x, %z) captures(%W, %b, %D : tensor<4x16xf32>, tensor<16xf32>, tensor<16x4xf32>) along %p, %w : tensor<3x4xf32>, tensor<3x4xf32>, tensor<1x3x4xf32>, tensor<1xf32> -> tensor<3x4xf32>
  return %g : tensor<3x4xf32>
}

// -----

// jumprelu, as relu.
func.func private @metric(%x: tensor<3x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>, %t: tensor<16xf32>) -> tensor<3xf32> {
  %q = iam.clt.encode %x, %W, %b : (tensor<3x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<3x16xf32>
  %f = iam.clt.jumprelu %q, %t : tensor<3x16xf32>, tensor<16xf32> -> !iam.features<3x16xf32>
  %y = iam.clt.decode %f, %D : (!iam.features<3x16xf32>, tensor<16x4xf32>) -> tensor<3x4xf32>
  %r = tensor.extract_slice %y[0, 1] [3, 1] [1, 1] : tensor<3x4xf32> to tensor<3xf32>
  return %r : tensor<3xf32>
}
// CHECK-LABEL: func.func @jumprelu(
func.func @jumprelu(%x: tensor<3x4xf32>, %z: tensor<3x4xf32>, %p: tensor<1x3x4xf32>, %w: tensor<1xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>, %t: tensor<16xf32>) -> tensor<3x4xf32> {
  // CHECK: %[[F:.*]] = iam.clt.jumprelu
  // CHECK: iam.clt.decode_adjoint %[[F]]
  %g = iam.attr.grad @metric(%x, %z) captures(%W, %b, %D, %t : tensor<4x16xf32>, tensor<16xf32>, tensor<16x4xf32>, tensor<16xf32>) along %p, %w : tensor<3x4xf32>, tensor<3x4xf32>, tensor<1x3x4xf32>, tensor<1xf32> -> tensor<3x4xf32>
  return %g : tensor<3x4xf32>
}

// -----

// Which features a gate opens is not differentiated: only the magnitude is.
func.func private @metric(%x: tensor<3x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>) -> tensor<3xf32> {
  %q = iam.clt.encode %x, %W, %b : (tensor<3x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<3x16xf32>
  %m = arith.mulf %q, %q : tensor<3x16xf32>
  %f = iam.clt.gate %q, %m : tensor<3x16xf32>, tensor<3x16xf32> -> !iam.features<3x16xf32>
  %y = iam.clt.decode %f, %D : (!iam.features<3x16xf32>, tensor<16x4xf32>) -> tensor<3x4xf32>
  %r = tensor.extract_slice %y[0, 1] [3, 1] [1, 1] : tensor<3x4xf32> to tensor<3xf32>
  return %r : tensor<3xf32>
}
// CHECK-LABEL: func.func @gate(
func.func @gate(%x: tensor<3x4xf32>, %z: tensor<3x4xf32>, %p: tensor<1x3x4xf32>, %w: tensor<1xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>) -> tensor<3x4xf32> {
  // CHECK: %[[F:.*]] = iam.clt.gate
  // CHECK: %[[DF:.*]] = iam.clt.decode_adjoint %[[F]]
  // CHECK: %[[DM:.*]] = iam.clt.densify %[[DF]]
  // CHECK: arith.mulf %[[DM]]
  %g = iam.attr.grad @metric(%x, %z) captures(%W, %b, %D : tensor<4x16xf32>, tensor<16xf32>, tensor<16x4xf32>) along %p, %w : tensor<3x4xf32>, tensor<3x4xf32>, tensor<1x3x4xf32>, tensor<1xf32> -> tensor<3x4xf32>
  return %g : tensor<3x4xf32>
}

// -----

// Edits: what of a cotangent they let through. scale and clamp need their operands.
func.func private @metric(%x: tensor<3x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>, %a: tensor<2xf32>, %c: tensor<2xf32>) -> tensor<3xf32> {
  %f = iam.clt.encode_sparse topk %x, %W, %b k = 3 : (tensor<3x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<3x16xf32, k = 3>
  %g = iam.clt.edit scale %f features [1, 2] by %a : (!iam.features<3x16xf32, k = 3>, tensor<2xf32>) -> !iam.features<3x16xf32, k = 3>
  %h = iam.clt.edit clamp %g features [1, 3] by %a, %c : (!iam.features<3x16xf32, k = 3>, tensor<2xf32>, tensor<2xf32>) -> !iam.features<3x16xf32, k = 5>
  %y = iam.clt.decode %h, %D : (!iam.features<3x16xf32, k = 5>, tensor<16x4xf32>) -> tensor<3x4xf32>
  %r = tensor.extract_slice %y[0, 1] [3, 1] [1, 1] : tensor<3x4xf32> to tensor<3xf32>
  return %r : tensor<3xf32>
}
// CHECK-LABEL: func.func @edits(
func.func @edits(%x: tensor<3x4xf32>, %z: tensor<3x4xf32>, %p: tensor<1x3x4xf32>, %w: tensor<1xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>, %a: tensor<2xf32>, %c: tensor<2xf32>) -> tensor<3x4xf32> {
  // CHECK: iam.clt.edit_adjoint clamp
  // CHECK: iam.clt.edit_adjoint scale
  %g = iam.attr.grad @metric(%x, %z) captures(%W, %b, %D, %a, %c : tensor<4x16xf32>, tensor<16xf32>, tensor<16x4xf32>, tensor<2xf32>, tensor<2xf32>) along %p, %w : tensor<3x4xf32>, tensor<3x4xf32>, tensor<1x3x4xf32>, tensor<1xf32> -> tensor<3x4xf32>
  return %g : tensor<3x4xf32>
}

// -----

// A delta that sets: its entries are those that it takes away.
func.func private @metric(%x: tensor<3x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>, %a: tensor<2xf32>) -> tensor<3xf32> {
  %f = iam.clt.encode_sparse topk %x, %W, %b k = 3 : (tensor<3x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<3x16xf32, k = 3>
  %g = iam.clt.delta set %f features [1, 2] by %a : (!iam.features<3x16xf32, k = 3>, tensor<2xf32>) -> !iam.features<3x16xf32, k = 2>
  %y = iam.clt.decode %g, %D : (!iam.features<3x16xf32, k = 2>, tensor<16x4xf32>) -> tensor<3x4xf32>
  %r = tensor.extract_slice %y[0, 1] [3, 1] [1, 1] : tensor<3x4xf32> to tensor<3xf32>
  return %r : tensor<3xf32>
}
// CHECK-LABEL: func.func @set_delta(
func.func @set_delta(%x: tensor<3x4xf32>, %z: tensor<3x4xf32>, %p: tensor<1x3x4xf32>, %w: tensor<1xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>, %a: tensor<2xf32>) -> tensor<3x4xf32> {
  // CHECK: %[[F:.*]] = iam.clt.encode_sparse
  // CHECK: %[[DF:.*]] = iam.clt.decode_adjoint %[[F]]
  // CHECK: iam.clt.edit_adjoint delta set %[[F]], %[[DF]]
  %g = iam.attr.grad @metric(%x, %z) captures(%W, %b, %D, %a : tensor<4x16xf32>, tensor<16xf32>, tensor<16x4xf32>, tensor<2xf32>) along %p, %w : tensor<3x4xf32>, tensor<3x4xf32>, tensor<1x3x4xf32>, tensor<1xf32> -> tensor<3x4xf32>
  return %g : tensor<3x4xf32>
}

// -----

// A difference of features: both parts, one of them negative.
func.func private @metric(%x: tensor<3x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>, %t: tensor<16xf32>) -> tensor<3xf32> {
  %f = iam.clt.encode_sparse topk %x, %W, %b k = 3 : (tensor<3x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<3x16xf32, k = 3>
  %e = iam.clt.encode_sparse topk %x, %W, %t k = 3 : (tensor<3x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<3x16xf32, k = 3>
  %g = iam.clt.sub %f, %e : !iam.features<3x16xf32, k = 3>, !iam.features<3x16xf32, k = 3> -> !iam.features<3x16xf32, k = 6>
  %y = iam.clt.decode %g, %D : (!iam.features<3x16xf32, k = 6>, tensor<16x4xf32>) -> tensor<3x4xf32>
  %r = tensor.extract_slice %y[0, 1] [3, 1] [1, 1] : tensor<3x4xf32> to tensor<3xf32>
  return %r : tensor<3xf32>
}
// CHECK-LABEL: func.func @difference(
func.func @difference(%x: tensor<3x4xf32>, %z: tensor<3x4xf32>, %p: tensor<1x3x4xf32>, %w: tensor<1xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>, %t: tensor<16xf32>) -> tensor<3x4xf32> {
  // CHECK-COUNT-2: iam.clt.decode_adjoint
  // CHECK: arith.negf
  %g = iam.attr.grad @metric(%x, %z) captures(%W, %b, %D, %t : tensor<4x16xf32>, tensor<16xf32>, tensor<16x4xf32>, tensor<16xf32>) along %p, %w : tensor<3x4xf32>, tensor<3x4xf32>, tensor<1x3x4xf32>, tensor<1xf32> -> tensor<3x4xf32>
  return %g : tensor<3x4xf32>
}

// -----

// An edit of a difference: the parts take what the edit lets through.
func.func private @metric(%x: tensor<3x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>, %t: tensor<16xf32>) -> tensor<3xf32> {
  %f = iam.clt.encode_sparse topk %x, %W, %b k = 3 : (tensor<3x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<3x16xf32, k = 3>
  %e = iam.clt.encode_sparse topk %x, %W, %t k = 3 : (tensor<3x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<3x16xf32, k = 3>
  %g = iam.clt.sub %f, %e : !iam.features<3x16xf32, k = 3>, !iam.features<3x16xf32, k = 3> -> !iam.features<3x16xf32, k = 6>
  %h = iam.clt.edit ablate %g features [4] : (!iam.features<3x16xf32, k = 6>) -> !iam.features<3x16xf32, k = 6>
  %y = iam.clt.decode %h, %D : (!iam.features<3x16xf32, k = 6>, tensor<16x4xf32>) -> tensor<3x4xf32>
  %r = tensor.extract_slice %y[0, 1] [3, 1] [1, 1] : tensor<3x4xf32> to tensor<3xf32>
  return %r : tensor<3xf32>
}
// CHECK-LABEL: func.func @edited_difference(
func.func @edited_difference(%x: tensor<3x4xf32>, %z: tensor<3x4xf32>, %p: tensor<1x3x4xf32>, %w: tensor<1xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>, %t: tensor<16xf32>) -> tensor<3x4xf32> {
  // CHECK: iam.clt.edit_adjoint ablate
  // CHECK: iam.clt.edit_adjoint ablate
  // CHECK: iam.clt.edit_adjoint ablate
  %g = iam.attr.grad @metric(%x, %z) captures(%W, %b, %D, %t : tensor<4x16xf32>, tensor<16xf32>, tensor<16x4xf32>, tensor<16xf32>) along %p, %w : tensor<3x4xf32>, tensor<3x4xf32>, tensor<1x3x4xf32>, tensor<1xf32> -> tensor<3x4xf32>
  return %g : tensor<3x4xf32>
}

// -----

// Dense features as a whole.
func.func private @metric(%x: tensor<3x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) -> tensor<3xf32> {
  %f = iam.clt.encode_sparse topk %x, %W, %b k = 3 : (tensor<3x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<3x16xf32, k = 3>
  %d = iam.clt.densify %f : !iam.features<3x16xf32, k = 3> -> tensor<3x16xf32>
  %e = arith.mulf %d, %d : tensor<3x16xf32>
  %r = tensor.extract_slice %e[0, 1] [3, 1] [1, 1] : tensor<3x16xf32> to tensor<3xf32>
  return %r : tensor<3xf32>
}
// CHECK-LABEL: func.func @dense_codes(
func.func @dense_codes(%x: tensor<3x4xf32>, %z: tensor<3x4xf32>, %p: tensor<1x3x4xf32>, %w: tensor<1xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) -> tensor<3x4xf32> {
  // CHECK: %[[F:.*]] = iam.clt.encode_sparse
  // CHECK: iam.clt.densify_adjoint %[[F]]
  %g = iam.attr.grad @metric(%x, %z) captures(%W, %b : tensor<4x16xf32>, tensor<16xf32>) along %p, %w : tensor<3x4xf32>, tensor<3x4xf32>, tensor<1x3x4xf32>, tensor<1xf32> -> tensor<3x4xf32>
  return %g : tensor<3x4xf32>
}

// -----

// add passes a cotangent on; what clamp and ablate leave is what ablating leaves.
func.func private @metric(%x: tensor<3x4xf32>, %v: tensor<4xf32>, %s: f32) -> tensor<3xf32> {
  %0 = iam.policy.steer add %x, %v, %s : tensor<3x4xf32>, tensor<4xf32>, f32
  %1 = iam.policy.steer clamp %0, %v, %s : tensor<3x4xf32>, tensor<4xf32>, f32
  %2 = iam.policy.steer ablate %1, %v, %s : tensor<3x4xf32>, tensor<4xf32>, f32
  %r = tensor.extract_slice %2[0, 1] [3, 1] [1, 1] : tensor<3x4xf32> to tensor<3xf32>
  return %r : tensor<3xf32>
}
// CHECK-LABEL: func.func @steers(
func.func @steers(%x: tensor<3x4xf32>, %z: tensor<3x4xf32>, %p: tensor<1x3x4xf32>, %w: tensor<1xf32>, %v: tensor<4xf32>, %s: f32) -> tensor<3x4xf32> {
  // CHECK-DAG: %[[ONE:.*]] = arith.constant 1.0{{.*}} : f32
  // CHECK: %[[A:.*]] = iam.policy.steer ablate %{{.*}}, %{{.*}}, %{{[a-z0-9]+}}
  // CHECK: iam.policy.steer ablate %[[A]], %{{.*}}, %[[ONE]]
  %g = iam.attr.grad @metric(%x, %z) captures(%v, %s : tensor<4xf32>, f32) along %p, %w : tensor<3x4xf32>, tensor<3x4xf32>, tensor<1x3x4xf32>, tensor<1xf32> -> tensor<3x4xf32>
  return %g : tensor<3x4xf32>
}

// -----

// A subspace projects cotangents, too; other sets look at where the point was.
func.func private @metric(%x: tensor<3x4xf32>, %v: tensor<4xf32>, %s: f32, %B: tensor<2x4xf32>) -> tensor<3xf32> {
  %0 = iam.policy.project subspace %x, %B : (tensor<3x4xf32>, tensor<2x4xf32>) -> tensor<3x4xf32>
  %1 = iam.policy.project halfspace %0, %v, %s : (tensor<3x4xf32>, tensor<4xf32>, f32) -> tensor<3x4xf32>
  %r = tensor.extract_slice %1[0, 1] [3, 1] [1, 1] : tensor<3x4xf32> to tensor<3xf32>
  return %r : tensor<3xf32>
}
// CHECK-LABEL: func.func @projections(
func.func @projections(%x: tensor<3x4xf32>, %z: tensor<3x4xf32>, %p: tensor<1x3x4xf32>, %w: tensor<1xf32>, %v: tensor<4xf32>, %s: f32, %B: tensor<2x4xf32>) -> tensor<3x4xf32> {
  // CHECK: %[[H:.*]] = iam.policy.project subspace
  // CHECK: %[[G:.*]] = iam.policy.project_adjoint halfspace
  // CHECK: iam.policy.project subspace %[[G]]
  %g = iam.attr.grad @metric(%x, %z) captures(%v, %s, %B : tensor<4xf32>, f32, tensor<2x4xf32>) along %p, %w : tensor<3x4xf32>, tensor<3x4xf32>, tensor<1x3x4xf32>, tensor<1xf32> -> tensor<3x4xf32>
  return %g : tensor<3x4xf32>
}

// -----

// Sums, differences, products and quotients of what depends on x.
func.func private @metric(%x: tensor<3x4xf32>) -> tensor<3xf32> {
  %0 = arith.negf %x : tensor<3x4xf32>
  %1 = arith.mulf %0, %x : tensor<3x4xf32>
  %2 = arith.divf %1, %x : tensor<3x4xf32>
  %3 = arith.subf %x, %2 : tensor<3x4xf32>
  %4 = arith.addf %3, %3 : tensor<3x4xf32>
  %r = tensor.extract_slice %4[0, 1] [3, 1] [1, 1] : tensor<3x4xf32> to tensor<3xf32>
  return %r : tensor<3xf32>
}
// CHECK-LABEL: func.func @arithmetic(
func.func @arithmetic(%x: tensor<3x4xf32>, %z: tensor<3x4xf32>, %p: tensor<1x3x4xf32>, %w: tensor<1xf32>) -> tensor<3x4xf32> {
  // CHECK: arith.divf
  // CHECK: arith.negf
  // CHECK: arith.mulf
  // CHECK: return
  %g = iam.attr.grad @metric(%x, %z) along %p, %w : tensor<3x4xf32>, tensor<3x4xf32>, tensor<1x3x4xf32>, tensor<1xf32> -> tensor<3x4xf32>
  return %g : tensor<3x4xf32>
}

// -----

// Casts and reshapes go back to what they came from.
func.func private @metric(%x: tensor<3x4xf32>) -> tensor<3xf32> {
  %0 = tensor.cast %x : tensor<3x4xf32> to tensor<?x4xf32>
  %1 = tensor.collapse_shape %0 [[0, 1]] : tensor<?x4xf32> into tensor<?xf32>
  %n = arith.constant 3 : index
  %2 = tensor.expand_shape %1 [[0, 1]] output_shape [%n, 4] : tensor<?xf32> into tensor<?x4xf32>
  %3 = tensor.cast %2 : tensor<?x4xf32> to tensor<3x4xf32>
  %4 = arith.mulf %3, %3 : tensor<3x4xf32>
  %r = tensor.extract_slice %4[0, 1] [3, 1] [1, 1] : tensor<3x4xf32> to tensor<3xf32>
  return %r : tensor<3xf32>
}
// CHECK-LABEL: func.func @shapes(
func.func @shapes(%x: tensor<3x4xf32>, %z: tensor<3x4xf32>, %p: tensor<1x3x4xf32>, %w: tensor<1xf32>) -> tensor<3x4xf32> {
  // CHECK: arith.mulf
  // CHECK: iam.attr.check
  %g = iam.attr.grad @metric(%x, %z) along %p, %w : tensor<3x4xf32>, tensor<3x4xf32>, tensor<1x3x4xf32>, tensor<1xf32> -> tensor<3x4xf32>
  return %g : tensor<3x4xf32>
}

// -----

// A single activation, and one number.
func.func private @metric(%x: tensor<4xf32>) -> f32 {
  %0 = arith.mulf %x, %x : tensor<4xf32>
  %n = arith.constant 2 : index
  %r = tensor.extract %0[%n] : tensor<4xf32>
  return %r : f32
}
// CHECK-LABEL: func.func @one_row(
func.func @one_row(%x: tensor<4xf32>, %z: tensor<4xf32>, %p: tensor<1x4xf32>, %w: tensor<1xf32>) -> tensor<4xf32> {
  // CHECK: %[[M:.*]] = tensor.expand_shape %{{.*}} {{\[}}[0, 1]] output_shape [1, 4]
  // CHECK: iam.attr.check %[[M]]
  %g = iam.attr.grad @metric(%x, %z) along %p, %w : tensor<4xf32>, tensor<4xf32>, tensor<1x4xf32>, tensor<1xf32> -> tensor<4xf32>
  return %g : tensor<4xf32>
}

// -----

// Batches of rows are rows to the check.
func.func private @metric(%x: tensor<2x3x4xf32>) -> tensor<24xf32> {
  %0 = arith.mulf %x, %x : tensor<2x3x4xf32>
  %1 = tensor.collapse_shape %0 [[0, 1, 2]] : tensor<2x3x4xf32> into tensor<24xf32>
  return %1 : tensor<24xf32>
}
// CHECK-LABEL: func.func @three_axes(
func.func @three_axes(%x: tensor<2x3x4xf32>, %z: tensor<2x3x4xf32>, %p: tensor<1x2x3x4xf32>, %w: tensor<1xf32>) -> tensor<2x3x4xf32> {
  // CHECK: %[[M:.*]] = tensor.collapse_shape %{{.*}} into tensor<6x4xf32>
  // CHECK: iam.attr.check %[[M]]
  %g = iam.attr.grad @metric(%x, %z) along %p, %w : tensor<2x3x4xf32>, tensor<2x3x4xf32>, tensor<1x2x3x4xf32>, tensor<1xf32> -> tensor<2x3x4xf32>
  return %g : tensor<2x3x4xf32>
}
