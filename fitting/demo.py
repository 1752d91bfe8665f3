"""`adatom demo`: the whole way from DFT data to molecular dynamics on the silicon set that comes along (examples/README.md)."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import ase.io
from ase.build import bulk

from adatom.fitting import plots
from adatom.fitting.audit import audit
from adatom.fitting.config import ConfigError, load_config
from adatom.fitting.dataset import read_frames
from adatom.fitting.fit import fit
from adatom.fitting.metrics import table
from adatom.fitting.progress import progress
from adatom.md import simulate

LATTICE = 5.47
EPOCHS = 1500


def demo(out: Path, *, say: Callable[[str], None] = print, epochs: int = EPOCHS, steps: int = 2000) -> None:
    """Audit, fit, test, NVT and NVE; results and pictures go to `out`. Raises ConfigError where `out` holds a run already."""
    began = time.monotonic()
    if (out / "fit" / "config.toml").exists():
        raise ConfigError(f"{out}: holds a demo already; choose another --out, or delete it")
    out.mkdir(parents=True, exist_ok=True)
    train, test = _unpack(out)
    say(f"1/4 audit of {train}")
    frames, _ = read_frames([train])
    say(audit(frames).text())
    say("\n2/4 fit")
    given = {"data.train": [str(train)], "data.test": [str(test)], "training.epochs": epochs}
    given["data.validation_fraction"] = 0.06  # eight frames: as many as a calibration takes
    config = load_config(None, [], given)
    result = fit(config, out / "fit", say=say)
    model = out / "fit" / "model.adatom"
    say("\n3/4 errors on frames it has never seen (the same as: adatom test MODEL DATA)")
    say(table(result.errors["test"]))
    say("\n4/4 molecular dynamics of 64 atoms of diamond silicon: NVT at 300 K, then NVE")
    atoms = bulk("Si", cubic=True, a=LATTICE).repeat(2)
    with progress("NVT", unit="steps") as report:
        nvt = simulate(
            model, atoms, ensemble="nvt", thermostat="bussi", temperature_K=300.0, steps=steps,
            trajectory=out / "nvt.extxyz", log=out / "nvt.csv", interval=10, seed=1, progress=report,
        )  # fmt: skip
    with progress("NVE", unit="steps") as report:
        nve = simulate(
            model, nvt.atoms, ensemble="nve", steps=steps, interval=10, seed=1, trajectory=out / "nve.extxyz",
            log=out / "nve.csv", progress=report,
        )  # fmt: skip
    plots.dynamics(nvt.rows, out / "nvt.png", title="NVT, 64 Si, 300 K", n_atoms=64)
    plots.dynamics(nve.rows, out / "energy_conservation.png", title="NVE, 64 Si: energy conservation", n_atoms=64)
    say(
        f"NVT {nvt.time_ps:g} ps: {nvt.temperature_mean:.0f} ± {nvt.temperature_std:.0f} K; "
        f"NVE {nve.time_ps:g} ps: {nve.drift}"
    )
    say(
        f"\ndone in {time.monotonic() - began:.0f} s. Look at {out}: fit/learning_curve.png, fit/parity.png, nvt.png, "
        f"energy_conservation.png\nand use the potential: adatom md {model} {out / 'nvt.extxyz'} --ensemble nvt "
        f"--temperature-K 600 --steps 1000 --out {out / 'hot.extxyz'}"
    )


def _unpack(out: Path) -> tuple[Path, Path]:
    """Write the frames marked train and test to files of their own."""
    packed = files("adatom.fitting.examples") / "silicon.extxyz.gz"
    plain = out / "silicon.extxyz"
    plain.write_bytes(gzip.decompress(packed.read_bytes()))
    frames = ase.io.read(plain, ":", format="extxyz")
    assert isinstance(frames, list)
    paths = out / "train.extxyz", out / "test.extxyz"
    for path, part in zip(paths, ("train", "test"), strict=True):
        ase.io.write(path, [a for a in frames if a.info["split"] == part], format="extxyz")
    plain.unlink()
    return paths
