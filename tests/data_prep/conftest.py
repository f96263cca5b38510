"""Raw files for the tests, and data sets prepared from them once."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def raw_dir():
    """The folder of raw public files; tests that need it skip without one."""
    named = os.environ.get("R2ET_RAW_DIR")
    path = Path(named) if named else REPOSITORY.parent / "shared" / "data" / "raw"
    if not path.is_dir():
        pytest.skip(f"no raw files in {path}; name their folder in R2ET_RAW_DIR")
    return path


@pytest.fixture(scope="session")
def prepared(raw_dir, tmp_path_factory):
    """The folder with adult.npz, bank.npz and compas.npz, seed 0."""
    from data_prep import tabular

    folder = tmp_path_factory.mktemp("prepared")
    for name in tabular.TABLES:
        tabular.prepare(name, raw_dir=raw_dir, data_dir=folder, seed=0)
    return folder
