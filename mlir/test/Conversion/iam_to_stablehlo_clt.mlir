// iam-to-stablehlo: sparse coders. mlir/test checks which ops are written; tests/integration/test_stablehlo_jax.py that the real
// StableHLO verifies them, and what they compute.
// RUN: iam-opt %s --iam-to-stablehlo=rows=3 --cse --split-input-file | FileCheck %s

// CHECK-LABEL: func.func @subtract(
// CHECK: "stablehlo.subtract"
// CHECK: "stablehlo.dot_general"
// CHECK: "stablehlo.add"
func.func @subtract(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %d: tensor<4xf32>) -> tensor<?x16xf32> {
  %pre = iam.clt.encode %x, %W, %b, subtract %d
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<4xf32>) -> tensor<?x16xf32>
  return %pre : tensor<?x16xf32>
}

// -----

// A stable descending sort of numbers with their positions: ties go to the lowest index. NaN gets one sign, so it is first.
// CHECK-LABEL: func.func @topk(
// CHECK-SAME: %[[PRE:.*]]: tensor<3x16xf32>) -> (tensor<3x2xf32>, tensor<3x2xi32>)
// CHECK: %[[NAN:.*]] = "stablehlo.compare"(%[[PRE]], %[[PRE]]) <{comparison_direction = #stablehlo<comparison_direction NE>}>
// CHECK: %[[KEYS:.*]] = "stablehlo.select"(%[[NAN]], %{{.*}}, %[[PRE]])
// CHECK: %[[IOTA:.*]] = "stablehlo.iota"() <{iota_dimension = 1 : i64}> : () -> tensor<3x16xi32>
// CHECK: %[[SORT:.*]]:2 = "stablehlo.sort"(%[[KEYS]], %[[IOTA]]) <{dimension = 1 : i64, is_stable = true}> ({
// CHECK-NEXT: ^bb0(%[[A:.*]]: tensor<f32>, %[[B:.*]]: tensor<f32>, %{{.*}}: tensor<i32>, %{{.*}}: tensor<i32>):
// CHECK-NEXT: %[[P:.*]] = "stablehlo.compare"(%[[A]], %[[B]]) <{compare_type = #stablehlo<comparison_type TOTALORDER>, comparison_direction = #stablehlo<comparison_direction GT>}>
// CHECK-NEXT: "stablehlo.return"(%[[P]]) : (tensor<i1>) -> ()
// CHECK: %[[V:.*]] = "stablehlo.slice"(%[[SORT]]#0) <{limit_indices = array<i64: 3, 2>, start_indices = array<i64: 0, 0>, strides = array<i64: 1, 1>}>
// CHECK: %[[I:.*]] = "stablehlo.slice"(%[[SORT]]#1)
// CHECK: %[[OFF:.*]] = "stablehlo.compare"(%[[V]], %{{.*}}) <{comparison_direction = #stablehlo<comparison_direction LE>}>
// CHECK: %[[RELU:.*]] = "stablehlo.select"(%[[OFF]], %{{.*}}, %[[V]])
// CHECK: return %[[RELU]], %[[I]]
func.func @topk(%pre: tensor<?x16xf32>) -> !iam.features<?x16xf32, k = 2> {
  %f = iam.clt.topk %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  return %f : !iam.features<?x16xf32, k = 2>
}

// -----

// Sorted by magnitude; the numbers themselves, with their signs, are gathered.
// CHECK-LABEL: func.func @abstopk(
// CHECK-SAME: %[[PRE:.*]]: tensor<3x16xf32>)
// CHECK: "stablehlo.abs"(%[[PRE]])
// CHECK: "stablehlo.sort"
// CHECK: %[[I:.*]] = "stablehlo.slice"({{.*}}) {{.*}} -> tensor<3x2xi32>
// CHECK: %[[V:.*]] = "stablehlo.gather"(%[[PRE]], %[[I]])
// CHECK: return %[[V]], %[[I]]
func.func @abstopk(%pre: tensor<?x16xf32>) -> !iam.features<?x16xf32, k = 2> {
  %f = iam.clt.abstopk %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  return %f : !iam.features<?x16xf32, k = 2>
}

// -----

// The first position of the largest in each group, then its place among all features.
// CHECK-LABEL: func.func @groupmax(
// CHECK: "stablehlo.reshape"({{.*}}) : (tensor<3x16xf32>) -> tensor<3x2x8xf32>
// CHECK: "stablehlo.maximum"
// CHECK: "stablehlo.minimum"
// CHECK: dense<[0, 8]> : tensor<2xi32>
// CHECK-NOT: "stablehlo.sort"
// CHECK: return
func.func @groupmax(%pre: tensor<?x16xf32>) -> !iam.features<?x16xf32, k = 2> {
  %f = iam.clt.groupmax %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32, k = 2>
  return %f : !iam.features<?x16xf32, k = 2>
}

// -----

// A loop of a known number of steps; rows that ended stay as they are.
// CHECK-LABEL: func.func @matching_pursuit(
// CHECK: %[[LOOP:.*]]:5 = "stablehlo.while"(
// CHECK-NEXT: ^bb0(%[[STEP:.*]]: tensor<i32>, %{{.*}}: tensor<16x4xf32>, %{{.*}}: tensor<3x4xf32>, %{{.*}}: tensor<3x16xf32>, %{{.*}}: tensor<3xi1>):
// CHECK-NEXT: %[[LIMIT:.*]] = "stablehlo.constant"() <{value = dense<4> : tensor<i32>}>
// CHECK-NEXT: "stablehlo.compare"(%[[STEP]], %[[LIMIT]])
// CHECK: "stablehlo.dot_general"
// CHECK: "stablehlo.scatter"
// CHECK: "stablehlo.not"
// CHECK: "stablehlo.sqrt"
// CHECK: return %[[LOOP]]#3
func.func @matching_pursuit(%x: tensor<?x4xf32>, %W: tensor<16x4xf32>, %b: tensor<4xf32>) -> !iam.features<?x16xf32> {
  %f = iam.clt.matching_pursuit %x, %W, subtract %b
      residual_threshold = 1.0e-2 max_iterations = 4 stop_on_duplicate_support
      : (tensor<?x4xf32>, tensor<16x4xf32>, tensor<4xf32>) -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// -----

// CHECK-LABEL: func.func @batch_topk(
// CHECK: "stablehlo.reshape"(%{{.*}}) : (tensor<3x16xf32>) -> tensor<48xf32>
// CHECK: "stablehlo.sort"
// CHECK: "stablehlo.slice"({{.*}}) {{.*}} : (tensor<48xi32>) -> tensor<6xi32>
// CHECK: "stablehlo.scatter"
// CHECK-SAME: unique_indices = true
// CHECK: "stablehlo.select"
func.func @batch_topk(%pre: tensor<?x16xf32>) -> !iam.features<?x16xf32> {
  %f = iam.clt.batch_topk %pre, k = 2 : tensor<?x16xf32> -> !iam.features<?x16xf32>
  return %f : !iam.features<?x16xf32>
}

// -----

// CHECK-LABEL: func.func @batch_topk_of_no_rows(
// CHECK-NOT: "stablehlo.sort"
func.func @batch_topk_of_no_rows(%pre: tensor<0x16xf32>) -> !iam.features<0x16xf32> {
  %f = iam.clt.batch_topk %pre, k = 2 : tensor<0x16xf32> -> !iam.features<0x16xf32>
  return %f : !iam.features<0x16xf32>
}

// -----

// CHECK-LABEL: func.func @thresholds(
// CHECK-SAME: -> (tensor<3x16xf32>, tensor<3x16xf32>, tensor<3x16xf32>)
// CHECK-NOT: iam.
// CHECK: "stablehlo.compare"{{.*}}comparison_direction LE
func.func @thresholds(%pre: tensor<?x16xf32>, %t: tensor<16xf32>)
    -> (!iam.features<?x16xf32>, !iam.features<?x16xf32>, !iam.features<?x16xf32>) {
  %0 = iam.clt.jumprelu %pre, %t : tensor<?x16xf32>, tensor<16xf32> -> !iam.features<?x16xf32>
  %1 = iam.clt.relu %pre : tensor<?x16xf32> -> !iam.features<?x16xf32>
  %2 = iam.clt.gate %pre, %pre : tensor<?x16xf32>, tensor<?x16xf32> -> !iam.features<?x16xf32>
  return %0, %1, %2 : !iam.features<?x16xf32>, !iam.features<?x16xf32>, !iam.features<?x16xf32>
}

// -----

// CHECK-LABEL: func.func @encode_sparse(
// CHECK-SAME: -> (tensor<3x2xf32>, tensor<3x2xi32>, tensor<3x16xf32>, tensor<3x16xf32>)
// CHECK: "stablehlo.dot_general"
// CHECK: "stablehlo.sort"
// CHECK-NOT: {{stablehlo.(sort|dot_general)|iam\.}}
// CHECK: return
func.func @encode_sparse(%x: tensor<?x4xf32>, %W: tensor<4x16xf32>, %b: tensor<16xf32>, %t: tensor<16xf32>)
    -> (!iam.features<?x16xf32, k = 2>, !iam.features<?x16xf32>, !iam.features<?x16xf32>) {
  %0 = iam.clt.encode_sparse topk %x, %W, %b k = 2
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32, k = 2>
  %1 = iam.clt.encode_sparse jumprelu %x, %W, %b threshold %t
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  %2 = iam.clt.encode_sparse relu %x, %W, %b
      : (tensor<?x4xf32>, tensor<4x16xf32>, tensor<16xf32>) -> !iam.features<?x16xf32>
  return %0, %1, %2 : !iam.features<?x16xf32, k = 2>, !iam.features<?x16xf32>, !iam.features<?x16xf32>
}

// -----

// Only the listed columns are multiplied; their features are put among zeros.
// CHECK-LABEL: func.func @encode_sparse_only(
// CHECK: "stablehlo.gather"
// CHECK: "stablehlo.dot_general"{{.*}} -> tensor<3x1xf32>
// CHECK: %[[F:.*]] = "stablehlo.scatter"
// CHECK: return %[[F]] : tensor<3x3xf32>
func.func @encode_sparse_only(%x: tensor<?x4xf32>, %W: tensor<4x3xf32>, %b: tensor<3xf32>) -> !iam.features<?x3xf32> {
  %f = iam.clt.encode_sparse relu %x, %W, %b only [1] : (tensor<?x4xf32>, tensor<4x3xf32>, tensor<3xf32>) -> !iam.features<?x3xf32>
  return %f : !iam.features<?x3xf32>
}

// -----

// Two encodes, and the same of the listed columns.
// CHECK-LABEL: func.func @encode_sparse_gate(
// CHECK: "stablehlo.dot_general"(%arg0, %arg1){{.*}} -> tensor<3x3xf32>
// CHECK: "stablehlo.dot_general"(%arg0, %arg3){{.*}} -> tensor<3x3xf32>
// CHECK: "stablehlo.dot_general"{{.*}} -> tensor<3x2xf32>
// CHECK: "stablehlo.dot_general"{{.*}} -> tensor<3x2xf32>
func.func @encode_sparse_gate(%x: tensor<?x4xf32>, %W: tensor<4x3xf32>, %b: tensor<3xf32>, %V: tensor<4x3xf32>) -> (!iam.features<?x3xf32>, !iam.features<?x3xf32>) {
  %f = iam.clt.encode_sparse gate %x, %W, %b magnitude %V, %b : (tensor<?x4xf32>, tensor<4x3xf32>, tensor<3xf32>, tensor<4x3xf32>, tensor<3xf32>) -> !iam.features<?x3xf32>
  %g = iam.clt.encode_sparse gate %x, %W, %b magnitude %V, %b only [0, 2] : (tensor<?x4xf32>, tensor<4x3xf32>, tensor<3xf32>, tensor<4x3xf32>, tensor<3xf32>) -> !iam.features<?x3xf32>
  return %f, %g : !iam.features<?x3xf32>, !iam.features<?x3xf32>
}

// -----

// CHECK-LABEL: func.func @encode_sparse_batch_topk(
// CHECK: "stablehlo.dot_general"
// CHECK: "stablehlo.sort"
func.func @encode_sparse_batch_topk(%x: tensor<?x4xf32>, %W: tensor<4x3xf32>, %b: tensor<3xf32>) -> !iam.features<?x3xf32> {
  %f = iam.clt.encode_sparse batch_topk %x, %W, %b k = 2 : (tensor<?x4xf32>, tensor<4x3xf32>, tensor<3xf32>) -> !iam.features<?x3xf32>
  return %f : !iam.features<?x3xf32>
}

// -----

// Rows of W_dec are gathered, never the whole dictionary multiplied.
// CHECK-LABEL: func.func @decode(
// CHECK-SAME: %[[V:.*]]: tensor<3x2xf32>, %[[I:.*]]: tensor<3x2xi32>, %[[W:.*]]: tensor<16x4xf32>, %[[B:.*]]: tensor<4xf32>)
// CHECK-NEXT: %[[ROWS:.*]] = "stablehlo.gather"(%[[W]], %[[I]]) <{dimension_numbers = #stablehlo.gather<offset_dims = [2],{{ ?}}collapsed_slice_dims = [0],{{ ?}}start_index_map = [0],{{ ?}}index_vector_dim = 2>, indices_are_sorted = false, slice_sizes = array<i64: 1, 4>}> : (tensor<16x4xf32>, tensor<3x2xi32>) -> tensor<3x2x4xf32>
// CHECK-NEXT: %[[WIDE:.*]] = "stablehlo.broadcast_in_dim"(%[[V]]) <{broadcast_dimensions = array<i64: 0, 1>}> : (tensor<3x2xf32>) -> tensor<3x2x4xf32>
// CHECK-NEXT: %[[TERMS:.*]] = "stablehlo.multiply"(%[[WIDE]], %[[ROWS]])
// CHECK: "stablehlo.reduce"(%[[TERMS]], %{{.*}}) <{dimensions = array<i64: 1>}> ({
// CHECK-NOT: "stablehlo.dot_general"
func.func @decode(%f: !iam.features<?x16xf32, k = 2>, %W: tensor<16x4xf32>, %b: tensor<4xf32>) -> tensor<?x4xf32> {
  %y = iam.clt.decode %f, %W, bias %b : (!iam.features<?x16xf32, k = 2>, tensor<16x4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func.func @of_dense_codes(
// CHECK-SAME: %[[F:.*]]: tensor<3x16xf32>, %[[W:.*]]: tensor<16x4xf32>)
// CHECK-NEXT: %[[Y:.*]] = "stablehlo.dot_general"(%[[F]], %[[W]])
// CHECK-NEXT: return %[[Y]], %[[F]]
func.func @of_dense_codes(%f: !iam.features<?x16xf32>, %W: tensor<16x4xf32>) -> (tensor<?x4xf32>, tensor<?x16xf32>) {
  %y = iam.clt.decode %f, %W : (!iam.features<?x16xf32>, tensor<16x4xf32>) -> tensor<?x4xf32>
  %d = iam.clt.densify %f : !iam.features<?x16xf32> -> tensor<?x16xf32>
  return %y, %d : tensor<?x4xf32>, tensor<?x16xf32>
}

// -----

// CHECK-LABEL: func.func @densify(
// CHECK: "stablehlo.scatter"(%{{.*}}, %{{.*}}, %{{.*}}) <{indices_are_sorted = false, scatter_dimension_numbers = #stablehlo.scatter<inserted_window_dims = [1],{{ ?}}input_batching_dims = [0],{{ ?}}scatter_indices_batching_dims = [0],{{ ?}}scatter_dims_to_operand_dims = [1],{{ ?}}index_vector_dim = 2>, unique_indices = false}> ({
// CHECK: "stablehlo.add"
func.func @densify(%f: !iam.features<?x16xf32, k = 2>) -> tensor<?x16xf32> {
  %d = iam.clt.densify %f : !iam.features<?x16xf32, k = 2> -> tensor<?x16xf32>
  return %d : tensor<?x16xf32>
}

// -----

// Slots that hold no edited feature stay; set and clamp give one more for each.
// CHECK-LABEL: func.func @edit_slots(
// CHECK: "stablehlo.concatenate"(%{{.*}}) <{dimension = 1 : i64}> : (tensor<3x2xf32>, tensor<3x1xf32>) -> tensor<3x3xf32>
// CHECK: "stablehlo.concatenate"(%{{.*}}) <{dimension = 1 : i64}> : (tensor<3x2xi32>, tensor<3x1xi32>) -> tensor<3x3xi32>
func.func @edit_slots(%f: !iam.features<?x16xf32, k = 2>, %a: tensor<1xf32>) -> !iam.features<?x16xf32, k = 3> {
  %g = iam.clt.edit set %f features [7] by %a : (!iam.features<?x16xf32, k = 2>, tensor<1xf32>) -> !iam.features<?x16xf32, k = 3>
  return %g : !iam.features<?x16xf32, k = 3>
}

// -----

// CHECK-LABEL: func.func @edit_dense(
// CHECK: "stablehlo.gather"
// CHECK-SAME: operand_batching_dims = [0],{{ ?}}start_indices_batching_dims = [0]
// CHECK: "stablehlo.multiply"
// CHECK: "stablehlo.scatter"
// CHECK-SAME: unique_indices = true
func.func @edit_dense(%f: !iam.features<?x16xf32>, %a: tensor<2xf32>) -> !iam.features<?x16xf32> {
  %g = iam.clt.edit scale %f features [7, 9] by %a : (!iam.features<?x16xf32>, tensor<2xf32>) -> !iam.features<?x16xf32>
  return %g : !iam.features<?x16xf32>
}

// -----

// CHECK-LABEL: func.func @edit_of_nothing(
// CHECK-SAME: %[[V:.*]]: tensor<3x2xf32>, %[[I:.*]]: tensor<3x2xi32>)
// CHECK-NEXT: return %[[V]], %[[I]]
func.func @edit_of_nothing(%f: !iam.features<?x16xf32, k = 2>) -> !iam.features<?x16xf32, k = 2> {
  %g = iam.clt.edit ablate %f features [] : (!iam.features<?x16xf32, k = 2>) -> !iam.features<?x16xf32, k = 2>
  return %g : !iam.features<?x16xf32, k = 2>
}

// -----

// CHECK-LABEL: func.func @delta(
// CHECK-SAME: -> (tensor<3x2xf32>, tensor<3x2xi32>)
// CHECK: "stablehlo.minimum"
// CHECK: "stablehlo.subtract"
func.func @delta(%f: !iam.features<?x16xf32>, %a: tensor<2xf32>, %b: tensor<2xf32>) -> !iam.features<?x16xf32, k = 2> {
  %g = iam.clt.delta clamp %f features [7, 9] by %a, %b
      : (!iam.features<?x16xf32>, tensor<2xf32>, tensor<2xf32>) -> !iam.features<?x16xf32, k = 2>
  return %g : !iam.features<?x16xf32, k = 2>
}

// -----

// CHECK-LABEL: func.func @sub(
// CHECK-SAME: -> (tensor<3x5xf32>, tensor<3x5xi32>, tensor<3x16xf32>)
func.func @sub(%f: !iam.features<?x16xf32, k = 2>, %g: !iam.features<?x16xf32, k = 3>, %h: !iam.features<?x16xf32>)
    -> (!iam.features<?x16xf32, k = 5>, !iam.features<?x16xf32>) {
  %0 = iam.clt.sub %f, %g : !iam.features<?x16xf32, k = 2>, !iam.features<?x16xf32, k = 3> -> !iam.features<?x16xf32, k = 5>
  %1 = iam.clt.sub %h, %h : !iam.features<?x16xf32>, !iam.features<?x16xf32> -> !iam.features<?x16xf32>
  return %0, %1 : !iam.features<?x16xf32, k = 5>, !iam.features<?x16xf32>
}

// -----

// CHECK-LABEL: func.func @residual(
// CHECK: "stablehlo.dot_general"
// CHECK-NEXT: "stablehlo.add"
func.func @residual(%y: tensor<?x6xf32>, %x: tensor<?x4xf32>, %W: tensor<4x6xf32>) -> tensor<?x6xf32> {
  %z = iam.clt.residual %y, %x, skip %W : (tensor<?x6xf32>, tensor<?x4xf32>, tensor<4x6xf32>) -> tensor<?x6xf32>
  return %z : tensor<?x6xf32>
}
