"""The families of energy models that a model file can hold: our own, and those of other programs (`adatom.potential.interop`).

A family's modules are imported when a model of it is read, not before.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from adatom.potential.model import EnergyModel, FittedModel

FAMILIES = {
    "adatom": ("adatom.potential.model", "ModelConfig", "Model"),
    "deepmd": ("adatom.potential.interop.deepmd.model", "DeepmdConfig", "DeepmdModel"),
    "n2p2": ("adatom.potential.interop.n2p2.model", "N2p2Config", "N2p2Model"),
    "nep": ("adatom.potential.interop.nep.model", "NepConfig", "NepModel"),
}
"""Family: module, its configuration (pydantic) and its model (`FittedModel`)."""


def family_of(model: EnergyModel) -> str:
    """The name of a model's family; our own configuration does not say it, and analytic models have none."""
    return str(getattr(getattr(model, "config", None), "family", "adatom"))


def neighbour_limits(model: EnergyModel) -> tuple[float, ...] | None:
    """Of each species, how many neighbours the model's own program keeps; None where it keeps all."""
    if family_of(model) != "deepmd":
        return None
    from adatom.potential.interop.deepmd.model import neighbour_limits

    return neighbour_limits(model)  # type: ignore[arg-type]


def make_model(config: dict[str, Any]) -> FittedModel:
    """The model of a configuration as JSON. Raises ValueError for unknown families and what pydantic raises for the rest."""
    family = config.get("family", "adatom")
    if not isinstance(family, str) or family not in FAMILIES:
        raise ValueError(f"unknown family of models {family!r}; this adatom knows {', '.join(FAMILIES)}")
    module, schema, model = FAMILIES[family]
    found = import_module(module)
    made: FittedModel = getattr(found, model)(getattr(found, schema).model_validate(config))
    return made
