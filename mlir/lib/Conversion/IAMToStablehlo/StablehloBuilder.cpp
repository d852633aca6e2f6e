//===- StablehloBuilder.cpp - StableHLO with sizes that may be unknown --------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "StablehloBuilder.h"

#include "llvm/ADT/STLExtras.h"

#include <limits>

using namespace mlir;
using namespace iam;
using namespace iam::stablehlo;

Sizes iam::sizesOf(Value tensor) {
  Sizes sizes;
  for (int64_t axis = 0, n = cast<RankedTensorType>(tensor.getType()).getRank(); axis < n; ++axis)
    sizes.emplace_back(tensor, axis);
  return sizes;
}

RankedTensorType StablehloBuilder::type(ArrayRef<Size> sizes, Type element) const {
  return RankedTensorType::get(
      llvm::map_to_vector(sizes, [](const Size &size) { return size.known; }), element);
}

//===----------------------------------------------------------------------===//
// Constants
//===----------------------------------------------------------------------===//

Value StablehloBuilder::constant(ElementsAttr value) {
  return ConstantOp::create(builder, loc, value.getType(), value);
}

Value StablehloBuilder::number(float value) {
  return constant(DenseElementsAttr::get(RankedTensorType::get({}, builder.getF32Type()), value));
}

Value StablehloBuilder::truth(bool value) {
  return constant(DenseElementsAttr::get(RankedTensorType::get({}, builder.getI1Type()), value));
}

Value StablehloBuilder::integer(int32_t value) {
  return constant(DenseElementsAttr::get(RankedTensorType::get({}, builder.getI32Type()), value));
}

Value StablehloBuilder::vector(ArrayRef<float> values) {
  auto type = RankedTensorType::get(static_cast<int64_t>(values.size()), builder.getF32Type());
  return constant(DenseElementsAttr::get(type, values));
}

Value StablehloBuilder::vector(ArrayRef<int32_t> values) {
  auto type = RankedTensorType::get(static_cast<int64_t>(values.size()), builder.getI32Type());
  return constant(DenseElementsAttr::get(type, values));
}

Value StablehloBuilder::filled(float value, ArrayRef<Size> sizes) {
  return broadcast(number(value), sizes, {});
}

//===----------------------------------------------------------------------===//
// Elementwise
//===----------------------------------------------------------------------===//

RankedTensorType StablehloBuilder::align(MutableArrayRef<Value> operands) {
  Value largest = operands.front();
  for (Value operand : operands)
    if (typeOf(operand).getRank() > typeOf(largest).getRank())
      largest = operand;
  Sizes sizes = sizesOf(largest);
  for (Value operand : operands) // a size that any operand knows is known
    if (typeOf(operand).getRank() == typeOf(largest).getRank())
      for (auto [axis, size] : llvm::enumerate(sizes))
        if (!size.isKnown())
          size = Size(operand, axis);
  for (Value &operand : operands) {
    int64_t rank = typeOf(operand).getRank(), missing = static_cast<int64_t>(sizes.size()) - rank;
    if (missing > 0)
      operand =
          broadcast(operand, sizes, llvm::to_vector(llvm::seq<int64_t>(missing, missing + rank)));
  }
  return type(sizes, typeOf(operands.back()).getElementType());
}

Value StablehloBuilder::compare(Value a, Direction direction, Value b) {
  Value operands[] = {a, b};
  Type truth = align(operands).clone(builder.getI1Type());
  return CompareOp::create(builder, loc, truth, operands[0], operands[1],
                           ComparisonDirectionAttr::get(builder.getContext(), direction),
                           /*compare_type=*/nullptr);
}

Value StablehloBuilder::select(Value condition, Value yes, Value no) {
  Value operands[] = {condition, yes, no};
  Type result = align(operands);
  return SelectOp::create(builder, loc, result, operands[0], operands[1], operands[2]);
}

//===----------------------------------------------------------------------===//
// Shapes
//===----------------------------------------------------------------------===//

Value StablehloBuilder::shape(ArrayRef<Size> sizes) {
  auto one = RankedTensorType::get(1, builder.getI32Type());
  SmallVector<Value> numbers;
  for (const Size &size : sizes) {
    if (size.isKnown()) {
      numbers.push_back(vector(ArrayRef<int32_t>(static_cast<int32_t>(size.known))));
      continue;
    }
    Value number = GetDimensionSizeOp::create(builder, loc, one.clone(ArrayRef<int64_t>{}),
                                              size.tensor, size.axis);
    numbers.push_back(ReshapeOp::create(builder, loc, one, number));
  }
  auto type = RankedTensorType::get(static_cast<int64_t>(sizes.size()), builder.getI32Type());
  return ConcatenateOp::create(builder, loc, type, numbers, /*dimension=*/0);
}

Value StablehloBuilder::iota(ArrayRef<Size> sizes) {
  RankedTensorType result = type(sizes, builder.getI32Type());
  int64_t last = result.getRank() - 1;
  if (result.hasStaticShape())
    return IotaOp::create(builder, loc, result, last);
  return DynamicIotaOp::create(builder, loc, result, shape(sizes), last);
}

Value StablehloBuilder::firstOf(Value tensor, int64_t k) {
  Sizes sizes = sizesOf(tensor);
  sizes.back() = Size(k);
  RankedTensorType result = type(sizes, typeOf(tensor).getElementType());
  SmallVector<int64_t> start(sizes.size(), 0), strides(sizes.size(), 1);
  if (result.hasStaticShape())
    return SliceOp::create(builder, loc, result, tensor, start, result.getShape(), strides);
  SmallVector<int32_t> zeroes(sizes.size(), 0), ones(sizes.size(), 1);
  return RealDynamicSliceOp::create(builder, loc, result, tensor, vector(zeroes), shape(sizes),
                                    vector(ones));
}

Value StablehloBuilder::broadcast(Value tensor, ArrayRef<Size> sizes, ArrayRef<int64_t> axes) {
  RankedTensorType result = type(sizes, typeOf(tensor).getElementType());
  if (result.hasStaticShape())
    return BroadcastInDimOp::create(builder, loc, result, tensor, axes);
  return DynamicBroadcastInDimOp::create(builder, loc, result, tensor, shape(sizes), axes);
}

Value StablehloBuilder::reshape(Value tensor, ArrayRef<Size> sizes) {
  RankedTensorType result = type(sizes, typeOf(tensor).getElementType());
  if (result.hasStaticShape())
    return ReshapeOp::create(builder, loc, result, tensor);
  return DynamicReshapeOp::create(builder, loc, result, tensor, shape(sizes));
}

Value StablehloBuilder::concatenate(Value a, Value b, int64_t axis) {
  Sizes sizes = sizesOf(a);
  for (auto [i, size] : llvm::enumerate(sizes))
    if (!size.isKnown())
      size = Size(b, i);
  sizes[axis] = Size(typeOf(a).getDimSize(axis) + typeOf(b).getDimSize(axis));
  return ConcatenateOp::create(builder, loc, type(sizes, typeOf(a).getElementType()),
                               ValueRange{a, b}, axis);
}

Value StablehloBuilder::row(Value matrix, int64_t row) {
  int64_t width = typeOf(matrix).getDimSize(1);
  auto type = RankedTensorType::get({1, width}, typeOf(matrix).getElementType());
  Value sliced = SliceOp::create(builder, loc, type, matrix, ArrayRef<int64_t>{row, 0},
                                 ArrayRef<int64_t>{row + 1, width}, ArrayRef<int64_t>{1, 1});
  return reshape(sliced, Size(width));
}

//===----------------------------------------------------------------------===//
// Sums and products
//===----------------------------------------------------------------------===//

void StablehloBuilder::fillBody(Region &region, ArrayRef<Type> elements,
                                function_ref<Value(Value, Value)> combine) {
  OpBuilder::InsertionGuard guard(builder);
  SmallVector<Type> types;
  for (Type element : elements)
    types.append(2, RankedTensorType::get({}, element));
  SmallVector<Location> locations(types.size(), loc);
  Block *block = builder.createBlock(&region, region.end(), types, locations);
  ReturnOp::create(builder, loc, combine(block->getArgument(0), block->getArgument(1)));
}

Value StablehloBuilder::reduce(Value tensor, int64_t axis, Value start,
                               function_ref<Value(Value, Value)> combine) {
  Type element = typeOf(tensor).getElementType();
  Sizes sizes = sizesOf(tensor);
  sizes.erase(sizes.begin() + axis);
  auto op =
      ReduceOp::create(builder, loc, type(sizes, element), tensor, start, ArrayRef<int64_t>{axis});
  fillBody(op.getBody(), {element}, combine);
  return op;
}

Value StablehloBuilder::sum(Value tensor, int64_t axis) {
  auto scalar = RankedTensorType::get({}, typeOf(tensor).getElementType());
  if (scalar.getElementType().isInteger(1))
    return reduce(tensor, axis, truth(false), [&](Value a, Value b) -> Value {
      return OrOp::create(builder, loc, scalar, a, b);
    });
  return reduce(tensor, axis, number(0), [&](Value a, Value b) -> Value {
    return AddOp::create(builder, loc, scalar, a, b);
  });
}

Value StablehloBuilder::argmax(Value tensor) {
  int64_t last = typeOf(tensor).getRank() - 1;
  Sizes sizes = sizesOf(tensor);
  SmallVector<int64_t> axes = llvm::to_vector(llvm::seq<int64_t>(0, last));
  Value largest = reduce(tensor, last, number(-std::numeric_limits<float>::infinity()),
                         [&](Value a, Value b) { return maximum(a, b); });
  // With a NaN in the row, the largest is NaN, which equals nothing.
  Value isLargest = compare(tensor, Direction::EQ, broadcast(largest, sizes, axes));
  Value isNaN = compare(tensor, Direction::NE, tensor);
  Value none = integer(std::numeric_limits<int32_t>::max());
  Value candidates = select(either(isLargest, isNaN), iota(sizes), none);
  return reduce(candidates, last, none, [&](Value a, Value b) { return minimum(a, b); });
}

Value StablehloBuilder::dot(Value a, int64_t axisOfA, Value b, int64_t axisOfB) {
  Sizes sizes = sizesOf(a), others = sizesOf(b);
  sizes.erase(sizes.begin() + axisOfA);
  others.erase(others.begin() + axisOfB);
  llvm::append_range(sizes, others);
  MLIRContext *context = builder.getContext();
  // Without it, TPUs and some GPUs multiply in bfloat16 or TF32.
  Attribute precision = PrecisionAttr::get(context, Precision::HIGHEST);
  return DotGeneralOp::create(builder, loc, type(sizes, typeOf(a).getElementType()), a, b,
                              DotDimensionNumbersAttr::get(context, axisOfA, axisOfB),
                              builder.getArrayAttr({precision, precision}));
}

//===----------------------------------------------------------------------===//
// Sparse
//===----------------------------------------------------------------------===//

std::pair<Value, Value> StablehloBuilder::topK(Value matrix, int64_t k) {
  // One NaN, whose sign is positive: the first in the total order.
  float quiet = std::numeric_limits<float>::quiet_NaN();
  Value keys = select(compare(matrix, Direction::NE, matrix), number(quiet), matrix);
  Value positions = iota(sizesOf(keys));
  Type element = typeOf(keys).getElementType();
  auto sort = SortOp::create(builder, loc, {keys.getType(), positions.getType()}, {keys, positions},
                             typeOf(keys).getRank() - 1, /*is_stable=*/true);
  fillBody(sort.getComparator(), {element, builder.getI32Type()}, [&](Value a, Value b) -> Value {
    auto truth = RankedTensorType::get({}, builder.getI1Type());
    MLIRContext *context = builder.getContext();
    return CompareOp::create(builder, loc, truth, a, b,
                             ComparisonDirectionAttr::get(context, Direction::GT),
                             ComparisonTypeAttr::get(context, ComparisonType::TOTALORDER));
  });
  return {firstOf(sort.getResult(0), k), firstOf(sort.getResult(1), k)};
}

Value StablehloBuilder::rowsAt(Value matrix, Value indices) {
  Sizes sizes = sizesOf(indices);
  sizes.emplace_back(matrix, 1);
  auto dimensions = GatherDimensionNumbersAttr::get(
      builder.getContext(), /*offsetDims=*/{2}, /*collapsedSliceDims=*/{0},
      /*operandBatchingDims=*/{}, /*startIndicesBatchingDims=*/{}, /*startIndexMap=*/{0},
      /*indexVectorDim=*/2);
  return GatherOp::create(builder, loc, type(sizes, typeOf(matrix).getElementType()), matrix,
                          indices, dimensions, ArrayRef<int64_t>{1, typeOf(matrix).getDimSize(1)},
                          /*indices_are_sorted=*/false);
}

Value StablehloBuilder::columnsAt(Value matrix, Value indices) {
  auto dimensions = GatherDimensionNumbersAttr::get(
      builder.getContext(), /*offsetDims=*/{}, /*collapsedSliceDims=*/{1},
      /*operandBatchingDims=*/{0}, /*startIndicesBatchingDims=*/{0}, /*startIndexMap=*/{1},
      /*indexVectorDim=*/2);
  // The verifier wants slices that fit, also where there is nothing to slice.
  int64_t ofRow = typeOf(matrix).getDimSize(0) == 0 ? 0 : 1;
  return GatherOp::create(builder, loc, type(sizesOf(indices), typeOf(matrix).getElementType()),
                          matrix, indices, dimensions, ArrayRef<int64_t>{ofRow, 1},
                          /*indices_are_sorted=*/false);
}

Value StablehloBuilder::scatter(Value matrix, Value indices, Value values,
                                ScatterDimensionNumbersAttr dimensions, bool isReplacement) {
  auto op = ScatterOp::create(builder, loc, matrix.getType(), matrix, indices, values, dimensions,
                              /*indices_are_sorted=*/false, /*unique_indices=*/isReplacement);
  Type element = typeOf(matrix).getElementType();
  fillBody(op.getUpdateComputation(), {element}, [&](Value old, Value update) -> Value {
    if (isReplacement)
      return update;
    return AddOp::create(builder, loc, old.getType(), old, update);
  });
  return op;
}

/// Row r of the indices says where row r of the matrix changes.
static ScatterDimensionNumbersAttr byRow(MLIRContext *context) {
  return ScatterDimensionNumbersAttr::get(context, /*updateWindowDims=*/{},
                                          /*insertedWindowDims=*/{1}, /*inputBatchingDims=*/{0},
                                          /*scatterIndicesBatchingDims=*/{0},
                                          /*scatterDimsToOperandDims=*/{1}, /*indexVectorDim=*/2);
}

Value StablehloBuilder::addedAt(Value matrix, Value indices, Value values) {
  return scatter(matrix, indices, values, byRow(builder.getContext()), /*isReplacement=*/false);
}

Value StablehloBuilder::replacedAt(Value matrix, Value indices, Value values) {
  return scatter(matrix, indices, values, byRow(builder.getContext()), /*isReplacement=*/true);
}

Value StablehloBuilder::replacedAt(Value vector, Value indices, float value) {
  auto dimensions = ScatterDimensionNumbersAttr::get(
      builder.getContext(), /*updateWindowDims=*/{}, /*insertedWindowDims=*/{0},
      /*inputBatchingDims=*/{}, /*scatterIndicesBatchingDims=*/{},
      /*scatterDimsToOperandDims=*/{0}, /*indexVectorDim=*/1);
  return scatter(vector, indices, filled(value, sizesOf(indices)), dimensions,
                 /*isReplacement=*/true);
}

//===----------------------------------------------------------------------===//
// Loops
//===----------------------------------------------------------------------===//

SmallVector<Value> StablehloBuilder::repeat(int64_t times, ValueRange values,
                                            function_ref<SmallVector<Value>(ValueRange)> body) {
  SmallVector<Value> carried{integer(0)};
  llvm::append_range(carried, values);
  SmallVector<Type> types = llvm::to_vector(ValueRange(carried).getTypes());
  SmallVector<Location> locations(types.size(), loc);
  auto loop = WhileOp::create(builder, loc, types, carried);
  {
    OpBuilder::InsertionGuard guard(builder);
    Block *block = builder.createBlock(&loop.getCond(), {}, types, locations);
    Value goesOn = compare(block->getArgument(0), Direction::LT, integer(times));
    ReturnOp::create(builder, loc, goesOn);
  }
  {
    OpBuilder::InsertionGuard guard(builder);
    Block *block = builder.createBlock(&loop.getBody(), {}, types, locations);
    SmallVector<Value> next{add(block->getArgument(0), integer(1))};
    llvm::append_range(next, body(ValueRange(block->getArguments()).drop_front()));
    ReturnOp::create(builder, loc, next);
  }
  return llvm::to_vector(ValueRange(loop.getResults()).drop_front());
}
