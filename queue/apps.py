from django.apps import AppConfig


class QueueConfig(AppConfig):
    name = "daemonpulse.queue"
    label = "queue"
    verbose_name = "Queue (prompts)"

    def ready(self):
        from . import checks, pins  # noqa: F401 - register the system checks and what follows a node's removal
