"""The checkpoint of a run: everything the next step depends on, written atomically.

Random numbers follow from (seed, structure, step), and the neighbour list from the positions it was built at, so a run that
goes on from here equals one that was never stopped, bit for bit on one kind of CPU. Settings and potential are kept as well:
going on with others is refused, by name.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adatom.md.config import Settings
from adatom.md.engine import Progress
from adatom.md.field import Field
from adatom.md.neighbours import Plan
from adatom.potential.checkpoint import load_checkpoint, save_checkpoint

FREE = ("steps", "interval", "log_interval", "checkpoint_s")
"""Settings that may differ when a run goes on (steps not in a ramp)."""


class Restart(NamedTuple):
    """progress: its list is to be made anew from its positions and cell; outputs: positions of the files; elapsed: s so far."""

    progress: Progress
    plan: Plan
    outputs: list[list[int]]
    elapsed: float


def fingerprint(settings: Settings, field: Field, arrays: Any) -> dict[str, Any]:
    """What must be the same for a run to go on: settings, and digests of potential and structures."""
    names = settings.model_dump(mode="json")
    ramp = settings.temperature_end_K is not None or settings.pressure_end_GPa is not None
    kept = {k: v for k, v in names.items() if k not in FREE or (ramp and k == "steps")}
    potential = _digest((field.params, field.e0, field.bias), repr(field.model))
    return kept | {"potential": potential, "structures": _digest(arrays, "")}


def _digest(arrays: Any, text: str) -> str:
    h = hashlib.sha256(text.encode())
    for leaf in jax.tree.leaves(arrays):
        x = np.ascontiguousarray(leaf)
        h.update(f"{x.dtype}{x.shape}".encode() + x.tobytes())
    return h.hexdigest()[:16]


def _parts(progress: Progress) -> tuple[Any, ...]:
    p, n = progress, progress.neighbours
    return p.state, p.alive, p.tripped, p.stopped_at, p.offending, p.scores, p.rebuilds, n.positions, n.cell


def save(path: Path, restart: Restart, mark: dict[str, Any]) -> None:
    """Write, replacing the checkpoint before."""
    counters = {"plan": restart.plan._asdict(), "outputs": restart.outputs, "elapsed": restart.elapsed, "run": mark}
    save_checkpoint(path, jax.device_get(_parts(restart.progress)), counters)


def load(path: Path, like: Progress, mark: dict[str, Any]) -> Restart:
    """Read into the shapes of `like`. ValueError where there is none, it is damaged, or the run was another one."""
    parts, counters = load_checkpoint(path, _parts(like))
    for key, value in mark.items():
        if counters["run"].get(key) != value:
            was = f"{counters['run'].get(key)!r}, not {value!r}"
            raise ValueError(f"{path}: the run had other {key} ({was}): go on with the same, or start anew from its last frame")
    state, alive, tripped, stopped_at, offending, scores, rebuilds, positions, cell = jax.tree.map(jnp.asarray, parts)
    neighbours = replace(like.neighbours, positions=positions, cell=cell)
    plan = counters["plan"]
    return Restart(
        Progress(state, neighbours, alive, tripped, stopped_at, offending, scores, rebuilds),
        Plan(tuple(plan["grid"]), tuple(plan["reach"]), plan["bin_capacity"], tuple(plan["slot_capacity"])),
        counters["outputs"], counters["elapsed"],
    )  # fmt: skip
