// Malformed input is an error with line and column and exit code 1, not a crash.
// RUN: not iam-opt %S/Inputs/not_mlir.txt 2>&1 | FileCheck %s --check-prefix=TEXT
// TEXT: not_mlir.txt:1:1: error:
// RUN: not iam-opt %S/Inputs/cut_off.txt 2>&1 | FileCheck %s --check-prefix=CUT
// CUT: cut_off.txt:2:28: error: expected attribute value
// RUN: not iam-opt %S/Inputs/unknown_op.txt 2>&1 | FileCheck %s --check-prefix=OP
// OP: unknown_op.txt:2:3: error: {{.*}}iam.clt.no_such_op
// RUN: not iam-opt %S/Inputs/bad_type.txt --split-input-file 2>&1 | FileCheck %s --check-prefix=TYPE
// TYPE: bad_type.txt:1:{{[0-9]+}}: error: expected
// TYPE: bad_type.txt:3:{{[0-9]+}}: error:
// TYPE: bad_type.txt:5:{{[0-9]+}}: error:
// RUN: printf 'ML\357R\001\002' > %t.mlirbc
// RUN: not iam-opt %t.mlirbc 2>&1 | FileCheck %s --check-prefix=BYTECODE
// BYTECODE: error:
// RUN: not iam-opt %t.is.not.there 2>&1 | FileCheck %s --check-prefix=FILE
// FILE: cannot open input file

// Exit code 1 exactly: a crash would be 128 and more.
// RUN: %python -c "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:], capture_output=True).returncode != 1)" iam-opt %S/Inputs/cut_off.txt
// RUN: %python -c "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:], capture_output=True).returncode != 1)" iam-opt %t.mlirbc

// An empty file is an empty module.
// RUN: iam-opt /dev/null | FileCheck %s --check-prefix=EMPTY
// EMPTY: module {
