"""The one file of `adatom learn CONFIG.toml`: where to begin, where to explore, what to select, who labels, when to stop.

    [start]  labelled frames, or none        [explore]  prototypes, structures, temperatures, pressures, lengths of runs
    [select] window, rule, how many          [label]    the calculator (`label_config`)
    [fit.*]  any key of `adatom fit`         [stop]     convergence and budgets
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adatom.fitting.active.generators import Generator
from adatom.fitting.active.label_config import LabelConfig, label_config
from adatom.fitting.config import (
    ConfigError,
    DataConfig,
    FitConfig,
    LossConfig,
    ModelSection,
    TrainingConfig,
    UncertaintyConfig,
    epochs_of,
    message,
)

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
GOING_ON = 0.25
"""Learning rate of a fit that goes on from the potential before, as a part of one anew: enough to follow, not to forget."""
EPOCHS, FEWEST_STEPS = 1_200, 3_000
"""Of a fit whose epochs are not given, up to as many visits to atoms as `adatom fit` makes."""
FEW_ATOMS = 200
"""Up to so many in the training frames weights decay as configured; with more, less."""
Rule = Literal["determinant", "weighted", "farthest", "highest", "random"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StartConfig(_Section):
    """[start]: what is known before."""

    data: Annotated[tuple[str, ...], Field(description="labelled frames, of the same calculator and settings")] = ()
    test: Annotated[tuple[str, ...], Field(description="labelled frames that errors are reported on, never selected from")] = ()
    labels: Annotated[int, Field(ge=0, description="structures of [explore] labelled before anything is fitted")] = 12


class ExploreConfig(_Section):
    """[explore]: molecular dynamics over what the potential is for."""

    prototypes: Annotated[dict[str, str], Field(description="name = file, of crystals or molecules")] = {}
    structures: tuple[Generator, ...] = ()
    temperatures_K: Annotated[tuple[Positive, ...], Field(min_length=1)] = (300.0, 600.0, 1200.0)
    pressures_GPa: Annotated[
        tuple[Finite, ...], Field(min_length=1, description="of what is periodic in three directions")
    ] = (0.0,)
    runs: Annotated[int, Field(ge=1, description="an iteration; structures, temperatures and pressures take turns")] = 24
    duration_ps: Annotated[Positive, Field(description="of each run in the first iteration")] = 1.0
    growth: Annotated[float, Field(ge=1.0, le=10.0, description="runs of each iteration are so many times longer")] = 1.5
    max_duration_ps: Positive = 10.0
    timestep_fs: Positive = 1.0
    interval: Annotated[int, Field(ge=1, description="steps between frames that are judged")] = 20
    bias_ratio: Annotated[
        float, Field(ge=0.0, le=1.0, description="drive runs towards high uncertainty, with this part of the mean force; 0: off")
    ] = 0.0


class SelectConfig(_Section):
    """[select]: which of the explored frames are labelled."""

    lower_eV_A: Annotated[float, Field(ge=0.0, description="σ of a force: below, a frame is accurate; 0: adaptive")] = 0.0
    upper_eV_A: Annotated[float, Field(ge=0.0, description="above, a run is stopped; 0: adaptive")] = 0.0
    rule: Annotated[Rule, Field(description="among candidates; random is DP-GEN's")] = "weighted"
    labels: Annotated[int, Field(ge=1, description="an iteration, at most")] = 20
    quiet: Annotated[float, Field(ge=0.0, lt=1.0, description="of these, from accurate frames, for what crystals are like")] = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> SelectConfig:
        if (self.lower_eV_A == 0.0) != (self.upper_eV_A == 0.0):
            raise ValueError("give both lower_eV_A and upper_eV_A, or neither")
        if self.upper_eV_A and self.upper_eV_A <= self.lower_eV_A:
            raise ValueError(f"upper_eV_A must be above lower_eV_A, {self.upper_eV_A:g} is not above {self.lower_eV_A:g}")
        return self


class StopConfig(_Section):
    """[stop]: whichever comes first."""

    accurate: Annotated[float, Field(gt=0.0, le=1.0, description="part of explored frames, with runs of full length")] = 0.995
    iterations: Annotated[int, Field(ge=1)] = 20
    labels: Annotated[int, Field(ge=1, description="in all, beside [start] data")] = 1000
    core_hours: Annotated[float, Field(ge=0.0, description="of labelling; 0: no limit")] = 0.0
    hours: Annotated[float, Field(ge=0.0, description="of the clock, while the campaign runs; 0: no limit")] = 0.0


class _Loss(LossConfig):
    """Prefactors of `adatom fit`, a tenth for energies: of few frames nearly all that is known stands in the forces."""

    energy_start: Annotated[float, Field(ge=0.0)] = 2.0
    energy_end: Annotated[float, Field(ge=0.0)] = 20.0


class _Training(TrainingConfig):
    """As of `adatom fit`, but weights decay, and the last are kept: the best on a handful of frames are the best by chance.

    Decay stands for what is known of weights before there are data: beside a loss that is a mean it loses weight as data grow.
    """

    weight_decay: Annotated[
        float, Field(ge=0.0, description="decoupled, a step: times the learning rate; of 200 atoms, of more inversely less")
    ] = 0.3
    keep: Annotated[Literal["best", "last"], Field(description="best: on 8 or more validation frames; or the last")] = "last"


class FitSections(_Section):
    """[fit.model], [fit.loss], [fit.training], [fit.uncertainty]: as of `adatom fit`.

    start: anew by default. A label costs more than a fit; a potential follows from its data alone, not from what was done before;
    members keep the spread of independent weights, on which σ rests; and networks that go on generalise worse than those that
    begin anew (Ash, Adams, NeurIPS 33 (2020)). previous is for fits that cost more than labels.
    """

    start: Annotated[
        Literal["anew", "previous"],
        Field(description="anew: every potential from random weights; previous: from the one before, members too"),
    ] = "anew"
    previous_effort: Annotated[float, Field(gt=0.0, le=1.0, description="epochs of start = previous, as a part")] = 0.3
    validation_fraction: Annotated[float, Field(gt=0.0, lt=0.9)] = 0.15
    model: ModelSection = ModelSection()
    loss: _Loss = _Loss()
    training: _Training = _Training()
    uncertainty: UncertaintyConfig = UncertaintyConfig(kind="deep", members=4, effort=0.5)

    @model_validator(mode="after")
    def _knows(self) -> FitSections:
        if self.uncertainty.kind == "none":
            raise ValueError("active learning needs a potential that knows its error: uncertainty.kind cannot be none")
        return self


class LearnConfig(_Section):
    """A campaign."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    start: StartConfig = StartConfig()
    explore: ExploreConfig = ExploreConfig()
    select: SelectConfig = SelectConfig()
    label: LabelConfig
    fit: FitSections = FitSections()
    stop: StopConfig = StopConfig()

    @model_validator(mode="after")
    def _somewhere(self) -> LearnConfig:
        if not self.explore.structures or not self.explore.prototypes:
            raise ValueError("[explore] needs prototypes and [[explore.structures]]: what shall be explored?")
        return self

    def fit_config(
        self, train: Path, validation: Path | None = None, *, iteration: int, atoms: int, goes_on: bool = False
    ) -> FitConfig:
        """Of the potential of one iteration. atoms: in the training frames; goes_on: from the potential before.

        Paths are made absolute, as `adatom.fitting.config` does when a fit is resumed.
        """
        data = DataConfig(
            train=(str(train.absolute()),), validation=(str(validation.absolute()),) if validation else (), test=self.start.test,
            validation_fraction=self.fit.validation_fraction if self.fit.start == "anew" else 0.0, audit="off",
        )  # fmt: skip
        given = self.fit.training
        decay = given.weight_decay * min(1.0, FEW_ATOMS / max(atoms, 1))
        training = TrainingConfig(**{**given.model_dump(), "seed": given.seed + iteration, "weight_decay": decay})
        if not training.epochs:
            batches = max(1, -(-atoms // training.batch_atoms))
            epochs = min(max(EPOCHS, -(-FEWEST_STEPS // batches)), epochs_of(training, atoms))
            training = training.model_copy(update={"epochs": epochs})
        if goes_on:
            epochs = max(1, round(self.fit.previous_effort * training.epochs))
            rate = GOING_ON * training.learning_rate
            training = training.model_copy(
                update={"epochs": epochs, "learning_rate": rate, "final_learning_rate": min(rate, training.final_learning_rate)}
            )
        loss = LossConfig(**self.fit.loss.model_dump())
        return FitConfig(data=data, model=self.fit.model, loss=loss, training=training, uncertainty=self.fit.uncertainty)


def load_config(path: str | Path) -> LearnConfig:
    """Read a TOML file; paths in it are relative to it. ConfigError with one line for any mistake."""
    path = Path(path)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such config file; `adatom template learn` prints one") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: a folder, not a config file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML, {error}") from error
    root = path.parent.resolve()
    _absolute(tree, root)
    if not isinstance(tree.get("label"), dict):
        raise ConfigError(f"{path}: there is no section [label]: who computes energies and forces?")
    try:
        tree["label"] = label_config(tree["label"], root=root)
        return LearnConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{path}: {message(error, LearnConfig)}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def dump_config(config: LearnConfig) -> str:
    """As TOML that means the same wherever it lies: all paths are absolute."""
    return tomli_w.dumps(config.model_dump(mode="json"))


def _absolute(tree: dict[str, Any], root: Path) -> None:
    start, explore, fit = (tree.get(x) for x in ("start", "explore", "fit"))
    if isinstance(start, dict):
        for key in ("data", "test"):
            value = [start[key]] if isinstance(start.get(key), str) else start.get(key)
            if isinstance(value, list):
                start[key] = [str(root / x) if isinstance(x, str) else x for x in value]
    if isinstance(explore, dict) and isinstance(explore.get("prototypes"), dict):
        explore["prototypes"] = {k: str(root / v) if isinstance(v, str) else v for k, v in explore["prototypes"].items()}
    descriptor = fit.get("model", {}).get("descriptor") if isinstance(fit, dict) and isinstance(fit.get("model"), dict) else None
    if isinstance(descriptor, dict):
        descriptor.setdefault("type", "moments")
