"""DeePMD-kit's serialisations as nested dicts with NumPy arrays: `.dp` (HDF5 with JSON in an attribute) and `.yaml`."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from adatom.potential.model_file import ModelFileError, write_atomically

HDF5 = b"\x89HDF\r\n\x1a\n"
YAML = (".yaml", ".yml")
LARGEST = 1000
"""No array, and no number of entries, is larger than so many times its file: compressed, or damaged and to fill the memory."""
DTYPES = ("float64", "float32", "float16", "int64", "int32", "bool")


def recognise(path: Path) -> bool:
    """HDF5 whose JSON says deepmd or has a model, or YAML with a model in it."""
    try:
        if not path.is_file():
            return False
        with open(path, "rb") as f:
            start = f.read(4096)
        if start.startswith(HDF5):
            return True
        return path.suffix in YAML and b"@class" in start and b"@variables" in start
    except OSError:
        return False


def load_tree(path: Path) -> dict[str, Any]:
    """Raises ModelFileError where the file is damaged or something else."""
    with open(path, "rb") as f:
        is_hdf5 = f.read(len(HDF5)) == HDF5
    tree = _load_dp(path) if is_hdf5 else _load_yaml(path)
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise ModelFileError(f"{path}: no model of DeePMD-kit in it (no 'model')")
    return tree


def _load_dp(path: Path) -> Any:
    h5py, room = _package("h5py", path), LARGEST * path.stat().st_size
    try:
        with h5py.File(path, "r") as f:
            if "json" not in f.attrs:
                raise ModelFileError(f"{path}: an HDF5 file, but no model of DeePMD-kit (no attribute 'json')")

            def array(name: Any) -> np.ndarray:
                if not isinstance(name, str) or not isinstance(f.get(name), h5py.Dataset):
                    raise ModelFileError(f"{path}: damaged, an array is missing ({str(name)[:60]!r})")
                nonlocal room
                room -= f[name].size * f[name].dtype.itemsize
                if room < 0:
                    raise ModelFileError(f"{path}: damaged, {name[:60]!r} says it has {f[name].shape} numbers: more than fit")
                return np.asarray(f[name][()])

            return _with_arrays(json.loads(f.attrs["json"]), array, inside=False)
    except ModelFileError:
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, MemoryError) as error:
        raise ModelFileError(f"{path}: damaged, {' '.join(str(error).split())[:120]}") from error


def _load_yaml(path: Path) -> Any:
    yaml = _package("yaml", path)
    loader, content = getattr(yaml, "CSafeLoader", yaml.SafeLoader), path.read_bytes()
    try:
        tree = yaml.load(content, Loader=loader)
        if _entries(tree, {}) > LARGEST + len(content):
            raise ModelFileError(f"{path}: damaged, its references to other parts of it make more entries than it has bytes")
        return _with_arrays(tree, lambda x: _listed(x, path), inside=False)
    except ModelFileError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise ModelFileError(f"{path}: damaged, {' '.join(str(error).split())[:120]}") from error


def _entries(node: Any, known: dict[int, int]) -> int:
    """How many entries a tree has when everything that is shared is counted as often as it is used."""
    if not isinstance(node, dict | list):
        return 1
    if id(node) not in known:
        known[id(node)] = 1 + sum(_entries(x, known) for x in (node.values() if isinstance(node, dict) else node))
    return known[id(node)]


def _listed(node: Any, path: Path) -> Any:
    """The array of {"@class": "np.ndarray", "dtype", "value"}; anything else as it is."""
    if not isinstance(node, dict) or node.get("@class") != "np.ndarray":
        return node
    if node.get("dtype") not in DTYPES:
        raise ModelFileError(f"{path}: an array of dtype {str(node.get('dtype'))[:30]!r}; this adatom reads {', '.join(DTYPES)}")
    return np.asarray(node.get("value"), dtype=node["dtype"])


def _with_arrays(node: Any, array: Any, *, inside: bool) -> Any:
    """Every leaf below a key "@variables", and every dict marked as a variable, through `array`."""
    if isinstance(node, dict):
        if node.get("@is_variable"):
            return array(node)
        return {k: _with_arrays(v, array, inside=inside or k == "@variables") for k, v in node.items()}
    if isinstance(node, list):
        return [_with_arrays(v, array, inside=inside) for v in node]
    return array(node) if inside and node is not None else node


def save_tree(tree: dict[str, Any], path: Path) -> None:
    """As `.yaml` where the name ends so, else as `.dp`; atomically."""
    tree = {"software": "adatom", "time": datetime.now(UTC).isoformat(timespec="seconds"), **tree}
    if path.suffix in YAML:
        yaml = _package("yaml", path)
        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        write_atomically(path, yaml.dump(_as_lists(tree), Dumper=dumper).encode())
        return
    if path.suffix not in (".dp", ".hlo"):
        raise ValueError(f"{path}: DeePMD-kit knows models by their names: end it with .dp or .yaml")
    h5py, buffer = _package("h5py", path), io.BytesIO()
    with h5py.File(buffer, "w") as f:
        named: list[str] = []
        f.attrs["json"] = json.dumps(_as_names(tree, f, named), separators=(",", ":"))
    write_atomically(path, buffer.getvalue())


def _as_lists(node: Any) -> Any:
    if isinstance(node, dict):
        return {k: _as_lists(v) for k, v in node.items()}
    if isinstance(node, list):
        return [_as_lists(v) for v in node]
    if isinstance(node, np.ndarray):
        about = {"@class": "np.ndarray", "@is_variable": True, "@version": 1}
        return {**about, "dtype": node.dtype.name, "value": node.tolist()}
    return node


def _as_names(node: Any, f: Any, named: list[str]) -> Any:
    if isinstance(node, dict):
        return {k: _as_names(v, f, named) for k, v in node.items()}
    if isinstance(node, list):
        return [_as_names(v, f, named) for v in node]
    if isinstance(node, np.ndarray):
        named.append(f.create_dataset(f"variable_{len(named):04d}", data=node).name)
        return named[-1]
    return node


def _package(name: str, path: Path) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        needs = {"h5py": "h5py", "yaml": "PyYAML"}[name]
        raise ModelFileError(f"{path}: models of DeePMD-kit need {needs}: pip install 'adatom[interop]'") from error
