"""Django's settings. What an installation may choose comes from the environment (see docs/settings.md)."""

import os
from pathlib import Path

import dj_database_url

from daemonpulse import keys, paths

BASE_DIR = Path(__file__).resolve().parents[1]
DATA_DIR = paths.data_dir()
DEBUG = os.environ.get("DAEMONPULSE_DEBUG") == "1"

# A client has the same pages and tables, but no nodes and no execution: it delivers to a server (queue/client/).
IS_CLIENT = paths.is_client(DATA_DIR)

# What this process is (web, worker or a command): only what accepts prompts waits for the disk.
PROCESS = os.environ.get("DAEMONPULSE_PROCESS", "command")

DATABASE_FILE = DATA_DIR / "daemonpulse.sqlite3"
KEY = keys.read_or_create(DATA_DIR, has_database=DATABASE_FILE.exists())
SECRET_KEY = keys.derive(KEY, "django")
CRYPTOGRAPHY_KEY = keys.derive(KEY, "rows")

ALLOWED_HOSTS = os.environ.get("DAEMONPULSE_ALLOWED_HOSTS", "127.0.0.1,localhost,[::1]").split(",")

INSTALLED_APPS = [
    "daemonpulse",
    "fleet",
    "forge",
    "pulse",
    "daemonpulse.queue",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_cryptography",
    "django_htmx",
    "django_q",
    "lucide",
]

if PROCESS == "worker":  # it shows no pages
    SHOWN_ONLY = {
        "django.contrib.admin",
        "django.contrib.messages",
        "django.contrib.staticfiles",
        "django_htmx",
        "lucide",
    }
    INSTALLED_APPS = [app for app in INSTALLED_APPS if app not in SHOWN_ONLY]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "daemonpulse.middleware.security_headers",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

if IS_CLIENT:
    MIDDLEWARE.append("daemonpulse.queue.client.middleware.only_what_is_here")

ROOT_URLCONF = "daemonpulse.urls"
ASGI_APPLICATION = "daemonpulse.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "daemonpulse.queue.client.header.server",
            ]
        },
    }
]

if "DATABASE_URL" in os.environ and not IS_CLIENT:  # a client has a store of its own
    DATABASES = {"default": dj_database_url.config(conn_max_age=None)}
else:
    SYNCHRONOUS = "NORMAL" if PROCESS == "worker" else "FULL"
    DATABASES = {
        "default": {
            "ENGINE": "daemonpulse.sqlite",
            "NAME": DATABASE_FILE,
            "CONN_MAX_AGE": None,
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,  # seconds a writer waits for another
                "init_command": (
                    f"PRAGMA journal_mode=WAL; PRAGMA synchronous={SYNCHRONOUS}; PRAGMA temp_store=MEMORY;"
                    "PRAGMA journal_size_limit=67108864; PRAGMA cache_size=-4000;"
                ),
            },
            # Tests that start processes of their own need a file; one in memory belongs to one process.
            "TEST": {"NAME": os.environ.get("DAEMONPULSE_TEST_DATABASE", str(DATA_DIR / "test.sqlite3"))},
        }
    }

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "daemonpulse.layers.ViewersLayer",
        # A page may stay open for weeks; a viewer that lags further behind than this asks the database again.
        "CONFIG": {"group_expiry": 365 * 86400, "capacity": 1000},
    }
}
SOCKET_ROUTES = "daemonpulse.urls.sockets"
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

AUTH_USER_MODEL = "daemonpulse.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "sign_in"
LOGIN_REDIRECT_URL = "board"
SESSION_COOKIE_NAME = "daemonpulse_session"
SESSION_COOKIE_AGE = 30 * 24 * 3600
CSRF_COOKIE_NAME = "daemonpulse_csrf"
CSRF_FAILURE_VIEW = "daemonpulse.views.csrf_failure"
# Of `up --tls`, best first and without a slash at the end; empty without it. Its cookies are marked where they leave
# (daemonpulse/tls.py), because plain HTTP on this machine has cookies too. No HSTS: it holds for all ports of a name.
TLS_URLS = list(filter(None, os.environ.get("DAEMONPULSE_TLS_URLS", "").split(",")))
IS_BEHIND_TLS = os.environ.get("DAEMONPULSE_TLS") == "1"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = IS_BEHIND_TLS
CSRF_TRUSTED_ORIGINS = [f"https://{host}" for host in ALLOWED_HOSTS] if IS_BEHIND_TLS else []
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

# Bodies stay in memory: an upload spooled to a temporary file would lie there as plain text.
DATA_UPLOAD_MAX_MEMORY_SIZE = FILE_UPLOAD_MAX_MEMORY_SIZE = 8 * 1024 * 1024
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.MemoryFileUploadHandler"]

LANGUAGE_CODE = "en"
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"
STATICFILES_DIRS = [  # not static/src: sources are not served
    ("daemonpulse", BASE_DIR / "static" / "daemonpulse"),
    ("mobile", BASE_DIR / "static" / "mobile"),
]
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG
WHITENOISE_MAX_AGE = 3600

# django-q2 runs one kind of task, "work the lanes" (queue/runner.py): two workers, because a runner that has
# reached its time still finishes the streams in its hands while the next one takes over.
GENERATION_LIMIT_SECONDS = int(os.environ.get("DAEMONPULSE_GENERATION_LIMIT", "3600"))
RUNNER_LIMIT_SECONDS = GENERATION_LIMIT_SECONDS
Q_CLUSTER = {
    "name": "daemonpulse",
    "orm": "default",
    "broker_class": "daemonpulse.broker.WakingORM",
    "workers": 2,
    "recycle": 200,
    "timeout": RUNNER_LIMIT_SECONDS + GENERATION_LIMIT_SECONDS + 60,
    "retry": RUNNER_LIMIT_SECONDS + GENERATION_LIMIT_SECONDS + 120,
    "max_attempts": 1,
    "ack_failures": True,
    "save_limit": -1,
    "bulk": 4,
    "queue_limit": 4,
    "guard_cycle": 0.5,
    "scheduler": False,
    "catch_up": False,
    "log_level": "WARNING",
}

MAX_CHAT_TURNS = 100

# A lane whose first prompt has waited this long for a model swap gets the next turn on its node.
MAX_LANE_WAIT_SECONDS = float(os.environ.get("DAEMONPULSE_MAX_LANE_WAIT", "60"))

# A model that we loaded is unloaded after so many idle seconds, unless its profile says otherwise; 0: it stays.
MODEL_TTL_SECONDS = int(os.environ.get("DAEMONPULSE_MODEL_TTL", "3600"))
# Tokens of context of a load that says nothing of it; 0: LM Studio decides, and no fit can be checked.
DEFAULT_CONTEXT = int(os.environ.get("DAEMONPULSE_DEFAULT_CONTEXT", "8192"))
DOWNLOADS_PER_NODE = int(os.environ.get("DAEMONPULSE_DOWNLOADS_PER_NODE", "2"))

# What a command of a node does that needs an app above fleet: (node, parameters, telling) → result.
COMMANDS = {
    "plan_load": "forge.loading.plan",
    "load_model": "forge.loading.load",
    "unload_model": "forge.unloading.unload",
}
# Who uses models (see forge/use.py).
MODEL_USE = "daemonpulse.queue.use"

# Where a node's memory is measured: models that fit together serve their lanes side by side.
RUN_LANES_SIDE_BY_SIDE = os.environ.get("DAEMONPULSE_SIDE_BY_SIDE", "1") != "0"

# Where the event log's tail finds what a viewer is shown for an event (kind → dotted path); the apps above
# this one are reached by name only.
LIVE_MESSAGES = {
    "prompt.output": "daemonpulse.queue.live.output_message",
    "prompt.progress": "daemonpulse.queue.live.progress_message",
    "prompt.finished": "daemonpulse.queue.live.finished_message",
}

# What the apps above put on a node's card and page: (nodes, user) → {pk: HTML}.
NODE_CARD_PANELS = ["forge.panels.loaded", "daemonpulse.queue.panels.load"]
NODE_PAGE_PANELS = ["forge.panels.models", "daemonpulse.queue.panels.lanes"]

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"format": f"%(asctime)s {PROCESS:<7} %(levelname)-7s %(name)s %(message)s", "datefmt": "%H:%M:%S"}
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": os.environ.get("DAEMONPULSE_LOG_LEVEL", "INFO")},
    "loggers": {
        "daphne": {"level": "WARNING"},
        "twisted": {"level": "WARNING"},
        "asyncio": {"level": "WARNING"},
        "django-q": {"level": "WARNING"},
        "django.request": {"level": "ERROR"},  # a 404 or a wrong token is the client's affair
        "django.channels.server": {"level": "WARNING"},
    },
}
