"""The demo, shortened: everything it promises is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import ase.io
import jax
import pytest

from adatom.fitting import demo as module
from adatom.fitting.config import ConfigError
from adatom.fitting.demo import demo
from adatom.potential.model_file import load


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation() -> Iterator[None]:
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.filterwarnings("ignore::adatom.potential.ExtrapolationWarning")
def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_config = module.load_config

    def smaller(path: None, settings: list[str], overrides: dict[str, object]) -> object:
        """One size to compile, of a smaller network; all else as in the demo."""
        quick = ["training.max_buckets=1", "model.fitting_net.widths=[8]", "training.warmup_steps=5"]
        return load_config(path, [*settings, *quick], overrides)

    monkeypatch.setattr(module, "load_config", smaller)
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
    assert metrics["train"]["frames"] + metrics["validation"]["frames"] == len(train) > len(test)
    assert metrics["test"]["stress"]["count"] > 0
    assert load(out / "fit" / "model.adatom").symbols == ("Si",)
    frames = ase.io.read(out / "nve.extxyz", ":")
    assert [len(a) for a in frames] == [64] * 3
    text = "\n".join(said)
    for phrase in ("1/4 audit", "0 errors", "2/4 fit", "3/4 errors", "4/4 molecular dynamics", "done in", "adatom md "):
        assert phrase in text
    with pytest.raises(ConfigError, match="holds a demo already; choose another --out"):
        demo(out, say=said.append)
