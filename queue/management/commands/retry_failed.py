"""Give failed prompts another chance."""

from datetime import timedelta

from django.core.management.base import BaseCommand
from django.utils import timezone

from ...models import Prompt
from ...states import State


class Command(BaseCommand):
    help = "Queues failed prompts again."

    def add_arguments(self, parser):
        parser.add_argument("--model", help="only of this model")
        parser.add_argument("--reason", help="only those that failed for this reason, such as timeout")
        parser.add_argument("--hours", type=float, help="only those that failed within these hours")

    def handle(self, *args, **options):
        prompts = Prompt.objects.filter(state=State.FAILED).without_texts()
        if options["model"]:
            prompts = prompts.filter(lane__model=options["model"])
        if options["reason"]:
            prompts = prompts.filter(reason=options["reason"])
        if options["hours"]:
            prompts = prompts.filter(finished_at__gte=timezone.now() - timedelta(hours=options["hours"]))
        count = sum(prompt.retry() for prompt in prompts.order_by("enqueued_at"))
        self.stdout.write(f"{count} queued again.")
