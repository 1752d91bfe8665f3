"""Go on from a fitted potential: its form, parameters and statistics, with E0 moved to the energy zero of the new data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from adatom.fitting.batches import Bucket
from adatom.fitting.config import ConfigError, ModelSection
from adatom.fitting.dataset import Frame
from adatom.fitting.e0 import elements_of, least_squares_e0
from adatom.fitting.metrics import compare
from adatom.fitting.statistics import energy_scale, feature_moments, standard
from adatom.potential.evaluator import Precision
from adatom.potential.families import family_of
from adatom.potential.model import FittedModel, Model, ModelConfig, Params, Statistics
from adatom.potential.model_file import load
from adatom.potential.potential import Potential


def load_start(section: ModelSection, frames: Sequence[Frame]) -> Potential:
    """The potential of `model.start_from`. ConfigError where it does not know all elements of the frames."""
    path = section.start_from
    try:
        source = load(path)
    except ValueError as error:
        raise ConfigError(f"model.start_from: {error}") from error
    knows = ", ".join(source.symbols)
    for frame in frames:
        unknown = sorted(set(elements_of([frame])) - set(source.symbols))
        if unknown:
            raise ConfigError(f"{path} knows {knows}; {frame.source} has {', '.join(unknown)}")
    if section.elements and set(section.elements) != set(source.symbols):
        raise ConfigError(f"{path} knows {knows}, but model.elements is {', '.join(section.elements)}: leave it out")
    if section.e0 == "isolated_atoms":
        raise ConfigError("model.e0 cannot be isolated_atoms with model.start_from: leave it out, or give energies")
    return source


def usable(previous: Potential, section: ModelSection, frames: Sequence[Frame], say: Callable[[str], None]) -> Potential | None:
    """The potential, or None, and why, where it knows other elements than the frames have or is not of the form configured."""
    model = new_model(section, previous.model.elements)
    if model == previous.model and set(elements_of(frames)) == set(previous.symbols):
        return previous
    say("starting anew: the potential before has other elements or another model")
    return None


def new_model(section: ModelSection, elements: tuple[int, ...]) -> Model:
    """Of our own family, as configured."""
    s = section
    return Model(ModelConfig(elements=elements, descriptor=s.descriptor, fitting_net=s.fitting_net, repulsion=s.repulsion))


def starting_statistics(
    source: Potential, section: ModelSection, training: Sequence[Frame], precision: Precision
) -> tuple[Statistics, str]:  # fmt: skip
    """The source's, with E0 as given, or moved by the least-squares solution of its errors of the energy; and how, in words."""
    own, symbols = source.statistics, source.symbols
    if isinstance(section.e0, dict):
        missing = [s for s in symbols if s not in section.e0]
        if missing:
            raise ConfigError(f"model.e0 lacks {', '.join(missing)}")
        return replace(own, e0=np.array([section.e0[s] for s in symbols])), "given"
    labelled = [f for f in training if f.labels.energy is not None]
    if not labelled:
        return own, "the model it starts from"
    label, predicted, index = compare(source, labelled, precision=precision).energy
    away = [
        replace(labelled[k], labels=replace(labelled[k].labels, energy=float(d) * len(labelled[k].structure)))
        for k, d in zip(index, label - predicted, strict=True)
    ]
    present = elements_of(away)
    shift, _ = least_squares_e0(away, present)
    moved = np.array([shift[chemical_symbols[z]] if chemical_symbols[z] in present else 0.0 for z in source.model.elements])
    return replace(own, e0=np.asarray(own.e0) + moved), "the model it starts from, moved to the zero of these data"


def conditioned(
    model: FittedModel, network: Params, training: Sequence[Frame], buckets: Sequence[Bucket]
) -> tuple[FittedModel, Params, Callable[[Params], Params]]:  # fmt: skip
    """The form in which a network is trained, the network in that form, and the way back; most are trained as they are.

    Nets of DeePMD-kit see features that are standardised, on the frames of the buckets, as those of our own models are.
    """
    if family_of(model) != "deepmd":
        return model, network, lambda x: x
    from adatom.potential.interop.deepmd.model import DeepmdModel
    from adatom.potential.interop.deepmd.standardised import StandardisedDeepmd, plain, rows_of_nets, standardise

    assert isinstance(model, DeepmdModel)
    rows = rows_of_nets(model.config)
    if not rows:
        return model, network, lambda x: x
    features = next(iter(network["fitting"].values()))["hidden"]["layer_0"]["kernel"].shape[0]
    moments = feature_moments(model, network, buckets, (len(model.elements), features))
    each = {name: standard(moments, own, "together") for name, own in rows.items()}
    return StandardisedDeepmd(model), standardise(network, each, energy_scale(training)), plain


def constants(network: Params) -> Params:
    """The network where it has parts that are never trained, else nothing."""
    return network if "constants" in network else {}


def trainable(network: Params, precision: Precision) -> Params:
    """What training may change, in its precision: all but `constants`."""

    def cast(tree: Any) -> Any:
        return {k: cast(v) for k, v in tree.items()} if isinstance(tree, dict) else np.asarray(tree, dtype=precision)

    return {k: cast(v) for k, v in network.items() if k != "constants"}
