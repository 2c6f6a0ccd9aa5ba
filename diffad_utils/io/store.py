"""What was computed once and need not be computed again: fitted detectors, features of images, results.

An entry's name is a checksum of everything that its content depends on, so an entry is never stale, and the folder may
be emptied at any time. `study.start` opens the store of a run in ``reports/<profile>/.store``; outside of runs there is
none. Environment variables:

    DIFFAD_STORE     another folder, or "off" for none
    DIFFAD_STORE_GB  its largest size in GB (default 8); what is old, large and quick to compute anew goes first
    DIFFAD_FRESH     "1": nothing is taken from the store, and what is computed replaces what is there

An entry is a folder ``<kind>/<key>``, written under another name and renamed when it is complete, so that two writers
do not hurt each other. ``entry.json`` in it has the checksum of each file: what was damaged since is not taken.

Why not ``joblib.Memory`` or ``diskcache``: both keep values as pickles, which a file from elsewhere must not be, and
both address them by arguments (joblib by the function's own source, too) but not by the modules that it calls.
diskcache's SQLite file needs locks that the shared file systems of clusters often lack, and joblib's cache has no
bound unless one calls ``reduce_size``.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffad_utils.io.files import checksum, write_atomically
from diffad_utils.io.paths import on_kaggle

FOLDER, ROOT, LIMIT, FRESH = ".store", "DIFFAD_STORE", "DIFFAD_STORE_GB", "DIFFAD_FRESH"
RECORD = "entry.json"
QUICK_SECONDS = 0.05
LEFTOVER_SECONDS = 3600.0
"""A folder that is being written is taken for a dead process's after this time."""


@dataclass(frozen=True)
class Entry:
    """kind, key : its name. folder : where it is. size : bytes. used : when it was last taken or written (seconds since
    1970). note : what it is, and the seconds that computing it took."""

    kind: str
    key: str
    folder: Path
    size: int
    used: float
    note: dict[str, Any] = field(default_factory=dict)


class Store:
    """Entries below a folder. limit : bytes. fresh : whether `take` finds nothing."""

    def __init__(self, root: str | Path, limit: int = 8 * 10**9, fresh: bool = False) -> None:
        self.root, self.limit, self.fresh = Path(root), limit, fresh
        self._untrimmed = limit  # bytes since `trim`: at first nobody knows

    def take(self, kind: str, key: str) -> Entry | None:
        """The entry, all of its files as they were written; None if there is none."""
        folder = self.root / kind / key
        if self.fresh or not folder.is_dir():
            return None
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            damaged = [name for name, sha in record["files"].items() if checksum(folder / name) != sha]
            _note_use(folder / RECORD)
        except FileNotFoundError:  # another process has removed it
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            record, damaged = {}, [f"{RECORD} ({error})"]
        if damaged:
            warnings.warn(f"{folder}: {damaged[0]} is damaged; the entry is removed and computed anew", stacklevel=2)
            with contextlib.suppress(OSError):  # a store that cannot be written is no reason to end a run
                self._remove(folder)
            return None
        return Entry(kind, key, folder, _size(folder), time.time(), record["note"])

    def put(self, kind: str, key: str, write: Callable[[Path], object], **note: Any) -> None:
        """Keep what ``write(folder)`` writes; an entry of that name is replaced.

        note : JSON values for `entries`, such as ``what`` and ``seconds``. Where the disk is full there is a warning
        and no entry: a run does not end for it.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=self.root, prefix=".writing-"))
        except OSError as error:
            warnings.warn(f"the store {self.root} cannot be written ({error}); see DIFFAD_STORE", stacklevel=2)
            return
        try:
            folder.chmod(0o755)  # mkdtemp makes folders private
            write(folder)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            sums = {path.relative_to(folder).as_posix(): checksum(path) for path in files}
            written = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            record = {"files": sums, "note": note | {"written": written}}
            write_atomically(folder / RECORD, json.dumps(record, indent=1, sort_keys=True))
            size = _size(folder)
            if size <= self.limit:
                for path in [*files, folder / RECORD]:
                    _sync(path)  # or a power cut could leave the name without the content
                self._rename(folder, self.root / kind / key)
                self._untrimmed += size
        except OSError as error:
            warnings.warn(f"{note.get('what', kind)} could not be kept in {self.root}: {error}", stacklevel=2)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if self._untrimmed > self.limit // 100:  # looking at all entries each time would take as long as writing them
            self.trim()

    def entries(self) -> list[Entry]:
        """All entries, the one that was not used for longest first."""
        found = []
        for folder in (entry for kind in _folders(self.root) for entry in _folders(kind)):
            try:
                note = _note(folder / RECORD)
                used, size = (folder / RECORD).stat().st_mtime, _size(folder)
            except OSError:  # removed at this moment, or no entry
                continue
            found.append(Entry(folder.parent.name, folder.name, folder, size, used, note))
        return sorted(found, key=lambda entry: (entry.used, entry.key))

    def trim(self) -> None:
        """Remove entries until the rest is within the limit, and what dead writers left.

        First goes what has the largest age times bytes, for each second that computing it took: a decoded batch before
        a training, and of two that cost the same the one that was not used for longer. `put` does so after each
        hundredth of the limit.
        """
        self._untrimmed, now = 0, time.time()
        entries = self.entries()
        total = sum(entry.size for entry in entries)
        for entry in sorted(entries, key=lambda entry: -(now - entry.used) * entry.size / _cost(entry)):
            if total <= self.limit:
                break
            try:
                self._remove(entry.folder)
            except OSError as error:
                warnings.warn(f"{entry.folder} cannot be removed ({error}); the store stays too large", stacklevel=2)
                break
            total -= entry.size
        for path in self.root.glob(".*-*"):
            try:
                if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)
            except FileNotFoundError:  # another process was faster
                continue

    def clear(self) -> int:
        """Remove all entries, damaged ones too; how many there were."""
        entries = self.entries()
        for entry in entries:
            self._remove(entry.folder)
        return len(entries)

    def _rename(self, folder: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(10):  # another writer of the same entry may put its own there in between
            try:
                os.rename(folder, target)
                return
            except OSError:
                if not target.exists():
                    raise
            self._remove(target)

    def _remove(self, folder: Path) -> None:
        """Out of the way at once, then deleted: nobody sees an entry with a part of its files."""
        away = Path(tempfile.mkdtemp(dir=self.root, prefix=".removing-"))
        try:
            os.rename(folder, away / "entry")
        except FileNotFoundError:  # another process was faster
            pass
        finally:
            shutil.rmtree(away, ignore_errors=True)


def _folders(parent: Path) -> list[Path]:
    """Folders inside, without those that are being written. None if the parent is removed at this moment, which
    ``Path.glob`` does not survive."""
    try:
        return [Path(entry) for entry in os.scandir(parent) if entry.is_dir() and not entry.name.startswith(".")]
    except FileNotFoundError:
        return []


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _note(record: Path) -> dict[str, Any]:
    """The note of an entry's record; of a damaged one, that it is damaged."""
    try:
        note = json.loads(record.read_text(encoding="utf-8")).get("note", {})
        return note | {"seconds": float(note.get("seconds", 0.0))}
    except (ValueError, TypeError, AttributeError):
        return {"what": "(damaged: computed anew when it is needed)", "seconds": 0.0}


def _cost(entry: Entry) -> float:
    """Seconds that computing it took; an entry that does not say counts as quick."""
    return max(entry.note["seconds"], QUICK_SECONDS)


def _note_use(record: Path) -> None:
    """Its date says when an entry was used, where the store can be written: it may be shared and read-only."""
    try:
        os.utime(record)
    except FileNotFoundError:
        raise
    except OSError:
        return


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


# ------------------------------------------------------------------------------------------ the store of a run

_active: Store | None = None
_taken: list[dict[str, Any]] = []


def open_at(folder: Path) -> Store | None:
    """The store in ``$DIFFAD_STORE``, else in ``folder``; None where it is "off".

    Raises ``ValueError`` for a ``$DIFFAD_STORE_GB`` that is not a number above 0.
    """
    place = os.environ.get(ROOT) or str(folder)
    if place == "off":
        return None
    try:
        limit = float(os.environ.get(LIMIT) or 8)
        if not limit > 0:
            raise ValueError
    except ValueError as error:
        raise ValueError(f"{LIMIT} must be a number of GB above 0, got {os.environ[LIMIT]!r}") from error
    return Store(place, int(limit * 1e9), os.environ.get(FRESH, "") not in ("", "0"))


def open_run(folder: Path) -> None:
    """What is computed from now on is kept in the store below ``folder``, a profile's output, and taken from there.

    On Kaggle only where ``$DIFFAD_STORE`` names a folder: what a session leaves in its own is published.
    """
    global _active
    _active = None if on_kaggle() and ROOT not in os.environ else open_at(folder / FOLDER)
    _taken.clear()


def close_run() -> None:
    """The run is recorded."""
    global _active
    _active = None


def active() -> Store | None:
    """The store of the running notebook, if there is one."""
    return _active


def note_taken(entry: Entry) -> None:
    """Remember for the manifest that an entry was used."""
    _taken.append({"kind": entry.kind, "key": entry.key, **entry.note})


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Without the store: for what measures how long a computation takes."""
    global _active
    before, _active = _active, None
    try:
        yield
    finally:
        _active = before


_ahead = 0.0


def clock() -> float:
    """Seconds as of ``time.perf_counter``, on a clock that the store does not change: what was taken from it counts
    with the seconds that it took when it was computed, and looking it up and keeping it do not count."""
    return time.perf_counter() + _ahead


def set_clock(seconds: float) -> None:
    """`clock` goes on from here."""
    global _ahead
    _ahead = seconds - time.perf_counter()


def taken() -> list[dict[str, Any]]:
    """What this run has taken: kind, key, what it is, the seconds that it took when it was computed, and when."""
    return list(_taken)
