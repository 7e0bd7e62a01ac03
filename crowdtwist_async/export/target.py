"""
One output with its ledger and its file of failed members: opened, checked, completed, closed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from crowdtwist_async.errors import ConfigurationError, OutputLockedError, OutputMismatchError
from crowdtwist_async.export.formats import Format, Writer
from crowdtwist_async.export.formats.jsonl import BEGINS, StandardOutput
from crowdtwist_async.export.formats.lines import looks_ours
from crowdtwist_async.export.ledger import COMPLETED_AT, Ledger
from crowdtwist_async.export.places import (
    STANDARD_OUTPUT,
    check_place,
    errors_path,
    ledger_path,
    own_path,
)
from crowdtwist_async.export.rows import iso
from crowdtwist_async.export.shard import Shard, check_not_half_emptied, check_split
from crowdtwist_async.export.storage import NEEDS_MORE, foreign, remove_file, replace_file, storing

if TYPE_CHECKING:
    from crowdtwist_async.export.remote import RemoteErrors


class Target:
    """
    An output that is open for one export.

    Args:
        output: Its path, its URL in an object store, or `-`.
        name: `points`, `rewards` or `purchases`.
        fresh: Whether to remove what an earlier export wrote there.
        disarm_formulas: Whether CSV cells that spreadsheets would calculate are disarmed.
        shard: Which of the shards that make the output together; by default there are none.

    Raises:
        ConfigurationError: There is no such format, or it can't be there.
        ExportError: It is locked, damaged, somebody else's, or can't be written.
    """

    def __init__(
        self,
        output: str,
        name: str,
        *,
        fresh: bool = False,
        disarm_formulas: bool = False,
        shard: Shard | None = None,
    ) -> None:
        self.output = output
        """Where the rows are: those of a shard have a name of their own."""
        self._split: tuple[Path, Shard | None] | None = None
        self._errors_path: Path | None = None
        self._remote_errors: RemoteErrors | None = None
        made = check_place(output, shard, disarm_formulas=disarm_formulas)
        if output == STANDARD_OUTPUT:
            self.ledger = Ledger(None, output)
            self.writer: Writer = StandardOutput(self.ledger)
        elif made is None:
            self.output = output.rstrip("/")
            self.ledger, self.writer, self._remote_errors = _opener()(output, name, fresh=fresh, shard=shard)
        else:
            with storing(output):
                self._open(Path(output), name, made, shard, fresh=fresh)

    def _open(self, whole: Path, name: str, made: Format, shard: Shard | None, *, fresh: bool) -> None:
        check_split(whole, shard)
        if shard is not None and not fresh:
            check_not_half_emptied(whole)
        path = whole if made.is_folder else own_path(whole, shard)
        place = self.output if shard is None else f"shard {shard} of {self.output}"
        if path != whole:
            self.output = str(path)
        ledger = ledger_path(whole, shard)
        if not fresh and made.is_taken(path) and not has_content(ledger):
            raise foreign(path, f"is there already, and no ledger {ledger.name} is beside it")
        errors = self._errors_path = errors_path(whole, shard)
        if errors.exists() and not looks_ours(errors, BEGINS):
            raise foreign(errors, "is there already, and was written by no export")

        def discard() -> None:
            with storing(path):
                made.discard(path)
                remove_file(errors)

        self._split = whole, shard
        self.ledger = Ledger(ledger, place, discard if fresh else None)
        self.writer = made.writer(path, self.ledger, name)

    def close(self) -> None:
        """Close the files, without what is not committed, and let others in."""
        try:
            self.writer.close()
        finally:
            self.ledger.close()

    def begin(self, asked: Mapping[str, str]) -> None:
        """
        Begin the output, or make it ready to go on with.

        Raises:
            ExportError: It was begun with other arguments, or can't be written.
        """
        self.ledger.begin(asked)
        try:
            if self._split is not None:
                # What began at the same moment would see this export now.
                check_split(*self._split)
            self.writer.recover()
        except (OutputLockedError, OutputMismatchError):
            # What the output has by then would pass for rows that were not committed.
            if self._split is not None:
                self.ledger.remove_if_new()
            raise

    @property
    def completed_at(self) -> datetime | None:
        """When it was complete."""
        text = self.ledger.get(COMPLETED_AT)
        return None if text is None else datetime.fromisoformat(text)

    def check_age(self, max_age: float | None) -> None:
        """
        Refuse a complete output that is too old.

        Raises:
            OutputMismatchError: It was complete more than `max_age` seconds ago.
        """
        completed = self.completed_at
        if completed is None or max_age is None:
            return
        if (datetime.now(UTC) - completed).total_seconds() > max_age:
            raise OutputMismatchError(
                f"{self.output} was complete at {iso(completed)}, which is longer ago than you allow:"
                " give --fresh (fresh=True) to export again"
            )

    def reopen(self) -> None:
        """Note that it is not complete: a run is about to add to it."""
        if self.completed_at is not None:
            self.ledger.commit((), {COMPLETED_AT: None})

    def complete(self) -> datetime:
        """Note that it is complete, and return when."""
        self.writer.finish()
        now = datetime.now(UTC).replace(microsecond=0)
        self.ledger.commit((), {COMPLETED_AT: iso(now)})
        return now

    def write_errors(self, id_type: str) -> str | None:
        """
        Write the failed members of the ledger to `OUT.errors.jsonl`; return its name, if there are any.

        Raises:
            StorageError: It can't be written.
        """
        failed = self.ledger.totals().failed
        if self._remote_errors is not None:
            return self._remote_errors.write(failures_of(self.ledger, id_type) if failed else None)
        path = self._errors_path
        if path is None:
            return None
        with storing(path):
            if not failed:
                remove_file(path)
                return None
            replace_file(path, failures_of(self.ledger, id_type))
        return str(path)


def _opener() -> Any:
    try:
        from crowdtwist_async.export.remote import open_remote
    except ConfigurationError:
        # Of one package; those that come with it would be told one after the other.
        raise ConfigurationError(NEEDS_MORE) from None
    return open_remote


def failures_of(ledger: Ledger, id_type: str) -> Iterator[bytes]:
    """The lines of a file of failed members."""
    for user_id, error, message in ledger.failures():
        line = {"requested_id": user_id, "requested_id_type": id_type, "error": error, "message": message}
        yield msgspec.json.encode(line) + b"\n"


def has_content(path: Path) -> bool:
    """Whether there is a ledger: an empty file knows nothing of an output, which would be cut to nothing."""
    return path.exists() and path.stat().st_size > 0
