// One test for each message of a verifier; what ODS checks is not tested.
// RUN: iam-opt %s --split-input-file --verify-diagnostics

func.func @policy_steer_c2_size_of_v(%h: tensor<?x4xf32>, %v: tensor<5xf32>, %s: f32) {
  // expected-error @below {{'iam.policy.steer' op expected the size of v to be the width of h (4), got 5}}
  %0 = iam.policy.steer add %h, %v, %s : tensor<?x4xf32>, tensor<5xf32>, f32
  return
}

// -----

func.func @policy_compose_c1_number_of_strengths(%v: tensor<3x4xf32>, %s: tensor<2xf32>) {
  // expected-error @below {{'iam.policy.compose' op expected the number of strengths to be the number of vectors (3), got 2}}
  %0 = iam.policy.compose sum %v, %s : tensor<3x4xf32>, tensor<2xf32> -> tensor<4xf32>
  return
}

// -----

func.func @policy_compose_c2_size_of_the_result(%v: tensor<3x4xf32>, %s: tensor<3xf32>) {
  // expected-error @below {{'iam.policy.compose' op expected the size of the result to be the width of vectors (4), got 5}}
  %0 = iam.policy.compose sum %v, %s : tensor<3x4xf32>, tensor<3xf32> -> tensor<5xf32>
  return
}

// -----

func.func @policy_project_c2_rank_of_a_normal(%h: tensor<?x4xf32>, %p: tensor<2x4xf32>, %q: f32) {
  // expected-error @below {{'iam.policy.project' op expected first to have rank 1 for a halfspace, got 'tensor<2x4xf32>'}}
  %0 = iam.policy.project halfspace %h, %p, %q
      : (tensor<?x4xf32>, tensor<2x4xf32>, f32) -> tensor<?x4xf32>
  return
}

// -----

func.func @policy_project_c2_rank_of_a_basis(%h: tensor<?x4xf32>, %p: tensor<4xf32>) {
  // expected-error @below {{'iam.policy.project' op expected first to have rank 2 for a subspace, got 'tensor<4xf32>'}}
  %0 = iam.policy.project subspace %h, %p
      : (tensor<?x4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @policy_project_c3_width_of_first(%h: tensor<?x4xf32>, %p: tensor<5xf32>, %q: f32) {
  // expected-error @below {{'iam.policy.project' op expected the width of first to be the width of h (4), got 5}}
  %0 = iam.policy.project ball %h, %p, %q
      : (tensor<?x4xf32>, tensor<5xf32>, f32) -> tensor<?x4xf32>
  return
}

// -----

func.func @policy_project_c4_ball_without_radius(%h: tensor<?x4xf32>, %p: tensor<4xf32>) {
  // expected-error @below {{'iam.policy.project' op expected an f32 as second operand for a ball, got none}}
  %0 = iam.policy.project ball %h, %p
      : (tensor<?x4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @policy_project_c4_subspace_with_second(%h: tensor<?x4xf32>, %p: tensor<2x4xf32>, %q: f32) {
  // expected-error @below {{'iam.policy.project' op expected no second operand for a subspace, got 'f32'}}
  %0 = iam.policy.project subspace %h, %p, %q
      : (tensor<?x4xf32>, tensor<2x4xf32>, f32) -> tensor<?x4xf32>
  return
}

// -----

func.func @policy_project_c4_box_with_a_number(%h: tensor<?x4xf32>, %p: tensor<4xf32>, %q: f32) {
  // expected-error @below {{'iam.policy.project' op expected a vector as second operand for a box, got 'f32'}}
  %0 = iam.policy.project box %h, %p, %q
      : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?x4xf32>
  return
}

// -----

func.func @policy_project_c5_size_of_second(%h: tensor<?x4xf32>, %p: tensor<4xf32>, %q: tensor<5xf32>) {
  // expected-error @below {{'iam.policy.project' op expected the size of second to be the width of h (4), got 5}}
  %0 = iam.policy.project box %h, %p, %q
      : (tensor<?x4xf32>, tensor<4xf32>, tensor<5xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @policy_verify_c1_rank_of_a_centre(%h: tensor<?x4xf32>, %p: tensor<2x4xf32>, %q: f32) {
  // expected-error @below {{'iam.policy.verify' op expected first to have rank 1 for a ball, got 'tensor<2x4xf32>'}}
  %0 = iam.policy.verify ball %h, %p, %q message "inside"
      : (tensor<?x4xf32>, tensor<2x4xf32>, f32) -> tensor<?xf32>
  return
}

// -----

func.func @policy_verify_c2_width_of_first(%h: tensor<?x4xf32>, %p: tensor<5xf32>, %q: f32) {
  // expected-error @below {{'iam.policy.verify' op expected the width of first to be the width of h (4), got 5}}
  %0 = iam.policy.verify ball %h, %p, %q message "inside"
      : (tensor<?x4xf32>, tensor<5xf32>, f32) -> tensor<?xf32>
  return
}

// -----

func.func @policy_verify_c3_halfspace_with_a_vector(%h: tensor<?x4xf32>, %p: tensor<4xf32>, %q: tensor<4xf32>) {
  // expected-error @below {{'iam.policy.verify' op expected an f32 as second operand for a halfspace, got 'tensor<4xf32>'}}
  %0 = iam.policy.verify halfspace %h, %p, %q message "inside"
      : (tensor<?x4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<?xf32>
  return
}

// -----

func.func @policy_verify_c4_size_of_second(%h: tensor<?x4xf32>, %p: tensor<4xf32>, %q: tensor<5xf32>) {
  // expected-error @below {{'iam.policy.verify' op expected the size of second to be the width of h (4), got 5}}
  %0 = iam.policy.verify box %h, %p, %q message "inside"
      : (tensor<?x4xf32>, tensor<4xf32>, tensor<5xf32>) -> tensor<?xf32>
  return
}

// -----

func.func @policy_verify_c5_negative_tolerance(%h: tensor<?x4xf32>, %p: tensor<4xf32>, %q: f32) {
  // expected-error @below {{'iam.policy.verify' op expected a finite tolerance >= 0, got -5.000000e-01}}
  %0 = iam.policy.verify ball %h, %p, %q tolerance -0.5 message "inside"
      : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
  return
}

// -----

func.func @policy_verify_c5_nan_tolerance(%h: tensor<?x4xf32>, %p: tensor<4xf32>, %q: f32) {
  // expected-error @below {{'iam.policy.verify' op expected a finite tolerance >= 0, got nan}}
  %0 = iam.policy.verify ball %h, %p, %q tolerance 0x7FC00000 message "inside"
      : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
  return
}

// -----

func.func @policy_verify_c6_no_message(%h: tensor<?x4xf32>, %p: tensor<4xf32>, %q: f32) {
  // expected-error @below {{'iam.policy.verify' op expected a message that says what must hold, got ""}}
  %0 = iam.policy.verify ball %h, %p, %q message ""
      : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
  return
}

// -----

func.func @policy_verify_c7_number_of_margins(%h: tensor<3x4xf32>, %p: tensor<4xf32>, %q: f32) {
  // expected-error @below {{'iam.policy.verify' op expected the number of margins to be the number of rows of h (3), got 2}}
  %0 = iam.policy.verify ball %h, %p, %q message "inside"
      : (tensor<3x4xf32>, tensor<4xf32>, f32) -> tensor<2xf32>
  return
}

// -----

func.func @policy_project_adjoint_c2_subspace(%h: tensor<2x4xf32>, %v: tensor<4xf32>, %s: f32) {
  // expected-error @below {{'iam.policy.project_adjoint' op expected halfspace, ball or box: the derivative of a projection onto a subspace is that projection}}
  %0 = iam.policy.project_adjoint subspace %h, %h, %v, %s : (tensor<2x4xf32>, tensor<2x4xf32>, tensor<4xf32>, f32) -> tensor<2x4xf32>
  return
}

// -----

func.func @policy_project_adjoint_c3_width(%h: tensor<2x4xf32>, %d: tensor<2x5xf32>, %v: tensor<4xf32>, %s: f32) {
  // expected-error @below {{'iam.policy.project_adjoint' op expected the width of dy to be the width of h (4), got 5}}
  %0 = iam.policy.project_adjoint ball %h, %d, %v, %s : (tensor<2x4xf32>, tensor<2x5xf32>, tensor<4xf32>, f32) -> tensor<2x5xf32>
  return
}

// -----

func.func @policy_project_adjoint_c3_rows(%h: tensor<2x4xf32>, %d: tensor<3x4xf32>, %v: tensor<4xf32>, %s: f32) {
  // expected-error @below {{'iam.policy.project_adjoint' op expected the number of rows of dy to be the number of rows of h (2), got 3}}
  %0 = iam.policy.project_adjoint ball %h, %d, %v, %s : (tensor<2x4xf32>, tensor<3x4xf32>, tensor<4xf32>, f32) -> tensor<3x4xf32>
  return
}

// -----

func.func @policy_project_adjoint_c4_first(%h: tensor<2x4xf32>, %v: tensor<5xf32>, %s: f32) {
  // expected-error @below {{'iam.policy.project_adjoint' op expected the size of first to be the width of h (4), got 5}}
  %0 = iam.policy.project_adjoint ball %h, %h, %v, %s : (tensor<2x4xf32>, tensor<2x4xf32>, tensor<5xf32>, f32) -> tensor<2x4xf32>
  return
}

// -----

func.func @policy_project_adjoint_c5_second_of_a_ball(%h: tensor<2x4xf32>, %v: tensor<4xf32>) {
  // expected-error @below {{'iam.policy.project_adjoint' op expected an f32 as second operand for a ball, got 'tensor<4xf32>'}}
  %0 = iam.policy.project_adjoint ball %h, %h, %v, %v : (tensor<2x4xf32>, tensor<2x4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<2x4xf32>
  return
}

// -----

func.func @policy_project_adjoint_c5_second_of_a_box(%h: tensor<2x4xf32>, %v: tensor<4xf32>, %s: f32) {
  // expected-error @below {{'iam.policy.project_adjoint' op expected a vector as second operand for a box, got 'f32'}}
  %0 = iam.policy.project_adjoint box %h, %h, %v, %s : (tensor<2x4xf32>, tensor<2x4xf32>, tensor<4xf32>, f32) -> tensor<2x4xf32>
  return
}

// -----

func.func @policy_project_adjoint_c5_size_of_second(%h: tensor<2x4xf32>, %v: tensor<4xf32>, %u: tensor<5xf32>) {
  // expected-error @below {{'iam.policy.project_adjoint' op expected the size of second to be the width of h (4), got 5}}
  %0 = iam.policy.project_adjoint box %h, %h, %v, %u : (tensor<2x4xf32>, tensor<2x4xf32>, tensor<4xf32>, tensor<5xf32>) -> tensor<2x4xf32>
  return
}

// -----

func.func @policy_sequence_c2_step(%h: tensor<2x4xf32>, %v: tensor<2x4xf32>, %s: tensor<2xf32>) {
  // expected-error @below {{'iam.policy.sequence' op expected steps 0 (add), 1 (ablate), 2 (clamp) or 3 (halfspace), got 4}}
  %0 = "iam.policy.sequence"(%h, %v, %s) <{steps = array<i32: 0, 4>}> : (tensor<2x4xf32>, tensor<2x4xf32>, tensor<2xf32>) -> tensor<2x4xf32>
  return
}

// -----

func.func @policy_sequence_c2_word(%h: tensor<2x4xf32>, %v: tensor<2x4xf32>, %s: tensor<2xf32>) {
  // expected-error @below {{expected add, ablate, clamp or halfspace, got rotate}}
  %0 = iam.policy.sequence add, rotate %h, %v, %s : tensor<2x4xf32>, tensor<2x4xf32>, tensor<2xf32>
  return
}

// -----

func.func @policy_sequence_c3_directions(%h: tensor<2x4xf32>, %v: tensor<2x4xf32>, %s: tensor<2xf32>) {
  // expected-error @below {{'iam.policy.sequence' op expected the number of directions to be the number of steps (3), got 2}}
  %0 = iam.policy.sequence add, add, add %h, %v, %s : tensor<2x4xf32>, tensor<2x4xf32>, tensor<2xf32>
  return
}

// -----

func.func @policy_sequence_c4_strengths(%h: tensor<2x4xf32>, %v: tensor<2x4xf32>, %s: tensor<1xf32>) {
  // expected-error @below {{'iam.policy.sequence' op expected the number of strengths to be the number of steps (2), got 1}}
  %0 = iam.policy.sequence add, clamp %h, %v, %s : tensor<2x4xf32>, tensor<2x4xf32>, tensor<1xf32>
  return
}

// -----

func.func @policy_sequence_c5_width(%h: tensor<2x4xf32>, %v: tensor<2x5xf32>, %s: tensor<2xf32>) {
  // expected-error @below {{'iam.policy.sequence' op expected the width of directions to be the width of h (4), got 5}}
  %0 = iam.policy.sequence add, clamp %h, %v, %s : tensor<2x4xf32>, tensor<2x5xf32>, tensor<2xf32>
  return
}
