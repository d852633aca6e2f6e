"""NumPy oracles: one function per op of the ``iam`` dialect, written to be read, compared with everything else in tests.

``iam.reference.clt.topk`` is the oracle of the op ``iam.clt.topk``, and so on. Features are dense arrays
``[..., dictionary]`` here, so that an oracle shows its formula and nothing else. Functions compute in the element type
they are given: pass float64 to get an answer that the float32 kernels are measured against.
"""

from iam.reference import attr, clt, model, policy

__all__ = ["attr", "clt", "model", "policy"]
