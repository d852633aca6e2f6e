//===- IAMToRuntime.cpp - iam ops to calls of the C++ runtime -----------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The contract of the pass is in Passes.td. Each op is one overload of `lower`,
// which lists the operands in the order of entry_points.def.
//
//===----------------------------------------------------------------------===//

#include "EntryPoints.h"
#include "iam/Conversion/Passes.h"
#include "iam/Dialect/IAM/IR/IAMOps.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Bufferization/IR/Bufferization.h"
#include "mlir/Dialect/ControlFlow/Transforms/StructuralTypeConversions.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Func/Transforms/FuncConversions.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/Transforms/Patterns.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Transforms/DialectConversion.h"
#include "llvm/ADT/TypeSwitch.h"

namespace iam {
#define GEN_PASS_DEF_IAMTORUNTIMEPASS
#include "iam/Conversion/Passes.h.inc"
} // namespace iam

using namespace mlir;
using namespace iam;
using rt::EntryPoint;

namespace {
//===----------------------------------------------------------------------===//
// Features as tensors
//===----------------------------------------------------------------------===//

/// values, indices, and for compressed rows offsets.
SmallVector<Type> componentTypes(FeaturesType type) {
  MLIRContext *context = type.getContext();
  Type i32 = IntegerType::get(context, 32), i64 = IntegerType::get(context, 64);
  if (type.isKForm()) {
    SmallVector<int64_t> shape{type.getRows(), *type.getK()};
    return {RankedTensorType::get(shape, type.getElementType()), RankedTensorType::get(shape, i32)};
  }
  int64_t dynamic = ShapedType::kDynamic;
  return {RankedTensorType::get(dynamic, type.getElementType()),
          RankedTensorType::get(dynamic, i32), RankedTensorType::get(dynamic, i64)};
}

/// Features become their components, handles numbers.
struct FeaturesConverter : TypeConverter {
  FeaturesConverter() {
    addConversion([](Type type) { return type; });
    addConversion([](ModelType type) { return IntegerType::get(type.getContext(), 64); });
    addConversion([](TapeType type) { return IntegerType::get(type.getContext(), 64); });
    addConversion([](FeaturesType type, SmallVectorImpl<Type> &results) {
      llvm::append_range(results, componentTypes(type));
      return success();
    });
  }
};

//===----------------------------------------------------------------------===//
// Calls
//===----------------------------------------------------------------------===//

/// Builds one call. Operands are given in the order of the entry point's list and checked against
/// it.
class RuntimeCall {
public:
  RuntimeCall(OpBuilder &builder, Operation *op, EntryPoint entry)
      : builder(builder), op(op), loc(op->getLoc()), signature(rt::signature(entry)) {}

  /// Tensors that the runtime reads; none for an absent optional operand.
  RuntimeCall &read(ValueRange tensors) {
    if (tensors.empty())
      return absent();
    for (Value tensor : tensors)
      view(tensor);
    return *this;
  }

  /// A list of features, as a constant.
  RuntimeCall &features(ArrayRef<int64_t> indices) {
    return numbers({indices.begin(), indices.end()});
  }

  /// A text as its bytes.
  RuntimeCall &text(StringRef bytes) { return numbers({bytes.bytes_begin(), bytes.bytes_end()}); }

  RuntimeCall &numbers(const SmallVector<int32_t> &narrow) {
    auto type = RankedTensorType::get(static_cast<int64_t>(narrow.size()), builder.getI32Type());
    view(arith::ConstantOp::create(builder, loc, DenseElementsAttr::get(type, ArrayRef(narrow))));
    return *this;
  }

  RuntimeCall &scalar(Value value) {
    assert(next().rank < 0 && value.getType() == next().type(builder.getContext()));
    operands.push_back(value);
    return *this;
  }
  RuntimeCall &scalar(int64_t value) {
    return scalar(arith::ConstantOp::create(builder, loc, builder.getI64IntegerAttr(value)));
  }

  /// New memory that the runtime fills. `rows` (the only size of a vector) and `width` give the
  /// sizes that the types leave open.
  RuntimeCall &write(TypeRange types, function_ref<Value()> rows,
                     function_ref<Value()> width = {}) {
    for (Type type : types) {
      assert(next().isDestination);
      auto tensor = cast<RankedTensorType>(type);
      SmallVector<Value> sizes;
      if (tensor.isDynamicDim(0))
        sizes.push_back(rows());
      if (tensor.getRank() > 1 && tensor.isDynamicDim(1))
        sizes.push_back(width());
      Value buffer = memref::AllocOp::create(
          builder, loc, MemRefType::get(tensor.getShape(), tensor.getElementType()), sizes);
      destinations.emplace_back(buffer, tensor);
      push(buffer);
    }
    return *this;
  }

  /// The memory of a tensor that nothing else reads; the call writes over it.
  RuntimeCall &over(Value tensor) {
    assert(next().isDestination);
    auto type = cast<RankedTensorType>(tensor.getType());
    Value buffer = bufferization::ToBufferOp::create(
        builder, loc, MemRefType::get(type.getShape(), type.getElementType()), tensor);
    destinations.emplace_back(buffer, type);
    push(buffer);
    return *this;
  }

  /// The call; its results, as tensors.
  FailureOr<SmallVector<Value>> emit() {
    assert(operands.size() == signature.arguments.size() && "operands missing");
    FailureOr<func::FuncOp> callee = declare();
    if (failed(callee))
      return failure();
    auto call = func::CallOp::create(builder, loc, *callee, operands);
    SmallVector<Value> results;
    for (auto [buffer, tensor] : destinations)
      results.push_back(toTensor(buffer, tensor));
    for (Value buffer : call.getResults()) {
      auto type = dyn_cast<MemRefType>(buffer.getType());
      if (!type) { // a number
        results.push_back(buffer);
        continue;
      }
      results.push_back(
          toTensor(buffer, RankedTensorType::get(type.getShape(), type.getElementType())));
    }
    return results;
  }

private:
  const rt::Argument &next() const { return signature.arguments[operands.size()]; }

  void push(Value buffer) {
    Type type = next().type(builder.getContext());
    if (buffer.getType() != type)
      buffer = memref::CastOp::create(builder, loc, type, buffer);
    operands.push_back(buffer);
  }

  void view(Value tensor) {
    auto type = cast<RankedTensorType>(tensor.getType());
    assert(!next().isDestination && next().rank == type.getRank());
    // Any layout: a view of a slice needs no copy.
    SmallVector<int64_t> dynamic(type.getRank(), ShapedType::kDynamic);
    auto layout = StridedLayoutAttr::get(builder.getContext(), ShapedType::kDynamic, dynamic);
    push(bufferization::ToBufferOp::create(
        builder, loc, MemRefType::get(type.getShape(), type.getElementType(), layout), tensor,
        /*read_only=*/true));
  }

  RuntimeCall &absent() {
    assert(next().isOptional && "operand missing");
    SmallVector<int64_t> empty(next().rank, 0);
    push(memref::AllocaOp::create(
        builder, loc, MemRefType::get(empty, next().elementType(builder.getContext()))));
    return *this;
  }

  Value toTensor(Value buffer, Type type) {
    return bufferization::ToTensorOp::create(builder, loc, type, buffer, /*restrict=*/true,
                                             /*writable=*/true);
  }

  FailureOr<func::FuncOp> declare() {
    MLIRContext *context = builder.getContext();
    SmallVector<Type> arguments, results;
    for (const rt::Argument &argument : signature.arguments)
      arguments.push_back(argument.type(context));
    results = signature.resultTypes(context);
    FunctionType type = builder.getFunctionType(arguments, results);

    auto module = op->getParentOfType<ModuleOp>();
    if (Operation *symbol = module.lookupSymbol(signature.symbol)) {
      auto function = dyn_cast<func::FuncOp>(symbol);
      if (!function || function.getFunctionType() != type) {
        InFlightDiagnostic error = op->emitOpError("expected @")
                                   << signature.symbol << " to be the runtime's function of type "
                                   << type;
        error.attachNote(symbol->getLoc()) << "the module already defines this name";
        return failure();
      }
      return function;
    }
    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPointToStart(module.getBody());
    auto function = func::FuncOp::create(builder, loc, signature.symbol, type);
    function.setPrivate();
    function->setAttr("llvm.emit_c_interface", builder.getUnitAttr());
    return function;
  }

  OpBuilder &builder;
  Operation *op;
  Location loc;
  const rt::Signature &signature;
  SmallVector<Value> operands;
  SmallVector<std::pair<Value, RankedTensorType>> destinations;
};

/// What an overload of `lower` needs beside its op.
struct Lowering {
  OpBuilder &builder;
  Operation *op;

  RuntimeCall call(EntryPoint entry) const { return {builder, op, entry}; }

  /// Rows of a matrix, or of the components of a features value.
  Value rows(ValueRange value) const {
    Location loc = op->getLoc();
    if (value.size() < 3)
      return tensor::DimOp::create(builder, loc, value.front(), 0);
    // Compressed rows: one offset more than rows.
    Value offsets = tensor::DimOp::create(builder, loc, value[2], 0);
    Value one = arith::ConstantIndexOp::create(builder, loc, 1);
    return arith::SubIOp::create(builder, loc, offsets, one);
  }

  Value width(ValueRange matrix) const {
    return tensor::DimOp::create(builder, op->getLoc(), matrix.front(), 1);
  }
};

using Results = FailureOr<SmallVector<Value>>;
template <typename Op>
using Components = typename Op::template GenericAdaptor<ArrayRef<ValueRange>>;

Results lower(CLTEncodeOp op, Components<CLTEncodeOp> in, Lowering to) {
  return to.call(EntryPoint::encode_dense)
      .read(in.getX())
      .read(in.getWEnc())
      .read(in.getBEnc())
      .read(in.getBDec())
      .write(
          op.getType(), [&] { return to.rows(in.getX()); }, [&] { return to.width(in.getWEnc()); })
      .emit();
}

/// The entry point of an activation with k slots.
EntryPoint fusedEntry(Activation activation) {
  switch (activation) {
  case Activation::AbsTopK:
    return EntryPoint::encode_abstopk;
  case Activation::GroupMax:
    return EntryPoint::encode_groupmax;
  default:
    return EntryPoint::encode_topk;
  }
}

Results lower(CLTEncodeSparseOp op, Components<CLTEncodeSparseOp> in, Lowering to) {
  if (op.getActivation() == Activation::BatchTopK)
    return to.call(EntryPoint::encode_batch_topk)
        .read(in.getX())
        .read(in.getWEnc())
        .read(in.getBEnc())
        .read(in.getBDec())
        .scalar(static_cast<int64_t>(*op.getK()))
        .emit();
  if (op.getK())
    return to.call(fusedEntry(op.getActivation()))
        .read(in.getX())
        .read(in.getWEnc())
        .read(in.getBEnc())
        .read(in.getBDec())
        .write(componentTypes(cast<FeaturesType>(op.getType())), [&] { return to.rows(in.getX()); })
        .emit();
  std::optional<ArrayRef<int64_t>> only = op.getOnly();
  if (op.getActivation() == Activation::Gate) {
    RuntimeCall call = to.call(EntryPoint::encode_gate);
    call.read(in.getX())
        .read(in.getWEnc())
        .read(in.getBEnc())
        .read(in.getBDec())
        .read(in.getWMag())
        .read(in.getBMag());
    return (only ? call.features(*only) : call.read(ValueRange())).emit();
  }
  RuntimeCall call =
      to.call(only ? EntryPoint::encode_threshold_only : EntryPoint::encode_threshold);
  call.read(in.getX())
      .read(in.getWEnc())
      .read(in.getBEnc())
      .read(in.getBDec())
      .read(in.getThreshold());
  if (only)
    call.features(*only);
  return call.emit();
}

Results lower(CLTTopKOp op, Components<CLTTopKOp> in, Lowering to) {
  return to.call(EntryPoint::topk)
      .read(in.getPre())
      .write(componentTypes(cast<FeaturesType>(op.getType())), [&] { return to.rows(in.getPre()); })
      .emit();
}

Results lower(CLTAbsTopKOp op, Components<CLTAbsTopKOp> in, Lowering to) {
  return to.call(EntryPoint::abstopk)
      .read(in.getPre())
      .write(componentTypes(cast<FeaturesType>(op.getType())), [&] { return to.rows(in.getPre()); })
      .emit();
}

Results lower(CLTGroupMaxOp op, Components<CLTGroupMaxOp> in, Lowering to) {
  return to.call(EntryPoint::groupmax)
      .read(in.getPre())
      .write(componentTypes(cast<FeaturesType>(op.getType())), [&] { return to.rows(in.getPre()); })
      .emit();
}

Results lower(CLTMatchingPursuitOp op, Components<CLTMatchingPursuitOp> in, Lowering to) {
  Value threshold =
      arith::ConstantOp::create(to.builder, op.getLoc(), op.getResidualThresholdAttr());
  return to.call(EntryPoint::matching_pursuit)
      .read(in.getX())
      .read(in.getWDec())
      .read(in.getBDec())
      .scalar(threshold)
      .scalar(static_cast<int64_t>(op.getMaxIterations()))
      .scalar(static_cast<int64_t>(op.getStopOnDuplicateSupport()))
      .emit();
}

Results lower(CLTBatchTopKOp op, Components<CLTBatchTopKOp> in, Lowering to) {
  return to.call(EntryPoint::batch_topk)
      .read(in.getPre())
      .scalar(static_cast<int64_t>(op.getK()))
      .emit();
}

Results lower(CLTJumpReLUOp op, Components<CLTJumpReLUOp> in, Lowering to) {
  return to.call(EntryPoint::threshold).read(in.getPre()).read(in.getThreshold()).emit();
}

Results lower(CLTReLUOp op, Components<CLTReLUOp> in, Lowering to) {
  return to.call(EntryPoint::threshold).read(in.getPre()).read({}).emit();
}

Results lower(CLTGateOp op, Components<CLTGateOp> in, Lowering to) {
  return to.call(EntryPoint::gate).read(in.getGatePre()).read(in.getMagnitudePre()).emit();
}

Results lower(CLTDecodeOp op, Components<CLTDecodeOp> in, Lowering to) {
  bool isKForm = cast<FeaturesType>(op.getF().getType()).isKForm();
  return to.call(isKForm ? EntryPoint::decode_k : EntryPoint::decode_csr)
      .read(in.getF())
      .read(in.getWDec())
      .read(in.getBDec())
      .write(
          op.getType(), [&] { return to.rows(in.getF()); }, [&] { return to.width(in.getWDec()); })
      .emit();
}

Results lower(CLTDensifyOp op, Components<CLTDensifyOp> in, Lowering to) {
  bool isKForm = cast<FeaturesType>(op.getF().getType()).isKForm();
  auto dictionary = [&]() -> Value {
    return arith::ConstantIndexOp::create(to.builder, op.getLoc(),
                                          cast<FeaturesType>(op.getF().getType()).getDict());
  };
  return to.call(isKForm ? EntryPoint::densify_k : EntryPoint::densify_csr)
      .read(in.getF())
      .write(
          op.getType(), [&] { return to.rows(in.getF()); }, dictionary)
      .emit();
}

Results lower(CLTResidualOp op, Components<CLTResidualOp> in, Lowering to) {
  return to.call(EntryPoint::residual)
      .read(in.getY())
      .read(in.getX())
      .read(in.getWSkip())
      .write(
          op.getType(), [&] { return to.rows(in.getY()); }, [&] { return to.width(in.getY()); })
      .emit();
}

Results lower(CLTEditOp op, Components<CLTEditOp> in, Lowering to) {
  bool isKForm = cast<FeaturesType>(op.getF().getType()).isKForm();
  RuntimeCall call = to.call(isKForm ? EntryPoint::edit_k : EntryPoint::edit_csr);
  call.read(in.getF())
      .features(op.getFeatures())
      .read(in.getA())
      .read(in.getB())
      .scalar(static_cast<int64_t>(op.getMode()));
  if (isKForm)
    call.write(componentTypes(cast<FeaturesType>(op.getType())),
               [&] { return to.rows(in.getF()); });
  return call.emit();
}

Results lower(CLTDeltaOp op, Components<CLTDeltaOp> in, Lowering to) {
  bool isKForm = cast<FeaturesType>(op.getF().getType()).isKForm();
  return to.call(isKForm ? EntryPoint::delta_k : EntryPoint::delta_csr)
      .read(in.getF())
      .features(op.getFeatures())
      .read(in.getA())
      .read(in.getB())
      .scalar(static_cast<int64_t>(op.getMode()))
      .write(componentTypes(cast<FeaturesType>(op.getType())), [&] { return to.rows(in.getF()); })
      .emit();
}

Results lower(CLTSubOp op, Components<CLTSubOp> in, Lowering to) {
  bool isKForm = cast<FeaturesType>(op.getF1().getType()).isKForm();
  RuntimeCall call = to.call(isKForm ? EntryPoint::sub_k : EntryPoint::sub_csr);
  call.read(in.getF1()).read(in.getF2());
  if (isKForm)
    call.write(componentTypes(cast<FeaturesType>(op.getType())),
               [&] { return to.rows(in.getF1()); });
  return call.emit();
}

Results lower(PolicySteerOp op, Components<PolicySteerOp> in, Lowering to) {
  return to.call(EntryPoint::steer)
      .read(in.getH())
      .read(in.getV())
      .scalar(op.getStrength())
      .scalar(static_cast<int64_t>(op.getMode()))
      .write(
          op.getType(), [&] { return to.rows(in.getH()); }, [&] { return to.width(in.getH()); })
      .emit();
}

/// True if `value` is new memory that only `user` reads: it may write over it.
bool diesAt(Value value, Operation *user) {
  Operation *maker = value.getDefiningOp();
  if (!maker || maker->getBlock() != user->getBlock() || !value.hasOneUse())
    return false;
  if (auto memory = dyn_cast<bufferization::ToTensorOp>(maker))
    return memory.getWritable();
  return isa_and_present<IAMDialect>(maker->getDialect()) ||
         isa_and_present<linalg::LinalgDialect>(maker->getDialect());
}

Results lower(PolicySequenceOp op, Components<PolicySequenceOp> in, Lowering to) {
  RuntimeCall call = to.call(EntryPoint::sequence);
  call.read(in.getH())
      .read(in.getDirections())
      .read(in.getStrengths())
      .numbers(SmallVector<int32_t>(op.getSteps()));
  if (diesAt(op.getH(), op))
    return call.over(in.getH().front()).emit();
  return call
      .write(
          op.getType(), [&] { return to.rows(in.getH()); }, [&] { return to.width(in.getH()); })
      .emit();
}

Results lower(PolicyComposeOp op, Components<PolicyComposeOp> in, Lowering to) {
  return to.call(EntryPoint::compose)
      .read(in.getVectors())
      .read(in.getStrengths())
      .scalar(static_cast<int64_t>(op.getRule()))
      .write(op.getType(), [&] { return to.width(in.getVectors()); })
      .emit();
}

/// h and the set of policy.project and policy.verify.
template <typename SetOp>
RuntimeCall callOnSet(EntryPoint entry, SetOp op, Components<SetOp> in, Lowering to) {
  const bool isSubspace = op.getKind() == SetKind::Subspace, isBox = op.getKind() == SetKind::Box;
  RuntimeCall call = to.call(entry);
  call.read(in.getH())
      .scalar(static_cast<int64_t>(op.getKind()))
      .read(isSubspace ? ValueRange{} : in.getFirst())
      .read(isSubspace ? in.getFirst() : ValueRange{});
  if (isSubspace || isBox)
    call.scalar(Value(
        arith::ConstantOp::create(to.builder, op.getLoc(), to.builder.getF32FloatAttr(0.0f))));
  else
    call.scalar(op.getSecond());
  call.read(isBox ? in.getSecond() : ValueRange{});
  return call;
}

Results lower(PolicyProjectOp op, Components<PolicyProjectOp> in, Lowering to) {
  return callOnSet(EntryPoint::project, op, in, to)
      .write(
          op.getType(), [&] { return to.rows(in.getH()); }, [&] { return to.width(in.getH()); })
      .emit();
}

Results lower(PolicyVerifyOp op, Components<PolicyVerifyOp> in, Lowering to) {
  Value tolerance = arith::ConstantOp::create(to.builder, op.getLoc(), op.getToleranceAttr());
  return callOnSet(EntryPoint::verify, op, in, to)
      .scalar(tolerance)
      .text(op.getMessage())
      .write(op.getType(), [&] { return to.rows(in.getH()); })
      .emit();
}

Results lower(AttrSelectOp op, Components<AttrSelectOp> in, Lowering to) {
  return to.call(EntryPoint::select)
      .read(in.getScores())
      .write(op.getResultTypes(), [&] { return to.rows(in.getScores()); })
      .emit();
}

Results lower(AttrCheckOp op, Components<AttrCheckOp> in, Lowering to) {
  Value first = arith::IndexCastOp::create(to.builder, op.getLoc(), to.builder.getI64Type(),
                                           in.getFirst().front());
  return to.call(EntryPoint::check_gradients)
      .read(in.getGradients())
      .scalar(first)
      .scalar(static_cast<int64_t>(op.getPoints()))
      .emit();
}

/// What follows the activation in calls that run a part of a model.
template <typename PartOp>
Results emitPart(RuntimeCall &call, PartOp op, StringRef from, Lowering to) {
  auto y = cast<RankedTensorType>(op.getY().getType());
  call.text(from).text(op.getTo());
  for (std::optional<ArrayRef<int64_t>> chosen : {op.getTokens(), op.getPositions()})
    call.features(chosen.value_or(ArrayRef<int64_t>())).scalar(static_cast<int64_t>(!chosen));
  Results results = call.scalar(y.isDynamicDim(1) ? -1 : y.getDimSize(1)).emit();
  if (succeeded(results) && (*results)[0].getType() != y)
    (*results)[0] = tensor::CastOp::create(to.builder, op.getLoc(), y, (*results)[0]);
  return results;
}

Results lower(ModelRunOp op, Components<ModelRunOp> in, Lowering to) {
  RuntimeCall call = to.call(EntryPoint::model_run);
  call.scalar(in.getModel().front()).read(in.getH());
  return emitPart(call, op, op.getFrom().value_or(""), to);
}

Results lower(ModelLinearizeOp op, Components<ModelLinearizeOp> in, Lowering to) {
  RuntimeCall call = to.call(EntryPoint::model_linearize);
  call.scalar(in.getModel().front()).read(in.getH());
  return emitPart(call, op, op.getFrom(), to);
}

Results lower(ModelPullbackOp op, Components<ModelPullbackOp> in, Lowering to) {
  auto dh = cast<RankedTensorType>(op.getG().getType());
  Results results = to.call(EntryPoint::model_pullback)
                        .scalar(in.getTape().front())
                        .read(in.getDy())
                        .scalar(dh.isDynamicDim(1) ? -1 : dh.getDimSize(1))
                        .emit();
  if (succeeded(results) && (*results)[0].getType() != dh)
    (*results)[0] = tensor::CastOp::create(to.builder, op.getLoc(), dh, (*results)[0]);
  return results;
}

/// Codes with the slots of `f`, which the call has read first.
Results writeLike(RuntimeCall &call, FeaturesType f, ValueRange parts, Lowering to) {
  if (f.isKForm())
    call.write(componentTypes(f), [&] { return to.rows(parts); });
  return call.emit();
}

Results lower(CLTDecodeAdjointOp op, Components<CLTDecodeAdjointOp> in, Lowering to) {
  auto f = cast<FeaturesType>(op.getDf().getType());
  RuntimeCall call =
      to.call(f.isKForm() ? EntryPoint::decode_adjoint_k : EntryPoint::decode_adjoint_csr);
  call.read(in.getF()).read(in.getWDec()).read(in.getDy());
  return writeLike(call, f, in.getF(), to);
}

Results lower(CLTDensifyAdjointOp op, Components<CLTDensifyAdjointOp> in, Lowering to) {
  auto f = cast<FeaturesType>(op.getDf().getType());
  RuntimeCall call =
      to.call(f.isKForm() ? EntryPoint::densify_adjoint_k : EntryPoint::densify_adjoint_csr);
  std::optional<ArrayRef<int64_t>> columns = op.getColumns();
  call.read(in.getF())
      .read(in.getDd())
      .features(columns.value_or(ArrayRef<int64_t>()))
      .scalar(static_cast<int64_t>(!columns));
  return writeLike(call, f, in.getF(), to);
}

Results lower(CLTEditAdjointOp op, Components<CLTEditAdjointOp> in, Lowering to) {
  auto f = cast<FeaturesType>(op.getDf().getType());
  bool dgIsKForm = cast<FeaturesType>(op.getDg().getType()).isKForm();
  EntryPoint entry =
      f.isKForm() ? (dgIsKForm ? EntryPoint::edit_adjoint_k_k : EntryPoint::edit_adjoint_k_csr)
                  : (dgIsKForm ? EntryPoint::edit_adjoint_csr_k : EntryPoint::edit_adjoint_csr_csr);
  RuntimeCall call = to.call(entry);
  call.read(in.getF())
      .read(in.getDg())
      .features(op.getFeatures())
      .read(in.getA())
      .read(in.getB())
      .scalar(static_cast<int64_t>(op.getMode()))
      .scalar(static_cast<int64_t>(op.getDelta()));
  return writeLike(call, f, in.getF(), to);
}

Results lower(PolicyProjectAdjointOp op, Components<PolicyProjectAdjointOp> in, Lowering to) {
  const bool isBox = op.getKind() == SetKind::Box;
  RuntimeCall call = to.call(EntryPoint::project_adjoint);
  call.read(in.getH())
      .read(in.getDy())
      .scalar(static_cast<int64_t>(op.getKind()))
      .read(in.getFirst());
  if (isBox)
    call.scalar(Value(
        arith::ConstantOp::create(to.builder, op.getLoc(), to.builder.getF32FloatAttr(0.0f))));
  else
    call.scalar(op.getSecond());
  call.read(isBox ? in.getSecond() : ValueRange{});
  return call
      .write(
          op.getType(), [&] { return to.rows(in.getH()); }, [&] { return to.width(in.getH()); })
      .emit();
}

//===----------------------------------------------------------------------===//
// Patterns
//===----------------------------------------------------------------------===//

template <typename Op> struct ToRuntime : OpConversionPattern<Op> {
  using OpConversionPattern<Op>::OpConversionPattern;
  using Adaptor = typename OpConversionPattern<Op>::OneToNOpAdaptor;

  LogicalResult matchAndRewrite(Op op, Adaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Results results = lower(op, adaptor, Lowering{rewriter, op});
    if (failed(results))
      return failure();
    // One result has all parts; several results are a tensor each.
    SmallVector<SmallVector<Value>> replacement;
    if (op->getNumResults() == 1)
      replacement.push_back(*results);
    else
      for (Value result : *results)
        replacement.push_back({result});
    rewriter.replaceOpWithMultiple(op, std::move(replacement));
    return success();
  }
};

SmallVector<Value> flatten(ArrayRef<ValueRange> ranges) {
  SmallVector<Value> values;
  for (ValueRange range : ranges)
    llvm::append_range(values, range);
  return values;
}

struct ConvertReturn : OpConversionPattern<func::ReturnOp> {
  using OpConversionPattern::OpConversionPattern;
  LogicalResult matchAndRewrite(func::ReturnOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    rewriter.replaceOpWithNewOp<func::ReturnOp>(op, flatten(adaptor.getOperands()));
    return success();
  }
};

struct ConvertCall : OpConversionPattern<func::CallOp> {
  using OpConversionPattern::OpConversionPattern;
  LogicalResult matchAndRewrite(func::CallOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    SmallVector<Type> types;
    SmallVector<size_t> counts;
    for (Type type : op.getResultTypes()) {
      size_t before = types.size();
      if (failed(getTypeConverter()->convertType(type, types)))
        return rewriter.notifyMatchFailure(op, "a result has a type that cannot be converted");
      counts.push_back(types.size() - before);
    }
    auto call = func::CallOp::create(rewriter, op.getLoc(), op.getCallee(), types,
                                     flatten(adaptor.getOperands()));
    SmallVector<SmallVector<Value>> replacements;
    auto results = call.getResults();
    for (size_t count : counts) {
      replacements.emplace_back(results.take_front(count));
      results = results.drop_front(count);
    }
    rewriter.replaceOpWithMultiple(op, std::move(replacements));
    return success();
  }
};

/// A choice between features is a choice between each of their components. Canonicalisation makes
/// them of scf.if.
struct ConvertSelect : OpConversionPattern<arith::SelectOp> {
  using OpConversionPattern::OpConversionPattern;
  LogicalResult matchAndRewrite(arith::SelectOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    SmallVector<Value> components;
    for (auto [yes, no] : llvm::zip_equal(adaptor.getTrueValue(), adaptor.getFalseValue()))
      components.push_back(
          arith::SelectOp::create(rewriter, op.getLoc(), adaptor.getCondition().front(), yes, no));
    rewriter.replaceOpWithMultiple(op, SmallVector<SmallVector<Value>>{components});
    return success();
  }
};

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

/// Why an op has no call, and what can be done instead.
std::optional<StringRef> whyNotLowered(Operation *op) {
  return llvm::TypeSwitch<Operation *, std::optional<StringRef>>(op)
      .Case<AttrPathOp>(
          [](auto) { return "is lowered by iam-to-linalg, which has to run before this pass"; })
      .Case<AttrGradOp>([](auto) {
        return "is written out by iam-differentiate, which has to run before this pass";
      })
      .Case<AttrCircuitOp>([](auto) {
        return "is not lowered yet: circuits have no compiled form; use iam.reference.attr for "
               "small inputs";
      })
      .Default([](auto) { return std::nullopt; });
}

struct IAMToRuntimePass : iam::impl::IAMToRuntimePassBase<IAMToRuntimePass> {
  void runOnOperation() override {
    bool complete = true;
    getOperation().walk([&](Operation *op) {
      if (std::optional<StringRef> why = whyNotLowered(op)) {
        op->emitOpError(*why);
        complete = false;
      }
    });
    if (!complete)
      return signalPassFailure();

    // Said to iam-hoist-weights; the features after such an argument get other numbers.
    for (auto function : getOperation().getOps<func::FuncOp>())
      for (unsigned i = 0; i < function.getNumArguments(); ++i)
        for (StringRef name : {"iam.weight", "iam.argument", "iam.hoisted"})
          (void)function.removeArgAttr(i, StringAttr::get(function.getContext(), name));

    MLIRContext *context = &getContext();
    FeaturesConverter converter;
    RewritePatternSet patterns(context);
    patterns
        .add<ToRuntime<CLTEncodeOp>, ToRuntime<CLTEncodeSparseOp>, ToRuntime<CLTTopKOp>,
             ToRuntime<CLTAbsTopKOp>, ToRuntime<CLTGroupMaxOp>, ToRuntime<CLTMatchingPursuitOp>,
             ToRuntime<CLTBatchTopKOp>, ToRuntime<CLTJumpReLUOp>, ToRuntime<CLTReLUOp>,
             ToRuntime<CLTGateOp>, ToRuntime<CLTDecodeOp>, ToRuntime<CLTDensifyOp>,
             ToRuntime<CLTResidualOp>, ToRuntime<CLTEditOp>, ToRuntime<CLTDeltaOp>,
             ToRuntime<CLTSubOp>, ToRuntime<PolicySteerOp>, ToRuntime<PolicySequenceOp>,
             ToRuntime<PolicyComposeOp>, ToRuntime<PolicyProjectOp>, ToRuntime<PolicyVerifyOp>,
             ToRuntime<AttrSelectOp>, ToRuntime<AttrCheckOp>, ToRuntime<CLTDecodeAdjointOp>,
             ToRuntime<CLTDensifyAdjointOp>, ToRuntime<CLTEditAdjointOp>,
             ToRuntime<PolicyProjectAdjointOp>, ToRuntime<ModelRunOp>, ToRuntime<ModelLinearizeOp>,
             ToRuntime<ModelPullbackOp>, ConvertReturn, ConvertCall, ConvertSelect>(converter,
                                                                                    context);
    populateFunctionOpInterfaceTypeConversionPattern<func::FuncOp>(patterns, converter);

    ConversionTarget target(*context);
    target.addIllegalDialect<IAMDialect>();
    scf::populateSCFStructuralTypeConversionsAndLegality(converter, patterns, target);
    cf::populateCFStructuralTypeConversionsAndLegality(converter, patterns, target);
    // Blocks other than the entry are converted by the branches to them.
    target.addDynamicallyLegalOp<func::FuncOp>(
        [&](func::FuncOp op) { return converter.isSignatureLegal(op.getFunctionType()); });
    target.markUnknownOpDynamicallyLegal([&](Operation *op) { return converter.isLegal(op); });
    if (failed(applyPartialConversion(getOperation(), target, std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
