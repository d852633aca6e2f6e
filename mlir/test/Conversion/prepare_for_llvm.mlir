// iam-prepare-for-llvm: a dealloc of several buffers becomes one for each, with conditions in registers.
// RUN: iam-opt %s --iam-prepare-for-llvm --split-input-file --verify-diagnostics | FileCheck %s
// RUN: iam-opt %s --iam-prepare-for-llvm --iam-prepare-for-llvm --split-input-file --verify-diagnostics | FileCheck %s

// CHECK-LABEL: func.func @two_and_one_retained(
// CHECK-SAME: %[[A:.*]]: memref<4xf32>, %[[B:.*]]: memref<4xf32>, %[[R:.*]]: memref<4xf32>, %[[C:.*]]: i1, %[[D:.*]]: i1)
func.func @two_and_one_retained(%a: memref<4xf32>, %b: memref<4xf32>, %r: memref<4xf32>, %c: i1, %d: i1) -> i1 {
  // CHECK: %[[PA:.*]] = memref.extract_aligned_pointer_as_index %[[A]]
  // CHECK: %[[PB:.*]] = memref.extract_aligned_pointer_as_index %[[B]]
  // CHECK: %[[PR:.*]] = memref.extract_aligned_pointer_as_index %[[R]]
  // CHECK: arith.cmpi eq, %[[PA]], %[[PR]]
  // CHECK: arith.cmpi eq, %[[PB]], %[[PR]]
  // CHECK: arith.cmpi eq, %[[PB]], %[[PA]]
  // CHECK: bufferization.dealloc (%[[A]] : memref<4xf32>) if (%{{.*}})
  // CHECK-NEXT: bufferization.dealloc (%[[B]] : memref<4xf32>) if (%{{.*}})
  // CHECK-NOT: xi1>
  // CHECK: return %{{.*}} : i1
  %o = bufferization.dealloc (%a, %b : memref<4xf32>, memref<4xf32>) if (%c, %d) retain (%r : memref<4xf32>)
  return %o : i1
}

// CHECK-LABEL: func.func @one(
// CHECK-NEXT: bufferization.dealloc (%{{.*}} : memref<4xf32>) if (%{{.*}}) retain (%{{.*}} : memref<4xf32>)
func.func @one(%a: memref<4xf32>, %r: memref<4xf32>, %c: i1) -> i1 {
  %o = bufferization.dealloc (%a : memref<4xf32>) if (%c) retain (%r : memref<4xf32>)
  return %o : i1
}

// Contiguous memory is copied by memcpy, a column by a loop.
// CHECK-LABEL: func.func @copies(
// CHECK: memref.copy
// CHECK-NOT: memref.copy
// CHECK: linalg.copy ins(%{{.*}} : memref<4x1xf32, strided<[4, 1], offset: 1>>) outs(%{{.*}} : memref<4x1xf32>)
func.func @copies(%a: memref<4x4xf32>, %b: memref<4x4xf32>, %c: memref<4x1xf32>) {
  memref.copy %a, %b : memref<4x4xf32> to memref<4x4xf32>
  %column = memref.subview %a[0, 1] [4, 1] [1, 1] : memref<4x4xf32> to memref<4x1xf32, strided<[4, 1], offset: 1>>
  memref.copy %column, %c : memref<4x1xf32, strided<[4, 1], offset: 1>> to memref<4x1xf32>
  return
}

// -----

func.func @bits_in_memory() {
  // expected-error @below {{tensors of 'i1' that have to be stored are not lowered: use i8 or f32}}
  %a = memref.alloc() : memref<4xi1>
  return
}
