"""Checkpoints of a fit or a trajectory: everything the next step depends on, in one file written atomically.

Parameters, optimiser state, averaged and best weights are arrays; counters are JSON. All randomness of an epoch follows from
(seed, epoch), so nothing else is needed for a resumed run to equal an uninterrupted one bit for bit on CPU.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from adatom.potential.model_file import write_atomically

Tree = TypeVar("Tree")


class CheckpointError(ValueError):
    """A checkpoint cannot be used; one line says why."""


def save_checkpoint(path: Path, arrays: Any, counters: dict[str, Any]) -> None:
    """Write a pytree of arrays and JSON counters."""
    buffer = io.BytesIO()
    leaves = [np.asarray(x) for x in jax.tree.leaves(arrays)]
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as z:
        z.writestr("counters.json", json.dumps(counters))
        for n, leaf in enumerate(leaves):
            member = io.BytesIO()
            np.lib.format.write_array(member, leaf, allow_pickle=False)
            z.writestr(f"{n:05d}.npy", member.getvalue())
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path, like: Tree) -> tuple[Tree, dict[str, Any]]:
    """Read what `save_checkpoint` wrote into the structure of `like`. Raises CheckpointError where they do not fit."""
    try:
        with zipfile.ZipFile(path) as z:
            counters = json.loads(z.read("counters.json"))
            names = sorted(n for n in z.namelist() if n.endswith(".npy"))
            leaves = [np.lib.format.read_array(io.BytesIO(z.read(n)), allow_pickle=False) for n in names]
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no checkpoint to resume from") from error
    except (zipfile.BadZipFile, ValueError, KeyError, OSError, EOFError, RuntimeError, zlib.error) as error:
        raise CheckpointError(f"{path}: damaged checkpoint, {' '.join(str(error).split())[:120]}") from error
    expected, structure = jax.tree.flatten(like)
    if [np.shape(x) for x in expected] != [x.shape for x in leaves]:
        raise CheckpointError(f"{path}: the checkpoint is of another model or data set")
    return jax.tree.unflatten(structure, leaves), counters
