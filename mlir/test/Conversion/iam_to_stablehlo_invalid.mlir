// What has no StableHLO form is an error at the op; every such op is reported.
// RUN: iam-opt %s --iam-to-stablehlo --split-input-file --verify-diagnostics

func.func @assertions_and_gradients(%h: tensor<?x4xf32>, %v: tensor<4xf32>, %r: f32) -> tensor<?x4xf32> {
  // expected-error @below {{'iam.policy.verify' op has no StableHLO form: StableHLO has no assertions, and dropping one would be silent; verify the result outside of the exported program}}
  %m = iam.policy.verify halfspace %h, %v, %r message "bounded" : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
  // expected-error @below {{'math.exp' op has no StableHLO form here; iam-to-stablehlo takes iam ops, elementwise arith, splats, fills, broadcasts and linalg.matmul}}
  %e = math.exp %h : tensor<?x4xf32>
  return %e : tensor<?x4xf32>
}

// -----

// expected-error @below {{'func.func' op has no StableHLO form: it has no body}}
func.func private @logit(tensor<?x4xf32>) -> tensor<?xf32>
func.func @grad(%x: tensor<?x4xf32>, %p: tensor<20x?x4xf32>, %w: tensor<20xf32>) -> tensor<?x4xf32> {
  // expected-error @below {{'iam.attr.grad' op has no StableHLO form: StableHLO has no gradients; differentiate the exported function instead (program.to_jax() and jax.grad)}}
  %0 = iam.attr.grad @logit(%x, %x) along %p, %w : tensor<?x4xf32>, tensor<?x4xf32>, tensor<20x?x4xf32>, tensor<20xf32> -> tensor<?x4xf32>
  return %0 : tensor<?x4xf32>
}

// -----

func.func @batch_topk_of_open_rows(%pre: tensor<?x16xf32>) -> !iam.features<?x16xf32> {
  // expected-error @below {{'iam.clt.batch_topk' op has no StableHLO form: it keeps k times the number of rows, which has to be known; set the option `rows`}}
  %f = iam.clt.batch_topk %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// -----

func.func @batch_topk_of_too_many(%pre: tensor<300000x8192xf32>) -> !iam.features<300000x8192xf32> {
  // expected-error @below {{'iam.clt.batch_topk' op has no StableHLO form: positions in 300000 rows of 8192 features do not fit 32 bits; give it fewer rows}}
  %f = iam.clt.batch_topk %pre, k = 2 : tensor<300000x8192xf32> -> !iam.features<300000x8192xf32>
  return %f : !iam.features<300000x8192xf32>
}

// -----

func.func @decode_of_open_width(%f: !iam.features<?x16xf32, k = 2>, %W: tensor<16x?xf32>) -> tensor<?x?xf32> {
  // expected-error @below {{'iam.clt.decode' op has no StableHLO form: the width of W_dec has to be known}}
  %y = iam.clt.decode %f, %W : (!iam.features<?x16xf32, k = 2>, tensor<16x?xf32>) -> tensor<?x?xf32>
  return %y : tensor<?x?xf32>
}

// -----

func.func @unrolled_over_open_numbers(%v: tensor<?x4xf32>, %s: tensor<?xf32>, %h: tensor<2x4xf32>) -> tensor<2x4xf32> {
  // expected-error @below {{'iam.policy.compose' op has no StableHLO form: the number and the size of the directions have to be known}}
  %0 = iam.policy.compose orthogonal %v, %s : tensor<?x4xf32>, tensor<?xf32> -> tensor<4xf32>
  // expected-error @below {{'iam.policy.project' op has no StableHLO form: the number and the size of the basis vectors have to be known}}
  %1 = iam.policy.project subspace %h, %v : (tensor<2x4xf32>, tensor<?x4xf32>) -> tensor<2x4xf32>
  return %1 : tensor<2x4xf32>
}

// -----

// expected-error @below {{'func.func' op has no StableHLO form: it has several blocks}}
func.func @control_flow(%c: i1, %x: tensor<4xf32>) -> tensor<4xf32> {
  cf.br ^bb1
^bb1:
  return %x : tensor<4xf32>
}

// -----

// expected-error @below {{'func.func' op has no StableHLO form: argument 0 has type 'memref<4xf32>'}}
func.func @memory(%m: memref<4xf32>) {
  return
}

// -----

func.func @around(%x: tensor<?x4xf32>, %i: tensor<4x4xf32>, %s: f32) -> tensor<?x4xf32> {
  %e = tensor.empty() : tensor<4x4xf32>
  // expected-error @below {{'linalg.matmul' op has no StableHLO form: it accumulates into an empty tensor}}
  %0 = linalg.matmul ins(%i, %i : tensor<4x4xf32>, tensor<4x4xf32>) outs(%e : tensor<4x4xf32>) -> tensor<4x4xf32>
  // expected-error @below {{'tensor.from_elements' op has no StableHLO form here for more than one dimension}}
  %1 = tensor.from_elements %s, %s : tensor<1x2xf32>
  // expected-error @below {{'arith.constant' op has no StableHLO form: its elements are not in the program}}
  %2 = arith.constant dense_resource<weights> : tensor<4xf32>
  return %x : tensor<?x4xf32>
}

// -----

func.func @sizes_of_weights(%pre: tensor<2x?xf32>, %x: tensor<2x4xf32>, %W: tensor<?x4xf32>) -> tensor<2x4xf32> {
  // expected-error @below {{'iam.clt.groupmax' op has no StableHLO form: the number of features has to be known}}
  %f = iam.clt.groupmax %pre, k = 2 : tensor<2x?xf32> -> !iam.features<2x16xf32, k = 2>
  // expected-error @below {{'iam.clt.matching_pursuit' op has no StableHLO form: the sizes of W_dec have to be known}}
  %g = iam.clt.matching_pursuit %x, %W residual_threshold = 0.0 max_iterations = 4
      : (tensor<2x4xf32>, tensor<?x4xf32>) -> !iam.features<2x16xf32>
  return %x : tensor<2x4xf32>
}

// -----

func.func @too_many_steps(%x: tensor<2x4xf32>, %W: tensor<16x4xf32>) -> !iam.features<2x16xf32> {
  // expected-error @below {{'iam.clt.matching_pursuit' op has no StableHLO form: max_iterations has to fit 32 bits, got 4294967296}}
  %g = iam.clt.matching_pursuit %x, %W residual_threshold = 0.0 max_iterations = 4294967296
      : (tensor<2x4xf32>, tensor<16x4xf32>) -> !iam.features<2x16xf32>
  return %g : !iam.features<2x16xf32>
}

// -----

func.func @no_such_dimension(%x: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %axis = arith.constant -9223372036854775808 : index
  // expected-error @below {{'tensor.dim' op has no StableHLO form: there is no dimension -9223372036854775808}}
  %n = tensor.dim %x, %axis : tensor<?x4xf32>
  %two = arith.constant 2.0 : f32
  %t = tensor.splat %two[%n] : tensor<?x4xf32>
  return %t : tensor<?x4xf32>
}

// -----

func.func @adjoint_of_decode(%f: !iam.features<3x16xf32, k = 2>, %W: tensor<16x4xf32>, %dy: tensor<3x4xf32>) -> !iam.features<3x16xf32, k = 2> {
  // expected-error @below {{'iam.clt.decode_adjoint' op has no StableHLO form: it is made for compiled programs; differentiate the exported function instead}}
  %df = iam.clt.decode_adjoint %f, %W, %dy : !iam.features<3x16xf32, k = 2>, tensor<16x4xf32>, tensor<3x4xf32>
  return %df : !iam.features<3x16xf32, k = 2>
}

// -----

func.func @adjoint_of_densify(%f: !iam.features<3x16xf32, k = 2>, %dd: tensor<3x1xf32>) -> !iam.features<3x16xf32, k = 2> {
  // expected-error @below {{'iam.clt.densify_adjoint' op has no StableHLO form: it is made for compiled programs; differentiate the exported function instead}}
  %df = iam.clt.densify_adjoint %f, %dd columns [3] : !iam.features<3x16xf32, k = 2>, tensor<3x1xf32>
  return %df : !iam.features<3x16xf32, k = 2>
}

// -----

func.func @adjoint_of_edit(%f: !iam.features<3x16xf32, k = 2>, %dg: !iam.features<3x16xf32, k = 2>) -> !iam.features<3x16xf32, k = 2> {
  // expected-error @below {{'iam.clt.edit_adjoint' op has no StableHLO form: it is made for compiled programs; differentiate the exported function instead}}
  %df = iam.clt.edit_adjoint ablate %f, %dg features [7] : (!iam.features<3x16xf32, k = 2>, !iam.features<3x16xf32, k = 2>) -> !iam.features<3x16xf32, k = 2>
  return %df : !iam.features<3x16xf32, k = 2>
}

// -----

func.func @adjoint_of_projection(%h: tensor<3x4xf32>, %dy: tensor<3x4xf32>, %v: tensor<4xf32>, %s: f32) -> tensor<3x4xf32> {
  // expected-error @below {{'iam.policy.project_adjoint' op has no StableHLO form: it is made for compiled programs; differentiate the exported function instead}}
  %dh = iam.policy.project_adjoint ball %h, %dy, %v, %s : (tensor<3x4xf32>, tensor<3x4xf32>, tensor<4xf32>, f32) -> tensor<3x4xf32>
  return %dh : tensor<3x4xf32>
}

// -----

func.func @check_of_gradients(%g: tensor<3x4xf32>) {
  %first = arith.constant 0 : index
  // expected-error @below {{'iam.attr.check' op has no StableHLO form: it is made for compiled programs; differentiate the exported function instead}}
  iam.attr.check %g, %first points 1 : tensor<3x4xf32>
  return
}

// -----

func.func @sequence(%h: tensor<3x4xf32>, %v: tensor<2x4xf32>, %s: tensor<2xf32>) -> tensor<3x4xf32> {
  // expected-error @below {{'iam.policy.sequence' op has no StableHLO form: it is made for compiled programs; export the single steps}}
  %0 = iam.policy.sequence add, ablate %h, %v, %s : tensor<3x4xf32>, tensor<2x4xf32>, tensor<2xf32>
  return %0 : tensor<3x4xf32>
}

// -----

// expected-error @below {{'func.func' op has no StableHLO form: argument 0 has type '!iam.model', a model that stays in Python; export what comes before and after it}}
func.func @run(%m: !iam.model) -> tensor<?x4xf32> {
  %h = iam.model.run %m to "resid_post.2" : (!iam.model) -> tensor<?x4xf32>
  return %h : tensor<?x4xf32>
}
