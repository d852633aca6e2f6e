// iam-linalg-to-loops: few loops, and what LLVM is told of them.
// RUN: iam-opt %s --iam-linalg-to-loops --canonicalize | FileCheck %s --implicit-check-not=linalg.
// RUN: iam-opt %s --iam-linalg-to-loops --mlir-pass-statistics --mlir-pass-statistics-display=pipeline -o /dev/null 2>&1 | FileCheck %s --check-prefix=COUNT
// COUNT: (S) 4 num-collapsed

// CHECK-DAG: #[[UNROLL:.*]] = #llvm.loop_unroll<disable = true>
// CHECK-DAG: #[[SCALAR:.*]] = #llvm.loop_vectorize<disable = true>
// CHECK-DAG: #[[DENSE:.*]] = #llvm.loop_annotation<unroll = #[[UNROLL]]>
// CHECK-DAG: #[[STRIDED:.*]] = #llvm.loop_annotation<vectorize = #[[SCALAR]], unroll = #[[UNROLL]]>

#all = affine_map<(i, j) -> (i, j)>
#row = affine_map<(i, j) -> (i)>
#column = affine_map<(i, j) -> (j)>
#one = affine_map<(i) -> (i)>

// CHECK-LABEL: func.func @elementwise(
func.func @elementwise(%x: memref<?x?xf32>, %y: memref<?x4xf32>) {
  // CHECK: %[[X:.*]] = memref.collapse_shape %{{.*}} {{\[}}[0, 1]] : memref<?x?xf32> into memref<?xf32>
  // CHECK: scf.for
  // CHECK-NOT: scf.for
  // CHECK: memref.load %[[X]]
  // CHECK: } {loop_annotation = #[[DENSE]]}
  linalg.generic {indexing_maps = [#all, #all], iterator_types = ["parallel", "parallel"]}
      ins(%x : memref<?x?xf32>) outs(%y : memref<?x4xf32>) {
  ^bb0(%a: f32, %o: f32):
    %s = arith.mulf %a, %a : f32
    linalg.yield %s : f32
  }
  return
}

// A vector is added to each row: it lacks a dimension.
// CHECK-LABEL: func.func @broadcast(
func.func @broadcast(%x: memref<?x4xf32>, %v: memref<4xf32>) {
  // CHECK-NOT: memref.collapse_shape
  // CHECK-COUNT-2: scf.for
  // CHECK: } {loop_annotation = #[[DENSE]]}
  linalg.generic {indexing_maps = [#column, #all], iterator_types = ["parallel", "parallel"]}
      ins(%v : memref<4xf32>) outs(%x : memref<?x4xf32>) {
  ^bb0(%a: f32, %o: f32):
    %s = arith.addf %a, %o : f32
    linalg.yield %s : f32
  }
  return
}

// Points of a path: rows and columns become one dimension, points stay. The view has a gap between points only.
// CHECK-LABEL: func.func @points(
func.func @points(%n: memref<8xf32>, %x: memref<?x4xf32>, %p: memref<8x?x4xf32, strided<[?, 4, 1]>>) {
  // CHECK: memref.collapse_shape %{{.*}} {{\[}}[0], [1, 2]]
  // CHECK-COUNT-2: scf.for
  // CHECK-NOT: scf.for
  linalg.generic {indexing_maps = [affine_map<(p, i, j) -> (p)>, affine_map<(p, i, j) -> (i, j)>, affine_map<(p, i, j) -> (p, i, j)>],
                  iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%n, %x : memref<8xf32>, memref<?x4xf32>) outs(%p : memref<8x?x4xf32, strided<[?, 4, 1]>>) {
  ^bb0(%a: f32, %b: f32, %o: f32):
    %s = arith.mulf %a, %b : f32
    linalg.yield %s : f32
  }
  return
}

// A view of some columns has gaps between its rows.
// CHECK-LABEL: func.func @gaps(
func.func @gaps(%x: memref<?x4xf32, strided<[6, 1], offset: ?>>, %y: memref<?x4xf32>) {
  // CHECK-NOT: memref.collapse_shape
  // CHECK-COUNT-2: scf.for
  // CHECK: } {loop_annotation = #[[DENSE]]}
  linalg.copy ins(%x : memref<?x4xf32, strided<[6, 1], offset: ?>>) outs(%y : memref<?x4xf32>)
  return
}

// Named ops, too: rows of a stack are one run of numbers.
// CHECK-LABEL: func.func @named(
func.func @named(%x: memref<?x4xf32>, %y: memref<?x4xf32, strided<[4, 1], offset: ?>>) {
  // CHECK: memref.collapse_shape
  // CHECK: scf.for
  // CHECK-NOT: scf.for
  linalg.copy ins(%x : memref<?x4xf32>) outs(%y : memref<?x4xf32, strided<[4, 1], offset: ?>>)
  return
}

// One column of a matrix: nothing is gained by vectors.
// CHECK-LABEL: func.func @one_column(
func.func @one_column(%x: memref<?xf32, strided<[6], offset: ?>>, %y: memref<?xf32>) {
  // CHECK: scf.for
  // CHECK: } {loop_annotation = #[[STRIDED]]}
  linalg.generic {indexing_maps = [#one, #one], iterator_types = ["parallel"]}
      ins(%x : memref<?xf32, strided<[6], offset: ?>>) outs(%y : memref<?xf32>) {
  ^bb0(%a: f32, %o: f32):
    linalg.yield %a : f32
  }
  return
}

// Sums of rows: the dimensions are of two kinds.
// CHECK-LABEL: func.func @sums(
func.func @sums(%x: memref<?x4xf32>, %y: memref<?xf32>) {
  // CHECK-NOT: memref.collapse_shape
  // CHECK-COUNT-2: scf.for
  // CHECK: } {loop_annotation = #[[DENSE]]}
  linalg.generic {indexing_maps = [#all, #row], iterator_types = ["parallel", "reduction"]}
      ins(%x : memref<?x4xf32>) outs(%y : memref<?xf32>) {
  ^bb0(%a: f32, %o: f32):
    %s = arith.addf %a, %o : f32
    linalg.yield %s : f32
  }
  return
}

// The whole of a matrix is one sum: both dimensions are reduced.
// CHECK-LABEL: func.func @whole_sum(
func.func @whole_sum(%x: memref<?x4xf32>, %y: memref<f32>) {
  // CHECK: memref.collapse_shape
  // CHECK: scf.for
  // CHECK-NOT: scf.for
  linalg.generic {indexing_maps = [#all, affine_map<(i, j) -> ()>], iterator_types = ["reduction", "reduction"]}
      ins(%x : memref<?x4xf32>) outs(%y : memref<f32>) {
  ^bb0(%a: f32, %o: f32):
    %s = arith.addf %a, %o : f32
    linalg.yield %s : f32
  }
  return
}

// The body knows where it is, so that the dimensions stay; a single number needs no loop.
// CHECK-LABEL: func.func @index(
func.func @index(%x: memref<?x4xindex>, %y: memref<f32>, %z: memref<f32>) {
  // CHECK-NOT: memref.collapse_shape
  // CHECK-COUNT-2: scf.for
  // CHECK: }
  // CHECK-NOT: scf.for
  linalg.generic {indexing_maps = [#all], iterator_types = ["parallel", "parallel"]} outs(%x : memref<?x4xindex>) {
  ^bb0(%o: index):
    %j = linalg.index 1 : index
    linalg.yield %j : index
  }
  linalg.generic {indexing_maps = [affine_map<() -> ()>, affine_map<() -> ()>], iterator_types = []}
      ins(%y : memref<f32>) outs(%z : memref<f32>) {
  ^bb0(%a: f32, %o: f32):
    linalg.yield %a : f32
  }
  return
}
