"""Gaussian angular functions of integer ζ summed over triplets in C++ (`kernels/triplets_ffi.cpp`), for inference on a CPU.

Only neighbours inside the functions' cutoff are paired, so those in the skin of a Verlet list cost nothing; equal to
`triplet_sums` to rounding. First derivatives only: training and committees differentiate the model itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from adatom.potential.device import on_cpu
from adatom.potential.interop.n2p2.config import NARROW, RADIAL, Compact, CutoffType, Gaussian, N2p2Config
from adatom.potential.interop.n2p2.moments import by_moments
from adatom.potential.kernels.build import compiled

Array = jax.Array
Spec = tuple[tuple[int, ...], tuple[float, ...]]
KINDS: tuple[CutoffType, ...] = ("hard", "cos", "tanhu", "tanh", "exp", "poly1", "poly2", "poly3", "poly4")
"""As `Kind` in the C++."""


def in_cpp(f: Gaussian | Compact) -> TypeGuard[Gaussian]:
    """Whether a function is one that the C++ has, and that nothing else does better."""
    return isinstance(f, Gaussian) and f.kind not in RADIAL and not by_moments(f) and f.zeta == int(f.zeta)


def available(config: N2p2Config) -> bool:
    """Whether a model has such functions, on a device and machine that can run them."""
    some = any(in_cpp(f) for functions in config.functions for f in functions)
    return some and on_cpu() and compiled("triplets").library is not None


def compiled_sums(vectors: Array, columns: tuple[slice, slice], functions: Sequence[Gaussian], config: N2p2Config) -> Array:
    """(3, n, k) vectors and the columns of two elements -> (n, functions), as `triplet_sums`."""
    return _sums(vectors, _spec(columns, functions, config))


def _spec(columns: tuple[slice, slice], functions: Sequence[Gaussian], config: N2p2Config) -> Spec:
    """All that is static, as the C++ reads it: `Spec` there."""
    shells = list(dict.fromkeys((f.eta, f.shift, f.cutoff) for f in functions))
    envelopes = list(dict.fromkeys((shells.index((f.eta, f.shift, f.cutoff)), int(f.kind in NARROW)) for f in functions))
    angles = list(dict.fromkeys((f.sign, f.zeta) for f in functions))
    own = [
        (envelopes.index((shells.index((f.eta, f.shift, f.cutoff)), int(f.kind in NARROW))), angles.index((f.sign, f.zeta)))
        for f in functions
    ]
    t, u = columns
    counts = [
        KINDS.index(config.cutoff_type),
        t.start,
        t.stop,
        u.start,
        u.stop,
        len(shells),
        len(envelopes),
        len(angles),
        len(own),
    ]
    counts += [x for pair in (*envelopes, *own) for x in pair]
    return tuple(counts), (config.cutoff_alpha, *(x for row in (*shells, *angles) for x in row))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _sums(vectors: Array, spec: Spec) -> Array:
    n, functions = vectors.shape[1], spec[0][8]
    return _call("adatom_triplets", (n, functions), vectors, jnp.zeros(0, dtype=vectors.dtype), spec)


def _forward(vectors: Array, spec: Spec) -> tuple[Array, Array]:
    return _sums(vectors, spec), vectors


def _backward(spec: Spec, vectors: Array, weights: Array) -> tuple[Array]:
    return (_call("adatom_triplets_back", vectors.shape, vectors, weights, spec),)


_sums.defvjp(_forward, _backward)


def _call(name: str, shape: tuple[int, ...], vectors: Array, weights: Array, spec: Spec) -> Array:
    out = jax.ShapeDtypeStruct(shape, vectors.dtype)
    call = jax.ffi.ffi_call(f"{name}_{vectors.dtype.name}", out, vmap_method="sequential")
    counts, numbers = np.array(spec[0], dtype=np.int64), np.array(spec[1], dtype=np.float64)
    return call(vectors, weights, counts=counts, numbers=numbers)
