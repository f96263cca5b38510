"""Where the raw files come from, what they must contain, and how they are fetched."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases"


class Source(NamedTuple):
    """One raw file.

    Attributes:
      file: the file's name, in the folder of raw files as well.
      url: its official address.
      sha256: of the file; of the member's content where there is a member, since the
        same content is found in archives packed anew.
      licence: under which terms it is published.
      citation: whom to name.
      member: base name of the one file that is read from a .zip; None for a plain file.
    """

    file: str
    url: str
    sha256: str
    licence: str
    citation: str
    member: str | None = None


_ADULT = {
    "licence": "CC BY 4.0",
    "citation": "Becker and Kohavi, Adult, UCI 1996, doi:10.24432/C5XW20",
}

SOURCES: dict[str, tuple[Source, ...]] = {
    "adult": (
        Source(
            file="adult.data",
            url=f"{_UCI}/adult/adult.data",
            sha256="5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
            **_ADULT,
        ),
        Source(
            file="adult.test",
            url=f"{_UCI}/adult/adult.test",
            sha256="a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
            **_ADULT,
        ),
    ),
    "bank": (
        Source(
            file="bank-additional.zip",
            url=f"{_UCI}/00222/bank-additional.zip",
            sha256="74adfc578bf77a7ff4bb1ba4a9f8709d9e3c6907342959c2c8416847e0afb4d8",
            licence="CC BY 4.0",
            citation="Moro, Rita and Cortez, Bank Marketing, UCI 2014, "
            "doi:10.24432/C5K306",
            member="bank-additional-full.csv",
        ),
    ),
    "compas": (
        Source(
            file="compas-scores-two-years.csv",
            url="https://raw.githubusercontent.com/propublica/compas-analysis/master/"
            "compas-scores-two-years.csv",
            sha256="c451db85908b2f7fef1d83203bedf6b71ecda0d5af468d82ae62178f91d0cc7d",
            licence="published by ProPublica without a named licence",
            citation="Larson, Mattu, Kirchner and Angwin, How We Analyzed the COMPAS "
            "Recidivism Algorithm, ProPublica 2016",
        ),
    ),
}


def fetch(source: Source, *, raw_dir: Path | None, cache_dir: Path) -> bytes:
    """Return the checked content of a raw file, downloaded if need be.

    Args:
      source: the file.
      raw_dir: the folder that holds it already; None to download it.
      cache_dir: where downloads are kept; a kept file that passes the check is used
        again, one that does not is fetched anew.

    Returns:
      The content: of the member, where the source is an archive.

    Raises:
      FileNotFoundError: the file is not in raw_dir.
      OSError: the download failed.
      ValueError: a wrong checksum, or an archive that is incomplete.
    """
    if raw_dir is not None:
        path = raw_dir / source.file
        if not path.is_file():
            raise FileNotFoundError(
                f"no file {source.file} in {raw_dir}, expected it there (from "
                f"{source.url}); leave --raw_dir out to download it"
            )
        return read_checked(source, path)
    path = cache_dir / source.file
    if path.is_file():
        try:
            return read_checked(source, path)
        except ValueError:
            path.unlink()
    _download(source, cache_dir)
    try:
        return read_checked(source, path)
    except ValueError:
        path.unlink()  # so that the next run does not meet it again
        raise


def read_checked(source: Source, path: Path) -> bytes:
    """Return the content of a raw file after comparing its SHA-256."""
    content = path.read_bytes()
    what = str(path)
    if source.member is not None:
        content = _member(path, content, source.member)
        what = f"{source.member} in {path}"
    digest = hashlib.sha256(content).hexdigest()
    if digest != source.sha256:
        raise ValueError(
            f"wrong SHA-256 of {what}: got {digest}, expected {source.sha256}"
        )
    return content


def _member(path: Path, archive: bytes, member: str) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as file:
            found = [name for name in file.namelist() if Path(name).name == member]
            if len(found) != 1:
                raise ValueError(
                    f"{path} must hold one file {member}, found {len(found)}"
                )
            return file.read(found[0])
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(
            f"{path} is not a complete zip archive ({error}), expected one that holds "
            f"{member}"
        ) from error


def _download(source: Source, cache_dir: Path) -> None:
    try:
        import pooch
    except ImportError as error:
        raise ImportError(
            "downloading needs pooch and tqdm: install them, or name the folder of the "
            "raw files with --raw_dir"
        ) from error

    # Without a known hash pooch logs the one it finds; the check here is our own,
    # since it may concern an archive's member.
    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(
            source.url,
            known_hash=None,
            fname=source.file,
            path=cache_dir,
            downloader=pooch.HTTPDownloader(progressbar=True),
        )
    except OSError as error:
        raise OSError(
            f"cannot download {source.url} ({type(error).__name__}); fetch "
            f"{source.file} by hand and name its folder with --raw_dir"
        ) from error
