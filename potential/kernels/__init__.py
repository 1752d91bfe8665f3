"""The default model compiled ahead by a C++ compiler, for inference and training on a CPU; pure JAX does the same where there is none."""

from adatom.potential.kernels.moments import KernelMoments, kernel

__all__ = ["KernelMoments", "kernel"]
