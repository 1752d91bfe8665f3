"""The recipe of a fit: what it writes, what it refuses, and that the same seed gives the same potential."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase.io
import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from jax.experimental.compilation_cache import compilation_cache

from adatom.fitting import cli
from adatom.fitting import fit as recipe
from adatom.fitting.config import ConfigError, FitConfig, dump_config, load_config, template
from adatom.fitting.dataset import DataError, read_frames
from adatom.fitting.fit import FitResult, fit
from adatom.potential.model_file import load
from adatom.potential.potential import flatten

SMALL = [
    "model.descriptor.type=symmetry_functions", "model.descriptor.cutoff=3.6", "model.descriptor.n_radial=3",
    "model.descriptor.n_angular=1", "model.descriptor.zetas=[1]", "model.fitting_net.widths=[4]", "training.epochs=4",
    "training.batch_atoms=16", "training.max_buckets=1", "training.warmup_steps=5", "training.learning_rate=1e-2",
]  # fmt: skip
FILES = ("model.adatom", "metrics.json", "log.jsonl", "learning_curve.png", "parity.png", "config.toml")


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


def crystal(rng: np.random.Generator, symbol: str = "Cu", lattice: float = 3.65) -> Atoms:
    atoms = bulk(symbol, "fcc", cubic=True, a=lattice * (1 + 0.02 * rng.normal()))
    atoms.positions += rng.normal(0, 0.08, (4, 3))
    return atoms


def labelled(atoms: Atoms, *, stress: bool = True, **info: Any) -> Atoms:
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    if stress:
        results["stress"] = atoms.get_stress()
    atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info.update(info)
    return atoms


def write(path: Path, frames: list[Atoms]) -> str:
    ase.io.write(path, frames)
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Copper frames labelled by EMT: to train on, to test on, without stress."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    train = [labelled(crystal(rng), config_type="hot" if k % 3 else "cold") for k in range(20)]
    test = [labelled(crystal(rng), config_type="hot") for _ in range(5)]
    bare = [labelled(crystal(rng), stress=False) for _ in range(12)]
    return {n: write(folder / f"{n}.xyz", f) for n, f in (("train", train), ("test", test), ("bare", bare))}


def config_of(data: dict[str, str], *settings: str, **paths: Any) -> FitConfig:
    overrides = {f"data.{k}": v for k, v in ({"train": [data["train"]]} | paths).items()}
    return load_config(None, [*SMALL, *settings], overrides)


@pytest.fixture(scope="module")
def fitted(data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[FitConfig, FitResult, list[str]]:
    said: list[str] = []
    config = config_of(data, test=[data["test"]])
    return config, fit(config, tmp_path_factory.mktemp("fit") / "out", say=said.append), said


def test_what_is_written(fitted: tuple[FitConfig, FitResult, list[str]]) -> None:
    config, result, said = fitted
    assert {*FILES, "checkpoint.zip"} == {p.name for p in result.out.iterdir()}
    for name in ("learning_curve.png", "parity.png"):
        assert (result.out / name).read_bytes().startswith(b"\x89PNG")
    assert load_config(result.out / "config.toml") == config
    metrics = json.loads((result.out / "metrics.json").read_text())
    assert metrics["test"] == result.errors["test"]
    assert metrics["test"]["by_config_type"]["hot"]["frames"] == 5
    assert (metrics["train"]["frames"], metrics["validation"]["frames"]) == (19, 1)
    assert metrics["training"]["seed"] == 1
    assert metrics["labels_e0"].startswith("least squares")
    potential = load(result.out / "model.adatom")
    assert potential.golden is not None
    assert potential.info["errors"]["test"]["forces"] == metrics["test"]["forces"]
    for name, value in flatten(result.potential.params["network"]).items():
        np.testing.assert_array_equal(flatten(potential.params["network"])[name], value)
    text = "\n".join(said)
    assert "training: 20 frames from 1 file" in text
    assert "stress  20/20 (calculator)" in text
    assert "seed 1" in text
    assert "shortest distances" in text


def test_fit_and_test_agree_to_the_last_digit(
    fitted: tuple[FitConfig, FitResult, list[str]], data: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    result = fitted[1]
    assert cli.main(["test", str(result.out / "model.adatom"), data["test"], "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    metrics = json.loads((result.out / "metrics.json").read_text())["test"]
    assert {k: said[k] for k in metrics} == metrics


def test_the_same_seed_gives_the_same_potential(
    fitted: tuple[FitConfig, FitResult, list[str]], data: dict[str, str], tmp_path: Path
) -> None:
    config, result, _ = fitted
    again = fit(config, tmp_path / "again", say=lambda _: None)
    first, second = (flatten(r.potential.params["network"]) for r in (result, again))
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
    assert again.errors == result.errors
    assert dataclasses.asdict(again.potential.golden)["energy"] == result.potential.golden.energy  # type: ignore[arg-type,union-attr]


def test_a_run_is_not_overwritten(fitted: tuple[FitConfig, FitResult, list[str]]) -> None:
    config, result, _ = fitted
    before = {p.name: p.read_bytes() for p in result.out.iterdir()}
    with pytest.raises(ConfigError, match="holds a run already; go on with --resume, or choose another --out"):
        fit(config, result.out)
    assert {p.name: p.read_bytes() for p in result.out.iterdir()} == before


def test_resume_with_another_config_is_refused(fitted: tuple[FitConfig, FitResult, list[str]], tmp_path: Path) -> None:
    config, result, _ = fitted
    other = config.model_copy(update={"training": config.training.model_copy(update={"learning_rate": 0.5, "seed": 9})})
    with pytest.raises(ConfigError) as error:
        fit(other, result.out, resume=True)
    assert "cannot resume with another config" in str(error.value)
    assert "training.learning_rate (0.01 -> 0.5)" in str(error.value)
    assert "training.seed (1 -> 9)" in str(error.value)
    with pytest.raises(ConfigError, match="nothing to resume"):
        fit(config, tmp_path, resume=True)


def test_resume_may_test_on_other_data(fitted: tuple[FitConfig, FitResult, list[str]], data: dict[str, str]) -> None:
    """A finished run is read, not repeated; test data and the interval of checkpoints do not change the potential."""
    config, result, _ = fitted
    changed = config.model_copy(update={"data": config.data.model_copy(update={"test": (data["bare"],)})})
    again = fit(changed, result.out, resume=True, say=lambda _: None)
    assert again.errors["train"] == result.errors["train"]
    assert again.errors["test"]["frames"] == 12
    assert again.errors["test"]["stress"] == {"mae": None, "rmse": None, "count": 0}
    fit(config, result.out, resume=True, say=lambda _: None)


def test_deep_potential_improves(data: dict[str, str], tmp_path: Path) -> None:
    settings = [
        "model.descriptor.type=deep_potential", "model.descriptor.embedding_net=[4, 8]", "model.descriptor.axis=2",
        "model.descriptor.smooth_cutoff=1.0", "model.fitting_net.widths=[8]", "training.epochs=100",
    ]  # fmt: skip
    keep = [s for s in SMALL if not s.startswith("model") and "epochs" not in s]
    config = load_config(None, [*keep, "model.descriptor.cutoff=3.6", *settings], {"data.train": [data["train"]]})
    result = fit(config, tmp_path / "deep", say=lambda _: None)
    lines = [json.loads(x) for x in (result.out / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["train"]["forces_rmse"] < 0.5 * lines[0]["train"]["forces_rmse"]
    forces = np.concatenate([np.asarray(f.labels.forces).ravel() for f in read_frames([data["train"]])[0]])
    assert result.errors["train"]["forces"]["rmse"] < 0.5 * 1e3 * forces.std()
    again = load(result.out / "model.adatom")
    assert again.model.config.descriptor.type == "deep_potential"


def test_the_default_descriptor_improves(data: dict[str, str], tmp_path: Path) -> None:
    sizes = {"n_radial": 4, "n_channels": 4, "order": 3, "cutoff": 3.6}
    small = [f"model.descriptor.{k}={v}" for k, v in sizes.items()] + ["model.fitting_net.widths=[8]", "training.epochs=100"]
    keep = [s for s in SMALL if not s.startswith("model") and "epochs" not in s]
    config = load_config(None, [*keep, *small], {"data.train": [data["train"]]})
    result = fit(config, tmp_path / "moments", say=lambda _: None)
    forces = np.concatenate([np.asarray(f.labels.forces).ravel() for f in read_frames([data["train"]])[0]])
    assert result.errors["train"]["forces"]["rmse"] < 0.5 * 1e3 * forces.std()
    assert load(result.out / "model.adatom").model.config.descriptor.type == "moments"


# --- up to the training itself ---------------------------------------------------------------------------------------


class Reached(Exception):  # noqa: N818
    """Everything before training went well."""


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What training would have been given."""
    given: dict[str, Any] = {}

    def stop(config: Any, model: Any, training: Any, validation: Any, e0: Any, out: Any, **rest: Any) -> None:
        given.update(model=model, training=training, validation=validation, e0=e0, **rest)
        raise Reached

    monkeypatch.setattr(recipe, "_train", stop)
    return given


def reach(config: FitConfig, out: Path, **settings: Any) -> list[str]:
    said: list[str] = []
    with pytest.raises(Reached):
        fit(config, out, say=said.append, **settings)
    return said


def refused(config: FitConfig, out: Path, error: type[Exception], *phrases: str) -> None:
    with pytest.raises(error) as caught:
        fit(config, out, say=lambda _: None)
    assert "\n" not in str(caught.value)
    for phrase in phrases:
        assert phrase in str(caught.value)


def overlapping(data: dict[str, str], path: Path) -> str:
    frames = ase.io.read(data["train"], ":")
    frames[3].positions[1] = frames[3].positions[0] + [0.3, 0.0, 0.0]
    return write(path, frames)


@pytest.mark.parametrize("how", ["refuse", "warn", "off"])
def test_audit(data: dict[str, str], tmp_path: Path, prepared: dict[str, Any], how: str) -> None:
    config = config_of(data, f"data.audit={how}", train=[overlapping(data, tmp_path / "bad.xyz")])
    if how == "refuse":
        refused(config, tmp_path / "out", DataError, "the audit found 1 error(s)", "0.300 Å", "--set data.audit=warn")
        return
    said = "\n".join(reach(config, tmp_path / "out"))
    assert ("audit: " in said) == (how == "warn")
    assert ("bad.xyz:3" in said) == (how == "warn")


def test_leakage_is_said(data: dict[str, str], tmp_path: Path, prepared: dict[str, Any]) -> None:
    said = "\n".join(reach(config_of(data, test=[data["train"]]), tmp_path / "out"))
    assert "20 of 20 test frames are also in the training set" in said


@pytest.mark.parametrize("part", ["train", "test", "validation"])
def test_nan_labels_are_refused_even_without_audit(
    data: dict[str, str], tmp_path: Path, prepared: dict[str, Any], part: str
) -> None:
    frames = ase.io.read(data["test"], ":")
    frames[2].calc.results["forces"][1, 1] = np.nan
    config = config_of(data, "data.audit=off", **{part: [write(tmp_path / "bad.xyz", frames)]})
    refused(config, tmp_path / "out", DataError, "bad.xyz:2: forces is NaN or infinite")


def test_a_weighted_term_needs_labels(data: dict[str, str], tmp_path: Path, prepared: dict[str, Any]) -> None:
    config = config_of(data, "loss.stress_end=3.0", train=[data["bare"]])
    phrase = "loss.stress has weight 100, but no training frame has a label of stress"
    refused(config, tmp_path / "a", ConfigError, phrase)
    reach(config_of(data, train=[data["bare"]]), tmp_path / "b")


def test_defaults_written_out_are_still_defaults(
    data: dict[str, str], tmp_path: Path, prepared: dict[str, Any]
) -> None:
    """No stress labels: neither the template nor the resolved config of a run with defaults is refused."""
    path = tmp_path / "template.toml"
    path.write_text(template())
    reach(load_config(path, [], {"data.train": [data["bare"]]}), tmp_path / "out")
    reach(load_config(tmp_path / "out" / "config.toml"), tmp_path / "out", resume=True)


def test_no_energies(data: dict[str, str], tmp_path: Path, prepared: dict[str, Any]) -> None:
    frames = ase.io.read(data["train"], ":")
    for atoms in frames:
        del atoms.calc.results["energy"]
    config = config_of(data, train=[write(tmp_path / "f.xyz", frames)])
    refused(
        config, tmp_path / "out", ConfigError, "loss.energy has weight 60", "no training frame has a label of energy"
    )


def mixed(path: Path, aluminium: int = 1) -> str:
    rng = np.random.default_rng(2)
    frames = [labelled(crystal(rng)) for _ in range(20)] + [
        labelled(crystal(rng, "Al", 4.05)) for _ in range(aluminium)
    ]
    return write(path, frames)


def test_elements_outside_the_training_data(data: dict[str, str], tmp_path: Path, prepared: dict[str, Any]) -> None:
    both = mixed(tmp_path / "both.xyz")
    for part in ("test", "validation"):
        config = config_of(data, **{part: [both]})
        refused(config, tmp_path / part, DataError, "both.xyz:20 has Al, which no training frame has")
    config = config_of(data, 'model.elements=["Cu", "Al"]')
    refused(config, tmp_path / "c", ConfigError, "model.elements has Al, which no training frame has")
    config = config_of(data, 'model.elements=["Al"]')
    refused(config, tmp_path / "d", ConfigError, "model.elements is ['Al'], but the training data have Cu too")


def test_the_only_frame_of_an_element_is_trained_on(tmp_path: Path, prepared: dict[str, Any]) -> None:
    """Whatever the seed puts into validation."""
    both = mixed(tmp_path / "both.xyz")
    for seed in range(6):
        config = config_of({"train": both}, f"training.seed={seed}", "data.validation_fraction=0.6")
        reach(config, tmp_path / str(seed))
        assert prepared["model"].elements == (13, 29)
        assert len(prepared["training"]) + len(prepared["validation"]) == 21
        assert any((f.structure.numbers == 13).any() for f in prepared["training"])


def test_validation(data: dict[str, str], tmp_path: Path, prepared: dict[str, Any]) -> None:
    reach(config_of(data, validation=[data["test"]]), tmp_path / "given")
    assert (len(prepared["training"]), len(prepared["validation"])) == (20, 5)
    reach(config_of(data, "data.validation_fraction=0"), tmp_path / "none")
    assert (len(prepared["training"]), len(prepared["validation"])) == (20, 0)
    reach(config_of(data, train=[data["test"]]), tmp_path / "few")
    assert (len(prepared["training"]), len(prepared["validation"])) == (5, 0)


def test_e0(data: dict[str, str], tmp_path: Path, prepared: dict[str, Any]) -> None:
    def e0_of(config: FitConfig) -> tuple[list[float], str]:
        reach(config, tmp_path / f"run{len(list(tmp_path.iterdir()))}")
        return prepared["e0"].tolist(), prepared["how"]

    frames = ase.io.read(data["train"], ":")
    free = Atoms("Cu", cell=np.zeros((3, 3)))
    free.calc = SinglePointCalculator(free, energy=3.25, forces=np.zeros((1, 3)))
    with_free = write(tmp_path / "free.xyz", [*frames, free])
    assert e0_of(config_of(data, "model.e0.Cu=-7.5")) == ([-7.5], "given")
    assert e0_of(config_of(data, train=[with_free])) == ([3.25], "isolated atoms")
    assert e0_of(config_of(data, "model.e0=isolated_atoms", train=[with_free])) == ([3.25], "isolated atoms")
    mean = np.mean([a.get_potential_energy() / len(a) for a in frames])
    for settings in ([], ["model.e0=least_squares"]):
        fitted, how = e0_of(config_of(data, "data.validation_fraction=0", *settings))
        assert fitted == pytest.approx([mean])
        assert how.startswith("least squares")
    refused(
        config_of(data, "model.e0=isolated_atoms"), tmp_path / "no", ConfigError,
        "model.e0 is isolated_atoms, but there is no isolated-atom frame of Cu",
    )  # fmt: skip
    refused(config_of(data, "model.e0.Al=-1"), tmp_path / "no2", ConfigError, "model.e0 lacks Cu")


def test_no_training_data(tmp_path: Path) -> None:
    refused(load_config(None), tmp_path / "out", ConfigError, "no training data: give --train DATA or data.train")
    assert not (tmp_path / "out").exists()


def test_the_folder(data: dict[str, str], tmp_path: Path, prepared: dict[str, Any]) -> None:
    config = config_of(data)
    reach(config, tmp_path / "deep" / "er")
    assert (tmp_path / "deep" / "er" / "config.toml").read_text() == dump_config(config)
    reach(config, tmp_path / "deep" / "er")  # stopped before any training: nothing to lose
    (tmp_path / "file").write_text("")
    refused(config, tmp_path / "file", ConfigError, "cannot be made a folder")
