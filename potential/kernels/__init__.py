"""The default model in C++, for inference and training on a CPU; pure JAX does the same where there is no compiler."""

from adatom.potential.kernels.moments import KernelMoments, kernel

__all__ = ["KernelMoments", "kernel"]
