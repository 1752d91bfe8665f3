"""The one schema of a molecular dynamics run: for `simulate`, the command line and `adatom md CONFIG.toml`."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Component = Literal["xx", "yy", "zz", "yz", "xz", "xy"]
COMPONENTS: tuple[Component, ...] = ("xx", "yy", "zz", "yz", "xz", "xy")
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Settings(BaseModel):
    """[md]: how atoms move. Values with `| tuple` may be one for each structure or replica."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ensemble: Literal["nve", "nvt", "npt"] = "nvt"
    steps: Annotated[int, Field(ge=1, le=2_000_000_000, strict=True)]
    timestep_fs: Positive = 1.0
    temperature_K: Annotated[
        Positive | tuple[Positive, ...] | None, Field(description="needed but for nve; also that of new velocities")
    ] = None
    temperature_end_K: Annotated[
        Positive | tuple[Positive, ...] | None, Field(description="ramp: target at the last step, linear from temperature_K")
    ] = None
    thermostat: Annotated[
        Literal["langevin", "nose-hoover", "bussi", "berendsen"], Field(description="berendsen: equilibration only")
    ] = "langevin"
    thermostat_time_fs: Annotated[Positive, Field(description="1/friction of langevin, τ of the others")] = 100.0
    fix_center_of_mass: Annotated[bool, Field(description="under langevin; the others keep it anyway")] = False
    pressure_GPa: Annotated[Finite | tuple[Finite, ...], Field(description="npt only; positive compresses")] = 0.0
    pressure_end_GPa: Annotated[Finite | tuple[Finite, ...] | None, Field(description="ramp")] = None
    barostat: Annotated[
        Literal["isotropic", "flexible", "berendsen"], Field(description="flexible: all `components`; berendsen: to equilibrate")
    ] = "isotropic"
    barostat_time_fs: Positive = 1000.0
    components: Annotated[
        tuple[Component, ...], Field(description="of the cell that flexible may change")
    ] = COMPONENTS
    compressibility_per_GPa: Annotated[Positive, Field(description="a guess, for the berendsen barostat")] = 0.01
    precision: Annotated[Literal["float32", "float64"], Field(description="of the potential; atoms move in float64")] = "float32"
    skin: Annotated[Positive, Field(description="Å beyond the cutoff that neighbour lists hold")] = 0.5
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)] = 0
    interval: Annotated[int, Field(ge=1, strict=True, description="steps between frames")] = 10
    log_interval: Annotated[int | None, Field(ge=1, description="steps between rows of the table; none: interval")] = None
    checkpoint_s: Annotated[float, Field(ge=0.0, description="seconds between checkpoints, at least")] = 30.0
    max_temperature_K: Annotated[
        Positive | None, Field(description="stop above; none: 10 times the target or the start, at least 20,000")
    ] = None
    min_distance: Annotated[
        float, Field(ge=0.0, le=1.0, description="stop at this part of the shortest distance in the data")
    ] = 0.5
    max_spread_eV_A: Annotated[
        Positive | None, Field(description="stop where the error of a force, as the committee knows it, is larger")
    ] = None
    spread_interval: Annotated[
        int | None, Field(ge=1, strict=True, description="steps between looks at the committee; none: as rows")
    ] = None

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        for name in ("thermostat_time_fs", "barostat_time_fs"):
            if getattr(self, name) < 2.0 * self.timestep_fs:
                raise ValueError(f"{name} must be at least two timesteps of {self.timestep_fs:g} fs, got {getattr(self, name):g}")
        if self.ensemble != "nve" and self.temperature_K is None:
            raise ValueError(f"{self.ensemble} needs temperature_K")
        if self.ensemble == "nve" and self.temperature_end_K is not None:
            raise ValueError("temperature_end_K is not for nve: nothing controls the temperature there")
        if self.ensemble != "npt" and (self.pressure_GPa != 0.0 or self.pressure_end_GPa is not None):
            raise ValueError(f"pressure_GPa is for npt only: {self.ensemble} keeps the cell")
        if self.barostat == "flexible" and not self.components:
            raise ValueError("components is empty: name what may change, of " + ", ".join(COMPONENTS))
        if self.barostat != "flexible" and set(self.components) != set(COMPONENTS):
            raise ValueError(f"components are for the flexible barostat, not for {self.barostat}")
        return self

    @property
    def thermostat_or_none(self) -> str:
        return "none" if self.ensemble == "nve" else self.thermostat

    @property
    def barostat_or_none(self) -> str:
        return self.barostat if self.ensemble == "npt" else "none"


class MDConfig(BaseModel):
    """A file for `adatom md CONFIG.toml`. Paths are relative to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[str | tuple[str, ...], Field(description="potential; several: a committee")]
    start: Annotated[str | tuple[str, ...], Field(description="structures, any format ASE reads, the last frame of each")]
    out: Annotated[str, Field(description="trajectory: .extxyz, .traj or .h5; the table goes beside it as .csv")]
    supercell: tuple[int, int, int] = (1, 1, 1)
    replicas: Annotated[int, Field(ge=1, description="runs of each structure, with seeds of their own")] = 1
    md: Settings


def settings(given: Mapping[str, Any]) -> Settings:
    """Settings from names and values; ValueError in one line for what cannot be."""
    try:
        return Settings.model_validate(dict(given))
    except ValidationError as error:
        raise ValueError(_message(error, Settings)) from error


def load_config(path: str | Path) -> MDConfig:
    """Read a TOML file; paths in it become relative to the working directory. ValueError in one line for any mistake."""
    path = Path(path)
    try:
        config = MDConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid TOML, {error}") from error
    except ValidationError as error:
        raise ValueError(f"{path}: {_message(error, MDConfig)}") from error

    def beside(x: str | tuple[str, ...]) -> Any:
        return str(path.parent / x) if isinstance(x, str) else tuple(str(path.parent / y) for y in x)

    return config.model_copy(update={k: beside(getattr(config, k)) for k in ("model", "start", "out")})


def template() -> str:
    """A commented config with all defaults."""
    lines = ["# adatom md: every key with its default. Delete what you do not change; `# key` has none.", ""]
    lines += ['model = "model.adatom"', 'start = "start.extxyz"', 'out = "run.extxyz"', "supercell = [1, 1, 1]", "replicas = 1"]
    lines += ["", "[md]"]
    for key, info in Settings.model_fields.items():
        about = f"  # {info.description}" if info.description else ""
        if info.is_required():
            lines.append(f"{key} = 10000{about}")
        elif info.default is None:
            lines.append(f"# {key} ={about}")
        else:
            value = list(info.default) if isinstance(info.default, tuple) else info.default
            lines.append(" ".join(tomli_w.dumps({key: value}).split()) + about)
    return "\n".join(lines) + "\n"


def _message(error: ValidationError, schema: type[BaseModel]) -> str:
    first = error.errors()[0]
    key = next((str(x) for x in first["loc"] if x in Settings.model_fields or x in MDConfig.model_fields), "")
    key = next((str(x) for x in first["loc"] if x in Settings.model_fields), key) or str(first["loc"][-1] if first["loc"] else "")
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        known = [*schema.model_fields, *Settings.model_fields]
        guess = difflib.get_close_matches(key, known, n=1)
        return f"unknown key '{key}'" + (f": did you mean '{guess[0]}'?" if guess else "")
    text = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"'{key}' is missing"
    return f"{key}: {text}, got {first['input']!r}"[:300] if first["loc"] and first["type"] != "value_error" else text
