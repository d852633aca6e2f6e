// RUN: iam-opt %s --split-input-file --verify-diagnostics

func.func @model_run_c1_to_is_no_site(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.run' op expected to to be a site like "resid_post.20" or "logits", got "resid_posts.2"}}
  %y = iam.model.run %m, %h from "resid_post.1" to "resid_posts.2" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @model_linearize_c1_to_is_no_site(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.linearize' op expected to to be a site like "resid_post.20" or "logits", got "resid_posts.2"}}
  %y, %t = iam.model.linearize %m, %h from "resid_post.1" to "resid_posts.2" : (!iam.model, tensor<?x4xf32>) -> (tensor<?x4xf32>, !iam.tape)
  return
}

// -----

func.func @model_run_c1_layer_is_not_canonical(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.run' op expected to to be a site like "resid_post.20" or "logits", got "resid_post.02"}}
  %y = iam.model.run %m, %h from "resid_post.1" to "resid_post.02" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @model_linearize_c1_layer_is_not_canonical(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.linearize' op expected to to be a site like "resid_post.20" or "logits", got "resid_post.02"}}
  %y, %t = iam.model.linearize %m, %h from "resid_post.1" to "resid_post.02" : (!iam.model, tensor<?x4xf32>) -> (tensor<?x4xf32>, !iam.tape)
  return
}

// -----

func.func @model_run_c2_from_is_no_site(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.run' op expected from to be a site like "resid_post.20", got "logits"}}
  %y = iam.model.run %m, %h from "logits" to "logits" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @model_linearize_c2_from_is_no_site(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.linearize' op expected from to be a site like "resid_post.20", got "logits"}}
  %y, %t = iam.model.linearize %m, %h from "logits" to "logits" : (!iam.model, tensor<?x4xf32>) -> (tensor<?x4xf32>, !iam.tape)
  return
}

// -----

func.func @model_run_c3_from_after_to(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.run' op expected from to come before to, got from mlp_out.1 to attn_out.1}}
  %y = iam.model.run %m, %h from "mlp_out.1" to "attn_out.1" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @model_linearize_c3_from_after_to(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.linearize' op expected from to come before to, got from mlp_out.1 to attn_out.1}}
  %y, %t = iam.model.linearize %m, %h from "mlp_out.1" to "attn_out.1" : (!iam.model, tensor<?x4xf32>) -> (tensor<?x4xf32>, !iam.tape)
  return
}

// -----

func.func @model_run_c3_from_is_to(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.run' op expected from to come before to, got from resid_post.1 to resid_post.1}}
  %y = iam.model.run %m, %h from "resid_post.1" to "resid_post.1" : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @model_linearize_c3_from_is_to(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.linearize' op expected from to come before to, got from resid_post.1 to resid_post.1}}
  %y, %t = iam.model.linearize %m, %h from "resid_post.1" to "resid_post.1" : (!iam.model, tensor<?x4xf32>) -> (tensor<?x4xf32>, !iam.tape)
  return
}

// -----

func.func @model_run_c4_tokens_of_a_site(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.run' op expected tokens only with to = "logits", got to = "resid_post.2"}}
  %y = iam.model.run %m, %h from "resid_post.1" to "resid_post.2" tokens [1] : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @model_linearize_c4_tokens_of_a_site(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.linearize' op expected tokens only with to = "logits", got to = "resid_post.2"}}
  %y, %t = iam.model.linearize %m, %h from "resid_post.1" to "resid_post.2" tokens [1] : (!iam.model, tensor<?x4xf32>) -> (tensor<?x4xf32>, !iam.tape)
  return
}

// -----

func.func @model_run_c4_no_tokens(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.run' op expected at least one token, got none}}
  %y = iam.model.run %m, %h from "resid_post.1" to "logits" tokens [] : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @model_linearize_c4_no_tokens(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.linearize' op expected at least one token, got none}}
  %y, %t = iam.model.linearize %m, %h from "resid_post.1" to "logits" tokens [] : (!iam.model, tensor<?x4xf32>) -> (tensor<?x4xf32>, !iam.tape)
  return
}

// -----

func.func @model_run_c4_negative_token(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.run' op expected tokens to be ids >= 0 of 32 bits, got -1}}
  %y = iam.model.run %m, %h from "resid_post.1" to "logits" tokens [1, -1] : (!iam.model, tensor<?x4xf32>) -> tensor<?x2xf32>
  return
}

// -----

func.func @model_linearize_c4_negative_token(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.linearize' op expected tokens to be ids >= 0 of 32 bits, got -1}}
  %y, %t = iam.model.linearize %m, %h from "resid_post.1" to "logits" tokens [1, -1] : (!iam.model, tensor<?x4xf32>) -> (tensor<?x2xf32>, !iam.tape)
  return
}

// -----

func.func @model_run_c4_width_is_not_the_tokens(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.run' op expected the width of y to be the number of tokens (2), got 4}}
  %y = iam.model.run %m, %h from "resid_post.1" to "logits" tokens [1, 2] : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @model_linearize_c4_width_is_not_the_tokens(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.linearize' op expected the width of y to be the number of tokens (2), got 4}}
  %y, %t = iam.model.linearize %m, %h from "resid_post.1" to "logits" tokens [1, 2] : (!iam.model, tensor<?x4xf32>) -> (tensor<?x4xf32>, !iam.tape)
  return
}

// -----

func.func @model_run_c5_no_positions(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.run' op expected at least one position, got none}}
  %y = iam.model.run %m, %h from "resid_post.1" to "logits" positions [] : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @model_linearize_c5_no_positions(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.linearize' op expected at least one position, got none}}
  %y, %t = iam.model.linearize %m, %h from "resid_post.1" to "logits" positions [] : (!iam.model, tensor<?x4xf32>) -> (tensor<?x4xf32>, !iam.tape)
  return
}

// -----

func.func @model_run_c5_position_of_64_bits(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.run' op expected positions of 32 bits, got 4294967296}}
  %y = iam.model.run %m, %h from "resid_post.1" to "logits" positions [4294967296] : (!iam.model, tensor<?x4xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @model_linearize_c5_position_of_64_bits(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.linearize' op expected positions of 32 bits, got 4294967296}}
  %y, %t = iam.model.linearize %m, %h from "resid_post.1" to "logits" positions [4294967296] : (!iam.model, tensor<?x4xf32>) -> (tensor<?x4xf32>, !iam.tape)
  return
}

// -----

func.func @model_run_c6_width_of_the_residual_stream(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.run' op expected the width of y to be the width of h (4), got 5}}
  %y = iam.model.run %m, %h from "resid_post.1" to "resid_post.2" : (!iam.model, tensor<?x4xf32>) -> tensor<?x5xf32>
  return
}

// -----

func.func @model_linearize_c6_width_of_the_residual_stream(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.linearize' op expected the width of y to be the width of h (4), got 5}}
  %y, %t = iam.model.linearize %m, %h from "resid_post.1" to "resid_post.2" : (!iam.model, tensor<?x4xf32>) -> (tensor<?x5xf32>, !iam.tape)
  return
}

// -----

func.func @model_run_c7_rows(%m: !iam.model, %h: tensor<3x4xf32>) {
  // expected-error @below {{'iam.model.run' op expected the number of rows of y to be the number of rows of h (3), got 2}}
  %y = iam.model.run %m, %h from "resid_post.1" to "resid_post.2" : (!iam.model, tensor<3x4xf32>) -> tensor<2x4xf32>
  return
}

// -----

func.func @model_linearize_c7_rows(%m: !iam.model, %h: tensor<3x4xf32>) {
  // expected-error @below {{'iam.model.linearize' op expected the number of rows of y to be the number of rows of h (3), got 2}}
  %y, %t = iam.model.linearize %m, %h from "resid_post.1" to "resid_post.2" : (!iam.model, tensor<3x4xf32>) -> (tensor<2x4xf32>, !iam.tape)
  return
}

// -----

func.func @model_run_c8_h_without_from(%m: !iam.model, %h: tensor<?x4xf32>) {
  // expected-error @below {{'iam.model.run' op expected h and from together, got h without from}}
  %y = iam.model.run %m, %h to "logits" : (!iam.model, tensor<?x4xf32>) -> tensor<?x9xf32>
  return
}

// -----

func.func @model_run_c8_from_without_h(%m: !iam.model) {
  // expected-error @below {{'iam.model.run' op expected h and from together, got from without h}}
  %y = iam.model.run %m from "resid_pre.0" to "logits" : (!iam.model) -> tensor<?x9xf32>
  return
}

// -----

func.func @model_pullback_c1_rows_of_dy(%m: !iam.model, %h: tensor<3x4xf32>, %dy: tensor<2x4xf32>) {
  %y, %t = iam.model.linearize %m, %h from "resid_pre.0" to "resid_pre.1" : (!iam.model, tensor<3x4xf32>) -> (tensor<3x4xf32>, !iam.tape)
  // expected-error @below {{'iam.model.pullback' op expected the number of rows of dy to be the number of rows of y (3), got 2}}
  %g = iam.model.pullback %t, %dy : (!iam.tape, tensor<2x4xf32>) -> tensor<3x4xf32>
  return
}

// -----

func.func @model_pullback_c1_width_of_dy(%m: !iam.model, %h: tensor<3x4xf32>, %dy: tensor<3x5xf32>) {
  %y, %t = iam.model.linearize %m, %h from "resid_pre.0" to "resid_pre.1" : (!iam.model, tensor<3x4xf32>) -> (tensor<3x4xf32>, !iam.tape)
  // expected-error @below {{'iam.model.pullback' op expected the width of dy to be the width of y (4), got 5}}
  %g = iam.model.pullback %t, %dy : (!iam.tape, tensor<3x5xf32>) -> tensor<3x4xf32>
  return
}

// -----

func.func @model_pullback_c2_rows_of_g(%m: !iam.model, %h: tensor<3x4xf32>, %dy: tensor<3x4xf32>) {
  %y, %t = iam.model.linearize %m, %h from "resid_pre.0" to "resid_pre.1" : (!iam.model, tensor<3x4xf32>) -> (tensor<3x4xf32>, !iam.tape)
  // expected-error @below {{'iam.model.pullback' op expected the number of rows of g to be the number of rows of h (3), got 2}}
  %g = iam.model.pullback %t, %dy : (!iam.tape, tensor<3x4xf32>) -> tensor<2x4xf32>
  return
}

// -----

func.func @model_pullback_c2_width_of_g(%m: !iam.model, %h: tensor<3x4xf32>, %dy: tensor<3x4xf32>) {
  %y, %t = iam.model.linearize %m, %h from "resid_pre.0" to "resid_pre.1" : (!iam.model, tensor<3x4xf32>) -> (tensor<3x4xf32>, !iam.tape)
  // expected-error @below {{'iam.model.pullback' op expected the width of g to be the width of h (4), got 5}}
  %g = iam.model.pullback %t, %dy : (!iam.tape, tensor<3x4xf32>) -> tensor<3x5xf32>
  return
}
