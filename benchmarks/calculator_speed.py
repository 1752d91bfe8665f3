"""CPU time per atom and MD step of the calculator on one core: fcc Cu, cutoff 6 Å (78 neighbours), beside a reference.

    python benchmarks/calculator_speed.py                                    reference: ASE's EMT
    python benchmarks/calculator_speed.py --reference deepmd                 reference: DeePMD-kit, compressed, float32
    python benchmarks/calculator_speed.py --atoms 500 --rounds 1 --core 1    quick

Every measurement is a process of its own, pinned to one core, single-threaded, and the processes take turns
(A B C … A B C …): on shared machines only ratios within a run mean anything. Random weights: times do not depend on them.
Steps include ASE's integrator and the rebuilding of neighbour lists. CPU time, not wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from copper import CELLS, copper, pin, time_steps  # noqa: E402

STEPS = {64: 100, 108: 20, 500: 60, 4000: 40, 32000: 25, 256000: 5}
SUBJECTS = tuple(f"{kind} {dtype}" for kind in ("deep_potential", "moments", "moments-jax") for dtype in ("float32", "float64"))
DEEPMD = "deepmd-kit==3.2.0"


def config(kind: str) -> dict[str, Any]:
    """DeePMD-kit's own sizes, or our default model; cutoff 6 Å for both."""
    if kind == "deep_potential":
        descriptor: dict[str, Any] = {
            "type": kind, "cutoff": 6.0, "smooth_cutoff": 2.0, "embedding_net": (25, 50, 100), "axis": 16,
        }  # fmt: skip
        return {"elements": (29,), "descriptor": descriptor, "fitting_net": {"widths": (240, 240, 240), "activation": "tanh"}}
    return {"elements": (29,), "descriptor": {"type": kind, "cutoff": 6.0}}


def random_potential(kind: str) -> Any:
    """A potential with random weights whose forces are small: the crystal stays a crystal for the steps measured."""
    import jax
    import numpy as np

    from adatom.potential import Potential
    from adatom.potential.model import Model, ModelConfig, Statistics

    model = Model(ModelConfig(**config(kind)))
    n = model.config.descriptor.n_features(1)
    one = np.ones((1, n))
    network = jax.tree.map(np.asarray, model.init(jax.random.key(0)))
    statistics = Statistics(np.zeros(1), np.zeros(1), np.full(1, 1e-2), 0.0 * one, one, np.full((1, 1), 1.5))
    return Potential(model, {"network": network, "statistics": statistics})


def measure(subject: str, n_atoms: int, steps: int) -> dict[str, Any]:
    """One subject, in this process, which is pinned already."""
    atoms = copper(n_atoms)
    if subject == "emt":
        import ase
        from ase.calculators.emt import EMT

        atoms.calc = EMT()
        what = f"ASE {ase.__version__} EMT"
        return {"what": what, "precision": "float64", **time_steps(atoms, steps=steps, warm_up=3)}
    from adatom.potential import AdatomCalculator

    kind, dtype = subject.split()
    if kind == "moments-jax":  # the same without the compiled kernel
        os.environ["ADATOM_CXX"] = "none"
    calc = AdatomCalculator(random_potential(kind.removesuffix("-jax")), dtype=dtype)  # type: ignore[arg-type]
    atoms.calc = calc
    before: dict[str, int] = {}

    def count() -> None:
        before.update(builds=calc.evaluator.n_builds, shapes=calc.evaluator.n_shapes)

    out = time_steps(atoms, steps=steps, warm_up=3, after_warm_up=count)
    builds, shapes = calc.evaluator.n_builds - before["builds"], calc.evaluator.n_shapes - before["shapes"]
    return {"what": f"adatom {kind}", "precision": dtype, "builds": builds, "compilations": shapes, **out}


def reference_environment(folder: Path) -> Path:
    """DeePMD-kit's interpreter, installed on first use (about 1 GB, a few minutes). Returns its python."""
    python = folder / "bin" / "python"
    if not (folder / "bin" / "dp").exists():
        print(f"installing {DEEPMD} into {folder} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", DEEPMD.replace("deepmd-kit", "deepmd-kit[cpu]"), "ase"]
        subprocess.run(pip, check=True)
    return python


def child(command: list[str]) -> dict[str, Any]:
    """Run one measurement and read the JSON in its last line."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def cpu_name() -> str:
    """As the operating system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        ids = [f"{k.strip()} {v.strip()}" for k, v in fields.items() if k.strip() in ("cpu family", "model")]
        name = next(v.strip() for k, v in fields.items() if k.strip() == "model name")
        return f"{name} ({', '.join(ids)})"
    except (OSError, StopIteration):
        return platform.processor()


def commit() -> str:
    """Of the source tree, if this is one."""
    done = subprocess.run(["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "none"


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", choices=["emt", "deepmd"], default="emt")
    parser.add_argument("--reference-env", type=Path, default=Path.home() / ".cache" / "adatom" / "deepmd-env")
    parser.add_argument("--atoms", type=int, nargs="+", choices=sorted(CELLS), default=[500, 4000, 32000])
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), metavar="'KIND DTYPE'")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=None, help="for every size; default 60, 40, 25")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--worker", nargs=3, metavar=("SUBJECT", "ATOMS", "STEPS"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        pin(options.core)
        subject, n_atoms, steps = options.worker
        print(json.dumps(measure(subject, int(n_atoms), int(steps))))
        return

    python, folder = Path(sys.executable), options.reference_env / "adatom-benchmark"
    if options.reference == "deepmd":
        python = reference_environment(options.reference_env)
        folder.mkdir(exist_ok=True)
        subprocess.run([str(python), str(HERE / "deepmd_reference.py"), "prepare", str(folder)], check=True)
    print(f"{date.today()}; device: {cpu_name()}, core {options.core} of {os.cpu_count()}; commit {commit()}", flush=True)

    def command(subject: str, n_atoms: int) -> list[str]:
        steps = options.steps or STEPS[n_atoms]
        if subject == "deepmd":
            script = str(HERE / "deepmd_reference.py")
            return [str(python), script, "time", str(folder), str(n_atoms), str(steps), str(options.core)]
        own = [sys.executable, str(Path(__file__).resolve()), "--core", str(options.core)]
        return [*own, "--worker", subject, str(n_atoms), str(steps)]

    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for n_atoms in options.atoms:
        for turn in range(options.rounds):
            for subject in (*options.subjects, options.reference):
                out = child(command(subject, n_atoms))
                found.setdefault((subject, n_atoms), []).append(out)
                print(
                    f"  {n_atoms} atoms, round {turn + 1}, {out['what']} {out['precision']}: {out['mean']:.1f} µs/atom/step "
                    f"(median step {out['median']:.1f}, {out.get('builds', '?')} lists, "
                    f"{out.get('compilations', '?')} compilations, {100 * out['cpu_share']:.0f} % of a core)",
                    flush=True,
                )
    report(found, options.reference, options.atoms)


def report(found: dict[tuple[str, int], list[dict[str, Any]]], reference: str, sizes: list[int]) -> None:
    """The table: one row a subject, µs per atom and step (median of the rounds) and the ratio to the reference."""
    subjects = list(dict.fromkeys(subject for subject, _ in found))
    typical = {key: median(x["mean"] for x in runs) for key, runs in found.items()}
    print(f"\nµs CPU per atom and step, {sizes} atoms ({[78 * n for n in sizes]} pairs); in brackets: × the reference")
    print("| what | precision | " + " | ".join(f"{n:,} atoms" for n in sizes) + f" | {sizes[-1]:,} ÷ {sizes[0]:,} |")
    print("|---" * (len(sizes) + 3) + "|")
    for subject in subjects:
        first = found[subject, sizes[0]][0]
        cells = [f"{typical[subject, n]:.1f} ({typical[subject, n] / typical[reference, n]:.2f})" for n in sizes]
        linear = typical[subject, sizes[-1]] / typical[subject, sizes[0]]
        name = first["what"] + (" (reference)" if subject == reference else "")
        print(f"| {name} | {first['precision']} | {' | '.join(cells)} | {linear:.2f} |")


if __name__ == "__main__":
    main()
