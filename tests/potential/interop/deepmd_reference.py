"""Models with random weights written by DeePMD-kit itself, and what it says about a few structures.

    python tests/potential/interop/deepmd_reference.py

Run by an interpreter that has deepmd-kit; writes the models and `references.json` to the folder `deepmd` beside it. Given a
model, it evaluates the structures that stand in JSON on its standard input instead, and prints JSON. By the NumPy backend, or the
TensorFlow one, which has derivatives, where the interpreter has it and it has the model.
"""

from __future__ import annotations

import copy
import itertools
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from deepmd.dpmodel.model.base_model import BaseModel
from deepmd.dpmodel.model.model import get_model
from deepmd.dpmodel.utils.serialization import load_dp_model, save_dp_model

HERE = Path(__file__).parent / "deepmd"
CELL = np.array([[6.1, 0.3, -0.4], [1.9, 5.6, 0.2], [-1.1, 0.7, 6.6]])
IMAGES = np.stack(np.meshgrid(*[range(-2, 3)] * 3), -1).reshape(-1, 1, 1, 3) @ CELL
KINKS = (1.5, 3.1, 4.0, 0.25, 0.8, 1.35, 1.9, 2.45, 3.0)
COMMON = {"rcut": 4.0, "rcut_smth": 1.5, "neuron": [3, 6], "seed": 1, "precision": "float64"}
FIT = {"neuron": [5, 5], "seed": 2, "precision": "float64"}
TYPES = ["O", "H", "Si"]
TENSORFLOW = ("se_e2_a", "se_r", "se_e3")
ATTEN = {**COMMON, "type": "dpa1", "sel": 22, "axis_neuron": 2, "tebd_dim": 3, "attn": 4, "attn_layer": 2, "set_davg_zero": True}


def standard(types: int, descriptor: dict, **more: object) -> dict:
    """Of the first `types` elements. more: of the model; "fitting": of the fitting net."""
    fitting = {**FIT, **more.pop("fitting", {})}  # type: ignore[dict-item]
    return {"type": "standard", "type_map": TYPES[:types], "descriptor": descriptor, "fitting_net": fitting, **more}


def models(table: str) -> dict[str, dict]:
    """Every form that is read, each option somewhere."""
    a = {**COMMON, "type": "se_e2_a", "sel": [14, 16], "axis_neuron": 2}
    pair = {"type": "pairtab", "tab_file": table, "rcut": 3.0, "sel": 25}
    return {
        "se_e2_a": standard(
            2, {**a, "type_one_side": True, "exclude_types": [[0, 1]], "resnet_dt": True}, fitting={"resnet_dt": True}
        ),
        "se_e2_a_two_sided": standard(
            3, {**a, "sel": [14, 16, 12], "type_one_side": False, "activation_function": "gelu", "env_protection": 0.1},
            pair_exclude_types=[[0, 2]], atom_exclude_types=[2], fitting={"activation_function": "silut:2.0", "resnet_dt": False},
        ),
        "se_e2_a_vacuum": standard(
            2, {**a, "type_one_side": True, "activation_function": "relu"},
            fitting={"atom_ener": [-3.5, None], "activation_function": "sigmoid"},
        ),
        "se_e2_r": standard(
            2, {**COMMON, "type": "se_e2_r", "sel": [14, 16], "exclude_types": [[1, 1]], "activation_function": "silu"}
        ),
        "se_e3": standard(2, {**COMMON, "type": "se_e3", "sel": [14, 16], "activation_function": "softplus"}),
        "hybrid": standard(
            2, {"type": "hybrid", "list": [
                {**a, "type_one_side": True, "exclude_types": [[0, 0]]},
                {**COMMON, "type": "se_e2_r", "rcut": 3.1, "sel": [9, 12], "activation_function": "relu6"},
            ]}, fitting={"activation_function": "softplus"},
        ),
        "attention": standard(2, {**ATTEN, "exclude_types": [[0, 1]]}),
        "attention_strip": standard(
            3, {**ATTEN, "tebd_input_mode": "strip", "smooth_type_embedding": False, "type_one_side": True, "attn_layer": 1,
                "attn_dotr": False, "normalize": False, "temperature": 0.7, "concat_output_tebd": False, "use_tebd_bias": True},
        ),
        "attention_none": standard(2, {**ATTEN, "tebd_input_mode": "strip", "attn_layer": 0}),
        "attention_v2": standard(2, {**ATTEN, "type": "se_atten_v2", "attn_layer": 1}),
        "zbl": {"type_map": TYPES[:2], "use_srtab": table, "smin_alpha": 0.1, "sw_rmin": 0.8, "sw_rmax": 1.9,
                "descriptor": {**ATTEN, "attn_layer": 0}, "fitting_net": FIT},
        "linear": {"type": "linear_ener", "type_map": TYPES[:2], "weights": [0.7, 1.4],
                   "models": [standard(2, {**ATTEN, "attn_layer": 0}), pair]},
        "se_e2_a_tensorflow": standard(2, {**a, "type_one_side": False, "exclude_types": [[0, 1]]}),
        "se_e2_r_tensorflow": standard(2, {**COMMON, "type": "se_e2_r", "sel": [14, 16], "exclude_types": [[0, 1]]}),
    }  # fmt: skip


def write_table(path: Path) -> None:
    """Screened repulsion of three pairs of types, gone at 3 Å; few points, for each has a kink."""
    r = 0.25 + 0.55 * np.arange(6)
    z = [8 * 8, 8 * 1, 1 * 1]
    columns = [14.4 * x / r * np.exp(-2.0 * r) * np.clip(1.0 - r / 3.0, 0.0, None) ** 3 for x in z]
    np.savetxt(path, np.stack([r, *columns], axis=1), fmt="%.12e")


def randomise(node: object, rng: np.random.Generator) -> None:
    """Statistics and energy zeros that are not trivial: one value a pair of types, without direction."""
    if isinstance(node, list):
        for x in node:
            randomise(x, rng)
    if not isinstance(node, dict):
        return
    variables = node.get("@variables") or {}
    if "davg" in variables:
        t, _, width = variables["davg"].shape
        sel = node["sel"] if node["type"] not in ("dpa1", "se_atten_v2") else [sum(np.atleast_1d(node["sel"]))]
        for k in range(len(sel)):
            section = slice(sum(sel[:k]), sum(sel[: k + 1]))
            mean, std = rng.uniform(0.02, 0.1, t), rng.uniform(0.04, 0.12, (t, 2))
            if node["type"] not in ("dpa1", "se_atten_v2"):
                variables["davg"][:, section, 0] = mean[:, None]
            variables["dstd"][:, section, 0] = std[:, None, 0]
            if width == 4:
                variables["dstd"][:, section, 1:] = std[:, None, None, 1]
    if "bias_atom_e" in variables:
        variables["bias_atom_e"] = variables["bias_atom_e"] + rng.normal(size=variables["bias_atom_e"].shape)
    if "out_bias" in variables and "models" not in node and node.get("type") == "standard" and not node.get("inside"):
        variables["out_bias"] = variables["out_bias"] + rng.normal(size=variables["out_bias"].shape)
    for key, x in node.items():
        if key != "@variables":
            randomise(x, rng)


def structures(types: int) -> list[dict]:
    """A triclinic cell, a molecule, and atoms that are alone; no pair is where a switch has a kink."""
    grid = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float)
    for seed in itertools.count(types):
        bulk = (grid / 2.0 + np.random.default_rng(seed).uniform(0.0, 0.16, grid.shape)) @ CELL
        far = np.linalg.norm(bulk[:, None] - bulk[None] + IMAGES, axis=-1)
        if all(np.abs(far - x).min() > 5e-3 for x in KINKS):
            break
    kinds = (np.arange(8) * 5 % 3 % types).tolist()
    alone = np.array([[0.0, 0.0, 0.0], [1.1, 0.3, 0.2], [20.0, 0.0, 0.0]])
    return [
        {"coord": bulk.tolist(), "box": CELL.tolist(), "types": kinds},
        {"coord": bulk[:5].tolist(), "box": None, "types": kinds[:5]},
        {"coord": alone.tolist(), "box": None, "types": [0, 1, types - 1]},
    ]


def evaluate(tree: dict, s: dict) -> dict:
    """Energies of atoms, forces and virial; the last two by sixth-order central differences, good to 1e-11."""
    h, stencil = 1e-3, np.array([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0])
    weights = np.array([-1.0, 9.0, -45.0, 45.0, -9.0, 1.0]) / (60.0 * h)
    coord, n = np.array(s["coord"]), len(s["coord"])
    cell = np.zeros((3, 3)) if s["box"] is None else np.array(s["box"])
    moved = [(coord, cell)]
    for k in range(3 * n):
        moved += [(coord + h * x * np.eye(3 * n)[k].reshape(n, 3), cell) for x in stencil]
    for k in range(9):
        for x in stencil:
            f = np.eye(3) + h * x * np.eye(9)[k].reshape(3, 3)
            moved.append((coord @ f, cell @ f))
    coords, cells = (np.stack([x[k] for x in moved]) for k in (0, 1))
    model = BaseModel.deserialize(copy.deepcopy(tree))
    boxes = None if s["box"] is None else cells.reshape(-1, 9)
    out = model.call_common(coords, np.tile(s["types"], (len(moved), 1)), boxes)
    slopes = out["energy_redu"].ravel()[1:].reshape(-1, 6) @ weights
    forces, virial = -slopes[: 3 * n].reshape(n, 3), -slopes[3 * n :].reshape(3, 3)
    return {"energies": out["energy"][0].ravel().tolist(), "forces": forces.tolist(), "virial": virial.tolist()}


def of_file(path: str, items: list[dict]) -> list[dict]:
    tree = load_dp_model(path)
    if tree["backend"] == "TensorFlow" or (find_spec("tensorflow") and has_derivatives(tree["model"])):
        return by_tensorflow(path, items)
    return [{**s, **evaluate(tree["model"], s)} for s in items]


def has_derivatives(model: dict) -> bool:
    """Whether the TensorFlow backend has the model, and means the same: it leaves out empty slots of excluded pairs, and its gelu
    is good to 1e-11 only."""
    if "models" in model:
        return False
    parts = model["descriptor"].get("list", [model["descriptor"]])
    known = all(d["type"] in TENSORFLOW and not d["env_protection"] and not d["exclude_types"] for d in parts)
    return known and not any("gelu" in x["activation_function"] for x in (*parts, model["fitting"]))


def by_tensorflow(path: str, items: list[dict]) -> list[dict]:
    """Forces and virials by the backend's own derivatives."""
    from deepmd.infer import DeepPot

    found = []
    with tempfile.TemporaryDirectory() as folder:
        frozen = str(Path(folder) / "model.pb")
        dp = str(Path(sys.executable).with_name("dp"))
        subprocess.run([dp, "convert-backend", path, frozen], check=True, capture_output=True)
        model = DeepPot(frozen)
        for s in items:
            cell = None if s["box"] is None else np.reshape(s["box"], (1, 9))
            out = model.eval(np.reshape(s["coord"], (1, -1)), cell, s["types"], atomic=True)
            forces, virial, energies = out[1][0], out[2][0].reshape(3, 3), out[3][0, :, 0]
            found.append({**s, "energies": energies.tolist(), "forces": forces.tolist(), "virial": virial.tolist()})
    return found


def main() -> None:
    HERE.mkdir(exist_ok=True)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        table = str(Path(folder) / "table.txt")
        write_table(Path(table))
        for n, (name, config) in enumerate(models(table).items()):
            tree = get_model(config).serialize()
            for inner in tree.get("models", ()):
                inner["inside"] = True
            randomise(tree, np.random.default_rng(n))
            for inner in tree.get("models", ()):
                del inner["inside"]
            path = HERE / (f"{name}.yaml" if name == "se_e2_r" else f"{name}.dp")
            backend = "TensorFlow" if name.endswith("tensorflow") else "dpmodel"
            save_dp_model(str(path), {"model": tree, "model_def_script": {}, "backend": backend})
            found[path.name] = of_file(str(path), structures(len(tree["type_map"])))
            print(name, found[path.name][0]["energies"][:2])
    about = {"command": "python tests/potential/interop/deepmd_reference.py", "deepmd-kit": version("deepmd-kit")}
    (HERE / "references.json").write_text(json.dumps({**about, "models": found}) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(of_file(sys.argv[1], json.loads(sys.stdin.read()))))
    else:
        main()
