"""Raw files as they are served and kept, and archives that are not what they say."""

import gzip
import hashlib
import re

import pytest

from data_prep import cifar
from data_prep.sources import SOURCES, fetch
from data_prep.unpacking import unzip
from tests.damage import (
    LZMA,
    Member,
    MiB,
    as_utf16,
    deflated_zeros,
    flipped,
    gzip_bomb,
    run_within,
    tar_gz,
    with_crlf,
    with_mark,
    zip_bomb,
    zipped,
)

TEXT = "age;café\n1;no\n2;yes\n".encode()


def known(name, part=0, content=TEXT):
    """One of the sources as if it had published this content."""
    digest = hashlib.sha256(content).hexdigest()
    return SOURCES[name][part]._replace(sha256=digest, size=len(content))


def fetched(source, folder):
    return fetch(source, raw_dir=folder, cache_dir=folder / "unused")


# Names.


@pytest.mark.parametrize(
    ("name", "part", "file", "packed"),
    [
        ("adult", 0, "adult.data", TEXT),
        ("adult", 1, "adult.zip", [("adult.data", b"other"), ("adult.test", TEXT)]),
        ("adult", 0, "adult.data.gz", gzip.compress(TEXT, mtime=0)),
        ("bank", 0, "bank-additional-full.csv", TEXT),
        (
            "bank",
            0,
            "bank-additional-full.csv.zip",
            [("bank-additional-full.csv", TEXT)],
        ),
        ("mnist", 0, "train-images-idx3-ubyte", TEXT),
        ("mnist", 0, "train-images.idx3-ubyte", TEXT),
        ("mnist", 3, "t10k-labels.idx1-ubyte.gz", gzip.compress(TEXT, mtime=0)),
        ("compas", 0, "compas_scores_two_years.csv", TEXT),
        ("adhd", 0, "KKI.nel.zip", [("old\\KKI.nel", TEXT)]),
        ("hiv", 1, "HIV_fMRI_fold_2", TEXT),
    ],
)
def test_files_are_found_as_they_are_served(name, part, file, packed, tmp_path):
    if isinstance(packed, list):
        packed = zipped([Member(*member) for member in packed])
    (tmp_path / file).write_bytes(packed)
    assert fetched(known(name, part), tmp_path) == TEXT


@pytest.mark.parametrize(
    "file", ["bank+marketing.zip", "bank%2Bmarketing.zip", "bank marketing.zip"]
)
def test_archive_in_an_archive(file, tmp_path):
    """As the repository serves it: two archives in one."""
    inner = zipped([Member("bank-additional/bank-additional-full.csv", TEXT)])
    other = zipped([Member("bank-full.csv", b"other")])
    outer = zipped([Member("bank.zip", other), Member("bank-additional.zip", inner)])
    (tmp_path / file).write_bytes(outer)
    assert fetched(known("bank"), tmp_path) == TEXT


def test_no_file_tells_which_names_are_read_and_what_is_there(tmp_path):
    (tmp_path / "bank-full.csv").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError) as error:
        fetched(known("bank"), tmp_path)
    for part in (
        "no file bank-additional.zip in",
        "expected one of bank-additional.zip, bank-additional-full.csv,",
        "bank+marketing.zip there (from https://",
        "found bank-full.csv, folder/;",
        "leave --raw_dir out",
    ):
        assert part in str(error.value)


# Text that a program has written in its own way.


@pytest.mark.parametrize("published", [TEXT, with_crlf(TEXT)])
@pytest.mark.parametrize("change", [with_mark, with_crlf, as_utf16, lambda text: text])
def test_text_is_read_as_it_was_published(published, change, tmp_path):
    """The checksum says which text it was: COMPAS is published with CRLF."""
    (tmp_path / "adult.data").write_bytes(change(published))
    (tmp_path / "adult.test").write_bytes(change(published.replace(b"\r\n", b"\n")))
    assert fetched(known("adult", 0, published), tmp_path) == published
    assert fetched(known("adult", 1, published), tmp_path) == published


def test_other_text_is_refused_with_the_checksum_of_the_file(tmp_path):
    content = with_mark(TEXT + b"3;no\n")
    (tmp_path / "adult.data").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(ValueError, match=f"wrong SHA-256 of .*: got {digest}"):
        fetched(known("adult"), tmp_path)


# Archives that are not what they say.


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ({"encrypted": True}, "is encrypted, expected it without a password"),
        ({"method": LZMA}, r"packed by method 14, expected 0 \(stored\) or 8"),
        ({"method": 93}, "packed by method 93"),
        ({"checksum": 0}, "not a complete zip archive .*CRC"),
        ({"size": 4}, "not a complete zip archive .*CRC"),
        ({"content": flipped(TEXT, 0)}, "wrong SHA-256 of bank-additional-full.csv"),
    ],
)
def test_members_that_lie_are_refused(member, message, tmp_path):
    content = member.pop("content", TEXT)
    name = "a/bank-additional-full.csv"
    (tmp_path / "bank-additional.zip").write_bytes(
        zipped([Member(name, content, **member)])
    )
    with pytest.raises(ValueError, match=message):
        fetched(known("bank"), tmp_path)


@pytest.mark.parametrize("second", ["a", "b/a", "../a", "/a", "b\\a"])
def test_two_members_of_one_name_are_refused(second, tmp_path):
    path = tmp_path / "own.zip"
    path.write_bytes(zipped([Member("a", b"1"), Member(second, b"2")]))
    with pytest.raises(ValueError, match="own.zip must hold one file a, found 2"):
        unzip(path, "a", 9)


@pytest.mark.parametrize("name", ["../../a", "/a", "C:\\a"])
def test_paths_of_members_lead_nowhere(name, tmp_path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    path = tmp_path / "folder" / "inner" / "own.zip"
    path.write_bytes(zipped([Member(name, b"1")]))
    assert unzip(path, "a", 9) == b"1"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_archives_in_archives_end(tmp_path):
    content = zipped([Member("a", b"1")])
    for _ in range(3):
        content = zipped([Member("inner.zip", content)])
    (tmp_path / "own.zip").write_bytes(content)
    with pytest.raises(ValueError, match="must hold one file a, found 0"):
        unzip(tmp_path / "own.zip", "a", 9)


# Bombs: each would take 1 GiB, in a process that may take a quarter of it.

FETCH = """
import sys
from pathlib import Path
from data_prep.sources import SOURCES, fetch
limit()
name, folder = sys.argv[1:]
try:
    fetch(SOURCES[name][0], raw_dir=Path(folder), cache_dir=Path(folder))
except ValueError as error:
    print(error)
"""


def lying_bomb():
    """A member that has a few bytes by its header, and unpacks to 1 GiB."""
    packed = deflated_zeros(1024)
    return zipped([Member("bank-additional-full.csv", packed, size=64, packed=True)])


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("mnist", "train-images-idx3-ubyte.gz", gzip_bomb, "expected at most 94080034"),
        ("adult", "adult.data.gz", gzip_bomb, "expected at most 7948612"),
        (
            "bank",
            "bank-additional.zip",
            lambda size: zip_bomb("bank-additional-full.csv", size),
            "has 1073741824 bytes, expected at most 11669850",
        ),
        (
            "bank",
            "bank-additional.zip",
            lambda size: zip_bomb("inner.zip", size),
            "has 1073741824 bytes, expected at most 16777216",
        ),
        ("bank", "bank-additional.zip", lambda size: lying_bomb(), "CRC|wrong SHA"),
    ],
)
def test_bombs_stay_packed(name, file, content, message, tmp_path):
    (tmp_path / file).write_bytes(content(1024))
    result = run_within(FETCH, 256 * MiB, name, str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert re.search(message, result.stdout), result.stdout


@pytest.mark.parametrize(("name", "most"), [("compas", 5092980), ("bp", 67108864)])
def test_large_files_are_not_read(name, most, tmp_path):
    """Sparse on disk, where they take no room."""
    source = SOURCES[name][0]
    with (tmp_path / source.file).open("wb") as file:
        file.truncate(2**30)
    result = run_within(FETCH, 256 * MiB, name, str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert f"expected at most {most} bytes, got more" in result.stdout


def test_cifar_archive_is_bounded(monkeypatch):
    monkeypatch.setattr(cifar, "_MOST_BYTES", 4 * MiB)
    with pytest.raises(ValueError, match="own.tar.gz, unpacked: expected at most 4194"):
        cifar.read(gzip_bomb(5), "own.tar.gz")


def test_cifar_batch_that_is_there_twice_is_refused():
    members = [("a/test_batch", b"1"), ("b/../../test_batch", b"2")]
    with pytest.raises(ValueError, match="own.tar.gz holds test_batch twice"):
        cifar.read(tar_gz(members), "own.tar.gz")
