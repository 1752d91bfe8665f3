"""One measurement of md_speed.py, in a process of its own: a potential, a size, and who moves the atoms."""

from __future__ import annotations

import math
import os
import time
import warnings
from typing import Any

import calculator_speed
from copper import copper, time_steps

SKIN = 0.5
POTENTIALS: dict[str, dict[str, Any] | None] = {
    "Lennard-Jones 6 Å": None,
    "small moments 4.2 Å": {
        "descriptor": {"type": "moments", "cutoff": 4.2, "n_radial": 6, "n_channels": 6, "order": 2, "contractions": ()},
        "fitting_net": {"widths": (32, 32)},
    },
    "moments 5 Å": {"descriptor": {"type": "moments", "cutoff": 5.0}},
    "moments 5 Å, pure JAX": {"descriptor": {"type": "moments", "cutoff": 5.0}},
    "moments 6 Å": {"descriptor": {"type": "moments", "cutoff": 6.0}},
    "DeepPot-SE 6 Å": calculator_speed.config("deep_potential"),
}  # fmt: skip
"""The default model has 5 Å; DeepPot-SE has DeePMD-kit's sizes. Pure JAX: without the compiled kernel."""
NATIVE_STEPS = {64: 100, 108: 100, 500: 100, 4000: 50, 32000: 31, 256000: 11}
NATIVE_RUNS = {64: 8, 108: 5}
ASE_STEPS = {64: 90, 108: 90, 500: 40, 4000: 15, 32000: 10}


def potential_of(name: str) -> Any:
    """A Potential. Lennard-Jones of copper (Halicioglu and Pound, Phys. Stat. Sol. A 30, 619 (1975)) wrapped as one too, so that
    the calculator takes it: what ASE then calls is the calculator's own `predict`."""
    import jax
    import numpy as np

    from adatom.potential import Potential
    from adatom.potential.model import Model, ModelConfig, Statistics
    from adatom.potential.pairwise import LennardJones

    def statistics(features: int) -> Statistics:
        one = np.ones((1, features))
        return Statistics(np.zeros(1), np.zeros(1), np.full(1, 1e-2), 0.0 * one, one, np.full((1, 1), 1.5))

    config = POTENTIALS[name]
    if config is None:
        model: Any = LennardJones((29,), 0.4096, 2.338, 6.0)
        return Potential(model, {"network": {}, "statistics": statistics(1)})
    model = Model(ModelConfig(**{"elements": (29,), **config}))
    network = jax.tree.map(np.asarray, model.init(jax.random.key(0)))
    return Potential(model, {"network": network, "statistics": statistics(model.config.descriptor.n_features(1))})


def moved_by(name: str) -> Any:
    """What `adatom.md` takes: the Potential, of Lennard-Jones the model itself."""
    source = potential_of(name)
    return source if POTENTIALS[name] else source.model


def native(source: Any, atoms: Any, *, steps: int, runs: int, interval: int) -> dict[str, Any]:
    """`adatom.md.simulate` of a potential or model: time between the ends of the first block and the last, over all runs of this
    process.

    Blocks in which the list outgrew its capacity are not counted, but numbered in `enlarged`: they are repeated, and compiled."""
    from adatom.md import engine, simulate

    used, passed, counted, enlarged, rebuilds, relists = 0.0, 0.0, 0, 0, 0, 0
    original = engine.relist

    def relist(*arguments: Any) -> Any:
        nonlocal relists
        relists += 1
        return original(*arguments)

    engine.relist = relist
    for _ in range(runs):
        marks: list[tuple[int, float, float, int]] = []

        def report(done: int, steps: int, marks: list[tuple[int, float, float, int]] = marks) -> None:
            marks.append((done, time.process_time(), time.perf_counter(), relists))

        out = simulate(source, atoms, ensemble="nve", steps=steps, interval=interval, skin=SKIN, progress=report)
        for last, now in zip(marks, marks[1:], strict=False):
            if now[3] > last[3]:
                enlarged += 1
                continue
            counted, used, passed = counted + now[0] - last[0], used + now[1] - last[1], passed + now[2] - last[2]
        rebuilds = out.rows[-1].rebuilds
    each = 1e6 / len(atoms) / counted if counted else math.nan
    return {
        "what": "adatom.md", "precision": "float32", "cpu": each * used, "wall": each * passed, "counted_steps": counted,
        "cpu_share": used / passed, "rebuilds_per_step": rebuilds / steps, "enlarged": enlarged,
        "temperature_K": float(out.atoms.get_temperature()),
    }  # fmt: skip


def parts(name: str, n_atoms: int, count: int) -> dict[str, float]:
    """What a step is made of, each alone in compiled code: µs per atom for one evaluation, and for one list. CPU time; on other
    devices wall time."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax import lax

    from adatom.md.field import Field, make_field
    from adatom.md.neighbours import NeighbourList, allocate, build
    from adatom.md.system import System, pack
    from adatom.potential.device import atoms_at_once, on_cpu

    Array = jax.Array
    source, atoms = moved_by(name), copper(n_atoms)
    clock = time.process_time if on_cpu() else time.perf_counter

    @jax.jit
    def evaluate(field: Field, system: System, near: NeighbourList, positions: Array, cell: Array, n: Array) -> Array:
        def one(_: Array, r: Array) -> Array:
            out = field.evaluate(system, near, r, cell)
            return r + 1e-9 * out.forces + 1e-20 * (out.energy.sum() + out.virial.sum() + out.nearest.sum())

        return lax.fori_loop(0, n, one, positions)

    def timed(call: Any, argument: int) -> float:
        jax.block_until_ready(call(1))
        begin = clock()
        jax.block_until_ready(call(argument))
        return (clock() - begin) / argument / n_atoms * 1e6

    with jax.enable_x64(True):
        field = make_field(source, precision="float32")
        packed = pack([atoms], field.model.elements, movable=[np.ones((n_atoms, 3))], block=atoms_at_once())
        field, system = jax.device_put((field, packed.system))
        positions, cell = jnp.asarray(packed.positions), jnp.asarray(packed.cell)
        length = field.cutoff + SKIN
        plan, near = allocate(system, positions, cell, length)
        again = jax.jit(build, static_argnames=("plan", "length"))

        def lists(n: int) -> Any:
            for _ in range(n):
                out = jax.block_until_ready(again(system, plan, positions, cell, length))
            return out

        return {
            "model": timed(lambda n: evaluate(field, system, near, positions, cell, jnp.asarray(n, dtype=jnp.int32)), count),
            "list": timed(lists, max(1, count // 10)),
        }


def through_ase(name: str, n_atoms: int, steps: int) -> dict[str, Any]:
    """ASE's VelocityVerlet with AdatomCalculator."""
    from adatom.potential import AdatomCalculator

    calc = AdatomCalculator(potential_of(name), skin=SKIN)
    if n_atoms <= 500:  # the same steps beforehand: lists have grown to the size they will need, and nothing compiles
        atoms = copper(n_atoms)
        atoms.calc = calc
        time_steps(atoms, steps=steps, warm_up=5)
    atoms = copper(n_atoms)
    atoms.calc = calc
    before: dict[str, int] = {}

    def count() -> None:
        before.update(builds=calc.evaluator.n_builds, shapes=calc.evaluator.n_shapes)

    begin = time.perf_counter()
    out = time_steps(atoms, steps=steps, warm_up=5, after_warm_up=count)
    return {
        "what": f"ASE VelocityVerlet + AdatomCalculator, {name}", "precision": "float32", "cpu": out["mean"],
        "wall": out["mean"] / out["cpu_share"], "cpu_share": out["cpu_share"], "temperature_K": out["temperature_K"],
        "rebuilds_per_step": (calc.evaluator.n_builds - before["builds"]) / steps, "total_s": time.perf_counter() - begin,
        "compilations": calc.evaluator.n_shapes - before["shapes"],
    }  # fmt: skip


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """One measurement, in this process, which is pinned already."""
    warnings.filterwarnings("ignore", message="extrapolation")
    name, n_atoms, quick = job["potential"], job["atoms"], job["quick"]
    if name.endswith("pure JAX"):
        os.environ["ADATOM_CXX"] = "none"
    if job["way"] == "ase":
        return through_ase(name, n_atoms, max(3, ASE_STEPS[n_atoms] // (4 if quick else 1)))
    steps, runs = NATIVE_STEPS[n_atoms], NATIVE_RUNS.get(n_atoms, 1)
    steps, runs = (max(6, steps // 2), 1) if quick else (steps, runs)
    interval = job.get("interval") or max(1, steps // 4)
    out = native(moved_by(name), copper(n_atoms), steps=steps, runs=runs, interval=interval)
    return out | ({"parts": parts(name, n_atoms, max(2, steps // 4))} if job["parts"] else {})
