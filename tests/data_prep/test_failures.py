"""Every failure is one line that names what was received and what was expected."""

import functools
import hashlib
import http.server
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data_prep import tabular
from data_prep.sources import SOURCES, Source, fetch

REPOSITORY = Path(__file__).resolve().parents[2]

ADULT = (
    "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, "
    "White, Male, 2174, 0, 40, United-States, "
)
BANK_HEADER = (
    "age;marital;education;default;housing;loan;contact;campaign;pdays;previous;poutcome;"
    "emp.var.rate;cons.price.idx;cons.conf.idx;euribor3m;nr.employed;y"
)


def sources_of(name, contents, folder):
    """Write raw files and return the table of sources with their own checksums."""
    sources = []
    for source in SOURCES[name]:
        content = contents[source.file]
        digest = hashlib.sha256(content).hexdigest()
        if source.member:
            with zipfile.ZipFile(folder / source.file, "w") as archive:
                archive.writestr(f"__MACOSX/._{source.member}", b"other")
                archive.writestr(f"folder/{source.member}", content)
        else:
            (folder / source.file).write_bytes(content)
        sources.append(source._replace(sha256=digest))
    return {name: tuple(sources)}


def prepare_made_up(name, contents, tmp_path):
    contents = {file: text.encode() for file, text in contents.items()}
    sources = sources_of(name, contents, tmp_path)
    return tabular.prepare(
        name, raw_dir=tmp_path, data_dir=tmp_path / "out", sources=sources
    )


def adult_text(rows):
    return {
        "adult.data": "".join(f"{row}\n" for row in rows),
        "adult.test": "|1x3 Cross validator\n" + ADULT + "<=50K.\n\n",
    }


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        (ADULT, ["adult.data, line 2", "income", "''", ">50K"]),
        (ADULT.replace("39", "old") + ">50K", ["line 2", "age", "'old'", "number"]),
        (ADULT.replace("39", "nan") + ">50K", ["line 2", "age", "'nan'", "number"]),
        (ADULT.replace("2174", "-1") + ">50K", ["line 2", "capital_gain", "least 0"]),
        (
            ADULT.replace("State-gov", "Baker") + ">50K",
            ["line 2", "workclass", "'Baker'", "Self-emp-inc"],
        ),
        ("39, Private", ["adult.data, line 2", "got 2 fields", "expected 15"]),
    ],
)
def test_unparseable_row_is_named(row, parts, tmp_path):
    with pytest.raises(ValueError) as error:
        prepare_made_up("adult", adult_text([ADULT + "<=50K", row]), tmp_path)
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "adult.npz").exists()


@pytest.mark.parametrize("column", ["age", "emp.var.rate", "y"])
def test_missing_column_is_named(column, tmp_path):
    header = ";".join(c for c in BANK_HEADER.split(";") if c != column)
    with pytest.raises(ValueError, match=f"column '{column}' is missing, expected"):
        prepare_made_up("bank", {"bank-additional.zip": header + "\n"}, tmp_path)


def test_missing_column_in_the_real_file_is_named(raw_dir, tmp_path):
    file = "compas-scores-two-years.csv"
    text = (raw_dir / file).read_text().replace("c_jail_out", "renamed", 1)
    with pytest.raises(ValueError, match=f"{file}: column 'c_jail_out' is missing"):
        prepare_made_up("compas", {file: text}, tmp_path)


@pytest.mark.parametrize("content", ["", BANK_HEADER + "\n"])
def test_table_without_rows(content, tmp_path):
    with pytest.raises(ValueError, match="bank-additional-full.csv"):
        prepare_made_up("bank", {"bank-additional.zip": content}, tmp_path)


def test_text_that_is_not_utf8(tmp_path):
    contents = {"bank-additional.zip": BANK_HEADER.encode() + b"\n\xff\xfe\n"}
    sources = sources_of("bank", contents, tmp_path)
    with pytest.raises(ValueError, match="bank-additional-full.csv is not a readable"):
        tabular.prepare("bank", raw_dir=tmp_path, data_dir=tmp_path, sources=sources)


def test_bad_time_is_named(raw_dir, tmp_path):
    file = "compas-scores-two-years.csv"
    text = (raw_dir / file).read_text().replace("2013-08-13 06:03:42", "soon", 1)
    with pytest.raises(
        ValueError, match="line 2: c_jail_in is 'soon', expected a time"
    ):
        prepare_made_up("compas", {file: text}, tmp_path)


def test_archive_is_found_by_base_name_and_checked_by_content(tmp_path):
    content = b"age;y\n1;no\n"
    (source,) = sources_of("bank", {"bank-additional.zip": content}, tmp_path)["bank"]
    assert fetch(source, raw_dir=tmp_path, cache_dir=tmp_path) == content
    wrong = source._replace(sha256="0" * 64)
    with pytest.raises(ValueError, match=f"got {source.sha256}, expected {'0' * 64}"):
        fetch(wrong, raw_dir=tmp_path, cache_dir=tmp_path)


def test_archive_without_the_member(tmp_path):
    with zipfile.ZipFile(tmp_path / "bank-additional.zip", "w") as archive:
        archive.writestr("other.csv", "")
    with pytest.raises(ValueError, match="must hold one file bank-additional-full.csv"):
        fetch(SOURCES["bank"][0], raw_dir=tmp_path, cache_dir=tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_truncated_archive(share, raw_dir, tmp_path):
    content = (raw_dir / "bank-additional.zip").read_bytes()
    (tmp_path / "bank-additional.zip").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="bank-additional.zip is not a complete zip"):
        tabular.prepare("bank", raw_dir=tmp_path, data_dir=tmp_path / "out")


def test_damaged_archive(raw_dir, tmp_path):
    """A flipped byte inside the compressed data is met by the archive's own check."""
    content = bytearray((raw_dir / "bank-additional.zip").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "bank-additional.zip").write_bytes(bytes(content))
    with pytest.raises(ValueError, match="bank-additional"):
        tabular.prepare("bank", raw_dir=tmp_path, data_dir=tmp_path / "out")


# The binary itself.


def binary(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "data_prep.tabular", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_one_line(result, *parts):
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


def test_binary_prepares_and_reports(raw_dir, tmp_path):
    out = tmp_path / "new" / "folder"
    result = binary("--datasets=compas", f"--raw_dir={raw_dir}", f"--data_dir={out}")
    assert result.returncode == 0, result.stderr
    assert "compas: 6172 rows, 16 columns" in result.stdout
    assert f"wrote {out / 'compas.npz'}" in result.stdout
    assert "% positive" in result.stdout
    assert (out / "compas.npz").is_file()


def test_binary_on_wrong_checksum(tmp_path):
    (tmp_path / "adult.data").write_text("other")
    result = binary("--datasets=adult", f"--raw_dir={tmp_path}")
    received = hashlib.sha256(b"other").hexdigest()
    assert_one_line(result, "adult.data", received, SOURCES["adult"][0].sha256)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--datasets=adult,iris"], ["'iris'", "adult", "bank", "compas"]),
        (["--datasets="], ["--datasets is empty", "adult, bank, compas"]),
        (["adult"], ["unexpected argument 'adult'"]),
        (["--data_dir="], ["--data_dir must name a folder"]),
        (["--raw_dir= "], ["--raw_dir must name a folder"]),
        (["--seed=-1"], ["--seed=-1", "not an integer in the range"]),
        (["--sead=1"], ["'sead'", "seed"]),
        (
            ["--datasets=bank", "--raw_dir={tmp}"],
            ["no file bank-additional.zip in {tmp}"],
        ),
    ],
)
def test_binary_on_wrong_flags(flags, parts, tmp_path):
    flags = [flag.format(tmp=tmp_path) for flag in flags]
    assert_one_line(binary(*flags), *[part.format(tmp=tmp_path) for part in parts])


def test_failed_write_leaves_the_old_file(raw_dir, tmp_path, monkeypatch):
    path = tabular.prepare("compas", raw_dir=raw_dir, data_dir=tmp_path)
    before = path.read_bytes()

    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="no space left"):
        tabular.prepare("compas", raw_dir=raw_dir, data_dir=tmp_path, seed=1)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["compas.npz"]


# Downloads, from a server on this machine.


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder and the address under which it is served."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def served_source(server, content):
    folder, address = server
    (folder / "raw.csv").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return Source("raw.csv", f"{address}/raw.csv", digest, "none", "nobody")


def test_download_is_kept_and_used_again(server, tmp_path, capfd):
    source, cache = served_source(server, b"a,b\n" * 1000), tmp_path / "cache"
    assert fetch(source, raw_dir=None, cache_dir=cache) == b"a,b\n" * 1000
    assert "100%" in capfd.readouterr().err, "no progress bar"
    shutil.rmtree(server[0])
    assert fetch(source, raw_dir=None, cache_dir=cache) == b"a,b\n" * 1000


def test_damaged_copy_is_fetched_anew(server, tmp_path):
    source, cache = served_source(server, b"good"), tmp_path / "cache"
    cache.mkdir()
    (cache / "raw.csv").write_bytes(b"goo")
    assert fetch(source, raw_dir=None, cache_dir=cache) == b"good"


def test_wrong_download_is_not_kept(server, tmp_path):
    source = served_source(server, b"other")._replace(sha256="0" * 64)
    with pytest.raises(ValueError, match=rf"raw.csv: got \w+, expected {'0' * 64}"):
        fetch(source, raw_dir=None, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache" / "raw.csv").exists()


def test_failed_download_names_the_address(server, tmp_path):
    source = served_source(server, b"good")
    source = source._replace(url=source.url + ".gone")
    with pytest.raises(OSError, match=r"cannot download http://127.*gone.*--raw_dir"):
        fetch(source, raw_dir=None, cache_dir=tmp_path / "cache")
