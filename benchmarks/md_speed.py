"""Speed of our molecular dynamics, as ratios within one run: fcc Cu from 300 K, NVE, 1 fs.

    python benchmarks/md_speed.py                              everything; hours on one core, 2.5 GB of references installed
    python benchmarks/md_speed.py --only a --rounds 1 --atoms 64
    python benchmarks/md_speed.py --quick                      fewer potentials, sizes and steps

a  our loop on the device against ASE's VelocityVerlet with our own calculator: the same potential, skin and starting point.
   And where a step of the loop goes: the model, the list, the rest.
b  against apax's own molecular dynamics with its default model, cutoff 6 Å.
c  against DeePMD-kit's compressed float32 model in LAMMPS (skin 2 Å, rebuilt every 10 steps), one core and two. Two cores are
   two MPI processes for LAMMPS and the threads of XLA for us.
d  from 500 to 256,000 atoms.
e  two cores against one.

CPU time (user + system, all threads of the process) per atom and step, without compilation: every measurement is a process of
its own, pinned to its cores, and the processes take turns (A B C … A B C …), so that ratios mean something on a shared machine.
Wall time is given where two cores are. Weights are random and forces tiny, so that atoms fly where they would vibrate: runs
are short and begin again from the crystal. All in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import calculator_speed  # noqa: E402
from calculator_speed import child, commit, cpu_name, reference_environment  # noqa: E402
from copper import CELLS, pin  # noqa: E402
from md_measurement import ASE_STEPS, POTENTIALS, measure  # noqa: E402

LAMMPS_STEPS = {500: 50, 4000: 20, 32000: 10}
APAX_STEPS = {500: 20, 4000: 10}
APAX = "apax==0.14.0"
Found = dict[tuple[Any, ...], list[dict[str, Any]]]


class Turns:
    """Starts measurements in turn, keeps what they find."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.found: Found = {}

    def own(self, way: str, potential: str, n_atoms: int, cores: tuple[int, ...], *, parts: bool = False) -> list[str]:
        job = {"way": way, "potential": potential, "atoms": n_atoms, "quick": self.options.quick, "parts": parts}
        pinned = [str(c) for c in cores]
        return [sys.executable, str(Path(__file__).resolve()), "--pin", *pinned, "--worker", json.dumps(job)]

    def take(self, commands: dict[tuple[Any, ...], list[str]], later: dict[tuple[Any, ...], list[str]] | None = None) -> None:
        """Every command once a round, one after another; from the second round on those of `later` instead of their like."""
        for turn in range(self.options.rounds):
            for key, command in (commands | ((later or {}) if turn else {})).items():
                begin, out = time.perf_counter(), child(command)
                out["load"] = os.getloadavg()[0]
                self.found.setdefault(key, []).append(out)
                print(
                    f"  {key}, round {turn + 1}: {out['cpu']:.2f} µs CPU, {out['wall']:.2f} µs wall an atom and step "
                    f"(load {out['load']:.1f}, took {time.perf_counter() - begin:.0f} s)",
                    flush=True,
                )
                if out.get("compilations"):
                    print(f"  warning: {out['compilations']} compilations while the clock ran", flush=True)

    def typical(self, *key: Any, what: str = "cpu") -> float:
        return median(x[what] for x in self.found[key])

    def part(self, key: tuple[Any, ...], which: str) -> float:
        return median(x["parts"][which] for x in self.found[key] if "parts" in x)


def against_ase(turns: Turns, sizes: list[int], potentials: list[str]) -> list[str]:
    """(a)"""
    core = turns.options.pin_to[:1]
    commands, later = {}, {}
    for n in sizes:
        for name in potentials:
            key = ("a", "native", name, n)
            commands[key], later[key] = turns.own("native", name, n, core, parts=True), turns.own("native", name, n, core)
            commands["a", "ase", name, n] = turns.own("ase", name, n, core)
    turns.take(commands, later)
    lines = [
        "| potential | atoms | ASE | ours | ASE ÷ ours | model alone | list, per step | the rest | at best |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for n in sizes:
        for name in potentials:
            key = ("a", "native", name, n)
            ours, ase = turns.typical(*key), turns.typical("a", "ase", name, n)
            model, listing = turns.part(key, "model"), turns.part(key, "list") * turns.typical(*key, what="rebuilds_per_step")
            lines.append(
                f"| {name} | {n:,} | {ase:.1f} | {ours:.1f} | **{ase / ours:.1f}** | {model:.1f} ({100 * model / ours:.0f} %) | "
                f"{listing:.2f} ({100 * listing / ours:.0f} %) | {ours - model - listing:.1f} | {ase / model:.1f} |"
            )
    lines.append("\nat best: ASE ÷ the model alone, what no loop can pass. µs of CPU time per atom and step.")
    return lines


def apax_environment(folder: Path) -> Path:
    """apax's interpreter, installed on first use (about 2 GB, a few minutes). Returns its python."""
    python = folder / "bin" / "python"
    if not (folder / "bin" / "apax").exists():
        print(f"installing {APAX} into {folder} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", APAX], check=True)
    return python


def against_apax(turns: Turns, sizes: list[int]) -> list[str]:
    """(b)"""
    core = turns.options.pin_to[:1]
    python, script = apax_environment(turns.options.apax_env), str(HERE / "apax_reference.py")
    folder = turns.options.apax_env / "adatom-benchmark"
    folder.mkdir(exist_ok=True)
    subprocess.run([str(python), script, "prepare", str(folder)], check=True, capture_output=True)
    ours, commands = ["moments 6 Å", "moments 5 Å", "DeepPot-SE 6 Å"], {}
    ours = ours[:1] if turns.options.quick else ours
    for n in sizes:
        steps = str(APAX_STEPS[n] // (2 if turns.options.quick else 1))
        commands["b", "apax", n] = [str(python), script, "time", str(folder), str(n), steps, str(core[0])]
        for name in ours:
            commands["b", name, n] = turns.own("native", name, n, core)
    turns.take(commands)
    what = turns.found["b", "apax", sizes[0]][0]["what"]
    lines = ["| what | " + " | ".join(f"{n:,} atoms (apax ÷ it)" for n in sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    for name in ("apax", *ours):
        cells = [f"{turns.typical('b', name, n):.1f} ({_ratio(turns, 'b', name, n):.1f})" for n in sizes]
        lines.append(f"| {what if name == 'apax' else 'adatom.md, ' + name} | {' | '.join(cells)} |")
    return [*lines, "\nµs of CPU time per atom and step."]


def _ratio(turns: Turns, letter: str, name: str, n: int) -> float:
    return turns.typical(letter, "apax", n) / turns.typical(letter, name, n)


def against_lammps(turns: Turns, sizes: list[int]) -> list[str]:
    """(c)"""
    options = turns.options
    python, script = reference_environment(options.deepmd_env), str(HERE / "deepmd_reference.py")
    if not (options.deepmd_env / "bin" / "lmp").exists():
        wanted = calculator_speed.DEEPMD.replace("deepmd-kit", "deepmd-kit[cpu,lmp]")
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", wanted], check=True)
    folder = options.deepmd_env / "adatom-benchmark"
    folder.mkdir(exist_ok=True)
    subprocess.run([str(python), script, "prepare", str(folder)], check=True)
    ours = ["DeepPot-SE 6 Å", "moments 6 Å"]
    commands: dict[tuple[Any, ...], list[str]] = {}
    for n in sizes:
        steps = str(LAMMPS_STEPS[n] // (4 if options.quick else 1))
        for k in options.cores:
            pinned = options.pin_to[:k]
            commands["c", "LAMMPS", n, k] = [
                str(python), script, "lammps", str(folder), str(n), steps, *(str(c) for c in pinned)
            ]  # fmt: skip
            for name in ours:
                commands["c", name, n, k] = turns.own("native", name, n, pinned)
    turns.take(commands)
    what = turns.found["c", "LAMMPS", sizes[0], options.cores[0]][0]["what"]
    lines = [
        "| what | cores | " + " | ".join(f"{n:,} atoms: CPU, wall (LAMMPS ÷ it)" for n in sizes) + " |",
        "|---" * (len(sizes) + 2) + "|",
    ]
    for k in options.cores:
        for name in ("LAMMPS", *ours):
            cells = []
            for n in sizes:
                cpu, wall = (turns.typical("c", name, n, k, what=x) for x in ("cpu", "wall"))
                a, b = (turns.typical("c", "LAMMPS", n, k, what=x) for x in ("cpu", "wall"))
                cells.append(f"{cpu:.1f} ({a / cpu:.1f}), {wall:.1f} ({b / wall:.1f})")
            lines.append(f"| {what if name == 'LAMMPS' else 'adatom.md, ' + name} | {k} | {' | '.join(cells)} |")
    return [*lines, "\nµs per atom and step."]


def flat(turns: Turns, sizes: list[int]) -> list[str]:
    """(d)"""
    core, name = turns.options.pin_to[:1], "moments 5 Å"
    commands = {("d", name, n): turns.own("native", name, n, core, parts=n <= 32000) for n in sizes}
    turns.take(commands)
    lines = ["| atoms | µs CPU per atom and step | lists per step | µs of a list | model alone |", "|---|---|---|---|---|"]
    each = {n: turns.typical("d", name, n) for n in sizes}
    for n in sizes:
        key = ("d", name, n)
        alone = (
            f"{turns.part(key, 'list'):.1f} | {turns.part(key, 'model'):.1f}" if "parts" in turns.found[key][0] else "– | –"
        )
        lines.append(f"| {n:,} | {each[n]:.1f} | {turns.typical(*key, what='rebuilds_per_step'):.3f} | {alone} |")
    return [*lines, f"\nlargest ÷ smallest system: {each[sizes[-1]] / each[sizes[0]]:.2f}; worst ÷ best: "
            f"{max(each.values()) / min(each.values()):.2f}. The default model, float32."]  # fmt: skip


def two_cores(turns: Turns, sizes: list[int]) -> list[str]:
    """(e)"""
    name, cores = "moments 5 Å", [turns.options.pin_to[:k] for k in (1, 2)]
    turns.take({("e", name, n, len(c)): turns.own("native", name, n, c) for n in sizes for c in cores})
    lines = ["| atoms | one core, µs wall | two cores, µs wall | one ÷ two | CPU, two ÷ one |", "|---" * 5 + "|"]
    for n in sizes:
        (one, more), (wall, walls) = ([turns.typical("e", name, n, k, what=x) for k in (1, 2)] for x in ("cpu", "wall"))
        lines.append(f"| {n:,} | {wall:.1f} | {walls:.1f} | **{wall / walls:.2f}** | {more / one:.2f} |")
    return [*lines, "\nµs per atom and step, the default model. Wall time needs a machine with nothing else to do."]


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    cache = Path.home() / ".cache" / "adatom"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices="abcde", nargs="+", default=list("abcde"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="fewer potentials, sizes and steps")
    parser.add_argument("--atoms", type=int, nargs="+", choices=sorted(CELLS), default=None, help="instead of each part's own")
    parser.add_argument("--potentials", nargs="+", choices=list(POTENTIALS), default=None, help="of part a")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2], help="of part c")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="where one is used")
    parser.add_argument("--apax-env", type=Path, default=cache / "apax-env")
    parser.add_argument("--deepmd-env", type=Path, default=cache / "deepmd-env")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "md_speed.json")
    parser.add_argument("--pin", type=int, nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        pin(*options.pin)
        print(json.dumps(measure(json.loads(options.worker))))
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    others = sorted(os.sched_getaffinity(0) - {options.core})
    options.pin_to = (options.core, *others)
    options.cores = [k for k in options.cores if k <= len(options.pin_to)]
    header = f"{date.today()}; device: {cpu_name()}, {os.cpu_count()} cores; commit {commit()}; load {os.getloadavg()[0]:.1f}"
    print(header, flush=True)
    turns, quick = Turns(options), options.quick
    potentials = options.potentials or (["Lennard-Jones 6 Å", "small moments 4.2 Å"] if quick else list(POTENTIALS))

    def sizes(known: dict[int, int], *usual: int) -> list[int]:
        return [n for n in options.atoms if n in known] if options.atoms else list(usual[: 1 if quick else None])

    tables: dict[str, list[str]] = {}
    for letter in options.only:
        if letter == "a":
            tables[letter] = against_ase(turns, sizes(ASE_STEPS, 64, 500, 4000), potentials)
        elif letter == "b":
            tables[letter] = against_apax(turns, sizes(APAX_STEPS, 500, 4000))
        elif letter == "c":
            tables[letter] = against_lammps(turns, sizes(LAMMPS_STEPS, 500, 4000, 32000))
        elif letter == "e":
            tables[letter] = two_cores(turns, options.atoms or ([64, 500] if quick else [64, 500, 4000, 32000]))
        else:
            tables[letter] = flat(turns, options.atoms or ([500, 4000] if quick else [500, 4000, 32000, 256000]))
        print(f"\n({letter})\n\n" + "\n".join(tables[letter]) + "\n", flush=True)
        _save(options.json, header, tables, turns.found)


def _save(path: Path, header: str, tables: dict[str, list[str]], found: Found) -> None:
    """Everything measured; parts that were not run this time are kept."""
    old = json.loads(path.read_text()) if path.exists() else {}
    runs = {" | ".join(map(str, key)): value for key, value in found.items()}
    path.parent.mkdir(exist_ok=True, parents=True)
    saved = {"tables": {**old.get("tables", {}), **tables}, "runs": {**old.get("runs", {}), **runs}}
    headers = {**old.get("headers", {}), **dict.fromkeys(tables, header)}
    path.write_text(json.dumps({"headers": headers, **saved}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
