"""Compile the C++ of this folder once for this machine, and load it.

The library goes to `$ADATOM_CACHE/kernels` (by default `~/.cache/adatom/kernels`) under a name that is a hash of sources,
compiler, flags, headers and CPU; a lock makes processes that start together wait for one compilation. The compiler is the
first of `$ADATOM_CXX`, `$CXX`, g++, clang++, c++ that is there; `ADATOM_CXX=none` asks for pure JAX.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax
import jaxlib

HERE = Path(__file__).resolve().parent
HEADERS = ("vectors.hpp", "moments.hpp", "moments_training.hpp", "share.hpp", "graph_ffi.hpp")
SOURCES = {
    "moments": ("moments_ffi.cpp", "moments_training_ffi.cpp"),
    "triplets": ("triplets_ffi.cpp",),
    "neighbours": ("neighbours_ffi.cpp",),
}
TARGETS = {
    "moments": ("moments_float32", "moments_float64", "moments_training_float32", "moments_training_float64"),
    "triplets": ("triplets_float32", "triplets_float64", "triplets_back_float32", "triplets_back_float64"),
    "neighbours": ("neighbours",),
}
"""Of each library: what is compiled, and its custom calls."""
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-pthread")
OWN_FLAGS = {"neighbours": ("-ffp-contract=off",)}
"""Whether a pair is close must not depend on the side that asks."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """A loaded library, or why there is none: `why` is then one line."""

    library: ctypes.CDLL | None
    why: str


@cache
def compiled(name: str = "moments") -> Built:
    """Build if need be, load, register with XLA. Once per process; never raises for a machine that cannot."""
    try:
        path = _build(name)
        library = ctypes.CDLL(str(path))
        for target in TARGETS[name]:
            symbol = f"adatom_{target}"
            jax.ffi.register_ffi_target(symbol, jax.ffi.pycapsule(getattr(library, symbol)), platform="cpu")
        built = Built(library, str(path))
    except (OSError, RuntimeError, subprocess.SubprocessError, AttributeError) as error:
        built = Built(None, " ".join(str(error).split())[:200])
    log.debug("kernel: %s", built.why)
    return built


def compiler() -> str:
    """Path of the compiler. Raises FileNotFoundError where there is none, or none is wanted."""
    chosen = os.environ.get("ADATOM_CXX", "")
    if chosen == "none":
        raise FileNotFoundError("ADATOM_CXX is 'none'")
    for name in [chosen] if chosen else [os.environ.get("CXX", ""), "g++", "clang++", "c++"]:
        if name and (found := shutil.which(name)):
            return found
    raise FileNotFoundError(f"no C++ compiler ({chosen or 'g++, clang++'}) found")


def describe() -> str:
    """What evaluates the default model here, in words; nothing is compiled to find out."""
    try:
        command, target = _plan()
    except (OSError, subprocess.SubprocessError) as error:
        return f"pure JAX: {error}"
    return f"the compiled kernel {target}" if target.exists() else f"a kernel that {command[0]} compiles at first use"


def _plan(name: str = "moments") -> tuple[list[str], Path]:
    """Command, but for its output and source, and where the library belongs."""
    if sys.platform == "win32":
        raise FileNotFoundError("the kernel is not built on Windows")
    command = [compiler(), *FLAGS, *OWN_FLAGS.get(name, ()), "-isystem", jax.ffi.include_dir()]
    folder = Path(os.environ.get("ADATOM_CACHE", Path.home() / ".cache" / "adatom")) / "kernels"
    return command, folder / f"{name}-{_key(name, command)}.so"


def _build(name: str) -> Path:
    command, target = _plan(name)
    if target.exists():
        return target
    import fcntl  # not on Windows

    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            log.debug("kernel: compiling once for this machine with %s", command[0])
            fresh = target.with_suffix(f".{os.getpid()}.tmp")
            command += ["-o", str(fresh), *(str(HERE / file) for file in SOURCES[name])]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
            if done.returncode:
                raise OSError(f"{command[0]} failed: {done.stderr.strip()[-300:]}")
            os.replace(fresh, target)
    return target


def _key(name: str, command: list[str]) -> str:
    """Of everything that decides what the library does."""
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True, timeout=60).stdout
    parts = [*command, version, jaxlib.__version__, platform.machine(), _cpu()]
    parts += [(HERE / file).read_text(encoding="utf-8") for file in (*HEADERS, *SOURCES[name])]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def _cpu() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU part")
    return "\n".join(sorted({x for x in lines if x.split("\t")[0].split(":")[0].strip() in wanted}))
