// RUN: iam-opt %s --iam-to-runtime --split-input-file --verify-diagnostics

// expected-note @below {{the module already defines this name}}
func.func private @iam_rt_topk(tensor<?xf32>)
func.func @name_is_taken_by_another_function(%pre: tensor<?x16xf32>) -> !iam.features<?x16xf32, k = 2> {
  // expected-error @below {{'iam.clt.topk' op expected @iam_rt_topk to be the runtime's function of type '(memref<?x?xf32, strided<[?, ?], offset: ?>>, memref<?x?xf32, strided<[?, ?], offset: ?>>, memref<?x?xi32, strided<[?, ?], offset: ?>>) -> ()'}}
  // expected-error @below {{failed to legalize operation 'iam.clt.topk'}}
  %f = iam.clt.topk %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  return %f : !iam.features<?x16xf32, k = 2>
}

// -----

// expected-note @below {{the module already defines this name}}
memref.global "private" @iam_rt_threshold : memref<2xf32>
func.func @name_is_taken_by_another_symbol(%pre: tensor<?x16xf32>) -> !iam.features<?x16xf32> {
  // expected-error @below {{'iam.clt.relu' op expected @iam_rt_threshold to be the runtime's function}}
  // expected-error @below {{failed to legalize operation 'iam.clt.relu'}}
  %f = iam.clt.relu %pre : tensor<?x16xf32> -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// -----

// A declaration of the right type is taken as it is.
func.func private @iam_rt_gate(memref<?x?xf32, strided<[?, ?], offset: ?>>, memref<?x?xf32, strided<[?, ?], offset: ?>>)
    -> (memref<?xf32>, memref<?xi32>, memref<?xi64>) attributes {llvm.emit_c_interface}
func.func @name_is_declared(%g: tensor<?x16xf32>, %m: tensor<?x16xf32>) -> !iam.features<?x16xf32> {
  %f = iam.clt.gate %g, %m : tensor<?x16xf32>, tensor<?x16xf32> -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// -----

func.func @path(%x: tensor<?x4xf32>) -> tensor<20xf32> {
  // expected-error @below {{'iam.attr.path' op is lowered by iam-to-linalg, which has to run before this pass}}
  %p, %w = iam.attr.path gauss_legendre %x, %x, steps = 20 : tensor<?x4xf32>, tensor<?x4xf32> -> tensor<20x?x4xf32>, tensor<20xf32>
  return %w : tensor<20xf32>
}

// -----

func.func private @logit(tensor<?x4xf32>) -> f32
func.func @grad(%x: tensor<?x4xf32>, %b: tensor<?x4xf32>, %p: tensor<20x?x4xf32>, %w: tensor<20xf32>) -> tensor<?x4xf32> {
  // expected-error @below {{'iam.attr.grad' op is written out by iam-differentiate, which has to run before this pass}}
  %0 = iam.attr.grad @logit(%x, %b) along %p, %w : tensor<?x4xf32>, tensor<?x4xf32>, tensor<20x?x4xf32>, tensor<20xf32> -> tensor<?x4xf32>
  return %0 : tensor<?x4xf32>
}

// -----

func.func @circuit(%f: tensor<5xf32>, %W_dec: tensor<5x4xf32>, %W_enc: tensor<4x3xf32>) -> tensor<5x3xf32> {
  // expected-error @below {{'iam.attr.circuit' op is not lowered yet}}
  %0 = iam.attr.circuit %f, %W_dec, %W_enc : (tensor<5xf32>, tensor<5x4xf32>, tensor<4x3xf32>) -> tensor<5x3xf32>
  return %0 : tensor<5x3xf32>
}

// -----

// Every such op is reported, not the first alone.
func.func @path_and_circuit(%x: tensor<?x4xf32>, %f: tensor<5xf32>, %W_dec: tensor<5x4xf32>, %W_enc: tensor<4x3xf32>) -> (tensor<20xf32>, tensor<5x3xf32>) {
  // expected-error @below {{'iam.attr.path' op is lowered by iam-to-linalg}}
  %p, %w = iam.attr.path gauss_legendre %x, %x, steps = 20 : tensor<?x4xf32>, tensor<?x4xf32> -> tensor<20x?x4xf32>, tensor<20xf32>
  // expected-error @below {{'iam.attr.circuit' op is not lowered yet}}
  %0 = iam.attr.circuit %f, %W_dec, %W_enc : (tensor<5xf32>, tensor<5x4xf32>, tensor<4x3xf32>) -> tensor<5x3xf32>
  return %w, %0 : tensor<20xf32>, tensor<5x3xf32>
}
