"""The command line: `adatom fit | test | audit | info | md | relax | analyse | ipi | learn | convert | demo | template`.

Imports only what a verb needs, when it needs it, so that `adatom --help` answers at once. A user's mistake is one line on
stderr and exit code 2; a run stopped with Ctrl-C exits with 130 after saying how to go on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from adatom.fitting import cli_convert, cli_learn, cli_md


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        _set_up_jax()
        return int(arguments.run(arguments) or 0)
    except KeyboardInterrupt:
        print("adatom: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("ADATOM_TRACEBACK"):
            raise
        print(f"adatom: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _set_up_jax() -> None:
    """What a program may do and a library may not: quiet logs, and a compilation cache that lives between runs."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    cache = Path(os.environ.get("ADATOM_CACHE", Path.home() / ".cache" / "adatom")) / "xla"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="adatom", description="Machine-learned interatomic potentials from DFT data.")
    parser.add_argument("--version", action=_Version, nargs=0, help="versions of adatom, jax, jaxlib; backend; precision")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    p = verbs.add_parser("fit", help="fit a potential to DFT data")
    p.add_argument("config", nargs="?", metavar="CONFIG.toml", help="see `adatom template fit`; not needed with --train")
    p.add_argument("--train", nargs="+", metavar="DATA", help="files, patterns or DeePMD folders to learn from")
    p.add_argument("--test", nargs="+", metavar="DATA", help="files to report errors on, never learnt from")
    p.add_argument("--out", metavar="DIR", help="where results go (default: CONFIG's name without .toml, or `fit`)")
    p.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    p.add_argument("--meet", metavar="HOST:PORT", help="one fit in several processes: where they meet, the same in each")
    p.add_argument("--processes", type=int, default=1, metavar="N", help="how many processes meet")
    p.add_argument("--process", type=int, default=0, metavar="I", help="which this is, from 0; 0 writes the results")
    p.add_argument("--start-from", metavar="MODEL", help="an .adatom file: go on from its parameters, with new data")
    p.add_argument("--set", action="append", default=[], metavar="section.key=value", dest="settings", help="change one key")
    p.set_defaults(run=_fit)

    p = verbs.add_parser("test", help="errors of a potential on labelled data")
    p.add_argument("model", metavar="MODEL")
    p.add_argument("data", nargs="+", metavar="DATA")
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    p.add_argument("--plot", metavar="FILE", help="parity plot")
    p.add_argument("--precision", choices=("float32", "float64"), default="float32")
    p.set_defaults(run=_test)

    p = verbs.add_parser("audit", help="look for faults in DFT data before any fit")
    p.add_argument("data", nargs="+", metavar="DATA")
    p.add_argument("--cutoff", type=float, default=6.0, metavar="Å")
    p.add_argument("--json", action="store_true")
    p.set_defaults(run=_audit)

    p = verbs.add_parser("info", help="what a model file says about itself")
    p.add_argument("model", metavar="MODEL")
    p.add_argument("--json", action="store_true")
    p.set_defaults(run=_info)

    for add in (cli_md.add_md, cli_md.add_relax, cli_md.add_analyse, cli_md.add_ipi, cli_learn.add_learn):
        add(verbs)
    cli_convert.add_convert(verbs)

    p = verbs.add_parser("demo", help="audit, fit, test and MD on the silicon DFT set that comes along: a few minutes")
    p.add_argument("--out", default="adatom-demo", metavar="DIR")
    p.set_defaults(run=_demo)

    p = verbs.add_parser("template", help="print a commented config")
    p.add_argument("what", choices=("fit", "md", "learn"))
    p.set_defaults(run=_template)
    return parser


class _Parser(argparse.ArgumentParser):
    """A mistake is one line here too."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        _set_up_jax()
        from importlib.metadata import version

        import jax
        import jaxlib

        print(
            f"adatom {version('adatom')}, jax {jax.__version__}, jaxlib {jaxlib.__version__}, backend {jax.default_backend()}, "
            "precision float32 (energies summed in float64)"
        )
        parser.exit()


def _fit(a: argparse.Namespace) -> int:
    from adatom.fitting.config import ConfigError, load_config
    from adatom.fitting.fit import fit
    from adatom.fitting.metrics import table
    from adatom.fitting.train import Interrupted

    given = {"data.train": a.train, "data.test": a.test, "model.start_from": a.start_from}
    overrides = {key: value for key, value in given.items() if value}
    out = Path(a.out) if a.out else Path(Path(a.config).with_suffix("") if a.config else "fit")
    source = a.config
    if source is None and a.resume and not a.train:
        source = out / "config.toml"
        if not source.exists():
            raise ConfigError(f"{out}: nothing to resume (no config.toml)")
    elif source is None and not a.train:
        raise ConfigError("give a CONFIG.toml, or --train DATA")
    config = load_config(source, a.settings, overrides)
    if a.meet and not _first_of_several(a):
        with tempfile.TemporaryDirectory() as copy:
            if a.resume:
                shutil.copytree(out, copy, dirs_exist_ok=True)
            fit(config, copy, resume=a.resume, say=lambda _: None)
        return 0
    try:
        result = fit(config, out, resume=a.resume, say=_say)
    except (Interrupted, KeyboardInterrupt) as stop:
        print(f"adatom: {str(stop) or 'interrupted'}; go on with: adatom fit --resume --out {out}", file=sys.stderr)
        return 130
    for name in ("validation", "test"):
        if result.errors[name]:
            print(f"\n{name}\n{table(result.errors[name])}")
    print(f"\nwritten to {out}: model.adatom, metrics.json, log.jsonl, learning_curve.png, parity.png, config.toml")
    return 0


def _first_of_several(a: argparse.Namespace) -> bool:
    from adatom.fitting.config import ConfigError
    from adatom.fitting.parallel import join

    try:
        return join(a.meet, a.processes, a.process)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"--meet {a.meet}: {error}") from error


def _test(a: argparse.Namespace) -> int:
    from adatom.fitting.dataset import read_frames
    from adatom.fitting.metrics import compare, table
    from adatom.fitting.progress import progress
    from adatom.potential.model_file import load

    potential = load(a.model)
    frames, coverage = read_frames(a.data)
    with progress("testing", unit="frames") as report:
        comparison = compare(potential, frames, precision=a.precision, progress=report)
    errors = comparison.errors()
    known = potential.committee and potential.committee.calibration
    if known:
        from adatom.fitting.calibration import errors_and_spreads, judged
        from adatom.fitting.calibration import table as calibration_table

        pairs = zip(("energy", "forces"), (known.energy, known.forces), errors_and_spreads(potential, frames), strict=True)
        errors["uncertainty"] = {name: judged(c, x) for name, c, x in pairs if len(x.error)}
    if a.plot:
        from adatom.fitting.plots import parity

        parity(comparison, Path(a.plot))
    if a.json:
        print(json.dumps({"model": str(a.model), "precision": a.precision, **errors}, ensure_ascii=False))
    else:
        print(f"{coverage.summary()}\n\n{table(errors)}")
        if errors.get("uncertainty"):
            print(f"\n{calibration_table(errors['uncertainty'])}")
    return 0


def _audit(a: argparse.Namespace) -> int:
    from adatom.fitting.audit import audit
    from adatom.fitting.dataset import read_frames

    if not 0.0 < a.cutoff < 100.0:
        raise ValueError(f"--cutoff needs a positive length in Å, got {a.cutoff:g}")
    frames, coverage = read_frames(a.data)
    report = audit(frames, cutoff=a.cutoff)
    if a.json:
        print(json.dumps(report.as_dict(), ensure_ascii=False))
    else:
        print(f"{coverage.summary()}\n\n{report.text()}")
    return 1 if report.errors else 0


def _info(a: argparse.Namespace) -> int:
    from adatom.potential.kernels.build import describe
    from adatom.potential.model_file import header_of, load

    header = header_of(load(a.model))
    if a.json:
        print(json.dumps(header, ensure_ascii=False))
        return 0
    config, info = header["config"], header["info"]
    print(
        f"{a.model}: potential for {', '.join(header['elements'])}, cutoff {header['cutoff']} Å, "
        f"{header['parameters']} parameters"
    )
    if "family" in config:
        print(f"  of {config['family']}, from {', '.join(info.get('source', ['an unknown file']))}")
    else:
        print(f"  descriptor {config['descriptor']['type']}, fitting net {config['fitting_net']['widths']}")
        if config["descriptor"]["type"] == "moments":
            print(f"  evaluated on a CPU by {describe()}")
    print("  E0 (eV): " + ", ".join(f"{k} {v:.4f}" for k, v in header["e0"].items()))
    print(
        "  shortest distances in the data (Å): "
        + ", ".join(f"{k} {v:.2f}" if v else f"{k} none" for k, v in header["min_distance"].items())
    )
    committee = header.get("committee")
    if committee:
        known = committee["calibration"]
        how = f"calibrated on {known['data']}" if known else "not calibrated"
        print(f"  uncertainty: {committee['kind']}, {committee['members']} members, {how}")
    for name, e in info.get("errors", {}).items():
        cells = [
            f"{key} {e[key]['mae']:.3g}/{e[key]['rmse']:.3g} {e['units'][key]}"
            for key in ("energy", "forces", "stress")
            if e[key]["count"]
        ]
        print(f"  {name} ({e['frames']} frames), MAE/RMSE: {', '.join(cells)}")
    return 0


def _demo(a: argparse.Namespace) -> int:
    from adatom.fitting.demo import demo
    from adatom.fitting.train import Interrupted

    try:
        demo(Path(a.out), say=_say)
    except Interrupted as stop:
        print(f"adatom: {stop}; go on with: adatom fit --resume --out {Path(a.out) / 'fit'}", file=sys.stderr)
        return 130
    return 0


def _template(a: argparse.Namespace) -> int:
    if a.what == "fit":
        from adatom.fitting.config import template
    elif a.what == "learn":
        from adatom.fitting.active.template import template
    else:
        from adatom.md.config import template

    print(template(), end="")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
