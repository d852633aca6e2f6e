// iam-clt-fusion, family 3: where it holds back. Nothing may change: the input is what is checked.
// RUN: iam-opt %s --split-input-file -o %t.before
// RUN: iam-opt %s --iam-clt-fusion --split-input-file -o %t.after
// RUN: diff %t.before %t.after

func.func @different_weights(%f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>, %V: tensor<16x4xf32>) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %V : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %y = arith.subf %p, %m : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

func.func @different_biases(%f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>, %b: tensor<4xf32>, %c: tensor<4xf32>) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W, bias %b : (!iam.features<?x16xf32>, tensor<16x4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W, bias %c : (!iam.features<?x16xf32>, tensor<16x4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  %y = arith.subf %p, %m : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

func.func @one_bias(%f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>, %b: tensor<4xf32>) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W, bias %b : (!iam.features<?x16xf32>, tensor<16x4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %y = arith.subf %p, %m : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

func.func @both_reconstructions_have_other_uses(%f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>)
    -> (tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>) {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %y = arith.subf %p, %m : tensor<?x4xf32>
  return %y, %p, %m : tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>
}

// -----

// The sum, and with it decode(g), stays; so does decode(f).
func.func @the_sum_and_the_other_reconstruction_stay(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>)
    -> (tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>) {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %s = arith.addf %x, %p : tensor<?x4xf32>
  %y = arith.subf %s, %m : tensor<?x4xf32>
  return %y, %s, %m : tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>
}

// -----

// Without an edit between the codes, both reconstructions have to die.
func.func @unrelated_codes_one_other_use(%f: !iam.features<?x16xf32>, %g: !iam.features<?x16xf32>, %W: tensor<16x4xf32>)
    -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %y = arith.subf %p, %m : tensor<?x4xf32>
  return %y, %p : tensor<?x4xf32>, tensor<?x4xf32>
}

// -----

func.func @different_forms(%f: !iam.features<?x16xf32>, %g: !iam.features<?x16xf32, k = 2>, %W: tensor<16x4xf32>) -> tensor<?x4xf32> {
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32, k = 2>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %y = arith.subf %p, %m : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

func.func @different_static_rows(%f: !iam.features<?x16xf32>, %g: !iam.features<3x16xf32>, %W: tensor<16x4xf32>) -> tensor<3x4xf32> {
  %p = iam.clt.decode %g, %W : (!iam.features<3x16xf32>, tensor<16x4xf32>) -> tensor<3x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<3x4xf32>
  %y = arith.subf %p, %m : tensor<3x4xf32>
  return %y : tensor<3x4xf32>
}

// -----

// Both are multiplied, by different values.
func.func @different_factors(%f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>, %s: tensor<?x4xf32>, %t: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %sp = arith.mulf %p, %s : tensor<?x4xf32>
  %tm = arith.mulf %m, %t : tensor<?x4xf32>
  %y = arith.subf %sp, %tm : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// One is multiplied, the other divided.
func.func @factor_and_divisor(%f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>, %s: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %sp = arith.mulf %p, %s : tensor<?x4xf32>
  %sm = arith.divf %m, %s : tensor<?x4xf32>
  %y = arith.subf %sp, %sm : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// A product of reconstructions is not linear in them.
func.func @squares(%f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %pp = arith.mulf %p, %p : tensor<?x4xf32>
  %mm = arith.mulf %m, %m : tensor<?x4xf32>
  %y = arith.subf %pp, %mm : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// steer adds to decode(f), which would be gone.
func.func @original_is_steered(%f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>, %v: tensor<4xf32>, %s: f32) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %t = iam.policy.steer add %m, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %y = arith.subf %p, %t : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// Other edits of the stream than additions are not linear.
func.func @ablated_between(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>, %v: tensor<4xf32>, %s: f32) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %e = arith.subf %x, %m : tensor<?x4xf32>
  %t = iam.policy.steer ablate %e, %v, %s : tensor<?x4xf32>, tensor<4xf32>, f32
  %y = arith.addf %t, %p : tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// The residual learns its rows from a static result type: an addition needs one type.
func.func @residual_with_another_static_type(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>) -> tensor<3x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %e = arith.subf %x, %m : tensor<?x4xf32>
  %y = iam.clt.residual %p, %e : (tensor<?x4xf32>, tensor<?x4xf32>) -> tensor<3x4xf32>
  return %y : tensor<3x4xf32>
}

// -----

// A sum of reconstructions is no difference, and x - decode(f) is no difference of reconstructions.
func.func @sums_and_errors(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32>, %g: !iam.features<?x16xf32>, %W: tensor<16x4xf32>)
    -> (tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>) {
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %s = arith.addf %p, %m : tensor<?x4xf32>
  %e = arith.subf %x, %m : tensor<?x4xf32>
  %r = arith.subf %p, %x : tensor<?x4xf32>
  return %s, %e, %r : tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>
}

// -----

// The coder is not lossless: decode(encode(x)) is never replaced by x.
func.func @reconstruction_is_not_the_input(%x: tensor<?x4xf32>, %E: tensor<4x16xf32>, %b: tensor<16xf32>, %W: tensor<16x4xf32>) -> tensor<?x4xf32> {
  %f = iam.clt.encode_sparse relu %x, %E, %b : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  %y = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// Both reconstructions are made once, before the loop: in the loop they would be made again and again.
func.func @reconstructions_outside_the_loop(%x: tensor<?x4xf32>, %f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>,
                                            %c0: index, %n: index, %c1: index) -> tensor<?x4xf32> {
  %g = iam.clt.edit ablate %f features [7] : (!iam.features<?x16xf32>) -> !iam.features<?x16xf32>
  %p = iam.clt.decode %g, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %m = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %r = scf.for %i = %c0 to %n step %c1 iter_args(%h = %x) -> tensor<?x4xf32> {
    %s = arith.addf %h, %p : tensor<?x4xf32>
    %y = arith.subf %s, %m : tensor<?x4xf32>
    scf.yield %y : tensor<?x4xf32>
  }
  return %r : tensor<?x4xf32>
}
