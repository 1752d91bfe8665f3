"""The verbs that move atoms: `adatom md | relax | analyse | ipi`, in the same manner as `cli`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def add_md(verbs: Any) -> None:
    """`adatom md MODEL START … --out TRAJ`, or `adatom md CONFIG.toml`."""
    p = verbs.add_parser("md", help="molecular dynamics with a potential")
    p.add_argument("model", metavar="MODEL", help="potential; or a CONFIG.toml, alone: see `adatom template md`")
    p.add_argument("start", nargs="?", metavar="START", help="structure, any format ASE reads (its last frame)")
    p.add_argument("--ensemble", choices=("nve", "nvt", "npt"), default="nvt")
    p.add_argument("--thermostat", choices=("langevin", "nose-hoover", "bussi", "berendsen"), default="langevin")
    p.add_argument("--barostat", choices=("isotropic", "flexible", "berendsen"), default="isotropic")
    p.add_argument("--temperature-K", type=float, metavar="K", help="needed for nvt and npt, and for new velocities")
    p.add_argument("--temperature-end-K", type=float, metavar="K", help="ramp to here")
    p.add_argument("--pressure-GPa", type=float, metavar="GPa", help="for npt; default 0")
    p.add_argument("--pressure-end-GPa", type=float, metavar="GPa", help="ramp to here")
    p.add_argument("--timestep-fs", type=float, default=1.0, metavar="FS")
    p.add_argument("--steps", type=int, metavar="N")
    p.add_argument("--supercell", type=int, nargs=3, default=(1, 1, 1), metavar=("A", "B", "C"))
    p.add_argument("--replicas", type=int, default=1, metavar="N", help="runs at once, each with its own random numbers")
    p.add_argument("--interval", type=int, default=10, metavar="N", help="steps between frames and log lines")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--precision", choices=("float32", "float64"), default="float32")
    p.add_argument("--out", metavar="TRAJ", help=".extxyz, .traj or .h5; the log goes beside it as .csv")
    p.add_argument("--resume", action="store_true", help="go on from the checkpoint beside --out, with the same settings")
    p.add_argument("--overwrite", action="store_true")
    p.set_defaults(run=_md)


def add_analyse(verbs: Any) -> None:
    """`adatom analyse TRAJ`."""
    p = verbs.add_parser("analyse", help="radial distribution, diffusion, vibrations and averages of a trajectory")
    p.add_argument("trajectory", metavar="TRAJ")
    p.add_argument("--log", metavar="CSV", help="its table (default: the one beside it)")
    p.add_argument("--out", metavar="DIR", help="default: TRAJ's name with -analysis")
    p.add_argument("--discard-ps", type=float, metavar="PS", help="equilibration to leave out (default: found from the table)")
    p.add_argument("--temperature-K", type=float, metavar="K", help="of an npt run: gives expansion and compressibility")
    p.add_argument("--pressure-GPa", type=float, metavar="GPa")
    p.set_defaults(run=_analyse)


def add_relax(verbs: Any) -> None:
    """`adatom relax MODEL START --out FILE`."""
    p = verbs.add_parser("relax", help="positions, and the cell, of least energy or enthalpy")
    p.add_argument("model", metavar="MODEL")
    p.add_argument("start", metavar="START", help="structures, any format ASE reads: all frames, relaxed together")
    p.add_argument("--out", required=True, metavar="FILE", help="the relaxed structures, any format ASE writes")
    p.add_argument("--algorithm", choices=("lbfgs", "fire"), default="lbfgs")
    p.add_argument("--cell", choices=("fixed", "isotropic", "flexible"), default="fixed")
    p.add_argument("--pressure-GPa", type=float, default=0.0, metavar="GPa")
    p.add_argument("--max-force", type=float, default=0.01, metavar="eV/Å")
    p.add_argument("--max-steps", type=int, default=500, metavar="N")
    p.add_argument("--precision", choices=("float32", "float64"), default="float64")
    p.add_argument("--overwrite", action="store_true")
    p.set_defaults(run=_relax)


def add_ipi(verbs: Any) -> None:
    """`adatom ipi MODEL START --unix NAME`."""
    p = verbs.add_parser("ipi", help="compute forces for i-PI: path integrals and more")
    p.add_argument("model", metavar="MODEL")
    p.add_argument("start", metavar="START", help="the atoms i-PI starts with, in its order")
    p.add_argument("--unix", metavar="NAME", help="address of i-PI's unix socket")
    p.add_argument("--host", help="of i-PI's inet socket")
    p.add_argument("--port", type=int)
    p.add_argument("--precision", choices=("float32", "float64"), default="float32")
    p.set_defaults(run=_ipi)


def read_structure(path: str, *, supercell: Sequence[int] = (1, 1, 1)) -> Any:
    """The last frame of a file, repeated. ValueError in one line where it cannot be read."""
    import ase.io

    try:
        atoms = ase.io.read(path, index=-1)
    except FileNotFoundError:
        raise
    except Exception as error:  # ASE's readers raise anything at all on a broken file
        raise ValueError(f"{path}: cannot be read as a structure ({type(error).__name__}: {error})") from error
    if min(supercell) < 1:
        raise ValueError(f"--supercell needs positive numbers, got {list(supercell)}")
    assert not isinstance(atoms, list)
    return atoms.repeat(tuple(supercell))


def _md(a: argparse.Namespace) -> int:
    from adatom.md.config import MDConfig, load_config, settings

    if Path(a.model).suffix == ".toml":
        if a.start is not None:
            raise ValueError(f"{a.model} is a config: it names the structure itself, leave out {a.start}")
        config = load_config(a.model)
    else:
        for name in ("start", "steps", "out"):
            if getattr(a, name) is None:
                what = "START" if name == "start" else f"--{name}"
                raise ValueError(f"md needs {what}, or a CONFIG.toml (`adatom template md`)")
        given = {
            key: getattr(a, key)
            for key in (
                "ensemble", "thermostat", "barostat", "temperature_K", "temperature_end_K", "pressure_GPa", "pressure_end_GPa",
                "timestep_fs", "steps", "interval", "seed", "precision",
            )
            if getattr(a, key) is not None
        }  # fmt: skip
        if a.replicas < 1:
            raise ValueError(f"--replicas needs a positive number, got {a.replicas}")
        config = MDConfig(
            model=a.model, start=a.start, out=a.out, supercell=tuple(a.supercell), replicas=a.replicas, md=settings(given)
        )
    return _run(config, resume=a.resume, overwrite=a.overwrite)


def _run(config: Any, *, resume: bool, overwrite: bool) -> int:
    from adatom.fitting.progress import progress
    from adatom.md.results import Interrupted
    from adatom.md.simulate import simulate_many
    from adatom.potential.graph import species_of
    from adatom.potential.model_file import load

    models = [config.model] if isinstance(config.model, str) else list(config.model)
    starts = [config.start] if isinstance(config.start, str) else list(config.start)
    potentials = [load(x) for x in models]
    structures = []
    for path in starts:
        atoms = read_structure(path, supercell=config.supercell)
        species_of(atoms.numbers, potentials[0].model.elements, name=path)
        structures += [atoms] * config.replicas
    out = Path(config.out)
    try:
        with progress("md", unit="steps") as report:
            found = simulate_many(
                potentials, structures, config.md, trajectory=out, log=out.with_suffix(".csv"), resume=resume,
                overwrite=overwrite, progress=report,
            )  # fmt: skip
    except Interrupted as stop:
        print(f"adatom: {stop}: the same command with --resume", file=sys.stderr)
        return 130
    for summary in found:
        print(describe(summary))
    print("written: " + ", ".join(f"{x.trajectory}, {x.log}" for x in found))
    return 0


def describe(summary: Any) -> str:
    """One run in one line."""
    mean = "" if summary.pressure_mean != summary.pressure_mean else f", pressure {summary.pressure_mean:.3f} GPa"
    return (
        f"{summary.ensemble}, {len(summary.atoms)} atoms, {summary.time_ps:g} ps in {summary.wall_s:.1f} s; "
        f"velocities {summary.velocities}; second half: temperature {summary.temperature_mean:.1f} ± "
        f"{summary.temperature_std:.1f} K{mean}; closest pair {summary.min_distance:.2f} Å"
        + (f"; conserved energy: {summary.drift}" if summary.drift else "")
    )


def _analyse(a: argparse.Namespace) -> int:
    from adatom.md.observables import analyse

    trajectory = Path(a.trajectory)
    if not trajectory.exists():
        raise FileNotFoundError(f"{trajectory}: no such file")
    beside = trajectory.with_suffix(".csv")
    log = Path(a.log) if a.log else beside if beside.exists() else None
    out = Path(a.out) if a.out else trajectory.with_name(f"{trajectory.stem}-analysis")
    found = analyse(
        trajectory, log, out_dir=out, discard_ps=a.discard_ps, temperature_K=a.temperature_K, pressure_GPa=a.pressure_GPa
    )
    print(found.text())
    return 0


def _relax(a: argparse.Namespace) -> int:
    import ase.io

    from adatom.md.relax import relax

    out = Path(a.out)
    if out.exists() and not a.overwrite:
        raise FileExistsError(f"{out} exists already: choose another name, or --overwrite it")
    read_structure(a.start)
    structures = ase.io.read(a.start, ":")
    assert isinstance(structures, list)
    found = relax(
        a.model, structures, algorithm=a.algorithm, cell=a.cell, pressure_GPa=a.pressure_GPa, max_force_eV_A=a.max_force,
        max_steps=a.max_steps, precision=a.precision,
    )  # fmt: skip
    beside = out.with_name(f".{out.stem}.tmp{out.suffix}")
    ase.io.write(beside, [x.atoms for x in found])
    beside.replace(out)
    for n, x in enumerate(found):
        print(f"{n}: {x.message}; energy {x.energy:.6f} eV, enthalpy {x.enthalpy:.6f} eV, force {x.max_force_eV_A:.4f} eV/Å")
    print(f"written: {out}")
    return 0 if all(x.converged for x in found) else 1


def _ipi(a: argparse.Namespace) -> int:
    from adatom.md.ipi_driver import serve

    atoms = read_structure(a.start)
    count = serve(a.model, atoms, unix=a.unix, host=a.host, port=a.port, precision=a.precision)
    print(f"i-PI ended the run after {count} evaluations")
    return 0
