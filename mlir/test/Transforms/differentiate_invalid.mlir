// What has no derivative is an error at the op, and at the attribution that asks for it.
// RUN: iam-opt %s --iam-differentiate --split-input-file --verify-diagnostics

func.func private @external(tensor<?x4xf32>) -> tensor<?xf32>
func.func @no_body(%x: tensor<?x4xf32>, %p: tensor<1x?x4xf32>, %w: tensor<1xf32>) -> tensor<?x4xf32> {
  // expected-error @below {{'iam.attr.grad' op expected @external to have a body to differentiate}}
  %a = iam.attr.grad @external(%x, %x) along %p, %w : tensor<?x4xf32>, tensor<?x4xf32>, tensor<1x?x4xf32>, tensor<1xf32> -> tensor<?x4xf32>
  return %a : tensor<?x4xf32>
}

// -----

func.func private @pursuit(%x: tensor<?x4xf32>, %D: tensor<16x4xf32>) -> tensor<?xf32> {
  %zero = arith.constant 0 : index
  %rows = tensor.dim %x, %zero : tensor<?x4xf32>
  // expected-error @below {{'iam.clt.matching_pursuit' op has no derivative in compiled programs: each coefficient depends on the features chosen before it}}
  %f = iam.clt.matching_pursuit %x, %D residual_threshold = 0.0 max_iterations = 3 : (tensor<?x4xf32>, tensor<16x4xf32>) -> !iam.features<?x16xf32>
  %y = iam.clt.decode %f, %D : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %c = tensor.extract_slice %y[0, 2] [%rows, 1] [1, 1] : tensor<?x4xf32> to tensor<?xf32>
  return %c : tensor<?xf32>
}
func.func @matching_pursuit(%x: tensor<?x4xf32>, %p: tensor<1x?x4xf32>, %w: tensor<1xf32>, %D: tensor<16x4xf32>) -> tensor<?x4xf32> {
  // expected-error @below {{is where the derivative of @pursuit is asked for}}
  %a = iam.attr.grad @pursuit(%x, %x) captures(%D : tensor<16x4xf32>) along %p, %w : tensor<?x4xf32>, tensor<?x4xf32>, tensor<1x?x4xf32>, tensor<1xf32> -> tensor<?x4xf32>
  return %a : tensor<?x4xf32>
}

// -----

func.func private @margin(%x: tensor<?x4xf32>, %v: tensor<4xf32>, %s: f32) -> tensor<?xf32> {
  // expected-error @below {{'iam.policy.verify' op has no derivative in compiled programs: its margins are a check}}
  %m = iam.policy.verify ball %x, %v, %s message "small" : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
  return %m : tensor<?xf32>
}
func.func @verify(%x: tensor<?x4xf32>, %p: tensor<1x?x4xf32>, %w: tensor<1xf32>, %v: tensor<4xf32>, %s: f32) -> tensor<?x4xf32> {
  // expected-error @below {{is where the derivative of @margin is asked for}}
  %a = iam.attr.grad @margin(%x, %x) captures(%v, %s : tensor<4xf32>, f32) along %p, %w : tensor<?x4xf32>, tensor<?x4xf32>, tensor<1x?x4xf32>, tensor<1xf32> -> tensor<?x4xf32>
  return %a : tensor<?x4xf32>
}

// -----

func.func private @branches(%x: tensor<?xf32>, %c: i1) -> tensor<?xf32> {
  // expected-error @below {{'scf.if' op has no derivative in compiled programs: control flow has none yet}}
  %y = scf.if %c -> tensor<?xf32> {
    %n = arith.negf %x : tensor<?xf32>
    scf.yield %n : tensor<?xf32>
  } else {
    scf.yield %x : tensor<?xf32>
  }
  return %y : tensor<?xf32>
}
func.func @control_flow(%x: tensor<?xf32>, %p: tensor<1x?xf32>, %w: tensor<1xf32>, %c: i1) -> tensor<?xf32> {
  // expected-error @below {{is where the derivative of @branches is asked for}}
  %a = iam.attr.grad @branches(%x, %x) captures(%c : i1) along %p, %w : tensor<?xf32>, tensor<?xf32>, tensor<1x?xf32>, tensor<1xf32> -> tensor<?xf32>
  return %a : tensor<?xf32>
}

// -----

func.func private @root(%x: tensor<?xf32>) -> tensor<?xf32> {
  // expected-error @below {{'math.sqrt' op has no derivative in compiled programs: no rule is known for it}}
  %y = math.sqrt %x : tensor<?xf32>
  return %y : tensor<?xf32>
}
func.func @other_dialects(%x: tensor<?xf32>, %p: tensor<1x?xf32>, %w: tensor<1xf32>) -> tensor<?xf32> {
  // expected-error @below {{is where the derivative of @root is asked for}}
  %a = iam.attr.grad @root(%x, %x) along %p, %w : tensor<?xf32>, tensor<?xf32>, tensor<1x?xf32>, tensor<1xf32> -> tensor<?xf32>
  return %a : tensor<?xf32>
}

// -----

func.func private @vector(%v: tensor<4xf32>, %h: tensor<2x4xf32>, %s: f32) -> tensor<2xf32> {
  // expected-error @below {{'iam.policy.steer' op has no derivative in compiled programs: its weights, directions and bounds must not depend on what is differentiated}}
  %y = iam.policy.steer add %h, %v, %s : tensor<2x4xf32>, tensor<4xf32>, f32
  %c = tensor.extract_slice %y[0, 2] [2, 1] [1, 1] : tensor<2x4xf32> to tensor<2xf32>
  return %c : tensor<2xf32>
}
func.func @direction(%v: tensor<4xf32>, %p: tensor<1x4xf32>, %w: tensor<1xf32>, %h: tensor<2x4xf32>, %s: f32) -> tensor<4xf32> {
  // expected-error @below {{is where the derivative of @vector is asked for}}
  %a = iam.attr.grad @vector(%v, %v) captures(%h, %s : tensor<2x4xf32>, f32) along %p, %w : tensor<4xf32>, tensor<4xf32>, tensor<1x4xf32>, tensor<1xf32> -> tensor<4xf32>
  return %a : tensor<4xf32>
}

// -----

// Rows that meet each other go one point at a time.
func.func private @batch(%x: tensor<?x16xf32>) -> tensor<?xf32> {
  %zero = arith.constant 0 : index
  %rows = tensor.dim %x, %zero : tensor<?x16xf32>
  %f = iam.clt.batch_topk %x, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32>
  %d = iam.clt.densify %f : !iam.features<?x16xf32> -> tensor<?x16xf32>
  %c = tensor.extract_slice %d[0, 3] [%rows, 1] [1, 1] : tensor<?x16xf32> to tensor<?xf32>
  return %c : tensor<?xf32>
}
func.func @one_by_one(%x: tensor<?x16xf32>, %p: tensor<3x?x16xf32>, %w: tensor<3xf32>) -> tensor<?x16xf32> {
  // expected-remark @below {{differentiates @batch one point at a time: batch_topk compares the rows of a batch}}
  %a = iam.attr.grad @batch(%x, %x) along %p, %w : tensor<?x16xf32>, tensor<?x16xf32>, tensor<3x?x16xf32>, tensor<3xf32> -> tensor<?x16xf32>
  return %a : tensor<?x16xf32>
}
