"""Queue prompts from a terminal or a script."""

import signal
import sys

from django.core.management.base import BaseCommand, CommandError
from django.core.validators import EMPTY_VALUES

from daemonpulse import program, wakeup
from daemonpulse.models import User
from pulse.thinking import Kind

from ...forms import SETTINGS, PromptForm
from ...live import last_attempt_with_texts
from ...models import Prompt

LOOK_SECONDS = 0.5


class Command(BaseCommand):
    help = "Queues a prompt: its text, a file (--file), or standard input. --wait streams the answer."

    def add_arguments(self, parser):
        parser.add_argument(
            "text", nargs="?", help="the prompt; without it, and without --file, standard input is read"
        )
        parser.add_argument("--model", required=True)
        parser.add_argument("--file", help="read the prompt from this file")
        parser.add_argument("--system", default="", help="system prompt")
        parser.add_argument("--priority", choices=["low", "normal", "high"], default="normal")
        parser.add_argument("--user", help="whose prompt it is (default: the first administrator)")
        parser.add_argument(
            "--wait", action="store_true", help="print the answer as it comes; reasoning goes to stderr"
        )
        for name in SETTINGS:
            parser.add_argument(f"--{name.replace('_', '-')}", dest=name)

    def handle(self, *args, **options):
        owner = self.owner(options["user"])
        data = {name: options[name] for name in SETTINGS if options[name] not in EMPTY_VALUES}
        data |= {"model": options["model"], "text": self.text(options), "system_prompt": options["system"]}
        form = PromptForm(data | {"priority": options["priority"]}, owner=owner)
        if not form.is_valid():
            raise CommandError(" ".join(f"{field}: {errors[0]}" for field, errors in form.errors.items()))
        prompt, _ = Prompt.submit(owner=owner, **form.draft())
        if options["wait"]:
            self.wait(prompt)
        else:
            self.stdout.write(str(prompt.pk))

    def owner(self, name: str | None) -> User:
        users = User.objects.filter(is_active=True)
        user = users.filter(username=name).first() if name else users.filter(is_superuser=True).order_by("pk").first()
        if user is None:
            raise CommandError(
                f"There is no user “{name}”." if name else f"There is no administrator; run `{program.line('up')}`."
            )
        return user

    @staticmethod
    def text(options) -> str:
        if options["text"] is not None:
            return options["text"]
        try:
            if options["file"]:
                with open(options["file"], encoding="utf-8") as file:  # noqa: PTH123 - "-" and paths alike
                    return file.read()
            return sys.stdin.read()
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"The prompt cannot be read: {error}") from error

    def wait(self, prompt: Prompt) -> None:
        """Print what comes until the prompt has ended; Ctrl-C leaves it in the queue."""
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        listener = wakeup.listen()
        shown = {Kind.REASONING: 0, Kind.MESSAGE: 0}
        number = 0
        try:
            while True:
                prompt.refresh_from_db(fields=["state", "reason"])  # before the texts, so that none is missed
                attempt, texts = last_attempt_with_texts(prompt.pk)
                if attempt and attempt.number != number:
                    if any(shown.values()):
                        self.stderr.write("\n[starts again]")
                    number, shown = attempt.number, {Kind.REASONING: 0, Kind.MESSAGE: 0}
                for kind, stream in ((Kind.REASONING, sys.stderr), (Kind.MESSAGE, sys.stdout)):
                    stream.write(texts[kind][shown[kind] :])
                    stream.flush()
                    shown[kind] = len(texts[kind])
                if prompt.is_ended:
                    break
                listener.wait(LOOK_SECONDS)
        except KeyboardInterrupt:
            raise CommandError(f"Not waiting any more; the prompt {prompt.pk} goes on in the queue.") from None
        finally:
            listener.close()
        sys.stdout.write("\n")
        if not prompt.is_done:
            raise CommandError(f"The prompt is {prompt.state}. {prompt.reason_explanation}")
