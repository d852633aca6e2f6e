// iam-differentiate: the sum over a path, and the derivative of each op.
// RUN: iam-opt %s --iam-differentiate --canonicalize --cse --split-input-file 2>/dev/null | FileCheck %s

// 20 points, 8 at a time: two rounds of a loop, and the 4 that are left. The transpose is made once.
func.func private @metric(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>, %v: tensor<4xf32>, %s: f32) -> tensor<?xf32> {
  %zero = arith.constant 0 : index
  %rows = tensor.dim %x, %zero : tensor<?x4xf32>
  %f = iam.clt.encode_sparse topk %x, %W, %b k = 3 : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32, k = 3>
  %y = iam.clt.decode %f, %D : (!iam.features<?x16xf32, k = 3>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %h = iam.policy.steer ablate %y, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %c = tensor.extract_slice %h[0, 2] [%rows, 1] [1, 1] : tensor<?x4xf32> to tensor<?xf32>
  return %c : tensor<?xf32>
}
// CHECK-LABEL: func.func @coder
// CHECK-SAME: %[[X:[^:]*]]: tensor<?x4xf32>, %{{[^:]*}}: tensor<?x4xf32>, %[[W:[^:]*]]: tensor<4x16xf32>, %{{[^:]*}}: tensor<16xf32>, %[[D:[^:]*]]: tensor<16x4xf32>, %[[V:[^:]*]]: tensor<4xf32>, %[[S:[^:]*]]: f32
func.func @coder(%x: tensor<?x4xf32>, %x0: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %D: tensor<16x4xf32>, %v: tensor<4xf32>, %s: f32) -> tensor<?x4xf32> {
  // CHECK: %[[WT:.*]] = linalg.transpose ins(%[[W]] : tensor<4x16xf32>)
  // CHECK-NOT: linalg.transpose
  // CHECK: scf.for %{{.*}} = %c0 to %c16 step %c8 iter_args(%[[SUM:.*]] = %{{.*}}) -> (tensor<?x4xf64>)
  // CHECK: %[[F:.*]] = iam.clt.encode_sparse topk
  // CHECK: tensor.insert_slice
  // CHECK: %[[DY:.*]] = iam.policy.steer ablate %{{.*}}, %[[V]], %[[S]]
  // CHECK: %[[DF:.*]] = iam.clt.decode_adjoint %[[F]], %[[D]], %[[DY]]
  // CHECK: %[[DX:.*]] = iam.clt.decode %[[DF]], %[[WT]]
  // CHECK: iam.attr.check %[[DX]], %{{.*}} points 8
  // CHECK: linalg.generic {{.*}} iterator_types = ["reduction", "parallel", "parallel"]} {{.*}} outs(%[[SUM]] : tensor<?x4xf64>)
  // CHECK: scf.yield
  // CHECK: iam.attr.check %{{.*}}, %c16 points 4
  // CHECK: arith.truncf
  %p, %w = iam.attr.path gauss_legendre %x, %x0, steps = 20 : tensor<?x4xf32>, tensor<?x4xf32> -> tensor<20x?x4xf32>, tensor<20xf32>
  %a = iam.attr.grad @metric(%x, %x0) captures(%W, %b, %D, %v, %s : tensor<4x16xf32>, tensor<16xf32>, tensor<16x4xf32>, tensor<4xf32>, f32) along %p, %w
      : tensor<?x4xf32>, tensor<?x4xf32>, tensor<20x?x4xf32>, tensor<20xf32> -> tensor<?x4xf32>
  return %a : tensor<?x4xf32>
}

// -----

// A part of a model runs once with its tape, and is pulled back.
func.func private @logit(%h: tensor<?x8xf32>, %m: !iam.model) -> tensor<?xf32> {
  %zero = arith.constant 0 : index
  %l = iam.model.run %m, %h from "resid_post.2" to "logits" tokens [5, 7] : (!iam.model, tensor<?x8xf32>) -> tensor<?x2xf32>
  %rows = tensor.dim %l, %zero : tensor<?x2xf32>
  %c = tensor.extract_slice %l[0, 1] [%rows, 1] [1, 1] : tensor<?x2xf32> to tensor<?xf32>
  return %c : tensor<?xf32>
}
// CHECK-LABEL: func.func @model
// CHECK-SAME: %[[M:.*]]: !iam.model
func.func @model(%m: !iam.model) -> tensor<?x8xf32> {
  // CHECK: iam.model.run %[[M]] to "resid_post.2"
  // CHECK-NOT: iam.model.run
  // CHECK: %[[Y:.*]], %[[TAPE:.*]] = iam.model.linearize %[[M]], %{{.*}} from "resid_post.2" to "logits" tokens [5, 7]
  // CHECK: iam.model.pullback %[[TAPE]], %{{.*}} : (!iam.tape, tensor<?x2xf32>) -> tensor<?x8xf32>
  %h = iam.model.run %m to "resid_post.2" : (!iam.model) -> tensor<?x8xf32>
  %zero = arith.subf %h, %h : tensor<?x8xf32>
  %p, %w = iam.attr.path midpoint %h, %zero, steps = 4 : tensor<?x8xf32>, tensor<?x8xf32> -> tensor<4x?x8xf32>, tensor<4xf32>
  %a = iam.attr.grad @logit(%h, %zero) captures(%m : !iam.model) along %p, %w : tensor<?x8xf32>, tensor<?x8xf32>, tensor<4x?x8xf32>, tensor<4xf32> -> tensor<?x8xf32>
  return %a : tensor<?x8xf32>
}

// -----

// Nothing of the size of the dictionary: a column of dense features, an edit, a difference.
func.func private @features(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %a: tensor<1xf32>) -> tensor<?xf32> {
  %zero = arith.constant 0 : index
  %rows = tensor.dim %x, %zero : tensor<?x4xf32>
  %f = iam.clt.encode_sparse relu %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  %g = iam.clt.edit scale %f features [3] by %a : (!iam.features<?x16xf32>, tensor<1xf32>) -> !iam.features<?x16xf32>
  %d = iam.clt.sub %g, %f : !iam.features<?x16xf32>, !iam.features<?x16xf32> -> !iam.features<?x16xf32>
  %dense = iam.clt.densify %d : !iam.features<?x16xf32> -> tensor<?x16xf32>
  %c = tensor.extract_slice %dense[0, 3] [%rows, 1] [1, 1] : tensor<?x16xf32> to tensor<?xf32>
  return %c : tensor<?xf32>
}
// CHECK-LABEL: func.func @column
func.func @column(%x: tensor<?x4xf32>, %x0: tensor<?x4xf32>, %p: tensor<1x?x4xf32>, %w: tensor<1xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %a: tensor<1xf32>) -> tensor<?x4xf32> {
  // CHECK: %[[F:.*]] = iam.clt.encode_sparse relu
  // CHECK: %[[G:.*]] = iam.clt.edit scale %[[F]]
  // CHECK: %[[D:.*]] = iam.clt.sub %[[G]], %[[F]]
  // CHECK: tensor.extract_slice %{{.*}} : tensor<?x16xf32> to tensor<?xf32>
  // CHECK-NOT: tensor<?x16xf32>
  // Where the two cancel, the difference has no entry: the derivatives are those of its parts.
  // CHECK-DAG: %[[DG:.*]] = iam.clt.densify_adjoint %[[G]], %{{.*}} columns [3] : !iam.features<?x16xf32>, tensor<?x1xf32>
  // CHECK-DAG: iam.clt.densify_adjoint %[[F]], %{{.*}} columns [3] : !iam.features<?x16xf32>, tensor<?x1xf32>
  // CHECK-DAG: iam.clt.edit_adjoint scale %[[F]], %[[DG]] features [3] by
  // CHECK: return
  %r = iam.attr.grad @features(%x, %x0) captures(%W, %b, %a : tensor<4x16xf32>, tensor<16xf32>, tensor<1xf32>) along %p, %w
      : tensor<?x4xf32>, tensor<?x4xf32>, tensor<1x?x4xf32>, tensor<1xf32> -> tensor<?x4xf32>
  return %r : tensor<?x4xf32>
}

// -----

// A fused gate: the gradient goes through the encoder of the magnitude, the second one.
func.func private @gated(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %V: tensor<4x16xf32>, %b: tensor<16xf32>) -> tensor<?xf32> {
  %zero = arith.constant 0 : index
  %rows = tensor.dim %x, %zero : tensor<?x4xf32>
  %f = iam.clt.encode_sparse gate %x, %W, %b magnitude %V, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  %dense = iam.clt.densify %f : !iam.features<?x16xf32> -> tensor<?x16xf32>
  %c = tensor.extract_slice %dense[0, 3] [%rows, 1] [1, 1] : tensor<?x16xf32> to tensor<?xf32>
  return %c : tensor<?xf32>
}
// CHECK-LABEL: func.func @gated_column
// CHECK-SAME: %[[W:[^:]*]]: tensor<4x16xf32>, %[[V:[^:]*]]: tensor<4x16xf32>, %{{[^:]*}}: tensor<16xf32>)
func.func @gated_column(%x: tensor<?x4xf32>, %x0: tensor<?x4xf32>, %p: tensor<1x?x4xf32>, %w: tensor<1xf32>, %W: tensor<4x16xf32>, %V: tensor<4x16xf32>, %b: tensor<16xf32>) -> tensor<?x4xf32> {
  // CHECK: %[[T:.*]] = linalg.transpose ins(%[[V]] :
  // CHECK: %[[F:.*]] = iam.clt.encode_sparse gate
  // CHECK: %[[D:.*]] = iam.clt.densify_adjoint %[[F]]
  // CHECK: iam.clt.decode %[[D]], %[[T]]
  // CHECK: return
  %r = iam.attr.grad @gated(%x, %x0) captures(%W, %V, %b : tensor<4x16xf32>, tensor<4x16xf32>, tensor<16xf32>) along %p, %w
      : tensor<?x4xf32>, tensor<?x4xf32>, tensor<1x?x4xf32>, tensor<1xf32> -> tensor<?x4xf32>
  return %r : tensor<?x4xf32>
}
