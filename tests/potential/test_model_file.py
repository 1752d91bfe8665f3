"""The model file: bit for bit the same after a round trip, one clear line for anything else."""

import io
import json
import pickle
import warnings
import zipfile

import jax
import numpy as np
import pytest
from helpers import awkward_structures, deep_potential, evaluate_all, make_potential
from numpy.testing import assert_array_equal

from adatom.potential import ModelFileError, load, save
from adatom.potential.potential import flatten


@pytest.fixture(scope="module")
def potential():
    return make_potential((8, 1), deep_potential(one_side=False), golden=True)


@pytest.fixture(scope="module")
def content(potential, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.adatom"
    save(potential, path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path, content):
    path = tmp_path / "model.adatom"
    path.write_bytes(content)
    return path


def arrays_of(p):
    golden = (p.golden.energy, p.golden.forces, p.golden.structure.positions)
    return [np.asarray(x) for x in (*jax.tree.leaves(p.params), *golden)]


def assert_same(a, b):
    assert a.model == b.model
    assert flatten(a.params["network"]).keys() == flatten(b.params["network"]).keys()
    for x, y in zip(arrays_of(a), arrays_of(b), strict=True):
        assert x.dtype == y.dtype
        assert_array_equal(x, y)


def refused(path, message):
    with pytest.raises(ModelFileError, match=message) as caught:
        load(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(path))


def test_saved_and_loaded_energies_are_equal_bit_for_bit(potential, path):
    again = load(path)
    assert_same(again, potential)
    assert again.info == potential.info
    structures = list(awkward_structures(potential.model.elements).values())
    for dtype in ("float32", "float64"):
        a, b = (evaluate_all(p.model, p.params, structures, dtype=dtype) for p in (potential, again))
        for x, y in zip(a, b, strict=True):
            assert x.energy == y.energy
            assert_array_equal(x.forces, y.forces)


def test_header_is_strict_json_that_says_what_the_file_is(potential, path):
    def never(constant):
        raise AssertionError(f"{constant} is not JSON")

    with zipfile.ZipFile(path) as z:
        assert z.testzip() is None
        header = json.loads(z.read("header.json"), parse_constant=never)
        names = set(z.namelist())
    assert header["format"] == "adatom potential"
    assert header["format_version"] == 1
    assert header["elements"] == ["O", "H"]
    assert header["cutoff"] == 4.0
    assert header["info"] == {"note": "random weights"}
    assert header["parameters"] == potential.n_parameters
    assert set(header["e0"]) == {"O", "H"}
    assert set(header["min_distance"]) == {"O-O", "O-H", "H-H"}
    assert {"config", "units", "checksum", "written", "adatom", "jax"} <= set(header)
    assert {"statistics/e0.npy", "golden/forces.npy"} <= names
    assert all(n == "header.json" or n.endswith(".npy") for n in names)


def test_any_json_info_survives(potential, tmp_path):
    info = {"errors": {1: 0.25, 10: [1, 2.5, None], 2: "ü Å"}, "tuple": (1, 2), "nested": {"b": {}, "a": True}}
    save(type(potential)(potential.model, potential.params, info), tmp_path / "a.adatom")
    assert load(tmp_path / "a.adatom").info == json.loads(json.dumps(info))


def test_saving_replaces_whole_and_leaves_nothing_beside(potential, path):
    path.write_bytes(b"old")
    save(potential, path)
    assert_same(load(path), potential)
    assert [p.name for p in path.parent.iterdir()] == ["model.adatom"]
    with pytest.raises(FileNotFoundError):
        save(potential, path.parent / "no" / "such" / "folder.adatom")


def test_missing_folder_and_empty(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.adatom: no such model file"):
        load(tmp_path / "nowhere.adatom")
    refused(tmp_path, "a folder, not a model file")
    (tmp_path / "empty.adatom").write_bytes(b"")
    refused(tmp_path / "empty.adatom", r"empty \(0 bytes")


def npz():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    return buffer.getvalue()


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        for name, text in members.items():
            z.writestr(name.replace("_json", ".json"), text)
    return buffer.getvalue()


FOREIGN = {
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4, "not a potential of adatom"),
    "text": (b"# LAMMPS potential\nSi Si Si 1 2 3\n", "not a potential of adatom"),
    "pickle": (pickle.dumps({"model": [1, 2, 3]}), "not a potential of adatom"),
    "npz": (npz(), r"no header\.json in it"),
    "empty zip": (zipped(), r"no header\.json in it"),
    "no JSON": (zipped(header_json="hello"), "corrupted, Expecting value"),
    "JSON list": (zipped(header_json="[1]"), "not a potential of adatom"),
    "other JSON": (zipped(header_json='{"format": "torch"}'), "not a potential of adatom"),
    "newer": (zipped(header_json='{"format": "adatom potential", "format_version": 7}'), "format version 7.*upgrade"),
    "no checksum": (zipped(header_json='{"format": "adatom potential", "format_version": 1}'), "checksum"),
    "latin-1 JSON": (zipped(header_json=b'{"format": "\xe5"}'), "corrupted"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files(tmp_path, kind):
    whole, message = FOREIGN[kind]
    (tmp_path / "x.adatom").write_bytes(whole)
    refused(tmp_path / "x.adatom", message)


def rewrite(path, change):
    """Rewrite the zip with some members changed: valid for zip, wrong for us."""
    with zipfile.ZipFile(path) as z:
        members = {n: z.read(n) for n in z.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as z:
        for name, data in members.items():
            z.writestr(name, data)


def change_header(key, value):
    def change(members):
        header = json.loads(members["header.json"])
        header[key] = value
        members["header.json"] = json.dumps(header)

    return change


def change_array(members):
    a = np.lib.format.read_array(io.BytesIO(members["statistics/e0.npy"]), allow_pickle=False)
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, a + 1e-12, allow_pickle=False)
    members["statistics/e0.npy"] = buffer.getvalue()


def pickled_array(members):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([Bomb()], dtype=object), allow_pickle=True)
    members["statistics/e0.npy"] = buffer.getvalue()


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


TAMPERED = {
    "cutoff": (change_header("cutoff", 4.5), "checksum"),
    "e0": (change_header("e0", {"O": 0.0, "H": 0.0}), "checksum"),
    "version": (change_header("format_version", 2), "format version 2, this adatom .* reads version 1"),
    "array": (change_array, "checksum"),
    "missing array": (lambda m: m.pop("statistics/e0.npy"), "checksum"),
    "additional array": (lambda m: m.update({"network/x.npy": m["statistics/e0.npy"]}), "checksum"),
    "pickled array": (pickled_array, "corrupted, Object arrays cannot be loaded"),
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_tampered_files(path, kind):
    change, message = TAMPERED[kind]
    rewrite(path, change)
    refused(path, message)


def signed(path, **changes):
    """Change the header and sign it again, as a program with another idea of the format would."""
    from adatom.potential.model_file import _checksum, _read

    header, arrays = _read(path)
    header |= changes
    header["checksum"] = _checksum(header, arrays)
    rewrite(path, lambda members: members.update({"header.json": json.dumps(header)}))


def test_contents_that_do_not_fit_each_other(path, content):
    header = json.loads(zipfile.ZipFile(path).read("header.json"))
    signed(path, elements=["H", "O"])
    refused(path, "do not fit the configuration")
    signed(path, elements=["O", "Xx"])
    refused(path, "damaged header")
    path.write_bytes(content)
    signed(path, config=header["config"] | {"fitting_net": {"widths": [7]}})
    refused(path, "do not have the shapes")
    path.write_bytes(content)
    signed(path, config=header["config"] | {"colour": "red"})
    refused(path, "damaged header.*colour")


def test_truncated_anywhere(path, content):
    for n in {*range(0, 60), *np.linspace(60, len(content) - 1, 80).astype(int).tolist(), len(content) - 1}:
        path.write_bytes(content[:n])
        refused(path, "truncated|empty|corrupted|not a potential")


def test_corrupted_anywhere_is_refused_or_does_no_harm(path, content, potential):
    """300 places all over the file, of three kinds: a bit, a byte, a run of zeros; header and table of the zip more often."""
    rng = np.random.default_rng(0)
    lines = []
    for n in range(300):
        broken = bytearray(content)
        where = rng.integers([len(content), 400, len(content)][n % 3])
        where = len(content) - 1 - where % 1500 if n % 2 else where
        if n % 3 == 0:
            broken[where] ^= 1 << rng.integers(8)
        elif n % 3 == 1:
            broken[where] = rng.integers(256)
        else:
            broken[where : where + 16] = bytes(len(broken[where : where + 16]))
        path.write_bytes(broken)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile's own
            try:
                found = load(path)
            except ModelFileError as error:
                lines.append(str(error))
            else:
                assert_same(found, potential)
    assert 150 < len(lines) < 300
    assert not any("\n" in line for line in lines)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(path, method, content):
    """A flipped byte can turn deflate into one of these, with errors of their own."""
    start = content.rindex(b"PK\x01\x02")  # the last entry of the table
    broken = bytearray(content)
    broken[start + 10 : start + 12] = method.to_bytes(2, "little")
    path.write_bytes(broken)
    refused(path, "corrupted")
