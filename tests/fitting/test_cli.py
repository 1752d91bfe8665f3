"""The command line: every verb, its output and its exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import ase.io
import jax
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from helpers import make_potential, symmetry_functions
from jax.experimental.compilation_cache import compilation_cache

from adatom.fitting import cli, demo, fit, train
from adatom.fitting.config import FitConfig, load_config
from adatom.potential.evaluator import Evaluator
from adatom.potential.model_file import load, save
from adatom.potential.potential import Golden, Potential
from adatom.potential.structure import from_atoms

VERBS = ("fit", "test", "audit", "info", "md", "relax", "analyse", "ipi", "demo", "template")
SMALL = [
    "model.descriptor.type=symmetry_functions", "model.descriptor.cutoff=3.6", "model.descriptor.n_radial=3",
    "model.descriptor.n_angular=1", "model.descriptor.zetas=[1]", "model.fitting_net.widths=[4]", "training.epochs=3",
    "training.batch_atoms=16", "training.max_buckets=1",
]  # fmt: skip
SET = [x for s in SMALL for x in ("--set", s)]


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile fast, and each program once."""
    folder = str(tmp_path_factory.mktemp("xla"))
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.config.update("jax_compilation_cache_dir", before[0])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve copper cells labelled by EMT, of two config_types."""
    rng, frames = np.random.default_rng(0), []
    for k in range(12):
        atoms = bulk("Cu", cubic=True, a=3.65 * (1 + 0.02 * rng.normal()))
        atoms.positions += rng.normal(0, 0.08, (4, 3))
        atoms.info["config_type"] = "odd" if k % 2 else "even"
        atoms.calc = EMT()
        atoms.get_stress()
        frames.append(atoms)
    path = tmp_path_factory.mktemp("data") / "copper.xyz"
    ase.io.write(path, frames)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, shortest distance 1.5 Å, with self-test."""
    potential = make_potential(
        (29,), symmetry_functions(cutoff=3.6, n_radial=3, n_angular=1, zetas=(1.0,)), min_distance=1.5
    )
    s = from_atoms(bulk("Cu", cubic=True))
    out = Evaluator(potential, precision="float64", skin=0.0)(s)
    path = tmp_path_factory.mktemp("model") / "model.adatom"
    save(Potential(potential.model, potential.params, potential.info, Golden(s, out.energy, out.forces)), path)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        code = cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_fit_without_a_config(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verbs one after the other, with paths relative to the working folder as people type them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.xyz").write_bytes(data.read_bytes())
    code, out, err = run(capsys, "fit", "--train", "train.xyz", "--test", str(data), "--out", "run", *SET)
    assert code == 0, err
    for text in (
        "training: 12 frames from 1 file",
        "\nvalidation\n",
        "\ntest\n",
        "even",
        "written to run: model.adatom",
    ):
        assert text in out
    assert "training: 9/9 steps" in err
    assert load_config("run/config.toml").data.train == (str(tmp_path / "train.xyz"),)
    code, out, err = run(capsys, "fit", "--resume", "--out", "run")
    assert code == 0, err
    assert "resumed at step 9 of 9" in out
    code, out, _ = run(capsys, "test", "run/model.adatom", "train.xyz", "--json")
    assert code == 0
    assert json.loads(out)["frames"] == 12
    code, out, _ = run(capsys, "info", "run/model.adatom")
    assert code == 0
    assert "train (11 frames), MAE/RMSE: energy " in out
    code, _, err = run(capsys, "fit", "--train", "train.xyz", "--out", "run", *SET)
    assert (code, err) == (2, "adatom: run: holds a run already; go on with --resume, or choose another --out\n")


@pytest.mark.parametrize(
    ("arguments", "out", "seen"),
    [
        (["{c}"], "my-run", {"train": ("{d}/a.xyz",), "test": ()}),
        (["{c}", "--out", "elsewhere"], "elsewhere", {"train": ("{d}/a.xyz",)}),
        (["{c}", "--test", "/t.xyz", "/u.xyz"], "my-run", {"test": ("/t.xyz", "/u.xyz")}),
        (["{c}", "--train", "/b.xyz", "--set", "data.audit=off"], "my-run", {"train": ("/b.xyz",), "audit": "off"}),
        (["--train", "/b.xyz"], "fit", {"train": ("/b.xyz",)}),
    ],
)
def test_arguments_of_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], out: str, seen: dict[str, object]
) -> None:
    """Which config and which folder a command line means."""
    config = tmp_path / "my-run.toml"
    config.write_text("[data]\ntrain = ['a.xyz']\n")
    given: list[tuple[FitConfig, Path]] = []

    def note(config: FitConfig, out: Path, *, resume: bool, say: object) -> None:
        given.append((config, out))
        raise ValueError("far enough")

    monkeypatch.setattr(fit, "fit", note)
    assert cli.main(["fit", *(a.format(c=config) for a in arguments)]) == 2
    folder = given[0][1]
    assert folder == (tmp_path / out if out == "my-run" else Path(out))
    for key, value in seen.items():
        wanted = tuple(v.format(d=tmp_path) for v in value) if isinstance(value, tuple) else value
        assert getattr(given[0][0].data, key) == wanted


@pytest.mark.parametrize("stop", [train.Interrupted("stopped at step 3 of 9; checkpoint saved"), KeyboardInterrupt()])
def test_ctrl_c_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stop: BaseException
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise stop

    monkeypatch.setattr(fit, "fit", interrupted)
    code, _, err = run(capsys, "fit", "--train", "x.xyz", "--out", "there")
    assert code == 130
    assert err == f"adatom: {str(stop) or 'interrupted'}; go on with: adatom fit --resume --out there\n"
    monkeypatch.setattr(demo, "demo", interrupted)
    code, _, err = run(capsys, "demo", "--out", "there")
    assert code == 130
    assert err.count("\n") == 1
    if not isinstance(stop, KeyboardInterrupt):
        assert "go on with: adatom fit --resume --out there/fit" in err


def test_test(model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "test", model, data, "--json", "--plot", tmp_path / "parity.png")
    assert code == 0
    said = json.loads(out)  # nothing but JSON on stdout
    assert out.count("\n") == 1
    for part in (said, *said["by_config_type"].values()):
        for term in ("energy", "forces", "stress"):
            assert {"mae", "rmse"} <= part[term].keys()
            assert part[term]["rmse"] >= part[term]["mae"] > 0
    assert {name: e["frames"] for name, e in said["by_config_type"].items()} == {"even": 6, "odd": 6}
    assert said["units"] == {"energy": "meV/atom", "forces": "meV/Å", "stress": "GPa"}
    assert "testing: 12/12 frames" in err
    assert (tmp_path / "parity.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = run(capsys, "test", model, data, "--precision", "float64", "--plot", tmp_path / "parity.pdf")
    assert code == 0
    assert "12 frames from 1 file" in out
    assert re.search(r"^all +12 ", out, re.M)
    assert (tmp_path / "parity.pdf").read_bytes().startswith(b"%PDF")


def test_info(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info", model)
    assert code == 0
    assert "potential for Cu, cutoff 3.6 Å" in out
    assert "Cu-Cu" in out
    code, out, _ = run(capsys, "info", model, "--json")
    header = json.loads(out)
    assert header["format"] == "adatom potential"
    assert header["elements"] == ["Cu"]
    assert header["e0"]["Cu"] == float(np.asarray(load(model).statistics.e0)[0])
    assert {"cutoff", "units", "min_distance", "config", "info", "parameters", "format_version"} <= header.keys()


def test_audit(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "audit", data)
    assert code == 0
    assert "12 frames from 1 file" in out
    frames = ase.io.read(data, ":")
    frames[3].calc.results["forces"][0, 0] = np.nan
    ase.io.write(tmp_path / "bad.xyz", frames)
    code, out, _ = run(capsys, "audit", tmp_path / "bad.xyz", "--json")
    assert code == 1
    assert any(f["code"] == "nan-forces" for f in json.loads(out)["findings"])
    code, out, _ = run(capsys, "audit", tmp_path / "bad.xyz")
    assert code == 1
    assert "bad.xyz:3" in out


def test_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "template", "fit")
    assert code == 0
    (tmp_path / "fit.toml").write_text(out)
    assert load_config(tmp_path / "fit.toml") == FitConfig()


def test_demo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Path] = []
    monkeypatch.setattr(demo, "demo", lambda out, say: seen.append(out))
    assert run(capsys, "demo")[0] == 0
    assert run(capsys, "demo", "--out", "x")[0] == 0
    assert seen == [Path("adatom-demo"), Path("x")]


@pytest.mark.parametrize("verb", VERBS)
def test_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert f"usage: adatom {verb}" in out


def test_a_traceback_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADATOM_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        cli.main(["info", "nowhere.adatom"])


def test_help_imports_no_jax_and_is_quick() -> None:
    code = (
        "import sys, adatom.fitting.cli as c\n"
        "try: c.main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('jax', 'numpy', 'ase', 'matplotlib', 'pydantic') if m in sys.modules])"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.splitlines()[-1] == "[]"
    for verb in VERBS:
        assert re.search(rf"^ +{verb} ", done.stdout, re.M)
    assert time.monotonic() - began < 10.0  # 0.1 s on an idle machine


def test_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "adatom.fitting.cli", "--version"], capture_output=True, text=True, check=True, timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert re.fullmatch(
        r"adatom \d+\.\d+\S*, jax \d\S+, jaxlib \d\S+, backend cpu, precision float32 \(energies summed in float64\)\n",
        done.stdout,
    )
    assert done.stderr == ""
