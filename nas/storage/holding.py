"""Who runs a study: claims that one coordinator makes, renews and gives up."""

from __future__ import annotations

import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Update, or_, select, update

from nas.errors import NotFoundError, StorageError, StorageUnavailable
from nas.storage import claims
from nas.storage.claims import Holder, Watch, once_free
from nas.storage.database import Database
from nas.storage.models import Study
from nas.storage.patience import patiently
from nas.storage.records import StudyRecord, utc_now

RELEASE_PATIENCE_S = 10.0


class Holding:
    """One coordinator of the studies of a database.

    A study that it claimed is refused to every other object, in this process or elsewhere, until
    it releases it or dies.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.url = database.url  # a password hidden
        self._token = uuid.uuid4().hex
        self._held: set[int] = set()
        self._watches: dict[int, Watch] = defaultdict(Watch)

    def claim(self, study_id: int) -> None:
        """Become the study's coordinator; a claim of one's own is renewed.

        Whether a coordinator on another host or in another container lives takes a while to find
        out, a minute at most; so does whether one from before a reboot does.

        Raises:
            NotFoundError: there is no such study.
            StorageError: another coordinator lives; who and since when is said.
        """

        def taken() -> Update:
            return update(Study).values(
                holder=asdict(Holder.this_process()),
                holder_token=self._token,
                active_at=utc_now(),
            )

        once_free(self._database, study_id, self._token, taken)
        self._held.add(study_id)

    def renew(self, study_id: int) -> None:
        """Say that the coordinator lives; `add_trial` does it too.

        Raises:
            StorageError: another coordinator took the study over.
        """
        with self._database.write() as connection:
            self._touch(connection, study_id)

    def release(self, study_id: int) -> None:
        """Give the study up; nothing happens if it is not held."""
        with self._database.write() as connection:
            connection.execute(
                update(Study)
                .where(Study.id == study_id, Study.holder_token == self._token)
                .values(holder=None, holder_token=None)
            )
        self._held.discard(study_id)

    @contextmanager
    def claimed(self, study: StudyRecord) -> Iterator[None]:
        """`claim` at the start of a block, `release` at its end, signs of life between.

        Nobody else deletes the study or writes to it meanwhile.

        Raises:
            NotFoundError: it does not exist any more.
            StorageError: another coordinator lives; who and since when is said.
        """
        self.claim(study.id)
        over = threading.Event()

        def renew() -> None:
            while not over.wait(claims.RENEWAL_S):
                with suppress(StorageError, NotFoundError):  # the next commit will tell
                    self.renew(study.id)

        beat = threading.Thread(target=renew, daemon=True)
        beat.start()
        try:
            self._require_same(study)
            yield
        finally:
            over.set()
            beat.join()
            with suppress(StorageUnavailable):  # a claim that stays falls with its process
                patiently(lambda: self.release(study.id), patience_s=RELEASE_PATIENCE_S)

    def _require_same(self, study: StudyRecord) -> None:
        """Refuse one that was begun with the id of a deleted one, which SQLite gives anew."""
        row = select(Study.name, Study.created_at).where(Study.id == study.id)
        with self._database.read() as connection:
            found = connection.execute(row).one_or_none()
        if found is None or tuple(found) != (study.name, study.created_at):
            raise NotFoundError("the study does not exist any more.", "See `nas studies`.")

    def _touch(self, connection: Connection, study_id: int) -> None:
        """Renew the claim, or write beside nobody's: never beside another coordinator."""
        mine = Study.holder_token == self._token
        if study_id not in self._held:
            mine = or_(mine, Study.holder_token.is_(None))
        touched = connection.execute(
            update(Study).where(Study.id == study_id, mine).values(active_at=utc_now())
        )
        if touched.rowcount == 1:
            return
        holder = connection.execute(
            select(Study.name, Study.holder).where(Study.id == study_id)
        ).one_or_none()
        if holder is None:
            raise NotFoundError("the study does not exist any more.", "See `nas studies`.")
        who = "nobody" if holder.holder is None else str(Holder.from_json(holder.holder))
        raise StorageError(
            f"study {holder.name!r} is not held by this process: it is held by {who}.",
            "Stop one of the two; the trials that were committed are kept.",
        )

    def holder(self, study_id: int) -> str | None:
        """Who runs a study, None if nobody does or its holder died.

        One that died where nobody can look for it, as on another host, is found dead when this was
        asked for a minute.
        """
        row = select(Study.holder, Study.active_at).where(Study.id == study_id)
        with self._database.read() as connection:
            found = connection.execute(row).one_or_none()
        return None if found is None else self._living(study_id, found.holder, found.active_at)

    def _living(self, study_id: int, claim: dict[str, Any] | None, sign: datetime) -> str | None:
        if claim is None:
            return None
        holder = Holder.from_json(claim)
        dead = self._watches[study_id].lives(holder, sign) is False
        return None if dead else str(holder)
