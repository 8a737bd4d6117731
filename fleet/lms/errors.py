"""What can go wrong between us and LM Studio's command line: one closed set of problems, worded here only."""

from enum import StrEnum

from fleet.texts import clean

MAX_SENTENCE = 2000
MAX_DETAIL = 4000
DOWNLOAD_PAGE = "https://lmstudio.ai/download"
INSTALL_COMMANDS = {"win32": "irm https://lmstudio.ai/install.ps1 | iex"}  # contract §8.4
INSTALL_COMMAND = "curl -fsSL https://lmstudio.ai/install.sh | bash"


class Problem(StrEnum):
    """Why something could not be done. `advice` says what to do about it."""

    NOT_INSTALLED = "not_installed"
    NOT_BOOTSTRAPPED = "not_bootstrapped"  # installed, but without its command line
    PASSKEY_MISMATCH = "passkey_mismatch"  # command and daemon come from different installs (contract §12.9)
    NOT_RUNNING = "not_running"  # needs the daemon, which is down, and asking would have started it
    TIMEOUT = "timeout"
    GUI_APP = "gui_app"  # the desktop application, which only its user can quit
    NOT_SCRIPTABLE = "not_scriptable"  # works only with a person in front of it
    MODEL_NOT_FOUND = "model_not_found"
    WRONG_MODEL = "wrong_model"  # the fuzzy search of `lms` took another one (contract §7.4)
    BAD_FILE = "bad_file"  # a settings file that cannot be read or written safely
    NOT_UNDERSTOOD = "not_understood"  # an answer that is not the documented one
    FAILED = "failed"  # anything else, in the command's own words

    @property
    def advice(self) -> str:
        return ADVICE[self]


ADVICE = {
    Problem.NOT_INSTALLED: f"Install LM Studio from {DOWNLOAD_PAGE}.",
    Problem.NOT_BOOTSTRAPPED: "Start LM Studio once on this machine, then run there: lms bootstrap",
    Problem.PASSKEY_MISMATCH: "The command lms and the running LM Studio come from different installations. Quit LM "
    "Studio, remove the one you do not need, start the other and run its lms bootstrap.",
    Problem.NOT_RUNNING: "Start the daemon or the server first.",
    Problem.TIMEOUT: "Look whether LM Studio is busy or stuck on that machine, then try again.",
    Problem.GUI_APP: "Quit LM Studio from its own window or tray icon.",
    Problem.NOT_SCRIPTABLE: "Do it on the machine itself.",
    Problem.MODEL_NOT_FOUND: "Take the full key of a downloaded model, as the list of models shows it.",
    Problem.WRONG_MODEL: "Take the full key of a downloaded model, as the list of models shows it.",
    Problem.BAD_FILE: "Open LM Studio's settings once so that it rewrites the file, or mend it by hand.",
    Problem.NOT_UNDERSTOOD: "Update LM Studio, or report this with the text below.",
    Problem.FAILED: "See what the command said.",
}


class LmsError(Exception):
    """LM Studio could not do what was asked: str() is a sentence for people.

    `problem` for programs, `advice` what to do, `detail` the raw text of the command (at most 4000 characters).
    """

    def __init__(self, problem: Problem, sentence: str, detail: str = "", advice: str = ""):
        super().__init__(clean(sentence, MAX_SENTENCE))
        self.problem = problem
        self.advice = advice or problem.advice
        self.detail = detail[-MAX_DETAIL:]


def not_installed(platform: str) -> str:
    """What to do on a machine without LM Studio."""
    command = INSTALL_COMMANDS.get(platform, INSTALL_COMMAND)
    return f"Install LM Studio from {DOWNLOAD_PAGE}, or only its headless daemon with: {command}"
