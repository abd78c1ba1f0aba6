"""The casebook's file: opening, refusing, upgrading, and transactions. All that is particular to SQLite is here.

Write-ahead logging lets one process write while others read; a write takes the file's lock before it reads what it
changes (BEGIN IMMEDIATE), so two writers never overwrite each other's findings; and what a killed process had not
committed is not there. Every transaction survives the death of the process; the last few may not survive that of the
machine (synchronous = NORMAL).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from fathom.casebook.migrations import Migration, migrations
from fathom.core.errors import FathomError

APPLICATION = 0x46544342
"""Marks a SQLite file as a casebook: "FTCB" in its header's application id."""

WAIT = 60.0
"""Seconds to wait for another process to finish writing."""

MAX_BYTES = 1 << 28
"""No field larger than this is written or, whoever wrote the file, taken into memory."""

DAMAGED = "the casebook is damaged; restore it from a copy, or give another path for the casebook"


class CasebookError(FathomError):
    """A casebook that cannot be opened, read or written."""


@dataclass(frozen=True)
class Database:
    """An open casebook file of today's version."""

    path: Path
    engine: Engine

    @staticmethod
    def open(path: Path, steps: Sequence[Migration] | None = None) -> Database:
        """The casebook at `path`, made where there is none and upgraded where it is of an older version.

        Args:
            steps: the migrations; those of `migrations/` by default.

        Raises:
            CasebookError: no folder to make it in, a file that is no casebook, a damaged one, or one of a later version.
                The file is as it was.
        """
        steps = migrations() if steps is None else steps
        _check_path(path)
        database = Database(path, _engine(path))
        try:
            with database.read() as connection:
                version = _version(connection, path, len(steps))
            database._use_write_ahead_log()
            if version < len(steps):
                with database.write() as connection:  # another process may have upgraded it since
                    _upgrade(connection, steps, _version(connection, path, len(steps)))
        except BaseException:
            database.close()
            raise
        return database

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads: one state of the file, however long it lasts."""
        with _explained(self.path), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that reads and writes, alone; committed at the end, and undone by any error."""
        with _explained(self.path), self.engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection

    def _use_write_ahead_log(self) -> None:
        """Kept in the file. SQLite does not wait for this change as it does for others, so we do; file systems without shared
        memory refuse it and keep the rollback journal, which is as safe and makes readers wait."""
        deadline = time.monotonic() + WAIT
        while True:
            try:
                with _explained(self.path):
                    raw = self.engine.raw_connection()
                    try:
                        raw.cursor().execute("PRAGMA journal_mode = WAL")
                    finally:
                        raw.close()
                return
            except CasebookError as error:
                if not _is_busy(error.__cause__) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


def _engine(path: Path) -> Engine:
    engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": WAIT})

    @event.listens_for(engine, "connect")
    def prepare(raw: sqlite3.Connection, _: object) -> None:
        raw.isolation_level = None  # transactions begin where we say, not where the driver guesses
        raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_BYTES)
        for pragma in ("trusted_schema = OFF", "foreign_keys = ON", "synchronous = NORMAL"):
            raw.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")

    return engine


def _check_path(path: Path) -> None:
    if path.is_dir():
        raise CasebookError(f"expected the casebook as a file, got the folder {path}; give {path / 'casebook.db'}, say")
    if not path.parent.is_dir():
        raise CasebookError(f"expected a folder for the casebook {path.name}, got {path.parent}, which is none; make it first")
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        return
    except OSError as error:
        raise CasebookError(f"expected to read the casebook {path}, got: {error.strerror}; check who may read it") from error
    if start and start != b"SQLite format 3\0":  # an empty file is what is left of one killed while being made
        raise CasebookError(
            f"expected a casebook at {path}, got a file that starts with {start!r} and is no SQLite database; it was left as it "
            "is; give another path for the casebook, or restore this one from a copy"
        )


def _version(connection: Connection, path: Path, latest: int) -> int:
    """The version of a casebook; 0 for a database with nothing in it."""
    application = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
    version = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
    tables = [name for (name,) in connection.exec_driver_sql("SELECT name FROM sqlite_master LIMIT 8")]
    if application != APPLICATION and (application or version or tables):
        raise CasebookError(
            f"expected a casebook at {path}, got another program's SQLite database (application {application:#x}, version "
            f"{version}, with {', '.join(map(str, tables)) or 'no tables'}); it was left as it is; give another path"
        )
    if version > latest:
        raise CasebookError(
            f"expected a casebook of version {latest} or older at {path}, got version {version}, made by a later Fathom; it was "
            "left as it is; upgrade with `pip install --upgrade fathom-verify`, or give another path for the casebook"
        )
    return version


def _upgrade(connection: Connection, steps: Sequence[Migration], version: int) -> None:
    for step in steps[version:]:
        step(connection)
    connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION}")
    connection.exec_driver_sql(f"PRAGMA user_version = {len(steps)}")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Errors of the database, said in words."""
    try:
        yield
    except (SQLAlchemyError, UnicodeDecodeError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        said = str(cause)
        if _is_busy(cause):
            advice = f"another process has been writing for over {WAIT:g} s; wait for it or end it, then run again"
        elif "readonly" in said:
            advice = "give a path that may be written, or change who may write this one"
        elif "full" in said:
            advice = "free some space on its disk, then run again with the same casebook: what was stored is still there"
        else:
            advice = DAMAGED
        raise CasebookError(f"expected to use the casebook {path}, got from SQLite: {said}; {advice}") from cause


def _is_busy(cause: BaseException | None) -> bool:
    return isinstance(cause, sqlite3.OperationalError) and getattr(cause, "sqlite_errorcode", 0) & 0xFF in (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
    )
