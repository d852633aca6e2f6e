//===- AttributionOps.cpp - Verifiers of attribution ---------------------*- C++ -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Verify.h"

#include "iam/Dialect/IAM/IR/IAMOps.h"

#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/FunctionInterfaces.h"

using namespace mlir;
using namespace iam;
using namespace iam::detail;

static RankedTensorType tensorType(Value value) { return cast<RankedTensorType>(value.getType()); }

static bool compatible(ArrayRef<int64_t> a, ArrayRef<int64_t> b) {
  return succeeded(verifyCompatibleShape(a, b));
}

/// The type of `steps` copies of `x`, stacked.
static RankedTensorType stacked(int64_t steps, RankedTensorType x) {
  SmallVector<int64_t> shape{steps};
  llvm::append_range(shape, x.getShape());
  return RankedTensorType::get(shape, x.getElementType());
}

//===----------------------------------------------------------------------===//
// AttrPathOp
//===----------------------------------------------------------------------===//

LogicalResult AttrPathOp::verify() {
  RankedTensorType x = tensorType(getX()), points = tensorType(getPoints());
  // attr_path_c2
  if (!::compatible(x.getShape(), tensorType(getBaseline()).getShape()))
    return emitOpError("expected x and baseline of one shape, got ")
           << x << " and " << getBaseline().getType();
  // attr_path_c3
  int64_t steps = getSteps();
  if (getRule() == PathRule::Trapezoid && steps < 2)
    return emitOpError("expected steps >= 2 for rule trapezoid, got ") << steps;
  // attr_path_c4
  RankedTensorType expected = stacked(steps, x);
  if (!::compatible(points.getShape(), expected.getShape()))
    return emitOpError("expected points of type ") << expected << ", got " << points;
  // attr_path_c5
  return expectEqual(*this, dim("the number of weights", getWeights(), 0), {"steps", steps});
}

//===----------------------------------------------------------------------===//
// AttrGradOp
//===----------------------------------------------------------------------===//

LogicalResult AttrGradOp::verify() {
  RankedTensorType x = tensorType(getX()), points = tensorType(getPoints());
  // attr_grad_c1
  if (!::compatible(x.getShape(), tensorType(getBaseline()).getShape()))
    return emitOpError("expected x and baseline of one shape, got ")
           << x << " and " << getBaseline().getType();
  // attr_grad_c2
  int64_t steps = points.getRank() ? points.getDimSize(0) : ShapedType::kDynamic;
  RankedTensorType expected = stacked(steps, x);
  if (!::compatible(points.getShape(), expected.getShape()))
    return emitOpError("expected points of type ") << expected << ", got " << points;
  // attr_grad_c3
  if (failed(expectEqual(*this, dim("the number of weights", getWeights(), 0),
                         {"the number of points", steps})))
    return failure();
  // attr_grad_c4
  RankedTensorType got = tensorType(getAttributions());
  if (!::compatible(x.getShape(), got.getShape()))
    return emitOpError("expected attributions of type ") << x << ", got " << got;
  return success();
}

LogicalResult AttrGradOp::verifySymbolUses(SymbolTableCollection &symbols) {
  // attr_grad_c5
  auto function = symbols.lookupNearestSymbolFrom<FunctionOpInterface>(*this, getCalleeAttr());
  if (!function)
    return emitOpError("expected the name of a function, got @") << getCallee();
  // attr_grad_c6
  size_t arguments = 1 + getCaptures().size();
  if (function.getNumArguments() != arguments || function.getNumResults() != 1)
    return emitOpError("expected @")
           << getCallee() << " to have " << arguments
           << (arguments == 1 ? " argument" : " arguments") << " and 1 result, got "
           << function.getNumArguments() << " and " << function.getNumResults();
  // attr_grad_c7
  RankedTensorType x = tensorType(getX());
  auto argument = dyn_cast<RankedTensorType>(function.getArgumentTypes()[0]);
  if (!argument || argument.getElementType() != x.getElementType() ||
      !::compatible(argument.getShape(), x.getShape()))
    return emitOpError("expected @")
           << getCallee() << " to take " << x << ", got " << function.getArgumentTypes()[0];
  // attr_grad_c8
  for (auto [i, captured] : llvm::enumerate(getCaptures()))
    if (function.getArgumentTypes()[i + 1] != captured.getType())
      return emitOpError("expected @")
             << getCallee() << " to take " << captured.getType() << " as argument " << i + 1
             << ", which is captured, got " << function.getArgumentTypes()[i + 1];
  // attr_grad_c9
  Type result = function.getResultTypes()[0];
  auto tensor = dyn_cast<RankedTensorType>(result);
  if (!result.isF32() && !(tensor && tensor.getElementType().isF32() && tensor.getRank() <= 1))
    return emitOpError("expected @")
           << getCallee() << " to return one f32, or a vector of them, got " << result;
  return success();
}

//===----------------------------------------------------------------------===//
// AttrSelectOp
//===----------------------------------------------------------------------===//

LogicalResult AttrSelectOp::verify() {
  Dim width = dim("the width of scores", getScores(), 1);
  int64_t n = getN();
  // attr_select_c2
  if (!ShapedType::isDynamic(width.size) && n > width.size)
    return emitOpError("expected n to be at most the width of scores (")
           << width.size << "), got n = " << n;
  // attr_select_c3
  Dim rows = dim("the number of rows of scores", getScores(), 0);
  if (failed(expectEqual(*this, dim("the number of rows of indices", getIndices(), 0), rows)) ||
      failed(expectEqual(*this, dim("the width of indices", getIndices(), 1), {"n", n})) ||
      failed(expectEqual(*this, dim("the number of rows of top", getTop(), 0), rows)))
    return failure();
  return expectEqual(*this, dim("the width of top", getTop(), 1), {"n", n});
}

//===----------------------------------------------------------------------===//
// AttrCircuitOp
//===----------------------------------------------------------------------===//

LogicalResult AttrCircuitOp::verify() {
  Dim sources = dim("the number of activations", getActivations(), 0);
  Dim written = dim("the width of W_dec", getWDec(), 1);
  Dim read = dim("the number of rows of W_enc", getWEnc(), 0);
  // attr_circuit_c1
  if (failed(expectEqual(*this, dim("the number of rows of W_dec", getWDec(), 0), sources)))
    return failure();
  if (Value jacobian = getJacobian()) {
    // attr_circuit_c2
    if (failed(
            expectEqual(*this, dim("the number of rows of the jacobian", jacobian, 0), written)) ||
        failed(expectEqual(*this, dim("the width of the jacobian", jacobian, 1), read)))
      return failure();
    // attr_circuit_c3
  } else if (failed(expectEqual(*this, read, written))) {
    return failure();
  }
  // attr_circuit_c4
  if (failed(expectEqual(*this, dim("the number of rows of edges", getEdges(), 0), sources)))
    return failure();
  return expectEqual(*this, dim("the width of edges", getEdges(), 1),
                     dim("the width of W_enc", getWEnc(), 1));
}
