"""The section [label] of a config: which calculator makes the labels, where it runs, and what is believed of its results.

The fingerprint of the settings (calculator, arguments, stress) is part of the identity of a calculation: labels of different
settings are never mixed. Where and how fast it runs is not part of it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

CALCULATORS = {
    "abinit": "ase.calculators.abinit:Abinit",
    "aims": "ase.calculators.aims:Aims",
    "castep": "ase.calculators.castep:Castep",
    "cp2k": "ase.calculators.cp2k:CP2K",
    "dftb": "ase.calculators.dftb:Dftb",
    "dftd3": "ase.calculators.dftd3:DFTD3",
    "eam": "ase.calculators.eam:EAM",
    "emt": "ase.calculators.emt:EMT",
    "espresso": "ase.calculators.espresso:Espresso",
    "gpaw": "gpaw.new.ase_interface:GPAW",
    "lammpslib": "ase.calculators.lammpslib:LAMMPSlib",
    "lj": "ase.calculators.lj:LennardJones",
    "morse": "ase.calculators.morse:MorsePotential",
    "nwchem": "ase.calculators.nwchem:NWChem",
    "orca": "ase.calculators.orca:ORCA",
    "siesta": "ase.calculators.siesta:Siesta",
    "tblite": "tblite.ase:TBLite",
    "vasp": "ase.calculators.vasp:Vasp",
}

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SlurmConfig(_Section):
    """[label.slurm]: how a job is asked for, with executor = "slurm"."""

    partition: Annotated[str, Field(description="empty: the cluster's default")] = ""
    minutes: Annotated[int, Field(ge=0, description="time limit of a job; 0: timeout_minutes and 5 more")] = 0
    cpus_per_task: Annotated[int, Field(ge=0, description="0: cores")] = 0
    parameters: Annotated[dict[str, str | int | bool | float], Field(description="of sbatch, such as account, qos, mem")] = {}
    setup: Annotated[tuple[str, ...], Field(description="lines of shell before the job, such as module load")] = ()


class ChecksConfig(_Section):
    """[label.checks]: a label outside these limits is rejected, with the reason."""

    min_distance: Annotated[
        float, Field(ge=0.0, le=2.0, description="of the sum of covalent radii; looked at before computing")
    ] = 0.5
    max_force_eV_A: Annotated[Positive, Field(description="largest force on an atom")] = 50.0
    max_net_force_eV_A: Annotated[Positive, Field(description="|sum of forces| / atoms")] = 0.05
    energy_deviations: Annotated[
        float, Field(ge=0.0, description="energy per atom, robust z-score among labels of the same composition; 0: off")
    ] = 20.0


class LabelConfig(_Section):
    """[label]: who computes energies, forces and stress."""

    calculator: Annotated[str, Field(description=f"{', '.join(CALCULATORS)}, or module:Class")]
    arguments: Annotated[dict[str, Any], Field(description="keyword arguments of that ASE calculator")] = {}
    stress: Annotated[bool, Field(description="false where stress is not converged (low plane-wave cut-off) or not offered")] = (
        True
    )
    python: Annotated[str, Field(description="interpreter that has the calculator; empty: this one")] = ""
    launcher: Annotated[
        tuple[str, ...],
        Field(description='before the interpreter, or with it where it ends in python: ["mpiexec", "gpaw", "python"]'),
    ] = ()
    environment: Annotated[dict[str, str | int | float], Field(description="variables for the calculation")] = {}
    workers: Annotated[int, Field(ge=1, le=10_000, description="calculations at once (slurm: jobs in the queue)")] = 1
    cores: Annotated[int, Field(ge=1, description="of one calculation; sets threads unless there is a launcher")] = 1
    timeout_minutes: Annotated[Positive, Field(le=1e6, description="of one calculation")] = 1440.0
    attempts: Annotated[int, Field(ge=1, le=100, description="before a calculation counts as failed")] = 2
    patience_minutes: Annotated[
        Positive, Field(le=1e6, description="without any label being computed (jobs held, SLURM gone), until it is given up")
    ] = 1440.0
    executor: Literal["local", "slurm"] = "local"
    poll_seconds: Annotated[float, Field(ge=0.0, le=3600.0, description="0: 0.2 local, 10 slurm")] = 0.0
    root: Annotated[str, Field(description="what ./paths in strings are relative to; empty: the folder of the config")] = ""
    slurm: SlurmConfig = SlurmConfig()
    checks: ChecksConfig = ChecksConfig()

    @field_validator("calculator")
    @classmethod
    def _calculator(cls, name: str) -> str:
        module, colon, factory = name.partition(":")
        if name in CALCULATORS or (colon and module and factory.isidentifier()):
            return name
        guess = difflib.get_close_matches(name.lower(), CALCULATORS, n=1)
        raise ValueError(f"did you mean '{guess[0]}'?" if guess else f"known are {', '.join(CALCULATORS)}, or write module:Class")

    @field_validator("arguments")
    @classmethod
    def _plain(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(arguments, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"only numbers, strings, true/false, lists and tables: {error}") from error
        return arguments

    @property
    def factory(self) -> str:
        """module:Class of the calculator."""
        return CALCULATORS.get(self.calculator, self.calculator)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits: the same for the same calculator, arguments (as written) and choice of stress."""
        text = json.dumps([self.factory, _canonical(self.arguments), self.stress], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def seconds_between_polls(self) -> float:
        return self.poll_seconds or (0.2 if self.executor == "local" else 10.0)

    @property
    def job_minutes(self) -> int:
        """Time limit to ask of the batch system, min."""
        return self.slurm.minutes or math.ceil(self.timeout_minutes) + 5

    @property
    def longest_seconds(self) -> float:
        """After which a calculation has been ended by its supervisor, or its job by the batch system."""
        return 60.0 * (self.job_minutes if self.executor == "slurm" else self.timeout_minutes) + 120.0

    def job(self) -> dict[str, Any]:
        """What a worker needs to know, as JSON; strings that begin with ./ or ../ are made absolute."""
        root = Path(self.root).resolve()
        environment = {k: _absolute(v if isinstance(v, str) else str(v), root) for k, v in self.environment.items()}
        return {
            "calculator": self.factory, "arguments": _absolute(self.arguments, root), "stress": self.stress,
            "python": _absolute(self.python, root) or sys.executable, "launcher": list(self.launcher), "environment": environment,
            "cores": self.cores, "timeout_minutes": self.timeout_minutes, "root": str(root),
        }  # fmt: skip


def label_config(given: Mapping[str, Any], *, root: str | Path = "", where: str = "label") -> LabelConfig:
    """The section from names and values, with `root` where the file lies. Raises ValueError in one line."""
    tree = dict(given)
    tree.setdefault("root", "")
    if isinstance(tree["root"], str):
        tree["root"] = str((Path(root) / tree["root"]).resolve())
    try:
        return LabelConfig.model_validate(tree)
    except ValidationError as error:
        raise ValueError(label_message(error, where)) from error


def load_label_config(path: str | Path) -> LabelConfig:
    """Read [label] of a TOML file, other sections are not looked at. Raises ValueError in one line for any mistake."""
    path = Path(path)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid TOML, {error}") from error
    except OSError as error:
        raise ValueError(f"{path}: no config file that can be read ({error.strerror})") from error
    section = tree.get("label")
    if not isinstance(section, dict):
        raise ValueError(f"{path}: there is no section [label]")
    try:
        return label_config(section, root=path.parent)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def label_template() -> str:
    """The section with all defaults, commented, as TOML."""
    sections: list[tuple[str, type[BaseModel]]] = [
        ("label", LabelConfig),
        ("label.slurm", SlurmConfig),
        ("label.checks", ChecksConfig),
    ]
    lines = []
    for name, section in sections:
        lines.append(f"[{name}]  # {(section.__doc__ or '').partition(': ')[2]}")
        for key, info in section.model_fields.items():
            if key in ("slurm", "checks"):
                continue
            value = "emt" if info.is_required() else list(info.default) if isinstance(info.default, tuple) else info.default
            text = f"{key} = {{}}" if value == {} else " ".join(tomli_w.dumps({key: value}).split())
            lines.append(text + (f"  # {info.description}" if info.description else ""))
        lines.append("")
    return "\n".join(lines)


def label_message(error: ValidationError, where: str = "label") -> str:
    """One line for the first mistake; `where` is the section that was validated."""
    first = error.errors()[0]
    place = [str(x) for x in first["loc"]]
    nested: dict[str, type[BaseModel]] = {"slurm": SlurmConfig, "checks": ChecksConfig}
    known = nested.get(place[0] if len(place) > 1 else "", LabelConfig).model_fields
    depth = 2 if len(place) > 1 and place[0] in nested else 1
    section = f"[{'.'.join([where, *place[: depth - 1]])}]"
    key = place[depth - 1] if place else where
    if first["type"] == "extra_forbidden":
        guess = difflib.get_close_matches(key, known, n=1)
        return f"unknown key '{key}' in {section}" + (f": did you mean '{guess[0]}'?" if guess else "")
    if first["type"] == "missing":
        return f"'{key}' in {section} is missing"
    if key == "calculator" and first["type"] == "value_error":
        return f"unknown calculator {first['input']!r} in {section}: {first['msg'].removeprefix('Value error, ')}"
    return f"'{key}' in {section}: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r}"[:300]


def _canonical(value: Any) -> Any:
    """Whole numbers compare equal written as 400 or 400.0."""
    if isinstance(value, dict):
        return {k: _canonical(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _absolute(value: Any, root: Path) -> Any:
    if isinstance(value, str):
        return str(root / value) if value.startswith(("./", "../")) else value
    if isinstance(value, dict):
        return {k: _absolute(v, root) for k, v in value.items()}
    return [_absolute(v, root) for v in value] if isinstance(value, list | tuple) else value
