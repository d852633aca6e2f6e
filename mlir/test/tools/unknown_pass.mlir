// RUN: not iam-opt %s --no-such-pass 2>&1 | FileCheck %s --check-prefix=OPTION
// RUN: not iam-opt %s --pass-pipeline='builtin.module(no-such-pass)' 2>&1 | FileCheck %s --check-prefix=TEXT
// RUN: not iam-opt %s --pass-pipeline='builtin.module(iam-clt-fusion{no-such-option=1})' 2>&1 | FileCheck %s --check-prefix=SETTING
// RUN: not iam-opt %s --pass-pipeline='func.func(iam-to-runtime)' 2>&1 | FileCheck %s --check-prefix=ANCHOR
// OPTION: Unknown command line argument '--no-such-pass'
// TEXT: 'no-such-pass' does not refer to a registered pass or pass pipeline
// SETTING: no-such-option
// ANCHOR: error:
module {}
