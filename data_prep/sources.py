"""Where the raw files come from, what they must contain, and how they are fetched."""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from data_prep.unpacking import gunzip, read_file, unzip

_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases"
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"
_BRAIN_IMAGES = "https://github.com/linmengsysu/BrainImageDataset"


class Source(NamedTuple):
    """One raw file.

    Attributes:
      file: the file's name, in the folder of raw files as well.
      url: its official address.
      sha256: of the file; of the member's content where there is a member, since the
        same content is found in archives packed anew. None where none is known: then
        nothing is compared.
      licence: under which terms it is published.
      citation: whom to name.
      member: base name of the one file that is read from a .zip, or the content of a
        .gz; None for a plain file. In the folder of raw files it may lie unpacked.
      direct: False if url is a page that offers the file, which is then fetched by
        hand.
      size: how many bytes sha256 is of, which bounds what is read and unpacked; without
        a checksum the most that there may be.
      archive: a .zip in which the file is also served.
    """

    file: str
    url: str
    sha256: str | None
    licence: str
    citation: str
    member: str | None = None
    direct: bool = True
    size: int = 2**26
    archive: str | None = None

    @property
    def content(self) -> str:
        """The name of the file that is read, after unpacking."""
        return self.member or self.file


_ADULT = {
    "archive": "adult.zip",
    "licence": "CC BY 4.0",
    "citation": "Becker and Kohavi, Adult, UCI 1996, doi:10.24432/C5XW20",
}

SOURCES: dict[str, tuple[Source, ...]] = {
    "adult": (
        Source(
            file="adult.data",
            url=f"{_UCI}/adult/adult.data",
            sha256="5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
            size=3_974_305,
            **_ADULT,
        ),
        Source(
            file="adult.test",
            url=f"{_UCI}/adult/adult.test",
            sha256="a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
            size=2_003_153,
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
            size=5_834_924,
            archive="bank+marketing.zip",
        ),
    ),
    "compas": (
        Source(
            file="compas-scores-two-years.csv",
            url="https://raw.githubusercontent.com/propublica/compas-analysis/master/"
            "compas-scores-two-years.csv",
            sha256="c451db85908b2f7fef1d83203bedf6b71ecda0d5af468d82ae62178f91d0cc7d",
            size=2_546_489,
            licence="published by ProPublica without a named licence",
            citation="Larson, Mattu, Kirchner and Angwin, How We Analyzed the COMPAS "
            "Recidivism Algorithm, ProPublica 2016",
        ),
    ),
    "mnist": tuple(
        Source(
            file=f"{member}.gz",
            url=f"{_MNIST}/{member}.gz",
            sha256=sha256,
            licence="CC BY-SA 3.0",
            citation="LeCun, Cortes and Burges, The MNIST Database of Handwritten "
            "Digits, 1998",
            member=member,
            size=size,
        )
        for member, size, sha256 in (
            (
                "train-images-idx3-ubyte",
                47_040_016,
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            (
                "train-labels-idx1-ubyte",
                60_008,
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            (
                "t10k-images-idx3-ubyte",
                7_840_016,
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            (
                "t10k-labels-idx1-ubyte",
                10_008,
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        )
    ),
    "cifar10": (
        Source(
            file="cifar-10-python.tar.gz",
            url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            size=170_498_071,
            licence="published without a named licence",
            citation="Krizhevsky, Learning Multiple Layers of Features from Tiny "
            "Images, 2009",
        ),
    ),
    "adhd": (
        Source(
            file="Brain.zip",
            url="https://raw.githubusercontent.com/TrustAGI-Lab/graph_datasets/master/"
            "Graph_Repository/Brain.zip",
            sha256="fd93b8b9eec7f00a928a1a799cd5a9ca802d716b3b06f8a553319373738a7926",
            licence="published without a named licence",
            citation="Pan, Wu, Zhu, Long and Zhang, Task Sensitive Feature Exploration "
            "and Learning for Multi-Task Graph Classification, IEEE TCYB 2017",
            member="KKI.nel",
            size=61_732,
        ),
    ),
    "hiv": tuple(
        Source(
            file=f"HIV_fMRI_fold_{fold}",
            url=_BRAIN_IMAGES,
            sha256=sha256,
            licence="published without a named licence",
            citation="BrainImageDataset, github.com/linmengsysu",
            direct=False,
            size=2_203_855,
        )
        for fold, sha256 in (
            (1, "e88a09c471e8fdbe57bd245ec395caddbd41374cd7dd4da87cb58af8226a85b5"),
            (2, "60be1e003bf8e20b58bc28533de23725e2d230b7a5feb59455bdb8957cab9672"),
            (3, "f4dacf169ecc9b5c982f59c24eb02d93d788e522af759f26c632b8f17291a145"),
        )
    ),
    "bp": tuple(
        Source(
            file=f"BP_fMRI_fold_{fold}",
            url=_BRAIN_IMAGES,
            sha256=None,
            licence="published without a named licence",
            citation="BrainImageDataset, github.com/linmengsysu",
            direct=False,
        )
        for fold in (1, 2, 3)
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
      FileNotFoundError: the file is not in raw_dir, or must be fetched by hand.
      OSError: the download failed.
      ValueError: a wrong checksum, or an archive that is incomplete.
    """
    if raw_dir is not None:
        return read_checked(source, _lying_in(source, raw_dir))
    if not source.direct:
        raise FileNotFoundError(
            f"{source.file} is not downloaded: fetch it by hand from {source.url} and "
            "name its folder with --raw_dir"
        )
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
    """Return the content of a raw file, or of an archive that holds it.

    Text that an editor or a version control has given a byte-order mark, other line
    ends or UTF-16 is returned as it was published.

    Raises:
      ValueError: more bytes than the source is known to have, a wrong SHA-256, or an
        archive that is incomplete.
    """
    # Where a checksum decides, UTF-16 has twice the bytes, and other line ends more.
    most = source.size if source.sha256 is None else 2 * source.size + 2
    what = f"{source.content} in {path}"
    packed = not source.content.endswith(path.suffix)  # not so the .tar.gz itself
    if path.suffix.lower() == ".zip" and packed:
        content = unzip(path, source.content, most)
    elif path.suffix.lower() == ".gz" and packed:
        content = gunzip(path, most, str(path))
    else:
        content, what = read_file(path, most), str(path)
    if source.sha256 is None:
        return content
    for text in (content, *_as_published(content)):
        if hashlib.sha256(text).hexdigest() == source.sha256:
            return text
    raise ValueError(
        f"wrong SHA-256 of {what}: got {hashlib.sha256(content).hexdigest()}, expected "
        f"{source.sha256}"
    )


def _lying_in(source: Source, raw_dir: Path) -> Path:
    """The file of a folder that has one of a source's names, written in some way."""
    names = (source.file, source.member, f"{source.content}.gz",
             f"{source.content}.zip", source.archive)  # fmt: skip
    wanted = list(dict.fromkeys(name for name in names if name is not None))
    entries = sorted(raw_dir.glob("*"))
    for name in wanted:
        exact = raw_dir / name
        alike = [path for path in entries if _plain(path.name) == _plain(name)]
        for path in (exact, *alike):
            if path.is_file():
                return path
    advice = "; leave --raw_dir out to download it" if source.direct else ""
    there = [f"{path.name}{'/' * path.is_dir()}" for path in entries[:8]]
    there += ["…"] * (len(entries) > 8)
    raise FileNotFoundError(
        f"no file {source.file} in {raw_dir}, expected one of {', '.join(wanted)} "
        f"there (from {source.url}), found {', '.join(there) or 'nothing'}{advice}"
    )


def _plain(name: str) -> str:
    """A file's name without the signs that browsers and mirrors change."""
    return re.sub("[^a-z0-9]+", "-", unquote(name).lower())


def _as_published(text: bytes) -> Iterator[bytes]:
    """What a text may have been before a program wrote it in its own way."""
    if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = text.decode("utf-16", "replace").encode()
    if b"\0" in text[:1024]:  # no text
        return
    text = text.removeprefix(codecs.BOM_UTF8)
    yield text
    text = text.replace(b"\r\n", b"\n")
    yield text
    yield text.replace(b"\n", b"\r\n")


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
