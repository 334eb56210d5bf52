"""Triton kernels, one module an operator, installed as ``vidops.triton_kernels``.

A module registers ``torch.ops.vidops_triton.<op>`` and ``<op>_backward`` when it is imported, which the
registry in ``vidops/ops/backends.py`` does by the operator's name. It declares ``COMPILE_CASES`` for
compilation without a GPU.
"""
