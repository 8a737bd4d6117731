from django.apps import AppConfig


class QueueConfig(AppConfig):
    name = "daemonpulse.queue"
    label = "queue"
    verbose_name = "Queue (prompts)"

    def ready(self):
        from . import checks  # noqa: F401 - registers the system checks
