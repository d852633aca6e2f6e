//===- IAM.h - C API of the iam dialect -------------------------------------------------*- C
//-*-===//
#ifndef IAM_C_IAM_H
#define IAM_C_IAM_H

#include "mlir-c/IR.h"

#ifdef __cplusplus
extern "C" {
#endif

MLIR_DECLARE_CAPI_DIALECT_REGISTRATION(IAM, iam);

/// Registers iam and every upstream dialect, interface and translation that its pipelines use.
MLIR_CAPI_EXPORTED void iamRegisterDialects(MlirDialectRegistry registry);

/// Registers iam's passes and pipelines and the upstream passes that they use. Idempotent.
MLIR_CAPI_EXPORTED void iamRegisterPasses(void);

/// The whole of the iam-opt tool; returns its exit code.
MLIR_CAPI_EXPORTED int iamOptMain(int argc, char **argv);

/// Calls `callback` for each named pipeline, in order: name, textual pass pipeline, why it exists.
MLIR_CAPI_EXPORTED void iamEnumeratePipelines(void (*callback)(MlirStringRef name,
                                                               MlirStringRef passes,
                                                               MlirStringRef why, void *userData),
                                              void *userData);

/// `!iam.features<ROWSxDICTIONARYxELEMENT[, k = K]>`. `rows` may be
/// `mlirShapedTypeGetDynamicSize()`; `k` < 0 means "as many as there are" (compressed rows).
/// Returns a null type, after a diagnostic at `loc`, if the parameters are not valid.
MLIR_CAPI_EXPORTED MlirType iamFeaturesTypeGetChecked(MlirLocation loc, int64_t rows,
                                                      int64_t dictionary, MlirType elementType,
                                                      int64_t k);
MLIR_CAPI_EXPORTED bool iamTypeIsAFeatures(MlirType type);
MLIR_CAPI_EXPORTED MlirTypeID iamFeaturesTypeGetTypeID(void);
MLIR_CAPI_EXPORTED int64_t iamFeaturesTypeGetRows(MlirType type);
MLIR_CAPI_EXPORTED int64_t iamFeaturesTypeGetDictionary(MlirType type);
MLIR_CAPI_EXPORTED MlirType iamFeaturesTypeGetElementType(MlirType type);
/// k, or -1 for compressed rows.
MLIR_CAPI_EXPORTED int64_t iamFeaturesTypeGetK(MlirType type);

#ifdef __cplusplus
}
#endif

#endif // IAM_C_IAM_H
