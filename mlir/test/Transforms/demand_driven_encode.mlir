// iam-demand-driven-encode: threshold activations encode what is read of them. Twice gives what once gives.
// RUN: iam-opt %s --iam-demand-driven-encode 2>/dev/null | FileCheck %s
// RUN: iam-opt %s --pass-pipeline='builtin.module(iam-demand-driven-encode,iam-demand-driven-encode)' 2>/dev/null | FileCheck %s
// RUN: iam-opt %s --iam-demand-driven-encode -o /dev/null 2>&1 | FileCheck %s --check-prefix=REMARK
// RUN: iam-opt %s --pass-pipeline='builtin.module(iam-demand-driven-encode,iam-demand-driven-encode)' --mlir-pass-statistics --mlir-pass-statistics-display=pipeline -o /dev/null 2>&1 | FileCheck %s --check-prefix=COUNT

// REMARK: remark: encodes 2 of 64 features: no other is used
// COUNT: (S) 12 num-encodes-sliced
// COUNT: (S) 0 num-encodes-sliced

// A delta reads what it lists: in ascending order, first and last feature.
// CHECK-LABEL: func.func @delta(
// CHECK-NEXT: iam.clt.encode_sparse relu %{{.*}} only [0, 63] :
// CHECK-NEXT: iam.clt.delta set %{{.*}} features [63, 0]
func.func @delta(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>, %a: tensor<2xf32>) -> !iam.features<?x64xf32, k = 2> {
  %f = iam.clt.encode_sparse relu %x, %E, %b : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> !iam.features<?x64xf32>
  %d = iam.clt.delta set %f features [63, 0] by %a : (!iam.features<?x64xf32>, tensor<2xf32>) -> !iam.features<?x64xf32, k = 2>
  return %d : !iam.features<?x64xf32, k = 2>
}

// The other operands stay.
// CHECK-LABEL: func.func @jumprelu(
// CHECK-NEXT: iam.clt.encode_sparse jumprelu %{{.*}} subtract %{{.*}} threshold %{{.*}} only [7] :
func.func @jumprelu(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>, %c: tensor<4xf32>, %t: tensor<64xf32>) -> !iam.features<?x64xf32, k = 1> {
  %f = iam.clt.encode_sparse jumprelu %x, %E, %b subtract %c threshold %t : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>, tensor<4xf32>, tensor<64xf32>) -> !iam.features<?x64xf32>
  %d = iam.clt.delta ablate %f features [7] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 1>
  return %d : !iam.features<?x64xf32, k = 1>
}

// The union, each feature once.
// CHECK-LABEL: func.func @two_readers(
// CHECK-NEXT: iam.clt.encode_sparse relu %{{.*}} only [7, 8, 9] :
func.func @two_readers(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>) -> (!iam.features<?x64xf32, k = 2>, !iam.features<?x64xf32, k = 2>) {
  %f = iam.clt.encode_sparse relu %x, %E, %b : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> !iam.features<?x64xf32>
  %d = iam.clt.delta ablate %f features [9, 7] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 2>
  %e = iam.clt.delta ablate %f features [9, 8] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 2>
  return %d, %e : !iam.features<?x64xf32, k = 2>, !iam.features<?x64xf32, k = 2>
}

// Through edits. `set` overwrites feature 5: nobody reads it of the encode.
// CHECK-LABEL: func.func @chain(
// CHECK-NEXT: iam.clt.encode_sparse relu %{{.*}} only [3] :
func.func @chain(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>, %a: tensor<1xf32>) -> !iam.features<?x64xf32, k = 2> {
  %f = iam.clt.encode_sparse relu %x, %E, %b : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> !iam.features<?x64xf32>
  %g = iam.clt.edit scale %f features [3] by %a : (!iam.features<?x64xf32>, tensor<1xf32>) -> !iam.features<?x64xf32>
  %h = iam.clt.edit set %g features [5] by %a : (!iam.features<?x64xf32>, tensor<1xf32>) -> !iam.features<?x64xf32>
  %d = iam.clt.delta ablate %h features [3, 5] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 2>
  return %d : !iam.features<?x64xf32, k = 2>
}

// Through differences. The size of the dense tensor is no reader.
// CHECK-LABEL: func.func @sub(
// CHECK-NEXT: iam.clt.encode_sparse relu %{{.*}} only [4] :
func.func @sub(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>) -> tensor<?x1xf32> {
  %f = iam.clt.encode_sparse relu %x, %E, %b : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> !iam.features<?x64xf32>
  %g = iam.clt.edit ablate %f features [3] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32>
  %s = iam.clt.sub %f, %g : !iam.features<?x64xf32>, !iam.features<?x64xf32> -> !iam.features<?x64xf32>
  %d = iam.clt.densify %s : !iam.features<?x64xf32> -> tensor<?x64xf32>
  %zero = arith.constant 0 : index
  %n = tensor.dim %d, %zero : tensor<?x64xf32>
  %y = tensor.extract_slice %d[0, 4] [%n, 1] [1, 1] : tensor<?x64xf32> to tensor<?x1xf32>
  return %y : tensor<?x1xf32>
}

// Columns of a slice, with a stride.
// CHECK-LABEL: func.func @slice(
// CHECK-NEXT: iam.clt.encode_sparse relu %{{.*}} only [10, 12, 14] :
func.func @slice(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>, %n: index) -> tensor<?x3xf32> {
  %f = iam.clt.encode_sparse relu %x, %E, %b : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> !iam.features<?x64xf32>
  %d = iam.clt.densify %f : !iam.features<?x64xf32> -> tensor<?x64xf32>
  %y = tensor.extract_slice %d[0, 10] [%n, 3] [1, 2] : tensor<?x64xf32> to tensor<?x3xf32>
  return %y : tensor<?x3xf32>
}

// One element.
// CHECK-LABEL: func.func @element(
// CHECK: iam.clt.encode_sparse relu %{{.*}} only [63] :
func.func @element(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>, %r: index) -> f32 {
  %f = iam.clt.encode_sparse relu %x, %E, %b : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> !iam.features<?x64xf32>
  %c = arith.constant 63 : index
  %d = iam.clt.densify %f : !iam.features<?x64xf32> -> tensor<?x64xf32>
  %y = tensor.extract %d[%r, %c] : tensor<?x64xf32>
  return %y : f32
}

// Readers in other blocks count.
// CHECK-LABEL: func.func @in_a_loop(
// CHECK: iam.clt.encode_sparse relu %{{.*}} only [6] :
func.func @in_a_loop(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>, %n: index) -> tensor<1xf32> {
  %f = iam.clt.encode_sparse relu %x, %E, %b : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> !iam.features<?x64xf32>
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %start = arith.constant dense<0.0> : tensor<1xf32>
  %last = scf.for %i = %zero to %n step %one iter_args(%a = %start) -> tensor<1xf32> {
    %d = iam.clt.densify %f : !iam.features<?x64xf32> -> tensor<?x64xf32>
    %y = tensor.extract_slice %d[%i, 6] [1, 1] [1, 1] : tensor<?x64xf32> to tensor<1xf32>
    %s = arith.addf %a, %y : tensor<1xf32>
    scf.yield %s : tensor<1xf32>
  }
  return %last : tensor<1xf32>
}

// An encode that is restricted already.
// CHECK-LABEL: func.func @fewer_than_before(
// CHECK-NEXT: iam.clt.encode_sparse relu %{{.*}} only [3] :
func.func @fewer_than_before(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>) -> !iam.features<?x64xf32, k = 1> {
  %f = iam.clt.encode_sparse relu %x, %E, %b only [2, 3, 4] : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>) -> !iam.features<?x64xf32>
  %d = iam.clt.delta ablate %f features [3] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 1>
  return %d : !iam.features<?x64xf32, k = 1>
}

// Both encodes of a gate.
// CHECK-LABEL: func.func @gate(
// CHECK-NEXT: iam.clt.encode_sparse gate %{{.*}} magnitude %{{.*}}, %{{.*}} only [5] :
func.func @gate(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>, %c: tensor<64xf32>) -> !iam.features<?x64xf32, k = 1> {
  %f = iam.clt.encode_sparse gate %x, %E, %b magnitude %E, %c : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>, tensor<4x64xf32>, tensor<64xf32>) -> !iam.features<?x64xf32>
  %d = iam.clt.delta ablate %f features [5] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 1>
  return %d : !iam.features<?x64xf32, k = 1>
}

// Several activations of one encode, which iam-clt-fusion leaves alone: each becomes an encode of what is read of it.
// CHECK-LABEL: func.func @two_activations_of_one_encode(
// CHECK-NEXT: %[[F:.*]] = iam.clt.encode_sparse relu %{{.*}} subtract %{{.*}} only [3] :
// CHECK-NEXT: %[[G:.*]] = iam.clt.encode_sparse jumprelu %{{.*}} subtract %{{.*}} threshold %{{.*}} only [3, 4] :
// CHECK-NEXT: iam.clt.delta ablate %[[F]]
// CHECK-NEXT: iam.clt.delta ablate %[[G]]
func.func @two_activations_of_one_encode(%x: tensor<?x4xf32>, %E: tensor<4x64xf32>, %b: tensor<64xf32>, %c: tensor<4xf32>, %t: tensor<64xf32>) -> (!iam.features<?x64xf32, k = 1>, !iam.features<?x64xf32, k = 2>) {
  %pre = iam.clt.encode %x, %E, %b, subtract %c : (tensor<?x4xf32>, tensor<4x64xf32>, tensor<64xf32>, tensor<4xf32>) -> tensor<?x64xf32>
  %f = iam.clt.relu %pre : tensor<?x64xf32> -> !iam.features<?x64xf32>
  %g = iam.clt.jumprelu %pre, %t : tensor<?x64xf32>, tensor<64xf32> -> !iam.features<?x64xf32>
  %d = iam.clt.delta ablate %f features [3] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 1>
  %e = iam.clt.delta ablate %g features [3, 4] : (!iam.features<?x64xf32>) -> !iam.features<?x64xf32, k = 2>
  return %d, %e : !iam.features<?x64xf32, k = 1>, !iam.features<?x64xf32, k = 2>
}
