//===- iam-opt.cpp - the optimizer driver
//------------------------------------------------------===//
// Everything is in the library that the Python bindings use too.
#include "iam-c/IAM.h"

int main(int argc, char **argv) { return iamOptMain(argc, argv); }
