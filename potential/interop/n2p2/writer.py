"""A potential as a folder for n2p2: input.nn, scaling.data, weights.NNN.data, in Å and eV.

Our own symmetry functions have n2p2's form where the network has no residual connections; the limits of no neighbour and
of very close ones stay behind. Minimum and maximum of the functions, which n2p2 only warns by, are not known: ±1e30.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from adatom.potential.descriptors import SymmetryFunctionsConfig
from adatom.potential.families import family_of
from adatom.potential.interop.differences import warn_of_differences
from adatom.potential.interop.n2p2.config import Compact, Gaussian, N2p2Config, order
from adatom.potential.interop.n2p2.model import N2p2Model
from adatom.potential.interop.n2p2.settings import CUTOFFS, PARAMETERS
from adatom.potential.model import ModelConfig, Statistics
from adatom.potential.model_file import write_atomically
from adatom.potential.potential import Potential

ACTIVATIONS = {"tanh": "t", "softplus": "p"}
WHY = "n2p2 has no form for this potential: "


def write(potential: Potential, path: str | Path) -> None:
    """Write a potential to a folder, which is made; of a committee, the first. ValueError where it has not n2p2's form."""
    if not isinstance(potential.model, N2p2Model):
        potential = as_n2p2(potential)
    model, folder = potential.model, Path(path)
    assert isinstance(model, N2p2Model)
    if len(set(model.config.networks)) > 1:
        raise ValueError(f"{WHY}its elements have networks of different sizes, which n2p2 2.3 does not read as they are written")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: n2p2 reads a folder, and this is a file")
    folder.mkdir(parents=True, exist_ok=True)
    c, network = model.config, potential.params["network"]
    e0 = np.asarray(potential.statistics.e0) + np.asarray(network["constants"]["offset"])
    write_atomically(folder / "input.nn", _settings(c, float(network["constants"]["energy"]), e0).encode())
    rows = ["# element, function, minimum, maximum, mean, sigma"]
    for e, z in enumerate(c.elements):
        table = np.asarray(network["constants"][chemical_symbols[z]], dtype=np.float64)
        rows += [f"{e + 1:3d} {q + 1:4d} {' '.join(_text(x) for x in row)}" for q, row in enumerate(table)]
    write_atomically(folder / "scaling.data", "\n".join([*rows, ""]).encode())
    for z in c.elements:
        layers = network[chemical_symbols[z]]
        arrays = [np.asarray(layers[f"layer_{n}"][k], dtype=np.float64) for n in range(len(layers)) for k in ("kernel", "bias")]
        numbers = [_text(x) for x in np.concatenate([a.ravel() for a in arrays])]
        write_atomically(folder / f"weights.{z:03d}.data", "\n".join([*numbers, ""]).encode())


def as_n2p2(potential: Potential) -> Potential:
    """Our own model of symmetry functions as one of n2p2: the same energies wherever atoms have neighbours and none is closer
    than in the data; NotTheSameWarning says so. ValueError where there is no such model."""
    config, params = potential.model.config, potential.params
    if not isinstance(config, ModelConfig):
        raise ValueError(f"{WHY}it is a model of {family_of(potential.model)}")
    d, net = config.descriptor, config.fitting_net
    if not isinstance(d, SymmetryFunctionsConfig):
        raise ValueError(f"{WHY}its descriptor is {d.type}, not symmetry_functions")
    n_features = d.n_features(len(config.elements))
    widths = (n_features, *net.widths)
    residual = [f"{a} to {b}" for a, b in zip(widths[:-1], widths[1:], strict=True) if b in (a, 2 * a)]
    for there, what in (
        (net.activation not in ACTIVATIONS, f"activation = {net.activation!r}; it has {' and '.join(ACTIVATIONS)}"),
        (bool(residual), f"a residual connection, which layers of width {', '.join(residual)} have"),
    ):
        if there:
            raise ValueError(f"{WHY}it has {what}")
    warn_of_differences(potential, "n2p2")
    s, t = potential.statistics, len(config.elements)
    order_of_elements = np.argsort(config.elements)
    ours = [_functions(d, config.elements) for _ in range(t)]
    network: dict[str, Any] = {"constants": {"energy": np.array(1.0), "offset": np.zeros(t)}}
    functions = []
    for e in order_of_elements:
        rows = sorted(range(n_features), key=lambda q, e=e: order(ours[e][q]))  # type: ignore[misc]
        functions.append([ours[e][q] for q in rows])
        mean, sigma = (np.asarray(x, dtype=np.float64)[e][rows] for x in (s.feature_mean, s.feature_std))
        far = np.full(n_features, 1e30)
        name = chemical_symbols[config.elements[e]]
        network["constants"][name] = np.stack([-far, far, mean, sigma], axis=1)
        tree = params["network"]["fitting"][f"species_{e}"]
        layers = [tree["hidden"][f"layer_{n}"] for n in range(len(net.widths))] + [tree["energy"]]
        arrays = [{k: np.asarray(x[k], dtype=np.float64) for k in ("kernel", "bias")} for x in layers]
        arrays[0]["kernel"] = arrays[0]["kernel"][rows]
        shift, scale = float(np.asarray(s.shift)[e]), float(np.asarray(s.scale)[e])
        arrays[-1] = {"kernel": scale * arrays[-1]["kernel"], "bias": scale * arrays[-1]["bias"] + shift}
        network[name] = {f"layer_{n}": x for n, x in enumerate(arrays)}
    model = N2p2Model(
        N2p2Config.model_validate(
            {
                "elements": sorted(config.elements),
                "functions": [[f.model_dump() for f in x] for x in functions],
                "networks": t * [{"widths": net.widths, "activations": [ACTIVATIONS[net.activation]] * len(net.widths) + ["l"]}],
                "cutoff_type": "cos" if d.cutoff_function == "cosine" else "poly2",
                "scaling": "scale_sigma",
            }
        )
    )
    none, one = np.zeros(t), np.ones((t, 1))
    distance = np.asarray(s.min_distance)[np.ix_(order_of_elements, order_of_elements)]
    statistics = Statistics(np.asarray(s.e0)[order_of_elements], none, none + 1.0, 0.0 * one, one, distance)
    return replace(potential, model=model, params={"network": network, "statistics": statistics}, committee=None)


def _functions(d: SymmetryFunctionsConfig, elements: tuple[int, ...]) -> list[Gaussian]:
    """Of every element the same, in the order of our features."""
    found = []
    for z in elements:
        found += [Gaussian(kind=2, neighbours=(z,), eta=f.eta, shift=f.shift, cutoff=d.cutoff) for f in d.radial_set()]
    kind: Any = 3 if d.angular_kind == "narrow" else 9
    for pair in combinations_with_replacement(elements, 2):
        near = tuple(sorted(pair))
        for f in d.angular_set():
            found.append(
                Gaussian(kind=kind, neighbours=near, eta=f.eta, shift=f.shift, sign=f.sign, zeta=f.zeta, cutoff=d.cutoff)
            )
    return found


def _settings(c: N2p2Config, energy: float, e0: np.ndarray) -> str:
    """input.nn."""
    symbols = [chemical_symbols[z] for z in c.elements]
    lines = ["# length unit: Angstrom", "# energy unit: eV"]
    lines += [f"number_of_elements {len(symbols)}", f"elements {' '.join(symbols)}"]
    lines += [f"atom_energy {s} {_text(x)}" for s, x in zip(symbols, e0, strict=True)]
    if energy != 1.0:
        lines += ["mean_energy 0.0", f"conv_energy {_text(1.0 / energy)}", "conv_length 1.0"]
    lines.append(f"cutoff_type {CUTOFFS.index(c.cutoff_type)} {_text(c.cutoff_alpha)}")
    keys = {"scale": ["scale"], "center": ["center"], "scale_center": ["scale", "center"], "scale_sigma": ["scale"], "none": []}
    lines += [f"{k}_symmetry_functions{'_sigma' * (c.scaling == 'scale_sigma')}" for k in keys[c.scaling]]
    lines += [f"scale_min_short {_text(c.scale_min)}", f"scale_max_short {_text(c.scale_max)}"]
    lines += ["normalize_nodes"] * c.normalize_nodes
    (net,) = set(c.networks)
    lines += [f"global_hidden_layers_short {len(net.widths)}", f"global_nodes_short {' '.join(map(str, net.widths))}"]
    lines.append(f"global_activation_short {' '.join(net.activations)}")
    for s, functions in zip(symbols, c.functions, strict=True):
        lines += [f"symfunction_short {s} {_line(f)}" for f in functions]
    return "\n".join([*lines, ""])


def _line(f: Gaussian | Compact) -> str:
    """What follows the central element."""
    words = [str(f.kind), *(chemical_symbols[z] for z in f.neighbours)]
    if isinstance(f, Compact):
        angles = [_text(f.left), _text(f.right)] if f.kind not in (20, 23) else []
        return " ".join([*words, _text(f.inner), _text(f.cutoff), *angles, f.core_name])
    words += [_text(getattr(f, name)) for name in PARAMETERS[f.kind].split()]
    return " ".join(words + ([_text(f.shift)] if f.kind in (3, 9) else []))


def _text(x: float) -> str:
    """The shortest text that is read as the same float64."""
    return repr(float(x))
