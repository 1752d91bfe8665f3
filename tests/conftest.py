"""Every test runs with 64-bit numbers on, strict dtype and rank promotion, and warnings as errors."""

import gc
import os
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for 3 x 3 matrices, threads that wait for each other cost 15 times the work

import hypothesis
import jax
import pytest

ROOT = Path(__file__).resolve().parent.parent

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# the same examples on every machine, no database folder, no time limit on a busy one
hypothesis.settings.register_profile("adatom", derandomize=True, database=None, deadline=None, max_examples=60)
hypothesis.settings.load_profile("adatom")


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error")


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Compiled programs are mappings of memory, of which Linux gives a process 65,530: XLA dies without a word beyond."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="module")
def quick_compilation():
    """For tests of many programs, each run once or twice."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def root():
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data():
    """The benchmark data beside the repository; tests that need them are skipped where they are not there."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: the published data sets are not part of the repository")
    return folder
