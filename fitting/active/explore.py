"""Molecular dynamics over what the potential is for, watched by its own uncertainty.

Runs take kinds of structures (`config_type`) in turn, of each kind the next structure, and temperature and pressure in an order
shuffled by (seed, iteration). Runs go together on the device (`adatom.md.simulate_many`); what is periodic in three directions at
constant pressure, the rest at constant volume. A run whose largest σ of a force reaches the upper threshold, or that any other
guard finds broken, ends there.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ase
import ase.io
import numpy as np

from adatom.fitting.active.config import ExploreConfig
from adatom.fitting.active.generators import generate
from adatom.md import Settings, simulate_many
from adatom.md.results import MDSummary
from adatom.potential.potential import Potential

ACCURATE_A_RUN = 10
"""Accurate frames that are kept of each run, evenly spread: there are many."""


class Explored(NamedTuple):
    """frames, with `config_type` and `origin` in info; deviation (frames,) eV/Å, the largest σ of a force; run (frames,);
    ended (runs,): why a run ended early, or ""; sigma (all explored frames,) eV/Å: of those below `lower` only some are in
    frames."""

    frames: list[ase.Atoms]
    deviation: np.ndarray
    run: np.ndarray
    ended: list[str]
    sigma: np.ndarray


def starting_structures(config: ExploreConfig, seed: int) -> list[ase.Atoms]:
    """What the generators make. Raises ValueError for a prototype that cannot be read."""
    prototypes = {}
    for name, path in config.prototypes.items():
        try:
            found = ase.io.read(path)
        except Exception as error:  # readers of ASE raise anything
            raise ValueError(f"prototype {name!r}: {path} cannot be read ({' '.join(str(error).split())[:120]})") from error
        assert isinstance(found, ase.Atoms)
        found.calc = None
        prototypes[name] = found
    return generate(config.structures, prototypes, seed)


def explore(
    potential: Potential, config: ExploreConfig, *, seed: int, iteration: int, upper: float, folder: Path, lower: float = 0.0,
    bias: float = 0.0,
) -> Explored:  # fmt: skip
    """Trajectories go to `folder`, over what was there. Deterministic in seed and iteration (on one kind of machine).

    bias: τ, atoms move on E − τ σ_E (`adatom.md.field`).
    """
    structures = starting_structures(config, seed)
    rng = np.random.default_rng([seed, iteration])
    chosen = taken(structures, (iteration - 1) * config.runs, config.runs)
    temperatures, pressures = (
        _in_turn(values, config.runs, rng) for values in (config.temperatures_K, config.pressures_GPa)
    )
    steps = max(config.interval, round(duration_ps(config, iteration) * 1000.0 / config.timestep_fs))
    folder.mkdir(parents=True, exist_ok=True)
    frames: list[ase.Atoms] = []
    deviation: list[float] = []
    run: list[int] = []
    ended = [""] * config.runs
    sigma: list[float] = []
    solid = [bool(structures[k].pbc.all()) for k in chosen]
    for ensemble, wanted in (("npt", True), ("nvt", False)):
        members = [r for r in range(config.runs) if solid[r] == wanted]
        if not members:
            continue
        hot = [float(structures[chosen[r]].info.get("md_temperature_K", temperatures[r])) for r in members]
        given: dict[str, Any] = {
            "ensemble": ensemble, "steps": steps, "timestep_fs": config.timestep_fs, "temperature_K": tuple(hot),
            "interval": config.interval, "seed": int(rng.integers(2**31)), "max_spread_eV_A": upper,
            "checkpoint_s": 1e9,
        }  # fmt: skip
        if ensemble == "npt":
            given |= {"pressure_GPa": tuple(pressures[r] for r in members)}
        starts = [_at_rest(structures[chosen[r]]) for r in members]
        found = simulate_many(
            potential, starts, Settings(**given), trajectory=folder / f"{ensemble}.extxyz", overwrite=True, on_stop="return",
            bias=bias,
        )
        for r, start, summary, t in zip(members, starts, found, hot, strict=True):
            at = f"{t:g} K" + (f", {pressures[r]:g} GPa" if ensemble == "npt" else "")
            visited = _visited(summary, lower)
            sigma += [row.max_spread_eV_A for row in summary.rows]
            for k, atoms, spread in visited:
                info = structures[chosen[r]].info
                atoms.info = {
                    "config_type": info["config_type"], "origin": f"{info['origin']}; run {r}, {ensemble} {at}, frame {k}"
                }
                frames.append(atoms)
                deviation.append(spread)
                run.append(r)
            ended[r] = "" if summary.stop is None else summary.stop.guard
            assert len(start) == len(summary.atoms)
    return Explored(frames, np.array(deviation), np.array(run, dtype=int), ended, np.array(sigma))


def taken(structures: Sequence[ase.Atoms], first: int, count: int) -> list[int]:
    """Structures of runs number first, first + 1, …: kinds in turn, and of each kind its structures in turn."""
    kinds: dict[str, list[int]] = {}
    for k, atoms in enumerate(structures):
        kinds.setdefault(atoms.info["config_type"], []).append(k)
    every = list(kinds.values())
    return [every[r % len(every)][r // len(every) % len(every[r % len(every)])] for r in range(first, first + count)]


def duration_ps(config: ExploreConfig, iteration: int) -> float:
    """Of the runs of an iteration, the first is 1."""
    return min(config.duration_ps * config.growth ** (iteration - 1), max(config.max_duration_ps, config.duration_ps))


def _in_turn(values: Sequence[float], n: int, rng: np.random.Generator) -> list[float]:
    """n values, each as often as the others, shuffled."""
    repeated = [values[k % len(values)] for k in range(n)]
    return [repeated[k] for k in rng.permutation(n)]


def _at_rest(atoms: ase.Atoms) -> ase.Atoms:
    out = atoms.copy()
    out.info = {}
    return out


def _visited(summary: MDSummary, lower: float) -> list[tuple[int, ase.Atoms, float]]:
    """(number, frame, largest σ of a force) of the frames with a σ of at least `lower`, of some below it, and of the one that
    stopped the run, if it was the spread that did: σ = ∞."""
    assert summary.trajectory is not None
    spreads = [row.max_spread_eV_A for row in summary.rows]
    below = [k for k, x in enumerate(spreads) if x < lower]
    some = {below[k] for k in np.linspace(0, len(below) - 1, min(len(below), ACCURATE_A_RUN)).round().astype(int)}
    wanted = [k for k, x in enumerate(spreads) if k in some or not x < lower]
    lines = summary.trajectory.read_text().splitlines(keepends=True)
    n = len(summary.atoms) + 2
    assert len(lines) == n * len(spreads)
    text = "".join(line for k in wanted for line in lines[n * k : n * (k + 1)])
    found = ase.io.read(io.StringIO(text), ":", format="extxyz") if wanted else []
    assert isinstance(found, list)
    for atoms in found:
        atoms.calc = None
    frames = [(k, atoms, spreads[k]) for k, atoms in zip(wanted, found, strict=True)]
    if summary.stop is not None and summary.stop.guard == "spread":
        frames.append((len(spreads), summary.stop.offending, float("inf")))
    return frames
