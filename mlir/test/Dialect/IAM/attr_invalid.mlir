// One test for each message of a verifier; what ODS checks is not tested.
// RUN: iam-opt %s --split-input-file --verify-diagnostics

func.func @attr_path_c2_shapes(%x: tensor<4xf32>, %b: tensor<5xf32>) {
  // expected-error @below {{'iam.attr.path' op expected x and baseline of one shape, got 'tensor<4xf32>' and 'tensor<5xf32>'}}
  %p, %w = iam.attr.path left %x, %b, steps = 3 : tensor<4xf32>, tensor<5xf32> -> tensor<3x4xf32>, tensor<3xf32>
  return
}

// -----

func.func @attr_path_c3_trapezoid_of_one_step(%x: tensor<4xf32>, %b: tensor<4xf32>) {
  // expected-error @below {{'iam.attr.path' op expected steps >= 2 for rule trapezoid, got 1}}
  %p, %w = iam.attr.path trapezoid %x, %b, steps = 1 : tensor<4xf32>, tensor<4xf32> -> tensor<1x4xf32>, tensor<1xf32>
  return
}

// -----

func.func @attr_path_c4_points(%x: tensor<4xf32>, %b: tensor<4xf32>) {
  // expected-error @below {{'iam.attr.path' op expected points of type 'tensor<3x4xf32>', got 'tensor<2x4xf32>'}}
  %p, %w = iam.attr.path left %x, %b, steps = 3 : tensor<4xf32>, tensor<4xf32> -> tensor<2x4xf32>, tensor<3xf32>
  return
}

// -----

func.func @attr_path_c5_weights(%x: tensor<4xf32>, %b: tensor<4xf32>) {
  // expected-error @below {{'iam.attr.path' op expected the number of weights to be steps (3), got 2}}
  %p, %w = iam.attr.path left %x, %b, steps = 3 : tensor<4xf32>, tensor<4xf32> -> tensor<3x4xf32>, tensor<2xf32>
  return
}

// -----

func.func private @f(tensor<?x4xf32>) -> tensor<?xf32>
func.func @attr_grad_c1_shapes(%x: tensor<?x4xf32>, %b: tensor<?x5xf32>, %p: tensor<9x?x4xf32>, %w: tensor<9xf32>) {
  // expected-error @below {{'iam.attr.grad' op expected x and baseline of one shape, got 'tensor<?x4xf32>' and 'tensor<?x5xf32>'}}
  %0 = iam.attr.grad @f(%x, %b) along %p, %w : tensor<?x4xf32>, tensor<?x5xf32>, tensor<9x?x4xf32>, tensor<9xf32> -> tensor<?x4xf32>
  return
}

// -----

func.func private @f(tensor<?x4xf32>) -> tensor<?xf32>
func.func @attr_grad_c2_points(%x: tensor<?x4xf32>, %b: tensor<?x4xf32>, %p: tensor<9x?x5xf32>, %w: tensor<9xf32>) {
  // expected-error @below {{'iam.attr.grad' op expected points of type 'tensor<9x?x4xf32>', got 'tensor<9x?x5xf32>'}}
  %0 = iam.attr.grad @f(%x, %b) along %p, %w : tensor<?x4xf32>, tensor<?x4xf32>, tensor<9x?x5xf32>, tensor<9xf32> -> tensor<?x4xf32>
  return
}

// -----

func.func private @f(tensor<?x4xf32>) -> tensor<?xf32>
func.func @attr_grad_c3_weights(%x: tensor<?x4xf32>, %b: tensor<?x4xf32>, %p: tensor<9x?x4xf32>, %w: tensor<8xf32>) {
  // expected-error @below {{'iam.attr.grad' op expected the number of weights to be the number of points (9), got 8}}
  %0 = iam.attr.grad @f(%x, %b) along %p, %w : tensor<?x4xf32>, tensor<?x4xf32>, tensor<9x?x4xf32>, tensor<8xf32> -> tensor<?x4xf32>
  return
}

// -----

func.func private @f(tensor<?x4xf32>) -> tensor<?xf32>
func.func @attr_grad_c4_attributions(%x: tensor<?x4xf32>, %b: tensor<?x4xf32>, %p: tensor<9x?x4xf32>, %w: tensor<9xf32>) {
  // expected-error @below {{'iam.attr.grad' op expected attributions of type 'tensor<?x4xf32>', got 'tensor<?x5xf32>'}}
  %0 = iam.attr.grad @f(%x, %b) along %p, %w : tensor<?x4xf32>, tensor<?x4xf32>, tensor<9x?x4xf32>, tensor<9xf32> -> tensor<?x5xf32>
  return
}

// -----

func.func private @f(tensor<?x4xf32>) -> tensor<?xf32>
func.func @attr_grad_c5_no_function(%x: tensor<?x4xf32>, %b: tensor<?x4xf32>, %p: tensor<9x?x4xf32>, %w: tensor<9xf32>) {
  // expected-error @below {{'iam.attr.grad' op expected the name of a function, got @missing}}
  %0 = iam.attr.grad @missing(%x, %b) along %p, %w : tensor<?x4xf32>, tensor<?x4xf32>, tensor<9x?x4xf32>, tensor<9xf32> -> tensor<?x4xf32>
  return
}

// -----

func.func private @f(tensor<?x4xf32>, f32) -> tensor<?xf32>
func.func @attr_grad_c6_two_arguments(%x: tensor<?x4xf32>, %b: tensor<?x4xf32>, %p: tensor<9x?x4xf32>, %w: tensor<9xf32>) {
  // expected-error @below {{'iam.attr.grad' op expected @f to have 1 argument and 1 result, got 2 and 1}}
  %0 = iam.attr.grad @f(%x, %b) along %p, %w : tensor<?x4xf32>, tensor<?x4xf32>, tensor<9x?x4xf32>, tensor<9xf32> -> tensor<?x4xf32>
  return
}

// -----

func.func private @f(tensor<?x5xf32>) -> tensor<?xf32>
func.func @attr_grad_c7_argument_type(%x: tensor<?x4xf32>, %b: tensor<?x4xf32>, %p: tensor<9x?x4xf32>, %w: tensor<9xf32>) {
  // expected-error @below {{'iam.attr.grad' op expected @f to take 'tensor<?x4xf32>', got 'tensor<?x5xf32>'}}
  %0 = iam.attr.grad @f(%x, %b) along %p, %w : tensor<?x4xf32>, tensor<?x4xf32>, tensor<9x?x4xf32>, tensor<9xf32> -> tensor<?x4xf32>
  return
}

// -----

func.func private @f(tensor<?x4xf32>) -> tensor<?xf32>
func.func @attr_grad_c6_a_captured_value_too_many(%x: tensor<?x4xf32>, %b: tensor<?x4xf32>, %p: tensor<9x?x4xf32>, %w: tensor<9xf32>, %s: f32) {
  // expected-error @below {{'iam.attr.grad' op expected @f to have 2 arguments and 1 result, got 1 and 1}}
  %0 = iam.attr.grad @f(%x, %b) captures(%s : f32) along %p, %w : tensor<?x4xf32>, tensor<?x4xf32>, tensor<9x?x4xf32>, tensor<9xf32> -> tensor<?x4xf32>
  return
}

// -----

func.func private @f(tensor<?x4xf32>, tensor<4xf32>) -> tensor<?xf32>
func.func @attr_grad_c8_captured_type(%x: tensor<?x4xf32>, %b: tensor<?x4xf32>, %p: tensor<9x?x4xf32>, %w: tensor<9xf32>, %s: f32) {
  // expected-error @below {{'iam.attr.grad' op expected @f to take 'f32' as argument 1, which is captured, got 'tensor<4xf32>'}}
  %0 = iam.attr.grad @f(%x, %b) captures(%s : f32) along %p, %w : tensor<?x4xf32>, tensor<?x4xf32>, tensor<9x?x4xf32>, tensor<9xf32> -> tensor<?x4xf32>
  return
}

// -----

func.func private @f(tensor<?x4xf32>) -> tensor<?x4xf32>
func.func @attr_grad_c9_result_type(%x: tensor<?x4xf32>, %b: tensor<?x4xf32>, %p: tensor<9x?x4xf32>, %w: tensor<9xf32>) {
  // expected-error @below {{'iam.attr.grad' op expected @f to return one f32, or a vector of them, got 'tensor<?x4xf32>'}}
  %0 = iam.attr.grad @f(%x, %b) along %p, %w : tensor<?x4xf32>, tensor<?x4xf32>, tensor<9x?x4xf32>, tensor<9xf32> -> tensor<?x4xf32>
  return
}

// -----

func.func @attr_select_c2_n_above_width(%s: tensor<2x4xf32>) {
  // expected-error @below {{'iam.attr.select' op expected n to be at most the width of scores (4), got n = 5}}
  %i, %t = iam.attr.select %s, n = 5 : tensor<2x4xf32> -> tensor<2x5xi32>, tensor<2x5xf32>
  return
}

// -----

func.func @attr_select_c3_rows_of_indices(%s: tensor<2x4xf32>) {
  // expected-error @below {{'iam.attr.select' op expected the number of rows of indices to be the number of rows of scores (2), got 1}}
  %i, %t = iam.attr.select %s, n = 3 : tensor<2x4xf32> -> tensor<1x3xi32>, tensor<2x3xf32>
  return
}

// -----

func.func @attr_select_c3_width_of_indices(%s: tensor<2x4xf32>) {
  // expected-error @below {{'iam.attr.select' op expected the width of indices to be n (3), got 4}}
  %i, %t = iam.attr.select %s, n = 3 : tensor<2x4xf32> -> tensor<2x4xi32>, tensor<2x3xf32>
  return
}

// -----

func.func @attr_select_c3_rows_of_top(%s: tensor<2x4xf32>) {
  // expected-error @below {{'iam.attr.select' op expected the number of rows of top to be the number of rows of scores (2), got 1}}
  %i, %t = iam.attr.select %s, n = 3 : tensor<2x4xf32> -> tensor<2x3xi32>, tensor<1x3xf32>
  return
}

// -----

func.func @attr_select_c3_width_of_top(%s: tensor<2x4xf32>) {
  // expected-error @below {{'iam.attr.select' op expected the width of top to be n (3), got 2}}
  %i, %t = iam.attr.select %s, n = 3 : tensor<2x4xf32> -> tensor<2x3xi32>, tensor<2x2xf32>
  return
}

// -----

func.func @attr_circuit_c1_rows_of_W_dec(%f: tensor<5xf32>, %d: tensor<6x4xf32>, %e: tensor<4x3xf32>) {
  // expected-error @below {{'iam.attr.circuit' op expected the number of rows of W_dec to be the number of activations (5), got 6}}
  %0 = iam.attr.circuit %f, %d, %e
      : (tensor<5xf32>, tensor<6x4xf32>, tensor<4x3xf32>) -> tensor<5x3xf32>
  return
}

// -----

func.func @attr_circuit_c2_rows_of_the_jacobian(%f: tensor<5xf32>, %d: tensor<5x4xf32>, %e: tensor<4x3xf32>, %J: tensor<5x4xf32>) {
  // expected-error @below {{'iam.attr.circuit' op expected the number of rows of the jacobian to be the width of W_dec (4), got 5}}
  %0 = iam.attr.circuit %f, %d, %e, through %J
      : (tensor<5xf32>, tensor<5x4xf32>, tensor<4x3xf32>, tensor<5x4xf32>) -> tensor<5x3xf32>
  return
}

// -----

func.func @attr_circuit_c2_width_of_the_jacobian(%f: tensor<5xf32>, %d: tensor<5x4xf32>, %e: tensor<4x3xf32>, %J: tensor<4x5xf32>) {
  // expected-error @below {{'iam.attr.circuit' op expected the width of the jacobian to be the number of rows of W_enc (4), got 5}}
  %0 = iam.attr.circuit %f, %d, %e, through %J
      : (tensor<5xf32>, tensor<5x4xf32>, tensor<4x3xf32>, tensor<4x5xf32>) -> tensor<5x3xf32>
  return
}

// -----

func.func @attr_circuit_c3_widths_without_jacobian(%f: tensor<5xf32>, %d: tensor<5x4xf32>, %e: tensor<5x3xf32>) {
  // expected-error @below {{'iam.attr.circuit' op expected the number of rows of W_enc to be the width of W_dec (4), got 5}}
  %0 = iam.attr.circuit %f, %d, %e
      : (tensor<5xf32>, tensor<5x4xf32>, tensor<5x3xf32>) -> tensor<5x3xf32>
  return
}

// -----

func.func @attr_circuit_c4_rows_of_edges(%f: tensor<5xf32>, %d: tensor<5x4xf32>, %e: tensor<4x3xf32>) {
  // expected-error @below {{'iam.attr.circuit' op expected the number of rows of edges to be the number of activations (5), got 4}}
  %0 = iam.attr.circuit %f, %d, %e
      : (tensor<5xf32>, tensor<5x4xf32>, tensor<4x3xf32>) -> tensor<4x3xf32>
  return
}

// -----

func.func @attr_circuit_c4_width_of_edges(%f: tensor<5xf32>, %d: tensor<5x4xf32>, %e: tensor<4x3xf32>) {
  // expected-error @below {{'iam.attr.circuit' op expected the width of edges to be the width of W_enc (3), got 4}}
  %0 = iam.attr.circuit %f, %d, %e
      : (tensor<5xf32>, tensor<5x4xf32>, tensor<4x3xf32>) -> tensor<5x4xf32>
  return
}
