"""The GPUs of the fleet's machines, read now."""

import time

from django.core.management.base import BaseCommand

from daemonpulse.templatetags.sizes import gib, rounded
from fleet.daemons.errors import DaemonError
from fleet.hosts import ThisMachine, host_of
from fleet.models import Node
from fleet.telemetry.readings import Gpu, Machine

WATCH_SECONDS = 2.0


class Command(BaseCommand):
    help = "Reads the GPUs of this machine and of every node with an agent."

    def add_arguments(self, parser):
        parser.add_argument("--watch", action="store_true", help=f"again every {WATCH_SECONDS:g} s, until Ctrl-C")

    def handle(self, *args, **options):
        try:
            while True:
                self.stdout.write("\n".join(lines()))
                if not options["watch"]:
                    return
                time.sleep(WATCH_SECONDS)
                self.stdout.write("")
        except KeyboardInterrupt:
            return


def lines() -> list[str]:
    """Each machine with its GPUs, one line each."""
    told = ["This machine", *of_machine(ThisMachine(0).telemetry())]
    for node in Node.objects.enabled().exclude(agent_url=""):
        told.append(f"{node}")
        try:
            told += of_machine(host_of(node).telemetry())
        except DaemonError as error:
            told.append(f"  Its agent: {error.reason.explanation}")
    return told


def of_machine(machine: Machine) -> list[str]:
    told = [
        f"  RAM {gib(machine.ram_used_bytes)} of {gib(machine.ram_total_bytes)}, CPU {rounded(machine.cpu_percent)} %"
    ]
    told += [of_gpu(gpu) for gpu in machine.gpus]
    return [*told, f"  {machine.gpu_note}"] if machine.gpu_note else told


def of_gpu(gpu: Gpu) -> str:
    if gpu.problem:
        return f"  GPU {gpu.index} {gpu.name}: {gpu.problem}"
    memory = f"{gib(gpu.memory_used_bytes)} of {gib(gpu.memory_total_bytes)}"
    figures = (
        f"{rounded(gpu.utilization_percent)} %, {rounded(gpu.temperature_celsius)} °C, {rounded(gpu.power_watts)} W"
    )
    return f"  GPU {gpu.index} {gpu.name}: {memory}, {figures}"
