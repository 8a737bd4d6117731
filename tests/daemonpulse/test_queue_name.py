"""The folder `queue` beside the standard library's module, and which app may import which (design §3)."""

import ast
import queue
import subprocess
import sys
import sysconfig
from pathlib import Path
from pydoc import locate

import pytest

ROOT = Path(__file__).resolve().parents[2]
# An app may import what stands on a lower floor, and itself.
FLOORS = {"daemonpulse": 0, "fleet": 1, "forge": 2, "toolchain": 2, "pulse": 3, "queue": 4, "console": 4}


def test_it_leaves_the_standard_librarys_queue_alone():
    assert queue.__file__ == str(Path(sysconfig.get_path("stdlib")) / "queue.py")
    assert not (ROOT / "queue" / "__init__.py").exists()


def test_it_leaves_it_alone_from_the_projects_root():
    """The folder comes first on the path there, as it does for manage.py."""
    code = "import queue, concurrent.futures, urllib3; print(queue.Queue.__module__, queue.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split()[0] == "queue"
    assert str(ROOT) not in done.stdout.split()[1].replace(sys.prefix, "")


def test_it_is_imported_by_its_other_name():
    from daemonpulse.queue import models, states

    assert Path(models.__file__).parent == ROOT / "queue" / "models"
    assert states.__name__ == "daemonpulse.queue.states"


def test_it_is_found_by_django_q2():
    from daemonpulse.queue import tasks

    assert locate("daemonpulse.queue.tasks.work") is tasks.work


def modules():
    for app in FLOORS:
        for path in sorted((ROOT / app).rglob("*.py")):
            if "migrations" not in path.parts and path != ROOT / "daemonpulse" / "queue" / "__init__.py":
                yield app, path


def imported(path):
    """The names of all absolute imports, those inside of functions too."""
    for part in ast.walk(ast.parse(path.read_text())):
        if isinstance(part, ast.Import):
            yield from (alias.name for alias in part.names)
        elif isinstance(part, ast.ImportFrom) and not part.level:
            yield from (f"{part.module}.{alias.name}" for alias in part.names)


def app_of(name):
    return "queue" if name.startswith("daemonpulse.queue") else name.partition(".")[0]


@pytest.mark.parametrize("app", [app for app in FLOORS if (ROOT / app).is_dir()])
def test_it_imports_downwards_only(app):
    upward = [
        f"{path.relative_to(ROOT)} imports {name}"
        for its_app, path in modules()
        if its_app == app
        for name in imported(path)
        # In the folder `queue` the bare name is the standard library's.
        if name.partition(".")[0] != "queue" and app_of(name) in FLOORS and app_of(name) != app
        if FLOORS[app_of(name)] >= FLOORS[app]
    ]
    assert upward == []


def test_it_imports_the_queue_from_settings_urls_and_tests_only():
    """By a string, that is; inside the app imports are relative."""
    importers = {path for _, path in modules() for name in imported(path) if app_of(name) == "queue" and "." in name}
    assert importers == set()
