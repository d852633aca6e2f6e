// iam-prepare-entry-points: C interface, arguments that are not written, results with memory of their own.
// RUN: iam-opt %s --iam-prepare-entry-points | FileCheck %s
// RUN: iam-opt %s --iam-prepare-entry-points --iam-prepare-entry-points | FileCheck %s

// CHECK-LABEL: func.func @public(
// CHECK-SAME: %{{.*}}: tensor<?x4xf32> {bufferization.writable = false}, %{{.*}}: f32, %{{.*}}: tensor<4xf32> {bufferization.writable = false})
// CHECK-SAME: attributes {llvm.emit_c_interface}
func.func @public(%x: tensor<?x4xf32>, %s: f32, %v: tensor<4xf32>) -> f32 {
  return %s : f32
}

// CHECK-LABEL: func.func private @private(%{{.*}}: tensor<4xf32>) -> tensor<4xf32> {
func.func private @private(%x: tensor<4xf32>) -> tensor<4xf32> {
  return %x : tensor<4xf32>
}

// CHECK-LABEL: func.func private @declaration(tensor<4xf32>) -> tensor<4xf32>
// CHECK-NOT: attributes
func.func private @declaration(tensor<4xf32>) -> tensor<4xf32>

// CHECK-LABEL: func.func @returned_once(
// CHECK-NOT: alloc_tensor
// CHECK: return
func.func @returned_once(%x: tensor<4xf32>, %y: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
  %0 = arith.addf %x, %y : tensor<4xf32>
  %1 = arith.subf %x, %y : tensor<4xf32>
  return %0, %1 : tensor<4xf32>, tensor<4xf32>
}

// CHECK-LABEL: func.func @returned_twice(
// CHECK: %[[Y:.*]] = arith.addf
// CHECK: %[[COPY:.*]] = bufferization.alloc_tensor() copy(%[[Y]]) : tensor<4xf32>
// CHECK-NOT: alloc_tensor
// CHECK: return %[[Y]], %[[COPY]]
func.func @returned_twice(%x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
  %y = arith.addf %x, %x : tensor<4xf32>
  return %y, %y : tensor<4xf32>, tensor<4xf32>
}

// CHECK-LABEL: func.func @part_of_another_result(
// CHECK: %[[PART:.*]] = tensor.extract_slice
// CHECK: %[[COPY:.*]] = bufferization.alloc_tensor() copy(%[[PART]]) : tensor<1x4xf32>
// CHECK: return %{{.*}}, %[[COPY]]
func.func @part_of_another_result(%x: tensor<3x4xf32>) -> (tensor<3x4xf32>, tensor<1x4xf32>) {
  %y = arith.addf %x, %x : tensor<3x4xf32>
  %p = tensor.extract_slice %y[1, 0] [1, 4] [1, 1] : tensor<3x4xf32> to tensor<1x4xf32>
  return %y, %p : tensor<3x4xf32>, tensor<1x4xf32>
}

// CHECK-LABEL: func.func @another_shape_of_another_result(
// CHECK: %[[FLAT:.*]] = tensor.collapse_shape
// CHECK: %[[COPY:.*]] = bufferization.alloc_tensor() copy(%[[FLAT]]) : tensor<12xf32>
// CHECK: return %{{.*}}, %[[COPY]]
func.func @another_shape_of_another_result(%x: tensor<3x4xf32>) -> (tensor<3x4xf32>, tensor<12xf32>) {
  %y = arith.addf %x, %x : tensor<3x4xf32>
  %p = tensor.collapse_shape %y [[0, 1]] : tensor<3x4xf32> into tensor<12xf32>
  return %y, %p : tensor<3x4xf32>, tensor<12xf32>
}

// The call may return one memory twice, or its argument.
// CHECK-LABEL: func.func @results_of_a_call(
// CHECK: %[[R:.*]] = call @private
// CHECK: %[[COPY:.*]] = bufferization.alloc_tensor() copy(%[[R]])
// CHECK: return %[[COPY]], %{{.*}}
func.func @results_of_a_call(%x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
  %y = arith.addf %x, %x : tensor<4xf32>
  %r = call @private(%y) : (tensor<4xf32>) -> tensor<4xf32>
  return %r, %y : tensor<4xf32>, tensor<4xf32>
}

// CHECK-LABEL: func.func @result_of_control_flow(
// CHECK: %[[R:.*]] = scf.if
// CHECK: %[[COPY:.*]] = bufferization.alloc_tensor() copy(%[[R]])
// CHECK: return %[[COPY]], %{{.*}}
func.func @result_of_control_flow(%c: i1, %x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
  %y = arith.addf %x, %x : tensor<4xf32>
  %r = scf.if %c -> tensor<4xf32> {
    scf.yield %y : tensor<4xf32>
  } else {
    %z = arith.mulf %x, %x : tensor<4xf32>
    scf.yield %z : tensor<4xf32>
  }
  return %r, %y : tensor<4xf32>, tensor<4xf32>
}

// CHECK-LABEL: func.func @result_of_a_choice(
// CHECK: %[[R:.*]] = arith.select
// CHECK: %[[COPY:.*]] = bufferization.alloc_tensor() copy(%[[R]])
// CHECK: return %[[COPY]], %{{.*}}
func.func @result_of_a_choice(%c: i1, %x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
  %y = arith.addf %x, %x : tensor<4xf32>
  %r = arith.select %c, %x, %y : tensor<4xf32>
  return %r, %y : tensor<4xf32>, tensor<4xf32>
}

// Alone it cannot share memory with another result.
// CHECK-LABEL: func.func @alone(
// CHECK-NOT: alloc_tensor
// CHECK: return
func.func @alone(%x: tensor<4xf32>, %s: f32) -> (f32, tensor<4xf32>) {
  %r = call @private(%x) : (tensor<4xf32>) -> tensor<4xf32>
  return %s, %r : f32, tensor<4xf32>
}
