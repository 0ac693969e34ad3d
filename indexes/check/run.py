"""Check an index, and repair it: all checks in their order, what mends what they found, and again.

A check reads one version of the index, takes no lock and writes nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from indexes.catalogue import Catalogue
from indexes.check.caches import cache_files, check_caches, delete_caches
from indexes.check.embeddings import check_embeddings, stored_dim
from indexes.check.relations import check_files, check_full_text, check_presence
from indexes.check.report import NEW_INDEX, REPAIR, CheckReport, Mend, Problem, Progress
from indexes.check.rows import (
    check_meta,
    check_next_id,
    check_roots,
    check_rows,
    missing_folders,
    recorded_dim,
)
from indexes.check.salvage import salvage
from indexes.check.structure import (
    check_indexes,
    check_references,
    check_tables,
    damage,
    messages_of_sqlite,
)
from indexes.database import FORMAT_VERSION
from indexes.index import Index
from indexes.lock import is_held
from indexes.sqlite_errors import explained

_MOST_REPAIRS = 4  # what mends one problem may show another


def check_index(folder: Path, progress: Progress = lambda *_: None) -> CheckReport:
    """Check the index in `folder`.

    Raises IndexMissingError, and IndexDamagedError if the catalogue cannot be opened at all.
    """
    with Catalogue.open(folder) as catalogue, explained(folder), _as_stored(catalogue):
        catalogue.database.begin_read()
        try:
            version = catalogue.version()
            report = _check(catalogue, progress, is_held(folder))
            with_caches = _check_caches(catalogue, report, progress)
        finally:
            catalogue.database.end_read()
        if catalogue.version() == version and not is_held(folder):
            return with_caches
        # Another process may have written newer caches than the version that was read.
        note = "Another process changes the index: its cache files were not checked."
        return replace(report, notes=(*report.notes, note))


def repair_index(folder: Path, progress: Progress = lambda *_: None) -> CheckReport:
    """Check the index in `folder`, whose lock the caller holds, and mend what can be mended.

    The report is of the last check, after the repair. Raises as `check_index`, or StorageError.
    """
    done: list[str] = []
    for _ in range(_MOST_REPAIRS):
        with Catalogue.open(folder, for_repair=True) as catalogue, explained(folder):
            with _as_stored(catalogue):
                report = _check(catalogue, progress, at_work=False)
                report = _check_caches(catalogue, report, progress)
            damaged = any(problem.is_damaged_file for problem in report.problems)
            mends = [problem.mend for problem in report.problems if problem.mend is not None]
            if mends:
                done += _mend(catalogue, mends)
        if damaged and report.format == FORMAT_VERSION:
            done.append(salvage(folder))
        elif not mends:
            break
    if done and report.is_whole and report.format == FORMAT_VERSION:
        with Index.open(folder, writable=True) as index:
            index.refresh()
    return replace(report, repaired=tuple(done))


def _mend(catalogue: Catalogue, mends: Sequence[Mend]) -> list[str]:
    catalogue.database.conn.execute("PRAGMA foreign_keys=OFF")  # rows go in any order
    with catalogue.transaction():
        done = [mend(catalogue) for mend in dict.fromkeys(mends)]
        catalogue.meta.renew_generation()
    return [*done, delete_caches(catalogue)]


@contextmanager
def _as_stored(catalogue: Catalogue) -> Iterator[None]:
    """Read text that is not UTF-8 as text that no check accepts, instead of failing."""
    conn = catalogue.database.conn
    conn.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    try:
        yield
    finally:
        conn.text_factory = str


class _Report:
    """What was checked and found so far."""

    def __init__(self) -> None:
        self.checked: list[str] = []
        self.problems: list[Problem] = []
        self.notes: list[str] = []

    def add(self, checked: str, problems: Iterable[Problem]) -> bool:
        """Run a check; returns whether it found nothing."""
        found = list(problems)
        self.checked.append(checked)
        self.problems += found
        return not found


def _check(catalogue: Catalogue, progress: Progress, at_work: bool) -> CheckReport:
    """at_work: another process is changing the index."""
    database, report = catalogue.database, _Report()

    def result() -> CheckReport:
        return CheckReport(
            database.folder,
            database.format,
            tuple(report.checked),
            tuple(report.problems),
            tuple(report.notes),
        )

    progress("SQLite's own check", 0, 1)
    messages = messages_of_sqlite(database)
    (pages,) = database.conn.execute("PRAGMA page_count").fetchone()
    found = damage(messages)
    if found is not None:
        remedy = REPAIR if database.format == FORMAT_VERSION else NEW_INDEX
        what = f"SQLite cannot read all of the catalogue ({found})."
        problem = Problem(what, remedy=remedy, is_damaged_file=True)
        report.add(f"{pages:,} pages of the catalogue", [problem])
        return result()
    report.add(f"{pages:,} pages of the catalogue", check_indexes(messages))
    if not report.add("tables and columns", check_tables(database)):
        return result()
    (photos,) = database.conn.execute("SELECT count(*) FROM photos").fetchone()
    (files,) = database.conn.execute("SELECT count(*) FROM files").fetchone()
    dim = stored_dim(database)
    report.add("model and settings", check_meta(catalogue, dim))
    if dim is None:  # there are no embeddings, or none of them is right
        dim = recorded_dim(catalogue)
    if report.add("indexed folders", check_roots(catalogue)):
        report.notes += [
            f"The folder {path} is not there now; its photos stay in the index."
            for path in missing_folders(catalogue)
        ]
    report.add(f"{photos:,} photos and {files:,} files", check_rows(catalogue, progress))
    report.add("references between tables", check_references(database))
    report.add("ids", check_next_id(catalogue))
    report.add("which photos are on disk", [*check_presence(database), *check_files(database)])
    if dim is not None:
        report.add(f"embeddings of {photos:,} photos", check_embeddings(catalogue, dim, progress))
    if database.has_table("captions") and not at_work:
        report.add("full text", check_full_text(catalogue))
    if database.format < FORMAT_VERSION:
        report.notes.append(
            f"The index has format {database.format}, which has no checksums; the next "
            "`retrieval index` brings it up to date."
        )
    if at_work:
        report.notes.append("Another process changes the index: full text was not checked.")
    return result()


def _check_caches(catalogue: Catalogue, report: CheckReport, progress: Progress) -> CheckReport:
    """The report with what is wrong with the cache files; they go with any other problem."""
    if report.problems:
        return report
    files = cache_files(catalogue.database.folder, catalogue)
    found = tuple(check_caches(catalogue, catalogue.model().dim, progress))
    checked = (*report.checked, f"{len(files)} folder(s) of vectors")
    return replace(report, checked=checked, problems=found)
