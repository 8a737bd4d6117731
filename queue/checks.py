"""System checks: settings that would break the queue's promises."""

from django.conf import settings
from django.core.checks import Error, register


@register("queue")
def task_times_fit(app_configs, **kwargs):
    """A runner may claim for RUNNER_LIMIT and finish what it holds for GENERATION_LIMIT: timeout < retry after that."""
    longest = settings.RUNNER_LIMIT_SECONDS + settings.GENERATION_LIMIT_SECONDS
    timeout, retry = settings.Q_CLUSTER["timeout"], settings.Q_CLUSTER["retry"]
    if longest < timeout < retry:
        return []
    return [
        Error(
            f"django-q2 would end or repeat a runner that is still at work ({longest} s, timeout {timeout} s, "
            f"retry {retry} s).",
            hint="Keep RUNNER_LIMIT_SECONDS + GENERATION_LIMIT_SECONDS < Q_CLUSTER timeout < retry.",
            id="queue.E001",
        )
    ]
