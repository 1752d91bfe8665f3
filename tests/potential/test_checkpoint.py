"""Checkpoints: exact, whole at any moment, and one line where they cannot be used."""

from __future__ import annotations

import contextlib
import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adatom.potential.checkpoint import CheckpointError, load_checkpoint, save_checkpoint


class State(NamedTuple):
    weights: dict[str, Any]
    step: Any
    empty: tuple[()] = ()


def state(seed: int = 0, width: int = 3) -> State:
    rng = np.random.default_rng(seed)
    weights = {
        "b": jnp.asarray(rng.normal(size=(2, width)), dtype=jnp.float32),
        "a": {"x": np.float64(rng.normal()), "none": np.zeros((0, 3))},
        "mask": np.array([True, False]),
    }
    return State(weights, np.int32(seed))


def test_round_trip_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.zip"
    counters = {"epoch": 3, "best": None, "seconds": 0.1}
    save_checkpoint(path, state(5), counters)
    got, read = load_checkpoint(path, state(0))
    assert read == counters
    assert isinstance(got, State)
    assert jax.tree.structure(got) == jax.tree.structure(state(5))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(state(5)), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, np.asarray(b))


def test_special_numbers_survive(tmp_path: Path) -> None:
    path = tmp_path / "c.zip"
    odd = {"x": np.array([np.nan, np.inf, -0.0, 5e-324])}
    save_checkpoint(path, odd, {})
    assert load_checkpoint(path, odd)[0]["x"].tobytes() == odd["x"].tobytes()


def test_more_than_ten_leaves_keep_their_order(tmp_path: Path) -> None:
    tree = [np.array(float(k)) for k in range(120)]
    save_checkpoint(tmp_path / "c.zip", tree, {})
    assert [float(x) for x in load_checkpoint(tmp_path / "c.zip", tree)[0]] == list(range(120))


def test_a_failed_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.zip"
    save_checkpoint(path, state(1), {"n": 1})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for function in ("fsync", "replace"):
        with monkeypatch.context() as m:
            m.setattr(os, function, killed)
            with pytest.raises(KeyboardInterrupt):
                save_checkpoint(path, state(2), {"n": 2})
        assert load_checkpoint(path, state())[1] == {"n": 1}
        assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.zip"]


def test_every_truncation_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.zip"
    save_checkpoint(path, state(1), {"n": 1})
    whole = path.read_bytes()
    for size in [0, 1, *range(10, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError) as error:
            load_checkpoint(path, state())
        assert str(error.value).startswith(f"{path}: damaged checkpoint")
        assert "\n" not in str(error.value)


def test_flipped_bytes_are_noticed(tmp_path: Path) -> None:
    """zip has a checksum of every member; a flip in the header of one may go unnoticed only if nothing changed."""
    path = tmp_path / "checkpoint.zip"
    save_checkpoint(path, state(1), {"n": 1})
    whole = path.read_bytes()
    expected = jax.tree.leaves(state(1))
    for at in range(0, len(whole), 13):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with contextlib.suppress(CheckpointError):
            got, counters = load_checkpoint(path, state())
            assert counters == {"n": 1}
            for a, b in zip(jax.tree.leaves(got), expected, strict=True):
                np.testing.assert_array_equal(a, np.asarray(b))


def test_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.zip"
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        load_checkpoint(path, state())
    path.write_text("energy forces stress")
    with pytest.raises(CheckpointError, match="damaged checkpoint"):
        load_checkpoint(path, state())
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("header.json", "{}")
    with pytest.raises(CheckpointError, match="damaged checkpoint"):
        load_checkpoint(path, state())
    with pytest.raises(CheckpointError, match="damaged checkpoint"):
        load_checkpoint(tmp_path, state())


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.zip"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("counters.json", "{}")
        with z.open("00000.npy", "w") as f:
            np.lib.format.write_array(f, np.array([{"code": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="allow_pickle"):
        load_checkpoint(path, [np.zeros(1)])


def test_of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.zip"
    save_checkpoint(path, state(1, width=4), {})
    with pytest.raises(CheckpointError, match="another model or data set"):
        load_checkpoint(path, state())
    with pytest.raises(CheckpointError, match="another model or data set"):
        load_checkpoint(path, [np.zeros(3)])
