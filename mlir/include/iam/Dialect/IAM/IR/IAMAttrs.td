//===- IAMAttrs.td - Enumerations of the iam dialect ----------------*- tablegen -*===//
//
// Part of the IAM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

//
// Values of EditMode and SteerMode are part of the C ABI: they are passed to the
// runtime as i64 and repeated in cpp/include/iam/core/enums.h (a test compares).
// Python's enumerations are generated from this file.
//
//===----------------------------------------------------------------------===//

#ifndef IAM_DIALECT_IAM_IR_IAMATTRS_TD
#define IAM_DIALECT_IAM_IR_IAMATTRS_TD

include "iam/Dialect/IAM/IR/IAMBase.td"
include "mlir/IR/EnumAttr.td"

class IAM_Enum<string name, string summary, list<I32EnumAttrCase> cases>
    : I32EnumAttr<name, summary, cases> {
  let cppNamespace = "::iam";
}

def IAM_Activation : IAM_Enum<"Activation", "what makes pre-activations sparse", [
  I32EnumAttrCase<"TopK",     0, "topk">,      // the k largest of a row, then relu
  I32EnumAttrCase<"JumpReLU", 1, "jumprelu">,  // relu(h) where h > threshold
  I32EnumAttrCase<"ReLU",     2, "relu">,      // max(h, 0)
  I32EnumAttrCase<"AbsTopK",  3, "abstopk">,   // the k largest of a row in magnitude, with their signs
  I32EnumAttrCase<"GroupMax", 4, "groupmax">,  // the largest of each of k groups, then relu
  I32EnumAttrCase<"Gate",     5, "gate">,      // relu(magnitude) where h > 0
  I32EnumAttrCase<"BatchTopK", 6, "batch_topk">,  // the k * rows largest of the batch, where positive
]>;

def IAM_EditMode : IAM_Enum<"EditMode", "how chosen features change", [
  I32EnumAttrCase<"Set",    0, "set">,     // f[j] = a
  I32EnumAttrCase<"Scale",  1, "scale">,   // f[j] = f[j] * a
  I32EnumAttrCase<"Clamp",  2, "clamp">,   // f[j] = min(max(f[j], a), b)
  I32EnumAttrCase<"Ablate", 3, "ablate">,  // f[j] = 0
]>;

def IAM_PathRule : IAM_Enum<"PathRule", "points and weights of an integral over [0, 1]", [
  I32EnumAttrCase<"GaussLegendre", 0, "gauss_legendre">,  // nodes of Legendre polynomials
  I32EnumAttrCase<"Left",          1, "left">,            // i / n
  I32EnumAttrCase<"Right",         2, "right">,           // (i + 1) / n
  I32EnumAttrCase<"Midpoint",      3, "midpoint">,        // (i + 1/2) / n
  I32EnumAttrCase<"Trapezoid",     4, "trapezoid">,       // i / (n - 1), half weight at the ends
]>;

def IAM_SteerMode : IAM_Enum<"SteerMode", "how a direction meets an activation", [
  I32EnumAttrCase<"Add",    0, "add">,     // h + s v
  I32EnumAttrCase<"Ablate", 1, "ablate">,  // h - s (h.v / |v|^2) v
  I32EnumAttrCase<"Clamp",  2, "clamp">,   // h + (s - h.u) u, u = v / |v|
]>;

def IAM_PolicyStep : IAM_Enum<"PolicyStep", "a step of a sequence", [
  I32EnumAttrCase<"Add",       0, "add">,        // h + s v
  I32EnumAttrCase<"Ablate",    1, "ablate">,     // h - s (h.v / |v|^2) v
  I32EnumAttrCase<"Clamp",     2, "clamp">,      // h + (s - h.u) u, u = v / |v|
  I32EnumAttrCase<"Halfspace", 3, "halfspace">,  // the nearest point with v . h <= s
]>;

def IAM_ComposeRule : IAM_Enum<"ComposeRule", "what happens where directions overlap", [
  I32EnumAttrCase<"Sum",        0, "sum">,         // the sum of s_i v_i
  I32EnumAttrCase<"Mean",       1, "mean">,        // the sum divided by the number of directions
  I32EnumAttrCase<"Orthogonal", 2, "orthogonal">,  // earlier directions have priority (Gram-Schmidt)
]>;

def IAM_SetKind : IAM_Enum<"SetKind", "a convex set of activations", [
  I32EnumAttrCase<"Halfspace", 0, "halfspace">,  // first . h <= second
  I32EnumAttrCase<"Ball",      1, "ball">,       // |h - first| <= second
  I32EnumAttrCase<"Subspace",  2, "subspace">,   // the span of the rows of first
  I32EnumAttrCase<"Box",       3, "box">,        // first <= h <= second
]>;

#endif // IAM_DIALECT_IAM_IR_IAMATTRS_TD
