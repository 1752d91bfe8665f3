"""What suits the device that computes: how much is worked on at a time.

A core of a CPU is fast where its caches hold everything, a GPU where there is enough for all of its threads at once.
"""

from __future__ import annotations

import jax


def on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def atoms_at_once() -> int:
    """Atoms whose intermediates are alive together. 33: they stay in L2, and 32 would alias in the cache, whose lines repeat
    every 4096 bytes; 32,768: 0.8 GB of the default model's."""
    return 33 if on_cpu() else 1 << 15


def atom_steps_at_once() -> int:
    """Atoms × steps of molecular dynamics between looks at what happens: some seconds at most."""
    return 100_000 if on_cpu() else 10_000_000


def numbers_at_once() -> int:
    """The same for lists of neighbours, in numbers of four bytes."""
    return 1 << 17 if on_cpu() else 1 << 26
