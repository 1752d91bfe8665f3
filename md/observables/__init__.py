"""Observables of molecular dynamics: structure, diffusion, vibrations, averages, expansion.

from adatom.md.observables import analyse
print(analyse(Path("run.extxyz"), Path("run.csv"), out_dir=Path("analysis")).text())
"""

from adatom.md.observables.analyse import Analysis, analyse
from adatom.md.observables.averages import (
    Average,
    Blocking,
    LogAverages,
    average,
    blocking,
    equilibration,
    equilibration_ps,
    log_averages,
    stress_averages,
)
from adatom.md.observables.diffusion import MSD, Diffusion, diffusion_coefficients, mean_square_displacement
from adatom.md.observables.expansion import (
    Coefficient,
    ExpansionFit,
    Fluctuations,
    fit_expansion,
    fluctuations_of_log,
    volume_fluctuations,
)
from adatom.md.observables.frames import Frames, frames_of, read_trajectory
from adatom.md.observables.plots import (
    plot_blocking,
    plot_density_of_states,
    plot_expansion,
    plot_log,
    plot_msd,
    plot_rdf,
    plot_vacf,
)
from adatom.md.observables.rdf import RDF, RDFAccumulator, Shell, radial_distribution
from adatom.md.observables.unwrapping import looks_wrapped, unwrap, without_breathing
from adatom.md.observables.vibrations import (
    VACF,
    DensityOfStates,
    density_of_states,
    green_kubo,
    running_integral,
    velocity_autocorrelation,
)

__all__ = [
    "MSD",
    "RDF",
    "VACF",
    "Analysis",
    "Average",
    "Blocking",
    "Coefficient",
    "DensityOfStates",
    "Diffusion",
    "ExpansionFit",
    "Fluctuations",
    "Frames",
    "LogAverages",
    "RDFAccumulator",
    "Shell",
    "analyse",
    "average",
    "blocking",
    "density_of_states",
    "diffusion_coefficients",
    "equilibration",
    "equilibration_ps",
    "fit_expansion",
    "fluctuations_of_log",
    "frames_of",
    "green_kubo",
    "log_averages",
    "looks_wrapped",
    "mean_square_displacement",
    "plot_blocking",
    "plot_density_of_states",
    "plot_expansion",
    "plot_log",
    "plot_msd",
    "plot_rdf",
    "plot_vacf",
    "radial_distribution",
    "read_trajectory",
    "running_integral",
    "stress_averages",
    "unwrap",
    "velocity_autocorrelation",
    "volume_fluctuations",
    "without_breathing",
]
