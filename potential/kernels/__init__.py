"""The default model in C++, for inference and training on a CPU, and in part in Pallas, for inference on a GPU; pure JAX does the
same where there is no compiler."""

from adatom.potential.kernels.moments import KernelMoments, kernel
from adatom.potential.kernels.moments_gpu import GpuMoments, on_gpu

__all__ = ["GpuMoments", "KernelMoments", "kernel", "on_gpu"]
