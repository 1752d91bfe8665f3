"""The one schema of a fit: what may stand in a config file, its defaults, and one-line errors for what may not.

A file is TOML with the sections [data], [model], [loss], [training]; every key has a default, so an empty file and
`--train DATA` are enough. `--set section.key=value` changes single keys. The resolved config is written beside the results.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from ase.data import atomic_numbers
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adatom.potential.descriptors import MomentsConfig
from adatom.potential.model import DESCRIPTORS, DescriptorConfig, FittingNetConfig


class ConfigError(ValueError):
    """A config cannot be used; one line says which key, what is wrong and what to do."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Section):
    """[data]: where frames come from and how they are divided."""

    train: Annotated[tuple[str, ...], Field(description="files, patterns with * or DeePMD folders")] = ()
    test: Annotated[tuple[str, ...], Field(description="never seen in training; errors are reported on it")] = ()
    validation: Annotated[tuple[str, ...], Field(description="given, or a fraction of train")] = ()
    validation_fraction: Annotated[float, Field(ge=0.0, lt=0.9, description="of train, where no validation is given")] = 0.05
    split: Annotated[Literal["random", "group"], Field(description="group: frames of one group stay together")] = "random"
    group_key: Annotated[str, Field(description="entry of the file that names the group; empty: the file")] = ""
    energy_key: Annotated[str, Field(description="empty: search REF_energy, calculator results, energy, …")] = ""
    forces_key: str = ""
    stress_key: str = ""
    virial_key: str = ""
    audit: Annotated[Literal["refuse", "warn", "off"], Field(description="refuse: stop at findings of severity error")] = "refuse"


SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "small": {
        "descriptor": {"type": "moments", "n_channels": 8, "order": 3, "contractions": ((1, 1, 2), (2, 2, 2))},
        "fitting_net": {"widths": (16, 16)},
    },
    "medium": {},
    "large": {"descriptor": {"type": "moments", "n_channels": 32, "n_radial": 10}, "fitting_net": {"widths": (64, 64)}},
}
"""What the named sizes have in place of the defaults."""


class ModelSection(_Section):
    """[model]: the shape of the potential."""

    elements: Annotated[tuple[str, ...], Field(description="symbols; empty: those of the training data")] = ()
    size: Annotated[
        Literal["small", "medium", "large"], Field(description="of a moments model, where descriptor and fitting_net say nothing")
    ] = "medium"
    descriptor: DescriptorConfig = MomentsConfig()
    fitting_net: FittingNetConfig = FittingNetConfig()
    repulsion: Annotated[bool, Field(description="screened nuclear repulsion below the shortest distances in the data")] = True
    e0: Annotated[
        Literal["auto", "least_squares", "isolated_atoms"] | dict[str, float],
        Field(description="auto: isolated-atom frames where there are any, else least squares; or given, eV"),
    ] = "auto"
    start_from: Annotated[str, Field(description="an .adatom file: its form and parameters instead of fresh ones")] = ""

    @model_validator(mode="before")
    @classmethod
    def _sized(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        chosen = SIZES.get(str(given.get("size")), {})
        own = {k: x for k in chosen if isinstance(x := given.get(k, {}), dict)}
        kind = own.get("descriptor", {}).get("type", "moments")
        if chosen and kind != "moments":
            raise ValueError(f"size is for moments; give the sizes of {kind} by their own keys")
        return {**given, **{k: {**chosen[k], **x} for k, x in own.items()}}

    @model_validator(mode="after")
    def _symbols(self) -> ModelSection:
        for s in (*self.elements, *(self.e0 if isinstance(self.e0, dict) else ())):
            if atomic_numbers.get(s, 0) < 1:
                raise ValueError(f"{s!r} is not the symbol of an element")
        for s, energy in self.e0.items() if isinstance(self.e0, dict) else ():
            if not math.isfinite(energy):
                raise ValueError(f"e0 of {s} is {energy}, not a finite energy in eV")
        if len(set(self.elements)) != len(self.elements):
            raise ValueError(f"elements named twice in {list(self.elements)}")
        shape = {"descriptor", "fitting_net", "repulsion"}
        if self.start_from and any(getattr(self, k) != type(self).model_fields[k].default for k in shape):
            raise ValueError("start_from brings its own descriptor, fitting_net and repulsion: leave them out")
        return self


class LossConfig(_Section):
    """[loss]: prefactors of squared errors per atom (eV²), of forces (eV/Å)² and of stress (eV/Å³)².

    Start moves to end with the learning rate.
    """

    energy_start: Annotated[float, Field(ge=0.0)] = 20.0
    energy_end: Annotated[float, Field(ge=0.0)] = 60.0
    forces_start: Annotated[float, Field(ge=0.0)] = 1.0
    forces_end: Annotated[float, Field(ge=0.0)] = 1.0
    stress_start: Annotated[float, Field(ge=0.0)] = 100.0
    stress_end: Annotated[float, Field(ge=0.0)] = 100.0
    huber: Annotated[float, Field(ge=0.0, description="Huber's δ in units of each term; 0: plain squares")] = 0.0

    @model_validator(mode="after")
    def _something(self) -> LossConfig:
        if not any((self.energy_start, self.energy_end, self.forces_start, self.forces_end, self.stress_start, self.stress_end)):
            raise ValueError("all prefactors are zero: nothing would be fitted")
        return self


class TrainingConfig(_Section):
    """[training]: how the parameters are found."""

    epochs: Annotated[int, Field(ge=0, description="0: as many as make about four million visits to atoms")] = 0
    batch_atoms: Annotated[int, Field(ge=1, description="atoms a batch, rounded to whole frames")] = 128
    optimiser: Annotated[Literal["soap", "adam"], Field(description="soap: Adam in the eigenbasis of its gradients")] = "soap"
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 2e-3
    final_learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 2e-6
    schedule: Literal["cosine", "exponential", "constant"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    weight_decay: Annotated[float, Field(ge=0.0, description="decoupled, a step: times the learning rate")] = 3e-3
    gradient_clip: Annotated[float, Field(gt=0.0, description="largest global norm of a gradient")] = 10.0
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0, description="averaged weights are what is evaluated and saved; 0: off")] = (
        0.998
    )
    keep: Annotated[Literal["best", "last"], Field(description="best: on 8 or more validation frames; or the last")] = "best"
    patience: Annotated[int, Field(ge=0, description="stop after that many evaluations without improvement; 0: never")] = 0
    evaluate_every: Annotated[int, Field(ge=0, description="epochs between evaluations; 0: about 50 in a run")] = 0
    checkpoint_seconds: Annotated[float, Field(gt=0.0, description="at most this much work is lost by a kill")] = 30.0
    max_buckets: Annotated[int, Field(ge=1, le=16, description="sizes frames are padded to; each is compiled once")] = 3
    precision: Literal["float32", "float64"] = "float32"
    seed: Annotated[int, Field(ge=0, description="all that is random comes from it")] = 1

    @model_validator(mode="after")
    def _judged(self) -> TrainingConfig:
        if self.patience and self.keep == "last":
            raise ValueError("patience waits for better weights: it needs keep = 'best'")
        return self


VISITS = 4_000_000
"""Atoms seen in a default training, all epochs together: some three minutes of one core for the default model."""


def epochs_of(training: TrainingConfig, atoms: int) -> int:
    """As configured, or as many as make `VISITS` visits to the atoms of all training frames, at least 10 and at most 3000."""
    return training.epochs or min(max(round(VISITS / max(atoms, 1)), 10), 3000)


class UncertaintyConfig(_Section):
    """[uncertainty]: what the potential will know about its own error."""

    kind: Annotated[
        Literal["laplace", "shallow", "deep", "none"],
        Field(description="laplace: the last layer's posterior, costs seconds; shallow, deep: members trained apart"),
    ] = "laplace"
    members: Annotated[int, Field(ge=2, le=64, multiple_of=2)] = 8
    effort: Annotated[
        float, Field(gt=0.0, le=4.0, description="of shallow and deep: epochs as a part of the potential's own")
    ] = 0.25


class FitConfig(_Section):
    """A whole fit."""

    data: DataConfig = DataConfig()
    model: ModelSection = ModelSection()
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    uncertainty: UncertaintyConfig = UncertaintyConfig()


def load_config(path: str | Path | None, settings: Sequence[str] = (), overrides: dict[str, Any] | None = None) -> FitConfig:
    """Read a TOML file (or start from defaults), apply `section.key=value` settings and overrides {"section.key": value}.

    Relative data paths in the file are relative to it, others to the working folder; all are made absolute, so that the
    resolved config means the same wherever it lies. Raises ConfigError with one line.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        path = Path(path)
        try:
            tree = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(f"{path}: no such config file; `adatom template fit` prints one") from error
        except IsADirectoryError as error:
            raise ConfigError(f"{path}: a folder, not a config file") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid TOML, {error}") from error
        _absolute_paths(tree, path.parent)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: write section.key=value")
        _put(tree, key.strip(), _value(value.strip()))
    for key, value in (overrides or {}).items():
        _put(tree, key, value)
    _absolute_paths(tree, Path())
    section = tree.get("model")
    descriptor = section.get("descriptor") if isinstance(section, dict) else None
    if isinstance(descriptor, dict):
        descriptor.setdefault("type", MomentsConfig().type)
    try:
        return FitConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{path or 'config'}: {message(error, FitConfig)}") from error


def _absolute_paths(tree: dict[str, Any], folder: Path) -> None:
    model, data = tree.get("model"), tree.get("data")
    if isinstance(model, dict) and isinstance(model.get("start_from"), str) and model["start_from"]:
        model["start_from"] = _absolute(folder, model["start_from"])
    if not isinstance(data, dict):
        return
    for key in ("train", "test", "validation"):
        if isinstance(data.get(key), str):
            data[key] = [data[key]]
        if isinstance(data.get(key), list | tuple):
            data[key] = [_absolute(folder, p) if isinstance(p, str) else p for p in data[key]]


def _absolute(folder: Path, text: str) -> str:
    path = folder / Path(text).expanduser()
    return str(path.parent.resolve() / path.name)  # a link keeps its own name: the extension tells the format


def dump_config(config: FitConfig) -> str:
    """The resolved config as TOML."""
    return tomli_w.dumps(config.model_dump(mode="json"))


def template() -> str:
    """A commented config with all defaults."""
    lines = ["# adatom fit: every key with its default. Delete what you do not change.", ""]
    for name, section in FitConfig.model_fields.items():
        lines += _describe(name, section.default)
    return "\n".join(lines) + "\n"


def _describe(name: str, section: BaseModel) -> list[str]:
    about = (type(section).__doc__ or "").partition(": ")[2].partition("\n\n")[0]
    lines = [f"[{name}]" + (f"  # {about}" if "." not in name else "")]
    nested: list[str] = []
    for key, info in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, BaseModel):
            nested += _describe(f"{name}.{key}", value)
            continue
        text = tomli_w.dumps({key: section.model_dump(mode="json")[key]}, multiline_strings=False).strip()
        text = " ".join(text.split()) if "\n" in text else text
        lines.append(text + (f"  # {info.description}" if info.description else ""))
    return [*lines, "", *nested]


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    node = tree
    for name in parents:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise ConfigError(f"{key}: {name} is a value, not a section")
    node[leaf] = value


def message(error: ValidationError, schema: type[BaseModel]) -> str:
    """The first mistake in one line: which key of which section, what is wrong, what may have been meant."""
    first = error.errors()[0]
    place: list[str] = []
    for part in first["loc"]:
        if isinstance(part, int) and place:
            place[-1] += f"[{part}]"
        elif part not in DESCRIPTORS and "[" not in str(part):  # names of union members
            place.append(str(part))
    where = f"[{'.'.join(place[:-1])}]" if len(place) > 1 else "the file"
    if first["type"] == "extra_forbidden":
        guess = difflib.get_close_matches(place[-1], _known_keys(schema, place[:-1], first["loc"]), n=1)
        return f"unknown key '{place[-1]}' in {where}" + (f": did you mean '{guess[0]}'?" if guess else "")
    text = first["msg"].removeprefix("Value error, ")
    return f"'{place[-1]}' in {where}: {text}, got {first['input']!r}"[:300] if place else text


def _known_keys(node: type[BaseModel], place: Sequence[str], loc: Sequence[int | str]) -> list[str]:
    for name in place:
        if name == "descriptor":
            node = next((c for name, c in DESCRIPTORS.items() if name in loc), MomentsConfig)
            continue
        annotation = node.model_fields[name].annotation if name in node.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        node = annotation
    return list(node.model_fields)
