"""What README.md says must work: its Python example runs, its commands parse, the files it names exist."""

import dataclasses
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from helpers import make_potential

from adatom.fitting.cli import _parser
from adatom.potential import save

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("example", re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
def test_the_python_examples_run(example, tmp_path, monkeypatch, capsys):
    """With random weights, and forces so small that a crystal stays one."""
    potential = make_potential((14,))
    statistics = dataclasses.replace(potential.statistics, scale=np.full(1, 1e-3), min_distance=np.full((1, 1), 1.0))
    (tmp_path / "adatom-demo" / "fit").mkdir(parents=True)
    quiet = dataclasses.replace(potential, params={**potential.params, "statistics": statistics})
    save(quiet, tmp_path / "adatom-demo" / "fit" / "model.adatom")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})  # noqa: S102
    assert len(capsys.readouterr().out.split()) >= 4


def test_every_command_is_one_the_program_knows():
    lines = [line.strip().partition("#")[0] for line in README.splitlines() if line.startswith("    adatom ")]
    lines += [c for c in re.findall(r"`(adatom [^`]+)`", README) if "|" not in c]
    assert len(lines) >= 8
    for line in lines:
        words = shlex.split(line.partition(" > ")[0])[1:]
        if words != ["--version"]:
            assert _parser().parse_args(words).run


def test_every_file_it_names_is_there():
    for name in re.findall(r"`([\w/]+/README\.md)`", README):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"`(potential|md|fitting|tests|benchmarks)/`", README):
        assert (ROOT / name).is_dir()
