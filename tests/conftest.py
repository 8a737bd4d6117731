"""The cast and what every suite needs: Alice owns, Bob is another user, Charlie is not signed in."""

import gc
import os
import shutil
import time

import hypothesis
import pytest

# A busy machine may hold up any example; what must be quick is measured by tests of its own.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")

CHROMIUM = os.environ.get("DAEMONPULSE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Under this switch (CI) a suite that cannot run is a failure, not a skip.
MUST_RUN_ALL = os.environ.get("DAEMONPULSE_TEST_ALL") == "1"


def has_engine() -> bool:
    from importlib.util import find_spec

    return all(find_spec(name) for name in ("xllamacpp", "gguf"))


MISSING = {
    "browser": (lambda: CHROMIUM is None, "install Chromium (Debian: apt-get install chromium)"),
    "engine": (lambda: not has_engine(), "install the engine extra (pip install -e '.[engine]' -c constraints.txt)"),
    "node": (lambda: shutil.which("node") is None, "install Node (Debian: apt-get install nodejs)"),
    "postgres": (lambda: find_postgres() is None, "install PostgreSQL (Debian: apt-get install postgresql)"),
}


def find_postgres() -> str | None:
    """The folder of PostgreSQL's server programs."""
    from pathlib import Path

    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = str(versions[-1]) if versions else shutil.which("initdb")
    return str(Path(found).parent) if found else None


LONGEST = ("test_pages", "test_journey", "test_mobile", "test_fleet")  # of those that drive a browser


def _turn(item) -> tuple[int, int]:
    """What runs for long begins first. What drives a browser comes last: Playwright keeps an event loop running in
    its process, in which Django refuses to touch a database. It also keeps the processors busy, which would cost the
    installations before it the pace that their tests measure."""
    if item.get_closest_marker("browser"):
        name = item.path.stem
        return 2, LONGEST.index(name) if name in LONGEST else len(LONGEST)
    return (0, 0) if "tests/system/" in item.nodeid else (1, 0)


def pytest_collection_modifyitems(config, items):
    items.sort(key=_turn)
    skipped: dict[str, int] = {}
    for item in items:
        for marker, (is_missing, _) in MISSING.items():
            if item.get_closest_marker(marker) and is_missing():
                skipped[marker] = skipped.get(marker, 0) + 1
                item.add_marker(pytest.mark.skip(reason=f"{marker}: {MISSING[marker][1]}"))
    config.skipped_suites = skipped


def pytest_terminal_summary(terminalreporter, config):
    for marker, count in getattr(config, "skipped_suites", {}).items():
        terminalreporter.write_line(f"NOT RUN: {count} {marker} tests; to run them, {MISSING[marker][1]}.", yellow=True)


def pytest_sessionfinish(session, exitstatus):
    if MUST_RUN_ALL and getattr(session.config, "skipped_suites", {}) and exitstatus == 0:
        session.exitstatus = 1


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args):
    return {**browser_type_launch_args, "executable_path": CHROMIUM, "args": CHROMIUM_FLAGS}


@pytest.fixture(autouse=True)
def quick_passwords(settings):
    """Good hashes take half a second, by design."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def no_collection():
    """For what recurses as deep as Python lets it: a finalizer that is run down there fails, and the test with it."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def alice(django_user_model):
    return django_user_model.objects.create_superuser("alice", password="correct horse battery")


@pytest.fixture
def bob(django_user_model):
    return django_user_model.objects.create_user("bob", password="correct horse battery")


@pytest.fixture
def node(db):
    """A node that is online and has two models; nothing listens at its address."""
    from fleet.models import Node
    from forge.models import Model

    row = Node.objects.create(name="box", base_url="http://127.0.0.1:9", state="online")
    for key in ("otter", "heron"):
        Model.objects.create(node=row, key=key, name=key.capitalize(), type="llm", loaded=[], slots=2)
    return row


def wait_for(is_so, seconds: float = 60.0, step: float = 0.05):
    """Wait until is_so() is true, and return what it gave; fails the test after `seconds`.

    Without them it is a wait for what must come, however busy the machine; what must come soon says how soon."""
    until = time.monotonic() + seconds
    while True:
        is_late = time.monotonic() > until  # before the look: who was held up between two looks looks once more
        if result := is_so():
            return result
        assert not is_late, f"it did not become so within {seconds} s"
        time.sleep(step)
