"""What can be asked of the LM Studio on a machine, from a page, a command, an agent or a browser: one closed set."""

from enum import StrEnum


class Action(StrEnum):
    """Something to do on a machine. The value travels in envelopes and stands in the command history."""

    SERVER_START = "server_start"
    SERVER_STOP = "server_stop"
    SERVER_RESTART = "server_restart"
    DAEMON_UP = "daemon_up"
    DAEMON_DOWN = "daemon_down"
    DAEMON_UPDATE = "daemon_update"
    HEADLESS_ON = "headless_on"
    STATUS = "status"  # what get_status() says
    QUERY = "query"  # parameters {"what": "ls" | "ps" | "survey" | "link"}: that command's JSON
    ESTIMATE = "estimate"  # {"model", "context_length"?, "gpu_ratio"?}: what a load would need
    LOAD = "load"  # {"model", "context_length"?, "gpu_ratio"?, "parallel"?, "ttl_seconds"?, "identifier"?}: `lms load`


# Those that change something there; the others only look.
CHANGING = frozenset(Action) - {Action.STATUS, Action.QUERY, Action.ESTIMATE}
