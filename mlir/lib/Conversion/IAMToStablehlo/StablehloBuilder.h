//===- StablehloBuilder.h - StableHLO with sizes that may be unknown -----*- C++ -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef IAM_CONVERSION_IAMTOSTABLEHLO_STABLEHLOBUILDER_H
#define IAM_CONVERSION_IAMTOSTABLEHLO_STABLEHLOBUILDER_H

#include "iam/Dialect/Stablehlo/IR/StablehloOps.h"
#include "mlir/IR/Builders.h"

#include <optional>

namespace iam {

/// One size of a tensor: a number, or the size of an axis of another tensor that only a call knows.
struct Size {
  Size(int64_t known) : known(known) {}
  Size(mlir::Value tensor, int64_t axis)
      : known(mlir::cast<mlir::RankedTensorType>(tensor.getType()).getDimSize(axis)),
        tensor(tensor), axis(axis) {}

  bool isKnown() const { return !mlir::ShapedType::isDynamic(known); }

  int64_t known;
  mlir::Value tensor;
  int64_t axis = 0;
};
using Sizes = llvm::SmallVector<Size>;

/// The sizes of a tensor.
Sizes sizesOf(mlir::Value tensor);

/// Writes StableHLO, in which every type is found from the operands. Operands of an elementwise op
/// may differ in rank: the smaller is repeated along the leading axes of the larger, so that
/// `add(matmul(x, W), b)` adds `b` to every row.
class StablehloBuilder {
public:
  using Value = mlir::Value;
  using Direction = stablehlo::ComparisonDirection;

  StablehloBuilder(mlir::OpBuilder &builder, mlir::Location loc) : builder(builder), loc(loc) {}

  // Constants.
  Value constant(mlir::ElementsAttr value);
  Value number(float value);
  Value vector(llvm::ArrayRef<float> values);
  Value vector(llvm::ArrayRef<int32_t> values);
  Value truth(bool value);
  Value filled(float value, llvm::ArrayRef<Size> sizes);

  // Elementwise.
  Value add(Value a, Value b) { return elementwise<stablehlo::AddOp>(a, b); }
  Value subtract(Value a, Value b) { return elementwise<stablehlo::SubtractOp>(a, b); }
  Value multiply(Value a, Value b) { return elementwise<stablehlo::MulOp>(a, b); }
  Value divide(Value a, Value b) { return elementwise<stablehlo::DivOp>(a, b); }
  Value maximum(Value a, Value b) { return elementwise<stablehlo::MaxOp>(a, b); }
  Value minimum(Value a, Value b) { return elementwise<stablehlo::MinOp>(a, b); }
  Value both(Value a, Value b) { return elementwise<stablehlo::AndOp>(a, b); }
  Value either(Value a, Value b) { return elementwise<stablehlo::OrOp>(a, b); }
  Value isFalse(Value a) { return elementwise<stablehlo::NotOp>(a); }
  Value negate(Value a) { return elementwise<stablehlo::NegOp>(a); }
  Value absolute(Value a) { return elementwise<stablehlo::AbsOp>(a); }
  Value sqrt(Value a) { return elementwise<stablehlo::SqrtOp>(a); }
  Value compare(Value a, Direction direction, Value b);
  Value select(Value condition, Value yes, Value no);

  // Shapes.
  /// `tensor` repeated: its axis i is axis `axes[i]` of the result.
  Value broadcast(Value tensor, llvm::ArrayRef<Size> sizes, llvm::ArrayRef<int64_t> axes);
  /// The same elements in other sizes.
  Value reshape(Value tensor, llvm::ArrayRef<Size> sizes);
  Value concatenate(Value a, Value b, int64_t axis);
  /// Row `row` of a matrix of known sizes, as a vector.
  Value row(Value matrix, int64_t row);

  // Sums and products.
  /// The sum over `axis`; for truth values: whether any is true.
  Value sum(Value tensor, int64_t axis);
  /// Where the largest of each row (of the last axis) first stands, i32; the first NaN, if any.
  Value argmax(Value tensor);
  Value dot(Value a, int64_t axisOfA, Value b, int64_t axisOfB);
  Value matmul(Value a, Value b) { return dot(a, 1, b, 0); }

  // Sparse.
  /// The k largest of each row (of the last axis), sorted, the lower index first among equals, NaN
  /// first of all: values and indices. A stable sort and a slice; XLA makes them its own top-k.
  std::pair<Value, Value> topK(Value matrix, int64_t k);
  /// `matrix[indices[r, i], :]` as `[rows, n, width]`. The width has to be known.
  Value rowsAt(Value matrix, Value indices);
  /// `matrix[r, indices[r, i]]` as `[rows, n]`.
  Value columnsAt(Value matrix, Value indices);
  /// `matrix` with `values[r, i]` added at `[r, indices[r, i]]`.
  Value addedAt(Value matrix, Value indices, Value values);
  /// `matrix` with `values[r, i]` at `[r, indices[r, i]]`. The indices of a row are distinct.
  Value replacedAt(Value matrix, Value indices, Value values);
  /// `vector` with `value` at the distinct `indices`.
  Value replacedAt(Value vector, Value indices, float value);

  // Loops.
  /// `values` after `times` rounds of `body`, which sees nothing else; also the builder that it is
  /// given writes inside of the loop only.
  llvm::SmallVector<Value>
  repeat(int64_t times, mlir::ValueRange values,
         llvm::function_ref<llvm::SmallVector<Value>(mlir::ValueRange)> body);

private:
  static mlir::RankedTensorType typeOf(Value value) {
    return mlir::cast<mlir::RankedTensorType>(value.getType());
  }
  mlir::RankedTensorType type(llvm::ArrayRef<Size> sizes, mlir::Type element) const;

  /// Brings operands to the rank of the largest; what is found to be their common type.
  mlir::RankedTensorType align(llvm::MutableArrayRef<Value> operands);

  template <typename Op, typename... Operands> Value elementwise(Operands... operands) {
    Value values[] = {operands...};
    mlir::RankedTensorType result = align(values);
    return std::apply([&](auto... value) { return Op::create(builder, loc, result, value...); },
                      toTuple(values));
  }
  static std::tuple<Value> toTuple(Value (&v)[1]) { return {v[0]}; }
  static std::tuple<Value, Value> toTuple(Value (&v)[2]) { return {v[0], v[1]}; }

  Value integer(int32_t value);
  /// What `combine` makes of the numbers along `axis`.
  Value reduce(Value tensor, int64_t axis, Value start,
               llvm::function_ref<Value(Value, Value)> combine);
  /// Sizes as a tensor<rank x i32>.
  Value shape(llvm::ArrayRef<Size> sizes);
  /// 0, 1, ... along the last axis.
  Value iota(llvm::ArrayRef<Size> sizes);
  /// The first `k` along the last axis.
  Value firstOf(Value tensor, int64_t k);
  /// A body that takes two numbers of each type and ends in what `combine` makes of the first two.
  void fillBody(mlir::Region &region, llvm::ArrayRef<mlir::Type> elements,
                llvm::function_ref<Value(Value, Value)> combine);
  Value scatter(Value matrix, Value indices, Value values,
                stablehlo::ScatterDimensionNumbersAttr dimensions, bool isReplacement);

  mlir::OpBuilder &builder;
  mlir::Location loc;
};

} // namespace iam

#endif // IAM_CONVERSION_IAMTOSTABLEHLO_STABLEHLOBUILDER_H
