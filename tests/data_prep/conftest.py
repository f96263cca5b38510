"""Raw files for the tests, and data sets prepared from them once."""

import io
import os
import pickle
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


class Calls:
    """Pickles to a call of any function, which runs when a careless reader reads it."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class _Python2Pickler(pickle._Pickler):
    dispatch = dict(pickle._Pickler.dispatch)

    def save_text(self, text):
        data = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_text


@pytest.fixture(scope="session")
def calls():
    """The class of payloads: calls(os.system, "touch file")."""
    return Calls


@pytest.fixture(scope="session")
def python2_pickle():
    """What Python 2 writes at protocol 2, where text and bytes are one type."""

    def dumps(value):
        out = io.BytesIO()
        _Python2Pickler(out, protocol=2).dump(value)
        return out.getvalue()

    return dumps
