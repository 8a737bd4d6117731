"""The database backend "daemonpulse.sqlite": a transaction that may write begins when it is its turn."""

import time

from django.db import OperationalError
from django.db.backends.sqlite3 import base

from daemonpulse.sqlite.turns import Turns, turns_of

OPEN_SECONDS = 5.0


class DatabaseWrapper(base.DatabaseWrapper):
    _turn: Turns | None = None

    def get_new_connection(self, conn_params):
        """Opening sets the journal's mode; of a database that is not in it yet SQLite says "locked" at once when
        another process does the same, without waiting for it."""
        until = time.monotonic() + OPEN_SECONDS
        while True:
            try:
                return super().get_new_connection(conn_params)
            except OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def _start_transaction_under_autocommit(self):
        if not self.is_in_memory_db():
            turn = turns_of(str(self.settings_dict["NAME"]))
            turn.take()
            self._turn = turn
        try:
            super()._start_transaction_under_autocommit()
        except BaseException:
            self._end_turn()
            raise

    def _commit(self):
        try:
            super()._commit()
        finally:
            if not self._is_in_transaction():
                self._end_turn()

    def _rollback(self):
        try:
            super()._rollback()
        finally:
            self._end_turn()

    def _close(self):
        try:
            super()._close()
        finally:
            self._end_turn()

    def _is_in_transaction(self) -> bool:
        """After a COMMIT that failed the transaction, and with it the turn, goes on until the rollback."""
        return self.connection is not None and self.connection.in_transaction

    def _end_turn(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.give_back()
