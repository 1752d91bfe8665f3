"""How everything here is compiled: `jit` is `jax.jit` without XLA's newer code generator for CPUs.

With the fusion emitters of jaxlib 0.9.0 and 0.10.1 gradients of gradients of a small moments model of two elements are wrong by
some per cent, without a word (`tests/potential/test_compilation.py`); the older generator's are right, and training is no slower.
Other devices pay no attention to the option; jaxlib 0.11, which GPUs may have, no longer knows it.
"""

from __future__ import annotations

from functools import partial

import jax
import jaxlib

_KNOWN = tuple(int(x) for x in jaxlib.__version__.split(".")[:2]) < (0, 11)
jit = partial(jax.jit, compiler_options={"xla_cpu_use_fusion_emitters": False} if _KNOWN else {})
