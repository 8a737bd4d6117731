"""Before the processes start."""

import pytest
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from daemonpulse.queue.management.commands.prepare import is_behind


@pytest.mark.django_db
def test_a_database_that_lacks_a_migration_is_brought_up_to_date():
    assert not is_behind()
    recorder = MigrationRecorder(connection)
    name = max(name for app, name in recorder.applied_migrations() if app == "forge")
    recorder.record_unapplied("forge", name)
    assert is_behind()
