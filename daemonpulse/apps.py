from django.apps import AppConfig


class DaemonPulseConfig(AppConfig):
    name = "daemonpulse"
    verbose_name = "Access and events"
