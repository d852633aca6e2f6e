// Attributes of arguments.
// RUN: iam-opt %s --split-input-file --verify-diagnostics

// expected-error @below {{'func.func' op expected iam.weight of argument 1 to be a unit attribute, got true}}
func.func @weight_is_no_unit(%x: f32, %v: tensor<4xf32> {iam.weight = true}) {
  return
}
