"""Training on several devices: each has all frames and all weights, works on its part of every batch, and gradients are summed.

One process with several devices needs nothing; several processes are told of each other by `join`, read the same files, compute
the same weights, and the first of them writes. A batch is divided, not enlarged (but to a multiple of the devices): what is
learnt is the same to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"
WHOLE, PART = PartitionSpec(), PartitionSpec(AXIS)


def join(address: str, processes: int, process: int) -> bool:
    """Before anything is computed: `processes` that meet at address HOST:PORT, this one the number `process`. Whether it is the
    one that writes. Raises ValueError for numbers that make no sense."""
    if not 0 <= process < processes:
        raise ValueError(f"--processes {processes} are numbered from 0 to {processes - 1}; --process is {process}")
    jax.distributed.initialize(address, processes, process)
    return process == 0


@cache
def mesh() -> Mesh | None:
    """All devices of all processes; None where there is one."""
    return jax.make_mesh((n,), (AXIS,)) if (n := jax.device_count()) > 1 else None


def whole(tree: Any, devices: Mesh | None) -> Any:
    """On every device."""
    return jax.device_put(tree, NamedSharding(devices, WHOLE) if devices else None)


def parts(array: np.ndarray, devices: Mesh | None) -> Any:
    """The first axis divided among the devices."""
    if devices is None:
        return array
    return jax.make_array_from_callback(array.shape, NamedSharding(devices, PART), lambda index: array[index])


def on_each(f: Callable[..., Any], devices: Mesh, divided: tuple[bool, ...]) -> Callable[..., Any]:
    """f on every device, with parts of the arguments that are divided; it returns the same everywhere."""
    specs = tuple(PART if x else WHOLE for x in divided)
    return jax.shard_map(f, mesh=devices, in_specs=specs, out_specs=WHOLE, check_vma=False)
