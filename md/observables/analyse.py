"""Everything that one run can tell, in one call: tables, pictures, and a summary to read."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import ase
import numpy as np

from adatom.md.observables.averages import LogAverages, equilibration_ps, log_averages, stress_averages
from adatom.md.observables.diffusion import MSD, Diffusion, diffusion_coefficients, mean_square_displacement
from adatom.md.observables.expansion import Fluctuations, fluctuations_of_log
from adatom.md.observables.frames import Array, Frames, read_trajectory
from adatom.md.observables.plots import plot_density_of_states, plot_log, plot_msd, plot_rdf, plot_vacf
from adatom.md.observables.rdf import RDF, RDFAccumulator
from adatom.md.observables.unwrapping import looks_wrapped, unwrap
from adatom.md.observables.vibrations import (
    VACF,
    DensityOfStates,
    density_of_states,
    green_kubo,
    running_integral,
    velocity_autocorrelation,
)
from adatom.md.thermo import read_log
from adatom.potential.model_file import write_atomically

Result = TypeVar("Result")
RDF_FRAMES = 200
"""g(r) is averaged over at most so many frames, evenly taken: neighbouring ones tell nearly the same."""
FILES = ("rdf", "msd", "vacf", "density_of_states", "averages")


@dataclass(frozen=True)
class Analysis:
    """What was found; None where the run does not have it, and `notes` say why.

    Times in ps from the first frame that was used to the last. diffusion from displacements, green_kubo from velocities.
    stress: mean and standard error, (3, 3) each, GPa, positive in tension. files: what was written.
    """

    formula: str
    frames: int
    start_ps: float
    stop_ps: float
    rdf: RDF | None
    msd: MSD | None
    diffusion: dict[str, Diffusion] | None
    vacf: VACF | None
    green_kubo: dict[str, Diffusion] | None
    density_of_states: DensityOfStates | None
    averages: LogAverages | None
    stress: tuple[Array, Array] | None
    fluctuations: Fluctuations | None
    notes: tuple[str, ...]
    files: tuple[Path, ...]

    def text(self) -> str:
        """A summary to print."""
        lines = [f"{self.formula}: {self.frames} frames from {self.start_ps:g} to {self.stop_ps:g} ps"]
        if self.averages is not None:
            lines += ["", f"averages from {self.averages.start_ps:g} ps on"]
            lines += [f"  {name:16} {a}" for name, a in self.averages.columns.items()]
        if self.stress is not None:
            mean, error = self.stress
            lines += ["", "stress (GPa, positive in tension)"]
            lines += [
                "  " + "  ".join(f"{m:9.4f} ± {e:.4f}" for m, e in zip(*row, strict=True))
                for row in zip(mean, error, strict=True)
            ]
        if self.fluctuations is not None:
            f = self.fluctuations
            lines += ["", "from the fluctuations of the volume"]
            lines += [f"  volumetric expansion  {f.expansion} 1/K", f"  compressibility       {f.compressibility} 1/GPa"]
            lines += [f"  bulk modulus          {f.bulk_modulus_GPa} GPa"]
        if self.rdf is not None:
            shells = {(a, b): self.rdf.first_shell(a, b) for a, b in self.rdf.g}
            lines += ["", "first shell: highest peak of g(r), and neighbours up to the minimum behind it"]
            lines += [
                f"  {b} around {a}: {s.peak:.2f} Å (g = {s.height:.2f}), {s.coordination:.2f} up to {s.end:.2f} Å"
                for (a, b), s in shells.items()
                if s is not None
            ]
        for title, found in (("displacements", self.diffusion), ("velocities", self.green_kubo)):
            if found is not None:
                window = next(iter(found.values())).window_ps
                lines += ["", f"diffusion from {title}, lag times {window[0]:g} to {window[1]:g} ps"]
                lines += [f"  {name}: {d}{_doubt((self.diffusion or found)[name])}" for name, d in found.items()]
        if self.density_of_states is not None:
            dos = self.density_of_states
            peak = int(np.argmax(dos.total))
            where = f"highest at {dos.frequency_THz[peak]:.2f} THz ({dos.wavenumber_cm[peak]:.0f} cm⁻¹)"
            lines += ["", f"vibrations: {dos.degrees_of_freedom:g} degrees of freedom, {where}"]
        lines += ["", *(f"note: {n}" for n in self.notes)] if self.notes else []
        return "\n".join(lines)


def analyse(
    trajectory_path: Path,
    log_path: Path | None = None,
    *,
    out_dir: Path,
    discard_ps: float | None = None,
    interval_ps: float | None = None,
    wrapped: bool = False,
    r_max: float = 8.0,
    lag_window_ps: tuple[float, float] | None = None,
    broadening_THz: float = 0.2,
    temperature_K: float | None = None,
    pressure_GPa: float | None = None,
) -> Analysis:
    """Compute all observables that a run has the data for; write tables (.csv) and pictures (.png) to `out_dir`.

    trajectory_path: one run, anything that ASE reads or that this package writes, with `time_ps` or `interval_ps`.
    log_path: its thermodynamic table. discard_ps: equilibration to leave out; None finds it in the table, and leaves out
    nothing without one. wrapped: positions were put back into the cell. r_max Å, of g(r). lag_window_ps: lag times for
    diffusion, a twentieth to a tenth of the run unless given. temperature_K, pressure_GPa: of thermostat and barostat, for
    the fluctuations of the volume; the means of the table unless given.

    Files of an earlier analysis are replaced, each at once. Raises ValueError for a trajectory or table that cannot be
    used; what cannot be computed from a good one is a note in the result.
    """
    trajectory_path, out_dir = Path(trajectory_path), Path(out_dir)
    targets = {(out_dir / f"{name}.{kind}").resolve() for name in FILES for kind in ("csv", "png")}
    for source in (trajectory_path, log_path):
        if source is not None and Path(source).resolve() in targets:
            raise ValueError(f"{source} would be overwritten by the analysis: choose another out_dir than {out_dir}")
    frames = read_trajectory(trajectory_path, interval_ps=interval_ps).even()
    log = None if log_path is None else read_log(Path(log_path))
    if log is not None and len(log["time_ps"]) < 4:
        raise ValueError(f"{log_path} has {len(log['time_ps'])} rows, 4 are needed")
    if discard_ps is None:
        discard_ps = float(frames.time_ps[0]) if log is None else equilibration_ps(log)
    frames = frames.since(discard_ps)
    notes: list[str] = []

    def attempt(what: str, compute: Callable[[], Result]) -> Result | None:
        try:
            return compute()
        except ValueError as error:
            notes.append(f"no {what}: {error}")
            return None

    if wrapped:
        frames = unwrap(frames)
    elif looks_wrapped(frames):
        raise ValueError(f"{trajectory_path}: atoms jump across the cell, the positions are wrapped; give wrapped=True")
    span = float(frames.time_ps[-1] - frames.time_ps[0])
    window = (0.05 * span, 0.1 * span) if lag_window_ps is None else lag_window_ps
    averages = fluctuations = None
    if log is not None:
        table, start = log, discard_ps
        averages = attempt("averages", lambda: log_averages(table, discard_ps=start))
        if averages is not None and "volume_A3" in averages.columns and averages.columns["volume_A3"].error > 0.0:
            means = averages.columns
            t = means["temperature_K"].mean if temperature_K is None else temperature_K
            p = means["pressure_GPa"].mean if pressure_GPa is None else pressure_GPa
            fluctuations = attempt(
                "volume fluctuations", lambda: fluctuations_of_log(table, temperature_K=t, pressure_GPa=p, discard_ps=start)
            )
    stress = frames.stress
    result = Analysis(
        str(ase.formula.Formula.from_list([ase.data.chemical_symbols[z] for z in frames.numbers]).format("hill")),
        len(frames), float(frames.time_ps[0]), float(frames.time_ps[-1]),
        attempt("g(r)", lambda: _rdf(frames, r_max)),
        attempt("mean square displacement", lambda: mean_square_displacement(frames)),
        attempt("diffusion from displacements", lambda: diffusion_coefficients(frames, window_ps=window)),
        attempt("velocity autocorrelation", lambda: velocity_autocorrelation(frames)),
        attempt("diffusion from velocities", lambda: green_kubo(frames, window_ps=window)),
        attempt("density of states", lambda: density_of_states(frames, broadening_THz=broadening_THz)),
        averages,
        None if stress is None else attempt("stress", lambda: stress_averages(stress)),
        fluctuations, tuple(notes), (),
    )  # fmt: skip
    out_dir.mkdir(parents=True, exist_ok=True)
    return _written(result, log, out_dir)


def write_table(path: Path, columns: dict[str, Array]) -> None:
    """Equally long columns as CSV with a header, replacing the file at once."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([x if isinstance(x, str) else f"{x:.8g}" for x in row] for row in zip(*columns.values(), strict=True))
    write_atomically(path, text.getvalue().encode())


def _rdf(frames: Frames, r_max: float) -> RDF:
    accumulator = RDFAccumulator(r_max=r_max)
    for k in np.unique(np.linspace(0, len(frames) - 1, min(len(frames), RDF_FRAMES)).astype(int)):
        accumulator.add(ase.Atoms(frames.numbers, frames.positions[k], cell=frames.cells[k], pbc=frames.pbc))
    return accumulator.result()


def _doubt(d: Diffusion) -> str:
    if np.isfinite(d.exponent) and not 0.8 < d.exponent < 1.2:
        return f"  (not diffusive there: MSD grows as t^{d.exponent:.2f})"
    return ""


def _written(result: Analysis, log: dict[str, Array] | None, out_dir: Path) -> Analysis:
    tables: dict[str, dict[str, Array]] = {}
    if (rdf := result.rdf) is not None:
        pairs = {f"g_{a}-{b}": g for (a, b), g in rdf.g.items() if a <= b}
        tables["rdf"] = {"r_A": rdf.r} | pairs | {f"n_{a}-{b}": n for (a, b), n in rdf.coordination.items()}
        plot_rdf(rdf, out_dir / "rdf.png")
    if (msd := result.msd) is not None:
        tables["msd"] = {"time_ps": msd.time_ps} | {f"msd_{name}_A2": x for name, x in msd.values.items()}
        plot_msd(msd, out_dir / "msd.png", diffusion=result.diffusion)
    if (vacf := result.vacf) is not None:
        correlations = {f"vacf_{name}_A2_per_ps2": x for name, x in vacf.values.items()}
        integrals = {f"integral_{name}_A2_per_ps": running_integral(vacf, name) for name in vacf.values}
        tables["vacf"] = {"time_ps": vacf.time_ps} | correlations | integrals
        plot_vacf(vacf, out_dir / "vacf.png")
    if (dos := result.density_of_states) is not None:
        columns = {f"{name}_per_THz": x for name, x in dos.values.items()} | {"total_per_THz": dos.total}
        tables["density_of_states"] = {"frequency_THz": dos.frequency_THz, "wavenumber_cm": dos.wavenumber_cm} | columns
        plot_density_of_states(dos, out_dir / "density_of_states.png")
    if (averages := result.averages) is not None and log is not None:
        rows = list(averages.columns.values())
        tables["averages"] = {"quantity": np.array(list(averages.columns))} | {
            name: np.array([getattr(a, name) for a in rows]) for name in rows[0]._fields
        }
        plot_log(log, averages, out_dir / "averages.png")
    for name, columns in tables.items():
        write_table(out_dir / f"{name}.csv", columns)
    return replace(result, files=tuple(out_dir / f"{name}.{kind}" for name in tables for kind in ("csv", "png")))
