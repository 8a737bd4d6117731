"""The two systemd units that an agent's machine needs, as texts; nobody but the reader writes them anywhere."""

from collections.abc import Sequence

AGENT_FILE = "/etc/systemd/system/daemonpulse-agent.service"
LLMSTER_FILE = "/etc/systemd/system/lmstudio.service"

AGENT = """\
[Unit]
Description=DaemonPulse node agent
Wants=network-online.target
After=network-online.target lmstudio.service

[Service]
User={user}
Environment={home}
ExecStart={command}
Restart=on-failure
RestartSec=2
# The daemon that the agent starts lives on when the agent ends.
KillMode=process
NoNewPrivileges=yes

[Install]
WantedBy=multi-user.target
"""

# After LM Studio's own example (contract §8.4). The port and the address are always given, because a plain start may
# pick others (contract §7.7).
LLMSTER = """\
[Unit]
Description=LM Studio's headless daemon (llmster)
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
User={user}
Environment={home}
ExecStartPre={lms} daemon up
{load}ExecStart={lms} server start --port {port} --bind {bind}
ExecStop={lms} daemon down

[Install]
WantedBy=multi-user.target
"""


def agent_unit(*, user: str, home: str, command: Sequence[str]) -> str:
    """The unit that keeps `command` (an argv with an absolute path) running as `user`."""
    return AGENT.format(
        user=_plain(user),
        home=_quoted(f"HOME={home}"),
        command=" ".join(_quoted(word, is_argument=True) for word in command),
    )


def llmster_unit(
    *, user: str, home: str, lms: str, port: int = 1234, bind: str = "127.0.0.1", model: str | None = None
) -> str:
    """The unit that starts the daemon and its server at boot; `model` is loaded first when given."""
    if model is not None and model.startswith("-"):
        raise ValueError(f"{model!r} is no model's key: one does not begin with a dash.")
    executable = _quoted(lms, is_argument=True)
    load = f"ExecStartPre={executable} load {_quoted(model, is_argument=True)} --yes\n" if model else ""
    return LLMSTER.format(
        user=_plain(user), home=_quoted(f"HOME={home}"), lms=executable, load=load, port=port,
        bind=_quoted(bind, is_argument=True),
    )  # fmt: skip


def _plain(user: str) -> str:
    if not user or any(letter.isspace() or letter in "%\"'\\" for letter in user):
        raise ValueError(f"{user!r} is no user's name.")
    return user


def _quoted(word: str, is_argument: bool = False) -> str:
    """One word as systemd reads it back: its quotes, its % specifiers and, in commands, its $ variables undone."""
    if any(not letter.isprintable() for letter in word):
        raise ValueError(f"{word!r} cannot stand in a unit: it has a line break or another control character.")
    word = word.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    if is_argument:
        word = word.replace("$", "$$")
    is_simple = word and not any(letter in word for letter in " '\";\\")
    return word if is_simple else f'"{word}"'
