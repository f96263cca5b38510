"""The drill tries what it says, and fails where a program is broken on purpose."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


def drill(*arguments, broken=""):
    """Run the drill, in which some code has broken a program before."""
    code = f"{broken}\nimport runpy\nrunpy.run_module('tests.drill', None, '__main__')"
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def counts(done):
    """Category -> tried, refused, survived, failed, not tried."""
    rows = [line.split() for line in done.stdout.splitlines()]
    return {
        row[0]: tuple(map(int, row[1:]))
        for row in rows
        if len(row) == 6 and row[1].isdigit()
    }


def test_cases_have_names_of_their_own():
    names = drill("--list").stdout.split()
    assert len(names) == len(set(names)) > 300
    assert {name.partition("/")[0] for name in names} == {
        "kills", "damage", "flags", "bombs",
    }  # fmt: skip
    assert drill("--only=no_such").returncode == 1


# Slices of few cases, and what makes them fail.
BROKEN = {
    "damage/raw": """
from data_prep import sources
read = sources.read_checked
def trusting(source, path):
    return read(source._replace(sha256=None), path)
sources.read_checked = trusting
""",
    "kills/tabular-operation": """
from r2et_jax import files
files.remove_abandoned = lambda path: False
""",
    "flags/tabular": """
from data_prep import _main
def unguarded(function, **options):
    return function
_main.guarded = unguarded
""",
    "bombs/unpickle": """
import pickle
from data_prep import restricted_pickle
restricted_pickle.loads = lambda content, what: pickle.loads(content)
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("only", BROKEN)
def test_what_is_broken_fails(only):
    whole = drill(f"--only={only}")
    category = only.partition("/")[0]
    tried, refused, survived, failed, untried = counts(whole)[category]
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert tried == refused + survived > 5 and failed == untried == 0
    broken = drill(f"--only={only}", broken=BROKEN[only])
    assert broken.returncode == 1 and counts(broken)[category][3] > 0, broken.stderr
    assert f"FAILED {only}" in broken.stdout
    assert f"--seed=0 --only={only}" in broken.stdout


@pytest.mark.slow
def test_damaged_records_that_are_taken_silently_fail():
    broken = """
from experiments.store import records
records._digest = lambda cell: "0" * 16
"""
    assert drill("--only=damage/records-by").returncode == 0
    done = drill("--only=damage/records-by", broken=broken)
    assert done.returncode == 1 and "other results" in done.stdout, done.stdout


@pytest.mark.slow
def test_the_limit_ends_it_and_is_said():
    done = drill("--only=kills/tabular", "--minutes=0.1")
    tried, *_, untried = counts(done)["kills"]
    assert tried + untried == 30 and untried > 0
    assert f"not tried within the time: {untried}" in done.stdout
