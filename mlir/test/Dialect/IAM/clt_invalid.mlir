// One test for each message of a verifier; what ODS checks is not tested.
// RUN: iam-opt %s --split-input-file --verify-diagnostics

// expected-error @below {{expected a static dictionary size, got ?}}
func.func private @features_c2_dynamic_dictionary(!iam.features<4x?xf32>)

// -----

// expected-error @below {{expected a dictionary size >= 1, got 0}}
func.func private @features_c2_empty_dictionary(!iam.features<4x0xf32>)

// -----

// expected-error @below {{expected a dictionary size <= 2147483647, got 2147483648}}
func.func private @features_c2_large_dictionary(!iam.features<4x2147483648xf32>)

// -----

// expected-error @below {{expected element type f32, got 'f16'}}
func.func private @features_c3_element_type(!iam.features<4x8xf16>)

// -----

// expected-error @below {{expected k >= 1, got k = 0}}
func.func private @features_c4_k_of_zero(!iam.features<4x8xf32, k = 0>)

// -----

// expected-error @below {{expected k <= 2147483647, got k = 9223372036854775807}}
func.func private @features_c4_large_k(!iam.features<4x8xf32, k = 9223372036854775807>)

// -----

// expected-error @below {{expected features of shape [rows, dict], got 3 dimensions}}
func.func private @features_rank(!iam.features<4x8x2xf32>)

// -----

func.func @clt_encode_c1_width_of_x(%x: tensor<?x4xf32>, %W: tensor<5x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode' op expected the number of rows of W_enc to be the width of x (4), got 5}}
  %0 = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<5x16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  return
}

// -----

func.func @clt_encode_c2_size_of_b_enc(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<15xf32>) {
  // expected-error @below {{'iam.clt.encode' op expected the size of b_enc to be the number of columns of W_enc (16), got 15}}
  %0 = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<15xf32>) -> tensor<?x16xf32>
  return
}

// -----

func.func @clt_encode_c3_size_of_b_dec(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %c: tensor<5xf32>) {
  // expected-error @below {{'iam.clt.encode' op expected the size of b_dec to be the width of x (4), got 5}}
  %0 = iam.clt.encode %x, %W, %b, subtract %c : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<5xf32>) -> tensor<?x16xf32>
  return
}

// -----

func.func @clt_encode_c4_rows_of_pre(%x: tensor<3x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode' op expected the number of rows of pre to be the number of rows of x (3), got 2}}
  %0 = iam.clt.encode %x, %W, %b : (tensor<3x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<2x16xf32>
  return
}

// -----

func.func @clt_encode_c4_width_of_pre(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode' op expected the width of pre to be the number of columns of W_enc (16), got 17}}
  %0 = iam.clt.encode %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> tensor<?x17xf32>
  return
}

// -----

func.func @clt_topk_c2_k_above_width(%pre: tensor<3x8xf32>) {
  // expected-error @below {{'iam.clt.topk' op expected k to be at most the width of pre (8), got k = 9}}
  %0 = iam.clt.topk %pre, k = 9 : tensor<3x8xf32> -> !iam.features<3x8xf32, k = 9>
  return
}

// -----

func.func @clt_topk_c3_result_has_another_k(%pre: tensor<3x8xf32>) {
  // expected-error @below {{'iam.clt.topk' op expected a result with k = 2, got '!iam.features<3x8xf32, k = 3>'}}
  %0 = iam.clt.topk %pre, k = 2 : tensor<3x8xf32> -> !iam.features<3x8xf32, k = 3>
  return
}

// -----

func.func @clt_topk_c3_result_in_compressed_rows(%pre: tensor<3x8xf32>) {
  // expected-error @below {{'iam.clt.topk' op expected a result with k = 2, got '!iam.features<3x8xf32>'}}
  %0 = iam.clt.topk %pre, k = 2 : tensor<3x8xf32> -> !iam.features<3x8xf32>
  return
}

// -----

func.func @clt_topk_c4_rows_of_the_result(%pre: tensor<3x8xf32>) {
  // expected-error @below {{'iam.clt.topk' op expected the number of rows of the features to be the number of rows of pre (3), got 4}}
  %0 = iam.clt.topk %pre, k = 2 : tensor<3x8xf32> -> !iam.features<4x8xf32, k = 2>
  return
}

// -----

func.func @clt_topk_c4_dictionary_of_the_result(%pre: tensor<3x8xf32>) {
  // expected-error @below {{'iam.clt.topk' op expected the dictionary of the features to be the width of pre (8), got 9}}
  %0 = iam.clt.topk %pre, k = 2 : tensor<3x8xf32> -> !iam.features<3x9xf32, k = 2>
  return
}

// -----

func.func @clt_abstopk_c2_k_above_width(%pre: tensor<3x8xf32>) {
  // expected-error @below {{'iam.clt.abstopk' op expected k to be at most the width of pre (8), got k = 9}}
  %0 = iam.clt.abstopk %pre, k = 9 : tensor<3x8xf32> -> !iam.features<3x8xf32, k = 9>
  return
}

// -----

func.func @clt_abstopk_c3_result_has_another_k(%pre: tensor<3x8xf32>) {
  // expected-error @below {{'iam.clt.abstopk' op expected a result with k = 2, got '!iam.features<3x8xf32, k = 4>'}}
  %0 = iam.clt.abstopk %pre, k = 2 : tensor<3x8xf32> -> !iam.features<3x8xf32, k = 4>
  return
}

// -----

func.func @clt_abstopk_c4_rows_of_the_result(%pre: tensor<3x8xf32>) {
  // expected-error @below {{'iam.clt.abstopk' op expected the number of rows of the features to be the number of rows of pre (3), got 4}}
  %0 = iam.clt.abstopk %pre, k = 2 : tensor<3x8xf32> -> !iam.features<4x8xf32, k = 2>
  return
}

// -----

func.func @clt_abstopk_c4_dictionary_of_the_result(%pre: tensor<3x8xf32>) {
  // expected-error @below {{'iam.clt.abstopk' op expected the dictionary of the features to be the width of pre (8), got 9}}
  %0 = iam.clt.abstopk %pre, k = 2 : tensor<3x8xf32> -> !iam.features<3x9xf32, k = 2>
  return
}

// -----

func.func @clt_groupmax_c2_k_is_no_divisor(%pre: tensor<3x8xf32>) {
  // expected-error @below {{'iam.clt.groupmax' op expected k to divide the width of pre (8), got k = 3}}
  %0 = iam.clt.groupmax %pre, k = 3 : tensor<3x8xf32> -> !iam.features<3x8xf32, k = 3>
  return
}

// -----

func.func @clt_groupmax_c3_result_has_another_k(%pre: tensor<3x8xf32>) {
  // expected-error @below {{'iam.clt.groupmax' op expected a result with k = 2, got '!iam.features<3x8xf32, k = 4>'}}
  %0 = iam.clt.groupmax %pre, k = 2 : tensor<3x8xf32> -> !iam.features<3x8xf32, k = 4>
  return
}

// -----

func.func @clt_groupmax_c4_rows_of_the_result(%pre: tensor<3x8xf32>) {
  // expected-error @below {{'iam.clt.groupmax' op expected the number of rows of the features to be the number of rows of pre (3), got 4}}
  %0 = iam.clt.groupmax %pre, k = 2 : tensor<3x8xf32> -> !iam.features<4x8xf32, k = 2>
  return
}

// -----

func.func @clt_groupmax_c4_dictionary_of_the_result(%pre: tensor<3x8xf32>) {
  // expected-error @below {{'iam.clt.groupmax' op expected the dictionary of the features to be the width of pre (8), got 9}}
  %0 = iam.clt.groupmax %pre, k = 2 : tensor<3x8xf32> -> !iam.features<3x9xf32, k = 2>
  return
}

// -----

func.func @clt_matching_pursuit_c2_negative_threshold(%x: tensor<?x4xf32>, %W: tensor<16x4xf32>, %b: tensor<4xf32>) {
  // expected-error @below {{'iam.clt.matching_pursuit' op expected residual_threshold to be finite and not negative, got -5.000000e-01 : f32}}
  %0 = iam.clt.matching_pursuit %x, %W residual_threshold = -0.5 max_iterations = 2 : (tensor<?x4xf32>, tensor<16x4xf32>) -> !iam.features<?x16xf32>
  return
}

// -----

func.func @clt_matching_pursuit_c2_threshold_is_no_number(%x: tensor<?x4xf32>, %W: tensor<16x4xf32>, %b: tensor<4xf32>) {
  // expected-error @below {{'iam.clt.matching_pursuit' op expected residual_threshold to be finite and not negative, got 0x7FC00000 : f32}}
  %0 = iam.clt.matching_pursuit %x, %W residual_threshold = 0x7FC00000 max_iterations = 2 : (tensor<?x4xf32>, tensor<16x4xf32>) -> !iam.features<?x16xf32>
  return
}

// -----

func.func @clt_matching_pursuit_c3_width_of_W_dec(%x: tensor<?x4xf32>, %W: tensor<16x5xf32>, %b: tensor<4xf32>) {
  // expected-error @below {{'iam.clt.matching_pursuit' op expected the width of W_dec to be the width of x (4), got 5}}
  %0 = iam.clt.matching_pursuit %x, %W residual_threshold = 0.5 max_iterations = 2 : (tensor<?x4xf32>, tensor<16x5xf32>) -> !iam.features<?x16xf32>
  return
}

// -----

func.func @clt_matching_pursuit_c4_size_of_b_dec(%x: tensor<?x4xf32>, %W: tensor<16x4xf32>, %b: tensor<5xf32>) {
  // expected-error @below {{'iam.clt.matching_pursuit' op expected the size of b_dec to be the width of x (4), got 5}}
  %0 = iam.clt.matching_pursuit %x, %W, subtract %b residual_threshold = 0.5 max_iterations = 2 : (tensor<?x4xf32>, tensor<16x4xf32>, tensor<5xf32>) -> !iam.features<?x16xf32>
  return
}

// -----

func.func @clt_matching_pursuit_c5_result_with_k(%x: tensor<?x4xf32>, %W: tensor<16x4xf32>, %b: tensor<4xf32>) {
  // expected-error @below {{'iam.clt.matching_pursuit' op expected a result in compressed rows, without k, got '!iam.features<?x16xf32, k = 2>'}}
  %0 = iam.clt.matching_pursuit %x, %W residual_threshold = 0.5 max_iterations = 2 : (tensor<?x4xf32>, tensor<16x4xf32>) -> !iam.features<?x16xf32, k = 2>
  return
}

// -----

func.func @clt_matching_pursuit_c6_rows_of_the_result(%x: tensor<3x4xf32>, %W: tensor<16x4xf32>, %b: tensor<4xf32>) {
  // expected-error @below {{'iam.clt.matching_pursuit' op expected the number of rows of the features to be the number of rows of x (3), got 4}}
  %0 = iam.clt.matching_pursuit %x, %W residual_threshold = 0.5 max_iterations = 2 : (tensor<3x4xf32>, tensor<16x4xf32>) -> !iam.features<4x16xf32>
  return
}

// -----

func.func @clt_matching_pursuit_c6_dictionary_of_the_result(%x: tensor<?x4xf32>, %W: tensor<16x4xf32>, %b: tensor<4xf32>) {
  // expected-error @below {{'iam.clt.matching_pursuit' op expected the dictionary of the features to be the number of rows of W_dec (16), got 17}}
  %0 = iam.clt.matching_pursuit %x, %W residual_threshold = 0.5 max_iterations = 2 : (tensor<?x4xf32>, tensor<16x4xf32>) -> !iam.features<?x17xf32>
  return
}

// -----

func.func @clt_encode_sparse_c6_abstopk_without_k(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected k for activation abstopk, got none}}
  %0 = iam.clt.encode_sparse abstopk %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32, k = 2>
  return
}

// -----

func.func @clt_encode_sparse_c9_k_of_abstopk(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected a result with k = 2, got '!iam.features<?x16xf32, k = 3>'}}
  %0 = iam.clt.encode_sparse abstopk %x, %W, %b k = 2 : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32, k = 3>
  return
}

// -----

func.func @clt_encode_sparse_c10_k_is_no_divisor(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected k to divide the dictionary of the features (16), got k = 3}}
  %0 = iam.clt.encode_sparse groupmax %x, %W, %b k = 3 : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32, k = 3>
  return
}

// -----

func.func @clt_batch_topk_c2_k_above_width(%pre: tensor<3x8xf32>) {
  // expected-error @below {{'iam.clt.batch_topk' op expected k to be at most the width of pre (8), got k = 9}}
  %0 = iam.clt.batch_topk %pre, k = 9 : tensor<3x8xf32> -> !iam.features<3x8xf32>
  return
}

// -----

func.func @clt_batch_topk_c3_result_with_k(%pre: tensor<3x8xf32>) {
  // expected-error @below {{'iam.clt.batch_topk' op expected a result in compressed rows, without k, got '!iam.features<3x8xf32, k = 2>'}}
  %0 = iam.clt.batch_topk %pre, k = 2 : tensor<3x8xf32> -> !iam.features<3x8xf32, k = 2>
  return
}

// -----

func.func @clt_batch_topk_c4_rows_of_the_result(%pre: tensor<3x8xf32>) {
  // expected-error @below {{'iam.clt.batch_topk' op expected the number of rows of the features to be the number of rows of pre (3), got 4}}
  %0 = iam.clt.batch_topk %pre, k = 2 : tensor<3x8xf32> -> !iam.features<4x8xf32>
  return
}

// -----

func.func @clt_jumprelu_c1_size_of_threshold(%p: tensor<3x8xf32>, %q: tensor<7xf32>) {
  // expected-error @below {{'iam.clt.jumprelu' op expected the size of threshold to be the width of pre (8), got 7}}
  %0 = iam.clt.jumprelu %p, %q : tensor<3x8xf32>, tensor<7xf32> -> !iam.features<3x8xf32>
  return
}

// -----

func.func @clt_jumprelu_c2_result_with_k(%p: tensor<3x8xf32>, %q: tensor<8xf32>) {
  // expected-error @below {{'iam.clt.jumprelu' op expected a result in compressed rows, without k, got '!iam.features<3x8xf32, k = 2>'}}
  %0 = iam.clt.jumprelu %p, %q : tensor<3x8xf32>, tensor<8xf32> -> !iam.features<3x8xf32, k = 2>
  return
}

// -----

func.func @clt_jumprelu_c3_dictionary_of_the_result(%p: tensor<3x8xf32>, %q: tensor<8xf32>) {
  // expected-error @below {{'iam.clt.jumprelu' op expected the dictionary of the features to be the width of pre (8), got 9}}
  %0 = iam.clt.jumprelu %p, %q : tensor<3x8xf32>, tensor<8xf32> -> !iam.features<3x9xf32>
  return
}

// -----

func.func @clt_relu_c1_result_with_k(%pre: tensor<3x8xf32>) {
  // expected-error @below {{'iam.clt.relu' op expected a result in compressed rows, without k, got '!iam.features<3x8xf32, k = 2>'}}
  %0 = iam.clt.relu %pre : tensor<3x8xf32> -> !iam.features<3x8xf32, k = 2>
  return
}

// -----

func.func @clt_relu_c2_rows_of_the_result(%pre: tensor<3x8xf32>) {
  // expected-error @below {{'iam.clt.relu' op expected the number of rows of the features to be the number of rows of pre (3), got 4}}
  %0 = iam.clt.relu %pre : tensor<3x8xf32> -> !iam.features<4x8xf32>
  return
}

// -----

func.func @clt_gate_c1_rows_of_the_operands(%p: tensor<3x8xf32>, %q: tensor<2x8xf32>) {
  // expected-error @below {{'iam.clt.gate' op expected the number of rows of magnitude_pre to be the number of rows of gate_pre (3), got 2}}
  %0 = iam.clt.gate %p, %q : tensor<3x8xf32>, tensor<2x8xf32> -> !iam.features<3x8xf32>
  return
}

// -----

func.func @clt_gate_c1_width_of_the_operands(%p: tensor<3x8xf32>, %q: tensor<3x7xf32>) {
  // expected-error @below {{'iam.clt.gate' op expected the width of magnitude_pre to be the width of gate_pre (8), got 7}}
  %0 = iam.clt.gate %p, %q : tensor<3x8xf32>, tensor<3x7xf32> -> !iam.features<3x8xf32>
  return
}

// -----

func.func @clt_gate_c2_result_with_k(%p: tensor<3x8xf32>, %q: tensor<3x8xf32>) {
  // expected-error @below {{'iam.clt.gate' op expected a result in compressed rows, without k, got '!iam.features<3x8xf32, k = 2>'}}
  %0 = iam.clt.gate %p, %q : tensor<3x8xf32>, tensor<3x8xf32> -> !iam.features<3x8xf32, k = 2>
  return
}

// -----

func.func @clt_gate_c3_rows_of_the_result(%p: tensor<3x8xf32>, %q: tensor<3x8xf32>) {
  // expected-error @below {{'iam.clt.gate' op expected the number of rows of the features to be the number of rows of gate_pre (3), got 4}}
  %0 = iam.clt.gate %p, %q : tensor<3x8xf32>, tensor<3x8xf32> -> !iam.features<4x8xf32>
  return
}

// -----

func.func @clt_gate_c3_dictionary_of_the_result(%p: tensor<3x8xf32>, %q: tensor<3x8xf32>) {
  // expected-error @below {{'iam.clt.gate' op expected the dictionary of the features to be the width of gate_pre (8), got 9}}
  %0 = iam.clt.gate %p, %q : tensor<3x8xf32>, tensor<3x8xf32> -> !iam.features<3x9xf32>
  return
}

// -----

func.func @clt_encode_sparse_c2_width_of_x(%x: tensor<?x4xf32>, %W: tensor<5x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected the number of rows of W_enc to be the width of x (4), got 5}}
  %0 = iam.clt.encode_sparse topk %x, %W, %b k = 2
      : (tensor<?x4xf32>, tensor<5x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32, k = 2>
  return
}

// -----

func.func @clt_encode_sparse_c3_size_of_b_enc(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<15xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected the size of b_enc to be the number of columns of W_enc (16), got 15}}
  %0 = iam.clt.encode_sparse topk %x, %W, %b k = 2
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<15xf32>) -> !iam.features<?x16xf32, k = 2>
  return
}

// -----

func.func @clt_encode_sparse_c4_size_of_b_dec(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %c: tensor<5xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected the size of b_dec to be the width of x (4), got 5}}
  %0 = iam.clt.encode_sparse topk %x, %W, %b subtract %c k = 2
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<5xf32>) -> !iam.features<?x16xf32, k = 2>
  return
}

// -----

func.func @clt_encode_sparse_c5_rows_of_the_result(%x: tensor<3x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected the number of rows of the features to be the number of rows of x (3), got 2}}
  %0 = iam.clt.encode_sparse topk %x, %W, %b k = 2
      : (tensor<3x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<2x16xf32, k = 2>
  return
}

// -----

func.func @clt_encode_sparse_c5_dictionary_of_the_result(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected the dictionary of the features to be the number of columns of W_enc (16), got 17}}
  %0 = iam.clt.encode_sparse topk %x, %W, %b k = 2
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x17xf32, k = 2>
  return
}

// -----

func.func @clt_encode_sparse_c6_topk_without_k(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected k for activation topk, got none}}
  %0 = iam.clt.encode_sparse topk %x, %W, %b
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32, k = 2>
  return
}

// -----

func.func @clt_encode_sparse_c6_relu_with_k(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected no k for activation relu, got k = 2}}
  %0 = iam.clt.encode_sparse relu %x, %W, %b k = 2
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  return
}

// -----

func.func @clt_encode_sparse_c7_jumprelu_without_threshold(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected a threshold for activation jumprelu, got none}}
  %0 = iam.clt.encode_sparse jumprelu %x, %W, %b
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  return
}

// -----

func.func @clt_encode_sparse_c7_relu_with_threshold(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %t: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected no threshold for activation relu, got one}}
  %0 = iam.clt.encode_sparse relu %x, %W, %b threshold %t
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  return
}

// -----

func.func @clt_encode_sparse_c8_size_of_threshold(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %t: tensor<15xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected the size of threshold to be the dictionary of the features (16), got 15}}
  %0 = iam.clt.encode_sparse jumprelu %x, %W, %b threshold %t
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<15xf32>) -> !iam.features<?x16xf32>
  return
}

// -----

func.func @clt_encode_sparse_c9_relu_result_with_k(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected a result in compressed rows, without k, got '!iam.features<?x16xf32, k = 2>'}}
  %0 = iam.clt.encode_sparse relu %x, %W, %b
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32, k = 2>
  return
}

// -----

func.func @clt_encode_sparse_c9_k_above_dictionary(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected k to be at most the dictionary of the features (16), got k = 17}}
  %0 = iam.clt.encode_sparse topk %x, %W, %b k = 17
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32, k = 17>
  return
}

// -----

func.func @clt_encode_sparse_c9_result_has_another_k(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected a result with k = 3, got '!iam.features<?x16xf32, k = 2>'}}
  %0 = iam.clt.encode_sparse topk %x, %W, %b k = 3
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32, k = 2>
  return
}

// -----

func.func @clt_decode_c1_rows_of_W_dec(%f: !iam.features<?x16xf32>, %W: tensor<15x4xf32>) {
  // expected-error @below {{'iam.clt.decode' op expected the number of rows of W_dec to be the dictionary of the features (16), got 15}}
  %0 = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<15x4xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @clt_decode_c2_size_of_b_dec(%f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>, %b: tensor<5xf32>) {
  // expected-error @below {{'iam.clt.decode' op expected the size of b_dec to be the width of W_dec (4), got 5}}
  %0 = iam.clt.decode %f, %W, bias %b : (!iam.features<?x16xf32>, tensor<16x4xf32>, tensor<5xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @clt_decode_c3_rows_of_y(%f: !iam.features<3x16xf32>, %W: tensor<16x4xf32>) {
  // expected-error @below {{'iam.clt.decode' op expected the number of rows of y to be the number of rows of the features (3), got 2}}
  %0 = iam.clt.decode %f, %W : (!iam.features<3x16xf32>, tensor<16x4xf32>) -> tensor<2x4xf32>
  return
}

// -----

func.func @clt_decode_c3_width_of_y(%f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>) {
  // expected-error @below {{'iam.clt.decode' op expected the width of y to be the width of W_dec (4), got 5}}
  %0 = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x5xf32>
  return
}

// -----

func.func @clt_densify_c1_rows_of_d(%f: !iam.features<3x16xf32>) {
  // expected-error @below {{'iam.clt.densify' op expected the number of rows of d to be the number of rows of the features (3), got 2}}
  %0 = iam.clt.densify %f : !iam.features<3x16xf32> -> tensor<2x16xf32>
  return
}

// -----

func.func @clt_densify_c1_width_of_d(%f: !iam.features<3x16xf32>) {
  // expected-error @below {{'iam.clt.densify' op expected the width of d to be the dictionary of the features (16), got 17}}
  %0 = iam.clt.densify %f : !iam.features<3x16xf32> -> tensor<3x17xf32>
  return
}

// -----

func.func @clt_residual_c1_rows(%y: tensor<3x4xf32>, %x: tensor<2x4xf32>) {
  // expected-error @below {{'iam.clt.residual' op expected the number of rows of x to be the number of rows of y (3), got 2}}
  %0 = iam.clt.residual %y, %x : (tensor<3x4xf32>, tensor<2x4xf32>) -> tensor<3x4xf32>
  return
}

// -----

func.func @clt_residual_c2_rows_of_W_skip(%y: tensor<3x6xf32>, %x: tensor<3x4xf32>, %W: tensor<6x4xf32>) {
  // expected-error @below {{'iam.clt.residual' op expected the number of rows of W_skip to be the width of x (4), got 6}}
  %0 = iam.clt.residual %y, %x, skip %W : (tensor<3x6xf32>, tensor<3x4xf32>, tensor<6x4xf32>) -> tensor<3x6xf32>
  return
}

// -----

func.func @clt_residual_c2_width_of_W_skip(%y: tensor<3x6xf32>, %x: tensor<3x4xf32>, %W: tensor<4x5xf32>) {
  // expected-error @below {{'iam.clt.residual' op expected the width of W_skip to be the width of y (6), got 5}}
  %0 = iam.clt.residual %y, %x, skip %W : (tensor<3x6xf32>, tensor<3x4xf32>, tensor<4x5xf32>) -> tensor<3x6xf32>
  return
}

// -----

func.func @clt_residual_c3_width_without_skip(%y: tensor<3x6xf32>, %x: tensor<3x4xf32>) {
  // expected-error @below {{'iam.clt.residual' op expected the width of x to be the width of y (6), got 4}}
  %0 = iam.clt.residual %y, %x : (tensor<3x6xf32>, tensor<3x4xf32>) -> tensor<3x6xf32>
  return
}

// -----

func.func @clt_residual_c4_rows_of_z(%y: tensor<3x4xf32>, %x: tensor<3x4xf32>) {
  // expected-error @below {{'iam.clt.residual' op expected the number of rows of z to be the number of rows of y (3), got 2}}
  %0 = iam.clt.residual %y, %x : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<2x4xf32>
  return
}

// -----

func.func @clt_residual_c4_width_of_z(%y: tensor<3x4xf32>, %x: tensor<3x4xf32>) {
  // expected-error @below {{'iam.clt.residual' op expected the width of z to be the width of y (4), got 5}}
  %0 = iam.clt.residual %y, %x : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x5xf32>
  return
}

// -----

func.func @clt_edit_c1_feature_above_dictionary(%f: !iam.features<?x64xf32>) {
  // expected-error @below {{'iam.clt.edit' op expected features in 0..63 (dictionary), got 64}}
  %0 = iam.clt.edit ablate %f features [64]
      : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32>
  return
}

// -----

func.func @clt_edit_c1_negative_feature(%f: !iam.features<?x64xf32>) {
  // expected-error @below {{'iam.clt.edit' op expected features in 0..63 (dictionary), got -1}}
  %0 = iam.clt.edit ablate %f features [-1]
      : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32>
  return
}

// -----

func.func @clt_edit_c2_feature_twice(%f: !iam.features<?x64xf32>) {
  // expected-error @below {{'iam.clt.edit' op expected distinct features, got 7 more than once}}
  %0 = iam.clt.edit ablate %f features [7, 3, 7]
      : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32>
  return
}

// -----

func.func @clt_edit_c3_set_without_operand(%f: !iam.features<?x64xf32>) {
  // expected-error @below {{'iam.clt.edit' op expected 1 operand after `by` for mode set, got 0}}
  %0 = iam.clt.edit set %f features [7]
      : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32>
  return
}

// -----

func.func @clt_edit_c3_ablate_with_operand(%f: !iam.features<?x64xf32>, %a: tensor<1xf32>) {
  // expected-error @below {{'iam.clt.edit' op expected 0 operands after `by` for mode ablate, got 1}}
  %0 = iam.clt.edit ablate %f features [7] by %a
      : (!iam.features<?x64xf32>, tensor<1xf32>) -> !iam.features<?x64xf32>
  return
}

// -----

func.func @clt_edit_c3_clamp_with_one_operand(%f: !iam.features<?x64xf32>, %a: tensor<1xf32>) {
  // expected-error @below {{'iam.clt.edit' op expected 2 operands after `by` for mode clamp, got 1}}
  %0 = iam.clt.edit clamp %f features [7] by %a
      : (!iam.features<?x64xf32>, tensor<1xf32>) -> !iam.features<?x64xf32>
  return
}

// -----

func.func @clt_edit_c4_size_of_a(%f: !iam.features<?x64xf32>, %a: tensor<1xf32>) {
  // expected-error @below {{'iam.clt.edit' op expected the size of a to be the number of features (2), got 1}}
  %0 = iam.clt.edit scale %f features [7, 3] by %a
      : (!iam.features<?x64xf32>, tensor<1xf32>) -> !iam.features<?x64xf32>
  return
}

// -----

func.func @clt_edit_c4_size_of_b(%f: !iam.features<?x64xf32>, %a: tensor<2xf32>, %b: tensor<3xf32>) {
  // expected-error @below {{'iam.clt.edit' op expected the size of b to be the number of features (2), got 3}}
  %0 = iam.clt.edit clamp %f features [7, 3] by %a, %b
      : (!iam.features<?x64xf32>, tensor<2xf32>, tensor<3xf32>) -> !iam.features<?x64xf32>
  return
}

// -----

func.func @clt_edit_c5_set_adds_slots(%f: !iam.features<?x64xf32, k = 8>, %a: tensor<2xf32>) {
  // expected-error @below {{'iam.clt.edit' op expected result type '!iam.features<?x64xf32, k = 10>' for mode set, got '!iam.features<?x64xf32, k = 8>'}}
  %0 = iam.clt.edit set %f features [7, 3] by %a
      : (!iam.features<?x64xf32, k = 8>, tensor<2xf32>) -> !iam.features<?x64xf32, k = 8>
  return
}

// -----

func.func @clt_edit_c5_scale_keeps_slots(%f: !iam.features<?x64xf32, k = 8>, %a: tensor<1xf32>) {
  // expected-error @below {{'iam.clt.edit' op expected result type '!iam.features<?x64xf32, k = 8>' for mode scale, got '!iam.features<?x64xf32, k = 9>'}}
  %0 = iam.clt.edit scale %f features [7] by %a
      : (!iam.features<?x64xf32, k = 8>, tensor<1xf32>) -> !iam.features<?x64xf32, k = 9>
  return
}

// -----

func.func @clt_edit_c5_form_of_the_result(%f: !iam.features<?x64xf32, k = 8>) {
  // expected-error @below {{'iam.clt.edit' op expected result type '!iam.features<?x64xf32, k = 8>' for mode ablate, got '!iam.features<?x64xf32>'}}
  %0 = iam.clt.edit ablate %f features [7]
      : (!iam.features<?x64xf32, k = 8>) -> !iam.features<?x64xf32>
  return
}

// -----

func.func @clt_delta_c1_feature_above_dictionary(%f: !iam.features<?x64xf32>) {
  // expected-error @below {{'iam.clt.delta' op expected features in 0..63 (dictionary), got 64}}
  %0 = iam.clt.delta ablate %f features [64]
      : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 1>
  return
}

// -----

func.func @clt_delta_c2_feature_twice(%f: !iam.features<?x64xf32>) {
  // expected-error @below {{'iam.clt.delta' op expected distinct features, got 7 more than once}}
  %0 = iam.clt.delta ablate %f features [7, 7]
      : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 2>
  return
}

// -----

func.func @clt_delta_c3_scale_without_operand(%f: !iam.features<?x64xf32>) {
  // expected-error @below {{'iam.clt.delta' op expected 1 operand after `by` for mode scale, got 0}}
  %0 = iam.clt.delta scale %f features [7]
      : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 1>
  return
}

// -----

func.func @clt_delta_c4_size_of_a(%f: !iam.features<?x64xf32>, %a: tensor<2xf32>) {
  // expected-error @below {{'iam.clt.delta' op expected the size of a to be the number of features (1), got 2}}
  %0 = iam.clt.delta scale %f features [7] by %a
      : (!iam.features<?x64xf32>, tensor<2xf32>) -> !iam.features<?x64xf32, k = 1>
  return
}

// -----

func.func @clt_delta_c5_no_features(%f: !iam.features<?x64xf32>) {
  // expected-error @below {{'iam.clt.delta' op expected at least 1 feature, got 0}}
  %0 = iam.clt.delta ablate %f features []
      : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 1>
  return
}

// -----

func.func @clt_delta_c6_slots_of_the_result(%f: !iam.features<?x64xf32, k = 8>) {
  // expected-error @below {{'iam.clt.delta' op expected result type '!iam.features<?x64xf32, k = 1>', got '!iam.features<?x64xf32, k = 8>'}}
  %0 = iam.clt.delta ablate %f features [7]
      : (!iam.features<?x64xf32, k = 8>) -> !iam.features<?x64xf32, k = 8>
  return
}

// -----

func.func @clt_sub_c1_different_forms(%p: !iam.features<?x64xf32, k = 8>, %q: !iam.features<?x64xf32>) {
  // expected-error @below {{'iam.clt.sub' op expected two features of the same form, got '!iam.features<?x64xf32, k = 8>' and '!iam.features<?x64xf32>'}}
  %0 = iam.clt.sub %p, %q : !iam.features<?x64xf32, k = 8>, !iam.features<?x64xf32> -> !iam.features<?x64xf32>
  return
}

// -----

func.func @clt_sub_c2_different_dictionaries(%p: !iam.features<?x64xf32>, %q: !iam.features<?x63xf32>) {
  // expected-error @below {{'iam.clt.sub' op expected features of the same rows and dictionary, got '!iam.features<?x64xf32>' and '!iam.features<?x63xf32>'}}
  %0 = iam.clt.sub %p, %q : !iam.features<?x64xf32>, !iam.features<?x63xf32> -> !iam.features<?x64xf32>
  return
}

// -----

func.func @clt_sub_c2_different_rows(%p: !iam.features<2x64xf32>, %q: !iam.features<3x64xf32>) {
  // expected-error @below {{'iam.clt.sub' op expected features of the same rows and dictionary, got '!iam.features<2x64xf32>' and '!iam.features<3x64xf32>'}}
  %0 = iam.clt.sub %p, %q : !iam.features<2x64xf32>, !iam.features<3x64xf32> -> !iam.features<?x64xf32>
  return
}

// -----

func.func @clt_sub_c3_slots_of_the_result(%p: !iam.features<?x64xf32, k = 8>, %q: !iam.features<?x64xf32, k = 8>) {
  // expected-error @below {{'iam.clt.sub' op expected result type '!iam.features<?x64xf32, k = 16>', got '!iam.features<?x64xf32, k = 8>'}}
  %0 = iam.clt.sub %p, %q : !iam.features<?x64xf32, k = 8>, !iam.features<?x64xf32, k = 8> -> !iam.features<?x64xf32, k = 8>
  return
}

// -----

func.func @clt_sub_c3_rows_of_the_result(%p: !iam.features<2x64xf32>, %q: !iam.features<2x64xf32>) {
  // expected-error @below {{'iam.clt.sub' op expected result type '!iam.features<2x64xf32>', got '!iam.features<3x64xf32>'}}
  %0 = iam.clt.sub %p, %q : !iam.features<2x64xf32>, !iam.features<2x64xf32> -> !iam.features<3x64xf32>
  return
}

// -----

func.func @clt_encode_sparse_c9_batch_topk_result_with_k(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected a result in compressed rows, without k, got '!iam.features<?x16xf32, k = 2>'}}
  %0 = iam.clt.encode_sparse batch_topk %x, %W, %b k = 2 : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32, k = 2>
  return
}

// -----

func.func @clt_encode_sparse_c14_gate_without_magnitude(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected 2 operands after `magnitude` for activation gate, got 0}}
  %0 = iam.clt.encode_sparse gate %x, %W, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  return
}

// -----

func.func @clt_encode_sparse_c14_magnitude_of_relu(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected 0 operands after `magnitude` for activation relu, got 1}}
  %0 = iam.clt.encode_sparse relu %x, %W, %b magnitude %W : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4x16xf32>) -> !iam.features<?x16xf32>
  return
}

// -----

func.func @clt_encode_sparse_c15_rows_of_W_mag(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %V: tensor<5x16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected the number of rows of W_mag to be the number of rows of W_enc (4), got 5}}
  %0 = iam.clt.encode_sparse gate %x, %W, %b magnitude %V, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<5x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  return
}

// -----

func.func @clt_encode_sparse_c15_columns_of_W_mag(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %V: tensor<4x17xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected the number of columns of W_mag to be the number of columns of W_enc (16), got 17}}
  %0 = iam.clt.encode_sparse gate %x, %W, %b magnitude %V, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4x17xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  return
}

// -----

func.func @clt_encode_sparse_c16_size_of_b_mag(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %c: tensor<15xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected the size of b_mag to be the number of columns of W_enc (16), got 15}}
  %0 = iam.clt.encode_sparse gate %x, %W, %b magnitude %W, %c : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4x16xf32>, tensor<15xf32>) -> !iam.features<?x16xf32>
  return
}

// -----

func.func @clt_encode_sparse_c11_only_of_batch_topk(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected no `only` for activation batch_topk: whether a feature is active depends on the others}}
  %0 = iam.clt.encode_sparse batch_topk %x, %W, %b k = 2 only [1, 3] : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  return
}

// -----

func.func @clt_encode_sparse_c11_only_of_topk(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected no `only` for activation topk: whether a feature is active depends on the others}}
  %0 = iam.clt.encode_sparse topk %x, %W, %b k = 2 only [1, 3] : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32, k = 2>
  return
}

// -----

func.func @clt_encode_sparse_c11_only_of_groupmax(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected no `only` for activation groupmax: whether a feature is active depends on the others}}
  %0 = iam.clt.encode_sparse groupmax %x, %W, %b k = 2 only [1] : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32, k = 2>
  return
}

// -----

func.func @clt_encode_sparse_c12_only_of_nothing(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected at least one feature in `only`}}
  %0 = iam.clt.encode_sparse relu %x, %W, %b only [] : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  return
}

// -----

func.func @clt_encode_sparse_c12_only_above_the_dictionary(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected `only` in 0..15 (dictionary), got 16}}
  %0 = iam.clt.encode_sparse relu %x, %W, %b only [3, 16] : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  return
}

// -----

func.func @clt_encode_sparse_c12_negative_only(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected `only` in 0..15 (dictionary), got -1}}
  %0 = iam.clt.encode_sparse relu %x, %W, %b only [-1] : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  return
}

// -----

func.func @clt_encode_sparse_c13_only_twice(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected `only` in ascending order, each feature once, got 3 after 3}}
  %0 = iam.clt.encode_sparse relu %x, %W, %b only [3, 3] : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  return
}

// -----

func.func @clt_encode_sparse_c13_only_descends(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>) {
  // expected-error @below {{'iam.clt.encode_sparse' op expected `only` in ascending order, each feature once, got 3 after 5}}
  %0 = iam.clt.encode_sparse relu %x, %W, %b only [5, 3] : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  return
}

// -----

func.func @clt_decode_adjoint_c2_rows_of_W_dec(%f: !iam.features<2x16xf32>, %W: tensor<15x4xf32>, %dy: tensor<2x4xf32>) {
  // expected-error @below {{'iam.clt.decode_adjoint' op expected the number of rows of W_dec to be the dictionary of the features (16), got 15}}
  %0 = iam.clt.decode_adjoint %f, %W, %dy : !iam.features<2x16xf32>, tensor<15x4xf32>, tensor<2x4xf32>
  return
}

// -----

func.func @clt_decode_adjoint_c3_width(%f: !iam.features<2x16xf32>, %W: tensor<16x4xf32>, %dy: tensor<2x5xf32>) {
  // expected-error @below {{'iam.clt.decode_adjoint' op expected the width of dy to be the width of W_dec (4), got 5}}
  %0 = iam.clt.decode_adjoint %f, %W, %dy : !iam.features<2x16xf32>, tensor<16x4xf32>, tensor<2x5xf32>
  return
}

// -----

func.func @clt_decode_adjoint_c4_rows(%f: !iam.features<2x16xf32>, %W: tensor<16x4xf32>, %dy: tensor<3x4xf32>) {
  // expected-error @below {{'iam.clt.decode_adjoint' op expected the number of rows of dy to be the number of rows of the features (2), got 3}}
  %0 = iam.clt.decode_adjoint %f, %W, %dy : !iam.features<2x16xf32>, tensor<16x4xf32>, tensor<3x4xf32>
  return
}

// -----

func.func @clt_densify_adjoint_c2_column(%f: !iam.features<2x16xf32>, %dd: tensor<2x1xf32>) {
  // expected-error @below {{'iam.clt.densify_adjoint' op expected columns in 0..15 (dictionary), got 16}}
  %0 = iam.clt.densify_adjoint %f, %dd columns [16] : !iam.features<2x16xf32>, tensor<2x1xf32>
  return
}

// -----

func.func @clt_densify_adjoint_c3_twice(%f: !iam.features<2x16xf32>, %dd: tensor<2x2xf32>) {
  // expected-error @below {{'iam.clt.densify_adjoint' op expected distinct columns, got 3 more than once}}
  %0 = iam.clt.densify_adjoint %f, %dd columns [3, 3] : !iam.features<2x16xf32>, tensor<2x2xf32>
  return
}

// -----

func.func @clt_densify_adjoint_c4_width(%f: !iam.features<2x16xf32>, %dd: tensor<2x2xf32>) {
  // expected-error @below {{'iam.clt.densify_adjoint' op expected the width of dd to be the dictionary of the features (16), got 2}}
  %0 = iam.clt.densify_adjoint %f, %dd : !iam.features<2x16xf32>, tensor<2x2xf32>
  return
}

// -----

func.func @clt_densify_adjoint_c4_columns(%f: !iam.features<2x16xf32>, %dd: tensor<2x2xf32>) {
  // expected-error @below {{'iam.clt.densify_adjoint' op expected the width of dd to be the number of columns (1), got 2}}
  %0 = iam.clt.densify_adjoint %f, %dd columns [3] : !iam.features<2x16xf32>, tensor<2x2xf32>
  return
}

// -----

func.func @clt_densify_adjoint_c5_rows(%f: !iam.features<2x16xf32>, %dd: tensor<3x16xf32>) {
  // expected-error @below {{'iam.clt.densify_adjoint' op expected the number of rows of dd to be the number of rows of the features (2), got 3}}
  %0 = iam.clt.densify_adjoint %f, %dd : !iam.features<2x16xf32>, tensor<3x16xf32>
  return
}

// -----

func.func @clt_edit_adjoint_c2_dictionary(%f: !iam.features<2x16xf32>, %g: !iam.features<2x17xf32>) {
  // expected-error @below {{'iam.clt.edit_adjoint' op expected features of the same rows and dictionary, got '!iam.features<2x16xf32>' and '!iam.features<2x17xf32>'}}
  %0 = iam.clt.edit_adjoint set %f, %g features [7] : (!iam.features<2x16xf32>, !iam.features<2x17xf32>) -> !iam.features<2x16xf32>
  return
}

// -----

func.func @clt_edit_adjoint_c3_feature(%f: !iam.features<2x16xf32>) {
  // expected-error @below {{'iam.clt.edit_adjoint' op expected features in 0..15 (dictionary), got -1}}
  %0 = iam.clt.edit_adjoint set %f, %f features [-1] : (!iam.features<2x16xf32>, !iam.features<2x16xf32>) -> !iam.features<2x16xf32>
  return
}

// -----

func.func @clt_edit_adjoint_c4_twice(%f: !iam.features<2x16xf32>) {
  // expected-error @below {{'iam.clt.edit_adjoint' op expected distinct features, got 3 more than once}}
  %0 = iam.clt.edit_adjoint set %f, %f features [3, 3] : (!iam.features<2x16xf32>, !iam.features<2x16xf32>) -> !iam.features<2x16xf32>
  return
}

// -----

func.func @clt_edit_adjoint_c5_operands(%f: !iam.features<2x16xf32>, %a: tensor<1xf32>) {
  // expected-error @below {{'iam.clt.edit_adjoint' op expected 2 operands after `by` for mode clamp, got 1}}
  %0 = iam.clt.edit_adjoint clamp %f, %f features [3] by %a : (!iam.features<2x16xf32>, !iam.features<2x16xf32>, tensor<1xf32>) -> !iam.features<2x16xf32>
  return
}

// -----

func.func @clt_edit_adjoint_c6_size_of_a(%f: !iam.features<2x16xf32>, %a: tensor<2xf32>) {
  // expected-error @below {{'iam.clt.edit_adjoint' op expected the size of a to be the number of features (1), got 2}}
  %0 = iam.clt.edit_adjoint scale %f, %f features [3] by %a : (!iam.features<2x16xf32>, !iam.features<2x16xf32>, tensor<2xf32>) -> !iam.features<2x16xf32>
  return
}

// -----

func.func @clt_edit_adjoint_c6_size_of_b(%f: !iam.features<2x16xf32>, %a: tensor<1xf32>, %b: tensor<2xf32>) {
  // expected-error @below {{'iam.clt.edit_adjoint' op expected the size of b to be the number of features (1), got 2}}
  %0 = iam.clt.edit_adjoint clamp %f, %f features [3] by %a, %b : (!iam.features<2x16xf32>, !iam.features<2x16xf32>, tensor<1xf32>, tensor<2xf32>) -> !iam.features<2x16xf32>
  return
}
