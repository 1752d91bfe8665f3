"""A fit on several devices, or in several processes, is the fit on one to rounding."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest

from adatom.potential import load

SETTINGS = (
    "training.epochs=4", "training.precision=float64", "training.batch_atoms=48", "training.max_buckets=1",
    "model.descriptor.n_channels=4", "model.descriptor.order=2", "model.fitting_net.widths=[8]",
    "training.optimiser=adam", "uncertainty.kind=none", "data.audit=off",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not a multiple of the six frames that a batch has: of the last one a device gets less than the other."""
    frames = ase.io.read(root / "fitting" / "examples" / "silicon.extxyz.gz", ":")
    chosen = [x for x in frames if len(x) == 8][:27]
    path = tmp_path_factory.mktemp("data") / "si.extxyz"
    ase.io.write(path, chosen)
    return path


def started(data: Path, out: Path, *more: str, devices: int = 1, settings: tuple[str, ...] = SETTINGS) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "adatom.fitting.cli", "fit", "--train", str(data), "--out", str(out), *more]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags}
    command += [x for s in settings for x in ("--set", s)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process: subprocess.Popen[str]) -> None:
    text = process.communicate(timeout=400)[0]
    assert process.returncode == 0, text[-3000:]


def assert_same(one: Path, other: Path) -> None:
    a, b = (load(x / "model.adatom").params["network"] for x in (one, other))
    for x, y in zip(_leaves(a), _leaves(b), strict=True):
        np.testing.assert_allclose(y, x, rtol=0, atol=1e-6 * np.abs(x).max())
    np.testing.assert_allclose(force_errors(other), force_errors(one), rtol=1e-6)


def force_errors(out: Path) -> list[float]:
    """Of the training frames, epoch after epoch."""
    return [json.loads(line)["train"]["forces_rmse"] for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def _leaves(tree: object) -> list[np.ndarray]:
    import jax

    return [np.asarray(x) for x in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "fit"
    finished(started(data, out))
    return out


def test_two_devices(data: Path, alone: Path, tmp_path: Path) -> None:
    finished(started(data, tmp_path / "fit", devices=2))
    assert_same(alone, tmp_path / "fit")


def test_two_devices_with_soap(data: Path, tmp_path: Path) -> None:
    """Directions without gradient are turned by rounding alone: weights differ a little more, errors hardly."""
    settings = tuple(x for x in SETTINGS if "optimiser" not in x)
    for n in (1, 2):
        finished(started(data, tmp_path / str(n), devices=n, settings=settings))
    np.testing.assert_allclose(force_errors(tmp_path / "2"), force_errors(tmp_path / "1"), rtol=1e-2)


def test_two_processes(data: Path, alone: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        meet = f"localhost:{free.getsockname()[1]}"
    both = [started(data, tmp_path / "fit", "--meet", meet, "--processes", "2", "--process", str(i)) for i in range(2)]
    for process in both:
        finished(process)
    assert_same(alone, tmp_path / "fit")
    assert sorted(x.name for x in tmp_path.iterdir()) == ["fit"], "one process writes"


def test_a_number_that_makes_no_sense(data: Path, tmp_path: Path) -> None:
    process = started(data, tmp_path / "fit", "--meet", "localhost:1", "--processes", "2", "--process", "2")
    text = process.communicate(timeout=100)[0]
    assert process.returncode == 2
    assert text.strip() == "adatom: --meet localhost:1: --processes 2 are numbered from 0 to 1; --process is 2"
