"""What the campaigns of `learn_silicon.py` and `learn_alloy.py` share: run one by the command line, show and keep its table."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

from calculator_speed import commit, cpu_name


def campaign(folder: Path, config: str) -> list[dict[str, Any]]:
    """`adatom learn` of `config` in `folder`, or on with the one that is there; the reports of its iterations, printed, too."""
    from adatom.fitting.active.report import UNITS, reports, table

    (folder / "learn.toml").write_text(config)
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    subprocess.run([sys.executable, "-m", "adatom.fitting.cli", "learn", str(folder / "learn.toml")], check=True, env=environment)
    found = reports(folder / "learn")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    minutes = (used.ru_utime + used.ru_stime) / 60
    print(f"\n{date.today()}; device: {cpu_name()}; commit {commit()}; {minutes:.0f} CPU minutes in this call")
    print(f"{table(found)}\n{UNITS}")
    return found


def keep(path: Path, iterations: list[dict[str, Any]], **more: Any) -> None:
    """As JSON, with date, device and commit."""
    content = {"date": str(date.today()), "device": cpu_name(), "commit": commit(), **more, "iterations": iterations}
    path.write_text(json.dumps(content, indent=1) + "\n")
