//===- SiteInitialize.cpp - what iam adds to its copy of MLIR's bindings ----------------------===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// iam.mlir._mlir_libs imports this module when it loads: every Context then knows iam and the
// upstream dialects that its pipelines use, and PassManager.parse knows the passes.
//
//===----------------------------------------------------------------------===//

#include "iam-c/IAM.h"
#include "mlir/Bindings/Python/Nanobind.h"
#include "mlir/Bindings/Python/NanobindAdaptors.h"

#include <string>
#include <vector>

namespace nb = nanobind;
using namespace mlir::python::nanobind_adaptors;

static std::string str(MlirStringRef ref) { return std::string(ref.data, ref.length); }

NB_MODULE(_site_initialize_0, m) {
  m.doc() = "The iam dialect: registration, its named pipelines.";
  iamRegisterPasses();

  m.def("register_dialects", [](MlirDialectRegistry registry) { iamRegisterDialects(registry); });

  m.def(
      "opt_main",
      [](std::vector<std::string> args) {
        std::vector<char *> argv;
        for (std::string &arg : args)
          argv.push_back(arg.data());
        return iamOptMain(static_cast<int>(argv.size()), argv.data());
      },
      nb::arg("args"), "Runs iam-opt in this process; args[0] is the program's name.");

  m.def(
      "pipelines",
      [] {
        nb::list pipelines;
        iamEnumeratePipelines(
            [](MlirStringRef name, MlirStringRef passes, MlirStringRef why, void *list) {
              static_cast<nb::list *>(list)->append(
                  nb::make_tuple(str(name), str(passes), str(why)));
            },
            &pipelines);
        return pipelines;
      },
      "The named pipelines, in order: (name, passes, why).");
}
