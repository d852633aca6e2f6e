//===- IAM.cpp - C API of the iam dialect
//------------------------------------------------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "iam-c/IAM.h"

#include "iam/Dialect/IAM/IR/IAMOps.h"
#include "iam/Pipelines/Pipelines.h"
#include "mlir/CAPI/IR.h"
#include "mlir/CAPI/Registration.h"
#include "mlir/Tools/mlir-opt/MlirOptMain.h"

MLIR_DEFINE_CAPI_DIALECT_REGISTRATION(IAM, iam, iam::IAMDialect)

void iamRegisterDialects(MlirDialectRegistry registry) { iam::registerDialects(*unwrap(registry)); }

void iamRegisterPasses(void) {
  static const bool once = (iam::registerPasses(), true);
  (void)once;
}

int iamOptMain(int argc, char **argv) {
  iamRegisterPasses();
  mlir::DialectRegistry registry;
  iam::registerDialects(registry);
  return mlir::asMainReturnCode(
      mlir::MlirOptMain(argc, argv, "iam-opt: optimizer driver of the iam dialect\n", registry));
}

void iamEnumeratePipelines(void (*callback)(MlirStringRef, MlirStringRef, MlirStringRef, void *),
                           void *userData) {
  iam::enumeratePipelines([&](llvm::StringRef name, llvm::StringRef passes, llvm::StringRef why) {
    callback(wrap(name), wrap(passes), wrap(why), userData);
  });
}

MlirType iamFeaturesTypeGetChecked(MlirLocation loc, int64_t rows, int64_t dictionary,
                                   MlirType elementType, int64_t k) {
  mlir::Location location = unwrap(loc);
  return wrap(mlir::Type(iam::FeaturesType::getChecked(
      [&] { return mlir::emitError(location); }, location.getContext(), rows, dictionary,
      unwrap(elementType), k < 0 ? std::nullopt : std::optional<int64_t>(k))));
}

bool iamTypeIsAFeatures(MlirType type) { return llvm::isa<iam::FeaturesType>(unwrap(type)); }

MlirTypeID iamFeaturesTypeGetTypeID(void) { return wrap(iam::FeaturesType::getTypeID()); }

static iam::FeaturesType features(MlirType type) {
  return llvm::cast<iam::FeaturesType>(unwrap(type));
}

int64_t iamFeaturesTypeGetRows(MlirType type) { return features(type).getRows(); }
int64_t iamFeaturesTypeGetDictionary(MlirType type) { return features(type).getDict(); }
MlirType iamFeaturesTypeGetElementType(MlirType type) {
  return wrap(features(type).getElementType());
}
int64_t iamFeaturesTypeGetK(MlirType type) { return features(type).getK().value_or(-1); }
