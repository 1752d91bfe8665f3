"""Before a run: each structure's motion and targets, the conditions as arrays, and how many structures fit into memory."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ase
import jax
import jax.numpy as jnp
import numpy as np
from ase import units

from adatom.md.config import Settings
from adatom.md.field import Field
from adatom.md.guards import SPREAD, STANDARD, Guard, standard_limits
from adatom.md.state import Conditions, Ensemble
from adatom.md.system import Packed
from adatom.md.velocities import Motion, motion, movable
from adatom.potential.structure import from_atoms

LEAST_HOT_K = 20_000.0


class Prepared(NamedTuple):
    """A structure, its number, what moves in it, and its own targets: (start, end) K and GPa."""

    number: int
    atoms: ase.Atoms
    motion: Motion
    temperature: tuple[float, float]
    pressure: tuple[float, float]

    @staticmethod
    def of(atoms: ase.Atoms, s: int, structures: int, chosen: Settings) -> Prepared:
        name = f"structure {s}" if structures > 1 else "the structure"
        from_atoms(atoms, name=name)

        def own(key: str) -> float | None:
            value = getattr(chosen, key)
            if not isinstance(value, tuple):
                return value
            if len(value) != structures:
                raise ValueError(f"{key} has {len(value)} values for {structures} structures")
            return value[s]

        temperature, pressure = own("temperature_K"), own("pressure_GPa") or 0.0
        ends = own("temperature_end_K"), own("pressure_end_GPa")
        conserving = chosen.thermostat_or_none != "langevin" or chosen.fix_center_of_mass
        if chosen.ensemble == "npt" and not atoms.pbc.all():
            raise ValueError(f"{name}: npt needs a cell periodic in three directions, pbc is {atoms.pbc.tolist()}")
        if chosen.ensemble == "npt" and (movable(atoms, name=name)[0] == 0.0).any():
            raise ValueError(f"{name}: npt moves all atoms with the cell, so none can be fixed")
        moving = motion(
            atoms, temperature_K=temperature, conserving=conserving, thermostatted=chosen.ensemble != "nve", name=name,
            seed=(chosen.seed, s),
        )  # fmt: skip
        start = temperature or 0.0
        return Prepared(
            s, atoms, moving, (start, start if ends[0] is None else ends[0]), (pressure, pressure if ends[1] is None else ends[1])
        )


def groups_that_fit(field: Field, prepared: Sequence[Prepared], chosen: Settings) -> list[list[int]]:
    """Structures that run together: as many as fit into half of the memory there is. Warns of one that needs more than all."""
    there, groups, used = available_memory(), [[0]], 0.0
    allowed = 0.5 * there
    for s, x in enumerate(prepared):
        need = memory_needed(x.atoms, field.cutoff + chosen.skin, chosen.precision)
        if need > there:
            warnings.warn(
                f"{len(x.atoms):,} atoms will need about {need / 2**30:.1f} GiB of memory, {there / 2**30:.1f} are free: a "
                "smaller skin, float32 or fewer atoms need less", RuntimeWarning, stacklevel=4,
            )  # fmt: skip
        if s and used + need > allowed:
            groups.append([])
            used = 0.0
        if s:
            groups[-1].append(s)
        used += need
    return groups


def memory_needed(atoms: ase.Atoms, length: float, precision: str) -> float:
    """Bytes of a run whose lists reach `length` Å: two neighbour tables, three arrays of pair gradients, some fifty numbers an
    atom. (Half a million atoms and more: 1 to 12 % too much, `benchmarks/md_memory.py`.)"""
    volume = atoms.get_volume() if atoms.pbc.all() else len(atoms) * 10.0
    neighbours = 1.3 * 4.19 * length**3 * len(atoms) / max(volume, 1e-3)
    return len(atoms) * (neighbours * (24.0 + 9.0 * (4.0 if precision == "float32" else 8.0)) + 1700.0)


def available_memory() -> float:
    """Bytes free on the device, or in the machine; 4 GB where neither tells."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024.0 * float(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return 4e9


def ensemble_of(chosen: Settings, prepared: Sequence[Prepared]) -> Ensemble:
    allowed = [[False] * 3 for _ in range(3)]
    for name in chosen.components:
        a, b = ("xyz".index(c) for c in name)
        allowed[a][b] = allowed[b][a] = True
    still = np.array([x.motion.still for x in prepared])
    return Ensemble(
        chosen.thermostat_or_none, chosen.barostat_or_none, tuple((x[0], x[1], x[2]) for x in allowed),  # type: ignore[arg-type]
        chosen.temperature_end_K is not None or chosen.pressure_end_GPa is not None,
        (bool(still[:, 0].any()), bool(still[:, 1].any())),
    )  # fmt: skip


def conditions_of(
    chosen: Settings, prepared: Sequence[Prepared], packed: Packed, field: Field, guards: Sequence[tuple[Guard, float]]
) -> tuple[Conditions, tuple[Guard, ...]]:
    warmest = max(max(x.temperature) for x in prepared)
    for x in prepared:
        twice = float((x.atoms.get_masses()[:, None] * x.motion.velocities**2).sum())
        warmest = max(warmest, twice / (units.kB * x.motion.freedoms))
    hottest = chosen.max_temperature_K or max(LEAST_HOT_K, 10.0 * warmest)
    watched = [*zip(STANDARD, standard_limits(hottest), strict=True), *guards]
    if chosen.max_spread_eV_A is not None:
        if field.members is None:
            raise ValueError("max_spread_eV_A needs a committee: a potential fitted with one, or several potentials")
        watched.append((SPREAD, chosen.max_spread_eV_A))
    extent = [np.ptp(x.atoms.positions, axis=0).max() for x in prepared]
    values: dict[str, Any] = dict(
        timestep=chosen.timestep_fs * units.fs, thermostat_time=chosen.thermostat_time_fs * units.fs,
        barostat_time=chosen.barostat_time_fs * units.fs, compressibility=chosen.compressibility_per_GPa / units.GPa,
        steps=float(chosen.steps), thermal=np.array([x.temperature for x in prepared]) * units.kB,
        pressure=np.array([x.pressure for x in prepared]) * units.GPa,
        freedoms=np.array([float(x.motion.freedoms) for x in prepared]), still=np.array([x.motion.still for x in prepared]),
        seeds=np.array([np.random.SeedSequence((chosen.seed, x.number, 1)).generate_state(1)[0] for x in prepared]),
        spread_every=np.int32(chosen.spread_interval or chosen.log_interval or chosen.interval),
        limits=np.array([limit for _, limit in watched]), shortest=chosen.min_distance * np.asarray(field.shortest_seen),
        first_volume=np.abs(np.linalg.det(packed.cell)), first_extent=np.array(extent),
    )  # fmt: skip
    return Conditions(**{k: jnp.asarray(v) for k, v in values.items()}), tuple(guard for guard, _ in watched)
