"""Whatever is wrong with a file of DeePMD-kit, reading it is one clear line: never a trace of something inside, never silence."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path

import numpy as np
import pytest

from adatom.potential.interop.deepmd import read
from adatom.potential.interop.deepmd.tree import load_tree, save_tree
from adatom.potential.model_file import ModelFileError

HERE = Path(__file__).parent / "deepmd"
SEA, YAML = HERE / "se_e2_a.dp", HERE / "se_e2_r.yaml"


def refused(path):
    with pytest.raises(ModelFileError) as error:
        read(path)
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text
    assert len(text) < 400 + len(str(path))
    return text


def read_or_refused(path):
    """A flip may fall on a spare byte or in a number's last digits."""
    with contextlib.suppress(ModelFileError):
        read(path)


@pytest.mark.parametrize("source", [SEA, YAML], ids=["dp", "yaml"])
def test_truncated(source, tmp_path):
    whole, path = source.read_bytes(), tmp_path / source.name
    for share in np.linspace(0.0, 0.97, 23):
        path.write_bytes(whole[: int(share * len(whole))])
        refused(path)


@pytest.mark.parametrize(("source", "times"), [(SEA, 120), (YAML, 25)], ids=["dp", "yaml"])
def test_flipped_bits(source, times, tmp_path):
    whole, path, rng = source.read_bytes(), tmp_path / source.name, np.random.default_rng(0)
    for _ in range(times):
        broken = bytearray(whole)
        for place in rng.integers(0, len(whole), 4):
            broken[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(broken))
        read_or_refused(path)


def every(node, path=()):
    """Paths of all entries of nested dicts and lists."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from every(value, (*path, key))


def at(node, path):
    for key in path:
        node = node[key]
    return node


@pytest.mark.parametrize("name", ["se_e2_a.dp", "attention.dp", "zbl.dp", "hybrid.dp"])
def test_entries_missing_or_of_another_kind(name, tmp_path):
    """Each entry of the tree once removed, and once replaced by something else: a potential, or one line."""
    tree, path, rng = load_tree(HERE / name), tmp_path / "broken.dp", np.random.default_rng(1)
    places = [p for p in every(tree["model"]) if p]
    for k in rng.choice(len(places), 15, replace=False):
        for value in (None, "x", -3, [], {}, np.array([np.nan]), 1e308):
            if value is None and rng.random() < 0.5:
                continue
            broken = copy.deepcopy(tree)
            *parents, last = places[k]
            holder = at(broken["model"], parents)
            if value is None:
                del holder[last]
            else:
                holder[last] = value
            save_tree(broken, path)
            read_or_refused(path)


def test_what_is_wrong_is_said(tmp_path):
    path = tmp_path / "model.dp"
    for change, words in {
        ("type_map", "xx"): "type_map",
        ("descriptor.type", "dpa3"): "descriptor type 'dpa3' is not supported",
        ("fitting.type", "dipole"): "fitting type dipole is not supported",
        ("fitting.numb_fparam", 2): "numb_fparam 2",
        ("descriptor.precision", "bfloat16"): "precision 'bfloat16'",
        ("descriptor.activation_function", "swish"): "activation_function",
        ("type", "spin"): "model type 'spin' is not supported",
        ("descriptor.rcut", 0.5): "rcut_smth",
    }.items():
        tree = load_tree(SEA)
        *parents, last = change[0].split(".")
        at(tree["model"], parents)[last] = change[1]
        save_tree(tree, path)
        assert words in refused(path)


def test_values_that_are_not_numbers_and_wrong_counts(tmp_path):
    path = tmp_path / "model.dp"
    for place, words in {
        ("descriptor", "@variables", "dstd"): "dstd",
        ("descriptor", "@variables", "davg"): "davg",
        ("fitting", "nets", "networks", 0, "layers", 0, "@variables", "w"): "layer_0",
        ("fitting", "@variables", "bias_atom_e"): "bias_atom_e",
    }.items():
        for spoil in (lambda x: x[:-1], lambda x: np.full_like(x, np.nan)):
            tree = load_tree(SEA)
            *parents, last = place
            holder = at(tree["model"], parents)
            holder[last] = spoil(holder[last])
            save_tree(tree, path)
            text = refused(path)
            assert words in text or "not finite" in text or "differs" in text


def test_entries_exchanged(tmp_path):
    """Any two entries of a dict, or two arrays, in each other's place: a potential, or one line."""
    whole, path, rng = load_tree(SEA), tmp_path / "broken.dp", np.random.default_rng(2)
    holders = [p for p in [(), *every(whole["model"])] if isinstance(x := at(whole["model"], p), dict) and len(x) > 1]
    for k in rng.choice(len(holders), min(len(holders), 25), replace=False):
        broken = copy.deepcopy(whole)
        holder = at(broken["model"], holders[k])
        a, b = rng.choice(sorted(holder), 2, replace=False)
        holder[a], holder[b] = holder[b], holder[a]
        save_tree(broken, path)
        read_or_refused(path)


def test_numbers_that_would_fill_the_memory(tmp_path):
    """In the tree, in the size an array says it has, and in references that double again and again: nothing is allocated."""
    path = tmp_path / "model.dp"
    for place in (
        ("descriptor", "sel", 0), ("descriptor", "neuron", 0), ("descriptor", "axis_neuron"), ("fitting", "neuron", 0),
        ("fitting", "dim_descrpt"), ("descriptor", "rcut"),
    ):  # fmt: skip
        for value in (10**30, 2**62, 10**11, -(10**11)):
            tree = load_tree(SEA)
            *parents, last = place
            holder = at(tree["model"], parents)
            assert isinstance(holder, list) or last in holder
            holder[last] = value
            save_tree(tree, path)
            read_or_refused(path)
    h5py = pytest.importorskip("h5py")
    save_tree(load_tree(SEA), path)
    with h5py.File(path, "a") as f:
        del f["variable_0003"]
        f.create_dataset("variable_0003", shape=(10**6, 10**6), dtype="f8")
    assert "says it has (1000000, 1000000) numbers: more than fit" in refused(path)
    lines = ["a0: &a0 [1, 1]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]
    path = tmp_path / "model.yaml"
    path.write_text("\n".join([*lines, "model: {'@class': x, '@variables': {x: *a59}}"]))
    assert "more entries than it has bytes" in refused(path)


def test_other_files(tmp_path):
    path = tmp_path / "x.dp"
    random = np.random.default_rng(3).bytes(4000)
    contents = (random, b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x00" * 4096, b"model: 3\n", b"- 1\n- 2\n", b"{{{", b"\xe9")
    for content in contents:
        path.write_bytes(content)
        refused(path)
