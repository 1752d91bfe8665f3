"""The demo, shortened: everything it promises is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import ase.io
import jax
import pytest

from adatom.fitting import demo as module
from adatom.fitting.audit import audit, audit_leakage
from adatom.fitting.config import ConfigError
from adatom.fitting.dataset import read_frames
from adatom.fitting.demo import demo
from adatom.potential.model_file import load


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation() -> Iterator[None]:
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_the_example_set_passes_its_own_audit(tmp_path: Path) -> None:
    """Or the demo would refuse to fit it. Training and test frames are different, and enough."""
    train, test = module._unpack(tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".extxyz"] == []
    frames, coverage = read_frames([train])
    held_out, _ = read_frames([test])
    assert coverage.count("energy") == coverage.count("forces") == len(frames) > 4 * len(held_out) > 0
    assert [f.text() for f in audit(frames).errors] == []
    assert [f for f in audit_leakage(frames, held_out) if f.severity != "info"] == []


@pytest.mark.filterwarnings("ignore::adatom.potential.ExtrapolationWarning")
def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_config, unpack = module.load_config, module._unpack

    def smaller(path: None, settings: list[str], overrides: dict[str, object]) -> object:
        """One size to compile, of a smaller network; all else as in the demo."""
        descriptor = {"type": "symmetry_functions", "cutoff": 4.0, "n_radial": 4, "n_angular": 1, "zetas": "[1]"}
        quick = [f"model.descriptor.{key}={value}" for key, value in descriptor.items()]
        quick += ["training.max_buckets=1", "model.fitting_net.widths=[8]", "data.audit=warn"]
        return load_config(path, [*settings, *quick], overrides)

    def fewer(out: Path) -> tuple[Path, Path]:
        """Frames of one size only."""
        paths = unpack(out)
        for path in paths:
            ase.io.write(path, [a for a in ase.io.read(path, ":") if len(a) == 8][:12])
        return paths

    monkeypatch.setattr(module, "load_config", smaller)
    monkeypatch.setattr(module, "_unpack", fewer)
    out, said = tmp_path / "demo", []
    demo(out, say=said.append, epochs=2, steps=20)
    files = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert files >= {
        "train.extxyz", "test.extxyz", "fit/model.adatom", "fit/metrics.json", "fit/log.jsonl", "fit/config.toml",
        "fit/learning_curve.png", "fit/parity.png", "nvt.extxyz", "nvt.csv", "nve.extxyz", "nve.csv", "nvt.png",
        "energy_conservation.png",
    }  # fmt: skip
    for name in ("nvt.png", "energy_conservation.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    train, test = (ase.io.read(out / f"{n}.extxyz", ":") for n in ("train", "test"))
    metrics = json.loads((out / "fit" / "metrics.json").read_text())
    assert metrics["test"]["frames"] == len(test) > 0
    assert metrics["train"]["frames"] + metrics["validation"]["frames"] == len(train)
    assert metrics["test"]["stress"]["count"] > 0
    assert load(out / "fit" / "model.adatom").symbols == ("Si",)
    frames = ase.io.read(out / "nve.extxyz", ":")
    assert [len(a) for a in frames] == [64] * 3
    text = "\n".join(said)
    for phrase in ("1/4 audit", "2/4 fit", "3/4 errors", "4/4 molecular dynamics", "done in", "adatom md "):
        assert phrase in text
    with pytest.raises(ConfigError, match="holds a demo already; choose another --out"):
        demo(out, say=said.append)
