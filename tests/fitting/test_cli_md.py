"""`adatom md` and `adatom analyse`: flags, config file, replicas, resumption, mistakes in one line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import ase.io
import jax
import pytest
from ase.build import bulk
from helpers import make_potential, symmetry_functions

from adatom.fitting import cli
from adatom.md.config import MDConfig, load_config
from adatom.potential.model_file import save


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation() -> Iterator[None]:
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights and small forces, and a start."""
    folder = tmp_path_factory.mktemp("md")
    descriptor = symmetry_functions(cutoff=3.6, n_radial=3, n_angular=1, zetas=(1.0,))
    save(make_potential((29,), descriptor, min_distance=1.5), folder / "model.adatom")
    ase.io.write(folder / "start.extxyz", bulk("Cu", cubic=True))
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        code = cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_md_by_flags(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out_file = tmp_path / "run.extxyz"
    arguments = [
        folder / "model.adatom", folder / "start.extxyz", "--ensemble", "nvt", "--temperature-K", 300, "--timestep-fs", 1,
        "--steps", 20, "--out", out_file, "--supercell", 2, 1, 1,
    ]  # fmt: skip
    code, out, err = run(capsys, "md", *arguments)
    assert code == 0, err
    assert "nvt, 8 atoms, 0.02 ps" in out
    frames = ase.io.read(out_file, ":")
    assert [len(a) for a in frames] == [8] * 3
    assert [a.info["step"] for a in frames] == [0, 10, 20]
    rows = list(csv.DictReader(out_file.with_suffix(".csv").read_text().splitlines()))
    assert [int(r["step"]) for r in rows] == [0, 10, 20]
    assert float(rows[0]["potential_eV"]) == pytest.approx(frames[0].get_potential_energy(), rel=1e-6)
    code, _, err = run(capsys, "md", *arguments)
    assert (code, "exists already" in err, err.count("\n")) == (2, True, 1)
    arguments[arguments.index("--steps") + 1] = 30
    code, _, err = run(capsys, "md", *arguments, "--resume")
    assert code == 0, err
    assert [a.info["step"] for a in ase.io.read(out_file, ":")] == [0, 10, 20, 30]
    code, _, err = run(capsys, "md", *arguments, "--overwrite", "--seed", 3)
    assert code == 0, err


def test_md_by_config(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Replicas at temperatures of their own, paths relative to the file; then analysed."""
    text = (
        f'model = "{folder}/model.adatom"\nstart = "{folder}/start.extxyz"\nout = "hot.traj"\nreplicas = 2\n'
        '[md]\nensemble = "npt"\nsteps = 20\ntemperature_K = [50, 90]\ntimestep_fs = 0.5\ninterval = 2\nprecision = "float64"\n'
    )
    (tmp_path / "md.toml").write_text(text)
    code, out, err = run(capsys, "md", tmp_path / "md.toml")
    assert code == 0, err
    assert out.count("npt, 4 atoms") == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "hot-0.csv", "hot-0.traj", "hot-1.csv", "hot-1.traj", "hot.traj.restart", "md.toml",
    ]  # fmt: skip
    code, out, err = run(capsys, "analyse", tmp_path / "hot-1.traj", "--discard-ps", 0)
    assert code == 0, err
    assert (tmp_path / "hot-1-analysis" / "rdf.png").exists()
    code, _, err = run(capsys, "analyse", tmp_path / "cold.traj")
    assert (code, "cold.traj: no such file" in err) == (2, True)


def test_relax(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Several structures into one file; what does not converge is said, with exit code 1."""
    frames = [bulk("Cu", cubic=True) for _ in range(2)]
    frames[1].rattle(0.05, seed=1)
    ase.io.write(tmp_path / "start.extxyz", frames)
    arguments = [folder / "model.adatom", tmp_path / "start.extxyz", "--out", tmp_path / "relaxed.extxyz"]
    code, out, err = run(capsys, "relax", *arguments, "--max-force", 1e3)
    assert code == 0, err
    assert len(ase.io.read(tmp_path / "relaxed.extxyz", ":")) == 2
    code, _, err = run(capsys, "relax", *arguments)
    assert (code, "exists already" in err) == (2, True)
    code, out, err = run(capsys, "relax", *arguments, "--max-force", 1e-9, "--max-steps", 1, "--overwrite")
    assert code == 1, out + err


def test_ipi_needs_an_address(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "ipi", folder / "model.adatom", folder / "start.extxyz")
    assert (code, "unix socket, or host and port" in err) == (2, True)


def test_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it prints is a valid config with all defaults but the temperature, which has none."""
    code, out, _ = run(capsys, "template", "md")
    assert code == 0
    (tmp_path / "md.toml").write_text(out.replace("# temperature_K =", "temperature_K = 300"))
    config = load_config(tmp_path / "md.toml")
    defaults = MDConfig(
        model=str(tmp_path / "model.adatom"), start=str(tmp_path / "start.extxyz"), out=str(tmp_path / "run.extxyz"),
        md={"steps": 10000, "temperature_K": 300.0},  # type: ignore[arg-type]
    )  # fmt: skip
    assert config == defaults


BAD = {
    "model = 'a'\nstart = 'b'\nout = 'c'\n[md]\nsteps = 5\ntemprature_K = 3": "'temprature_K': did you mean 'temperature_K'?",
    "model = 'a'\nstart = 'b'\nout = 'c'\n": "'md' is missing",
    "model = 'a'\nstart = 'b'\nout = 'c'\n[md]\ntemperature_K = 300": "'steps' is missing",
    "model = 'a'\nstart = 'b'\nout = 'c'\n[md]\nsteps = 5": "nvt needs temperature_K",
    "model = 'a'\nstart = 'b'\nout = 'c'\n[md]\nsteps = 'many'": "steps: Input should be a valid integer, got 'many'",
    "model = ": "not valid TOML",
    "model = 'nowhere.adatom'\nstart = 'b'\nout = 'c.traj'\n[md]\nsteps = 5\ntemperature_K = 3": "nowhere.adatom",
}


@pytest.mark.parametrize("text", BAD, ids=list(BAD.values()))
def test_mistakes_in_a_config(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "md.toml").write_text(text)
    code, _, err = run(capsys, "md", tmp_path / "md.toml")
    assert (code, err.count("\n")) == (2, 1), err
    assert BAD[text] in err


def test_mistakes_on_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, start, out = folder / "model.adatom", folder / "start.extxyz", tmp_path / "a.traj"
    warm = ["--steps", 5, "--temperature-K", 5, "--out", out]
    (tmp_path / "md.toml").write_text("")
    for arguments, message in (
        ([model, start, "--steps", 5], "md needs --out, or a CONFIG.toml"),
        ([model], "md needs START, or a CONFIG.toml"),
        ([tmp_path / "md.toml", start], "is a config: it names the structure itself"),
        ([model, start, *warm, "--replicas", 0], "--replicas needs a positive number, got 0"),
        ([model, start, *warm, "--supercell", 0, 1, 1], "--supercell needs positive numbers"),
        ([model, start, "--steps", 5, "--out", out], "nvt needs temperature_K"),
        ([model, tmp_path / "md.toml", *warm], "cannot be read as a structure"),
    ):
        code, _, err = run(capsys, "md", *arguments)
        assert (code, err.count("\n")) == (2, 1), err
        assert message in err
