//===- DialectIAM.cpp - the types of the iam dialect in Python --------------------------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// A module of its own: a subclass of iam.mlir.ir.Type can only be made once iam.mlir.ir is there,
// and SiteInitialize runs before.
//
//===----------------------------------------------------------------------===//

#include "iam-c/IAM.h"
#include "mlir-c/BuiltinTypes.h"
#include "mlir/Bindings/Python/Diagnostics.h"
#include "mlir/Bindings/Python/Nanobind.h"
#include "mlir/Bindings/Python/NanobindAdaptors.h"

#include <optional>

namespace nb = nanobind;
using namespace mlir::python::nanobind_adaptors;

NB_MODULE(_mlirDialectsIAM, m) {
  m.doc() = "The types of the iam dialect.";

  mlir_type_subclass(m, "FeaturesType", iamTypeIsAFeatures, iamFeaturesTypeGetTypeID)
      .def_classmethod(
          "get",
          [](const nb::object &cls, std::optional<int64_t> rows, int64_t dictionary,
             MlirType elementType, std::optional<int64_t> k, MlirLocation loc) {
            mlir::python::CollectDiagnosticsToStringScope scope(mlirLocationGetContext(loc));
            MlirType type =
                iamFeaturesTypeGetChecked(loc, rows.value_or(mlirShapedTypeGetDynamicSize()),
                                          dictionary, elementType, k.value_or(-1));
            if (mlirTypeIsNull(type))
              throw nb::value_error(scope.takeMessage().c_str());
            return cls(type);
          },
          nb::arg("cls"), nb::arg("rows").none(), nb::arg("dictionary"), nb::arg("element_type"),
          nb::arg("k").none() = nb::none(), nb::arg("loc") = nb::none(),
          "!iam.features<ROWSxDICTIONARYxELEMENT[, k = K]>; rows None is dynamic, k None is "
          "compressed rows.")
      .def_property_readonly("rows",
                             [](MlirType type) -> std::optional<int64_t> {
                               int64_t rows = iamFeaturesTypeGetRows(type);
                               if (rows == mlirShapedTypeGetDynamicSize())
                                 return std::nullopt;
                               return rows;
                             })
      .def_property_readonly("dictionary", &iamFeaturesTypeGetDictionary)
      .def_property_readonly("element_type", &iamFeaturesTypeGetElementType)
      .def_property_readonly("k", [](MlirType type) -> std::optional<int64_t> {
        int64_t k = iamFeaturesTypeGetK(type);
        if (k < 0)
          return std::nullopt;
        return k;
      });
}
