// iam-simplify-deallocations: no alias checks for memory that is known to be new.
// RUN: iam-opt %s --iam-simplify-deallocations | FileCheck %s
// RUN: iam-opt %s --iam-simplify-deallocations --iam-simplify-deallocations | FileCheck %s

func.func private @iam_rt_threshold(memref<?x?xf32, strided<[?, ?], offset: ?>>, memref<?xf32, strided<[?], offset: ?>>)
    -> (memref<?xf32>, memref<?xi32>, memref<?xi64>)
func.func private @somebody_else(memref<?xf32>) -> memref<?xf32>

// CHECK-LABEL: func.func @allocations(
// CHECK-SAME: %[[X:.*]]: memref<4xf32>, %[[C:.*]]: i1, %[[D:.*]]: i1)
func.func @allocations(%x: memref<4xf32>, %c: i1, %d: i1) -> memref<4xf32> {
  // CHECK: %[[A:.*]] = memref.alloc
  // CHECK: %[[B:.*]] = bufferization.clone
  // CHECK: %[[R:.*]] = memref.alloc
  // CHECK-NEXT: bufferization.dealloc (%[[A]] : memref<4xf32>) if (%[[C]])
  // CHECK-NEXT: bufferization.dealloc (%[[B]] : memref<4xf32>) if (%[[D]])
  // CHECK-NEXT: return %[[R]]
  %a = memref.alloc() : memref<4xf32>
  %b = bufferization.clone %x : memref<4xf32> to memref<4xf32>
  %r = memref.alloc() : memref<4xf32>
  %0 = bufferization.dealloc (%a, %b : memref<4xf32>, memref<4xf32>) if (%c, %d) retain (%r : memref<4xf32>)
  return %r : memref<4xf32>
}

// CHECK-LABEL: func.func @results_of_the_runtime(
// CHECK: %[[R:.*]]:3 = call @iam_rt_threshold
// CHECK-NEXT: bufferization.dealloc (%[[R]]#0 : memref<?xf32>) if
// CHECK-NEXT: bufferization.dealloc (%[[R]]#2 : memref<?xi64>) if
// CHECK-NEXT: return %[[R]]#1
func.func @results_of_the_runtime(%pre: memref<?x?xf32, strided<[?, ?], offset: ?>>, %t: memref<?xf32, strided<[?], offset: ?>>, %c: i1) -> memref<?xi32> {
  %r:3 = call @iam_rt_threshold(%pre, %t) : (memref<?x?xf32, strided<[?, ?], offset: ?>>, memref<?xf32, strided<[?], offset: ?>>) -> (memref<?xf32>, memref<?xi32>, memref<?xi64>)
  %0 = bufferization.dealloc (%r#0, %r#2 : memref<?xf32>, memref<?xi64>) if (%c, %c) retain (%r#1 : memref<?xi32>)
  return %r#1 : memref<?xi32>
}

// A view has the memory of what it views; that one is retained.
// CHECK-LABEL: func.func @retained_through_a_view(
// CHECK: bufferization.dealloc (%[[B:.*]] : memref<4xf32>) if
// CHECK-NEXT: bufferization.dealloc (%[[A:.*]] : memref<4xf32>) if {{.*}} retain (%{{.*}} : memref<2xf32, strided<[1]>>)
func.func @retained_through_a_view(%c: i1) -> memref<2xf32, strided<[1]>> {
  %a = memref.alloc() : memref<4xf32>
  %b = memref.alloc() : memref<4xf32>
  %v = memref.subview %a[0] [2] [1] : memref<4xf32> to memref<2xf32, strided<[1]>>
  %0 = bufferization.dealloc (%a, %b : memref<4xf32>, memref<4xf32>) if (%c, %c) retain (%v : memref<2xf32, strided<[1]>>)
  return %v : memref<2xf32, strided<[1]>>
}

// Twice in the list: which of the two frees it is decided at run time.
// CHECK-LABEL: func.func @listed_twice(
// CHECK: bufferization.dealloc (%{{.*}}, %{{.*}} : memref<4xf32>, memref<4xf32>) if
func.func @listed_twice(%c: i1, %d: i1) {
  %a = memref.alloc() : memref<4xf32>
  bufferization.dealloc (%a, %a : memref<4xf32>, memref<4xf32>) if (%c, %d)
  return
}

// CHECK-LABEL: func.func @unknown_function(
// CHECK: bufferization.dealloc (%{{.*}}, %{{.*}} : memref<?xf32>, memref<?xf32>) if
func.func @unknown_function(%x: memref<?xf32>, %n: index, %c: i1) {
  %a = memref.alloc(%n) : memref<?xf32>
  %r = call @somebody_else(%a) : (memref<?xf32>) -> memref<?xf32>
  bufferization.dealloc (%a, %r : memref<?xf32>, memref<?xf32>) if (%c, %c)
  return
}

// CHECK-LABEL: func.func @result_of_control_flow(
// CHECK: bufferization.dealloc (%{{.*}}, %{{.*}} : memref<4xf32>, memref<4xf32>) if
func.func @result_of_control_flow(%x: memref<4xf32>, %c: i1) {
  %a = memref.alloc() : memref<4xf32>
  %r = scf.if %c -> memref<4xf32> {
    scf.yield %a : memref<4xf32>
  } else {
    scf.yield %x : memref<4xf32>
  }
  bufferization.dealloc (%a, %r : memref<4xf32>, memref<4xf32>) if (%c, %c)
  return
}

// CHECK-LABEL: func.func @block_argument(
// CHECK: bufferization.dealloc (%{{.*}}, %{{.*}} : memref<4xf32>, memref<4xf32>) if
func.func @block_argument(%c: i1, %x: memref<4xf32>) {
  %a = memref.alloc() : memref<4xf32>
  cf.cond_br %c, ^b(%a : memref<4xf32>), ^b(%x : memref<4xf32>)
^b(%r: memref<4xf32>):
  bufferization.dealloc (%a, %r : memref<4xf32>, memref<4xf32>) if (%c, %c)
  return
}

// The updated condition is used: nothing is decided here.
// CHECK-LABEL: func.func @conditions_are_used(
// CHECK: %[[O:.*]] = bufferization.dealloc (%{{.*}}, %{{.*}} : memref<4xf32>, memref<4xf32>) if
// CHECK: return %{{.*}}, %[[O]]
func.func @conditions_are_used(%c: i1) -> (memref<4xf32>, i1) {
  %a = memref.alloc() : memref<4xf32>
  %b = memref.alloc() : memref<4xf32>
  %r = memref.alloc() : memref<4xf32>
  %o = bufferization.dealloc (%a, %b : memref<4xf32>, memref<4xf32>) if (%c, %c) retain (%r : memref<4xf32>)
  return %r, %o : memref<4xf32>, i1
}

// Function arguments and globals outlive the function: only an allocation is split off.
// CHECK-LABEL: func.func @retained_argument(
// CHECK: %[[A:.*]] = memref.alloc
// CHECK-NEXT: bufferization.dealloc (%[[A]] : memref<4xf32>) if
// CHECK-NEXT: return
func.func @retained_argument(%x: memref<4xf32>, %c: i1) -> memref<4xf32> {
  %a = memref.alloc() : memref<4xf32>
  %0 = bufferization.dealloc (%a : memref<4xf32>) if (%c) retain (%x : memref<4xf32>)
  return %x : memref<4xf32>
}
