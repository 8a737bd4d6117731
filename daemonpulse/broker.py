"""django-q2's ORM broker, woken by the event log instead of a poll."""

import os

from django.db import connection
from django_q.brokers.orm import ORM
from django_q.conf import Conf

from daemonpulse import wakeup

LOOK_SECONDS = 1.0


class WakingORM(ORM):
    """The same rows and locks; only the wait between two looks is a wake-up call (see wakeup.py)."""

    listener = None

    def enqueue(self, task):
        package_id = super().enqueue(task)
        if connection.in_atomic_block:
            wakeup.notify_on_commit()
        else:
            wakeup.notify()
        return package_id

    def dequeue(self):
        if self.listener is None or self.listener_pid != os.getpid():
            self.listener, self.listener_pid = wakeup.listen(), os.getpid()
            Conf.POLL = 0  # the base class sleeps this long on an empty queue
        tasks = super().dequeue()
        if not tasks:
            self.listener.wait(LOOK_SECONDS)
        return tasks
