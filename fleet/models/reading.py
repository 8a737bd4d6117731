"""What was read from a node's machine: the last reading whole, and a thinned history of figures for graphs."""

from datetime import datetime, timedelta

from django.db import models
from django.utils import timezone

from daemonpulse.models.event import record, writing
from fleet.models.node import Node
from fleet.orphans import ORPHANED_AFTER
from fleet.telemetry.readings import Machine

# Seconds per sample → how long such samples are kept. 0: every sample as it came.
GRAINS = {0: timedelta(hours=1), 60: timedelta(hours=24), 900: timedelta(days=30)}

OLD_AFTER = timedelta(seconds=45)  # a scout comes every 12 s
GPU_FIGURES = ("vram", "utilization", "temperature", "power")  # in the order of a sample's `gpus`


class Reading(models.Model):
    """The last reading of a node's machine, and of its LM Studio where we may ask for that. One row per node."""

    node = models.OneToOneField(Node, on_delete=models.CASCADE, primary_key=True, related_name="reading")
    read_at = models.DateTimeField(null=True)  # of `machine`; None = never
    machine_json = models.JSONField(null=True)
    problem = models.CharField(max_length=300, blank=True, default="")  # why the last try gave nothing
    status_json = models.JSONField(null=True)  # fleet.lms.manager.Status
    status_at = models.DateTimeField(null=True)
    orphans = models.JSONField(default=list)  # [{"pid", "name", "memory_bytes"}]: hold VRAM with nothing loaded
    held_since = models.DateTimeField(null=True)  # since when there are orphans
    orphaned_since = models.DateTimeField(null=True)  # the same, once it lasted long enough to be told

    def __str__(self):
        return f"reading of {self.node}"

    @property
    def machine(self) -> Machine | None:
        return Machine.from_json(self.machine_json) if self.machine_json else None

    @classmethod
    def of(cls, node: Node) -> "Reading":
        """The node's row, made when it is the first."""
        return cls.objects.get_or_create(node=node)[0]

    def keep(self, machine: Machine) -> None:
        self._change(machine_json=machine.as_json(), read_at=timezone.now(), problem="")

    def missed(self, problem: str) -> None:
        """The machine could not be read, for this reason; the last reading stays, with its age."""
        self._change(problem=problem[:300])
        self.note_orphans([])

    @property
    def is_old(self) -> bool:
        """Too old to be shown without its age."""
        return self.read_at is not None and timezone.now() - self.read_at > OLD_AFTER

    def keep_status(self, status: dict | None) -> None:
        """What LM Studio's own command line says; None: it could not be asked."""
        with writing():
            self._change(status_json=status, status_at=timezone.now())
            record("reading.taken", self.node_id)

    def note_orphans(self, orphans: list[dict]) -> None:
        """Processes that hold VRAM with nothing loaded; it is told of once they have done so for a while."""
        if not orphans and not self.orphans:
            return
        now = timezone.now()
        held_since = (self.held_since or now) if orphans else None
        told_since = held_since if held_since and now - held_since >= ORPHANED_AFTER else None
        was_told = self.orphaned_since is not None
        with writing():
            self._change(orphans=orphans, held_since=held_since, orphaned_since=told_since)
            if bool(told_since) != was_told:
                record("reading.orphaned" if told_since else "reading.freed", self.node_id)

    def _change(self, **fields) -> None:
        for name, value in fields.items():
            setattr(self, name, value)
        self.save(update_fields=list(fields))


class SampleQuerySet(models.QuerySet):
    def outdated(self, now: datetime):
        """Samples that are finer than their age deserves."""
        wanted = models.Q()
        for grain, kept in GRAINS.items():
            wanted |= models.Q(grain=grain, at__lt=now - kept)
        return self.filter(wanted)


class Sample(models.Model):
    """Figures of one moment: every look at a node leaves one.

    The first sample of a minute, and of a quarter of an hour, is marked so at once; thinning is deleting the others.
    `figures`: {"cpu": percent, "ram": bytes, "gpus": [[VRAM bytes, utilization %, °C, W], …]} as far as known.
    """

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="samples")
    at = models.DateTimeField(default=timezone.now)
    grain = models.PositiveSmallIntegerField(default=0)
    latency_seconds = models.FloatField(null=True)  # None: it did not answer
    figures = models.JSONField(default=dict)

    objects = SampleQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["node", "at"]), models.Index(fields=["grain", "at"])]

    def __str__(self):
        return f"{self.node_id} at {self.at:%H:%M:%S}"

    @classmethod
    def take(cls, node: Node, latency_seconds: float | None, machine: Machine | None) -> "Sample":
        """Keep the figures of a look at the node; their grain is the coarsest whose period they are the first of."""
        now = timezone.now()
        last = cls.objects.filter(node=node).order_by("-at").values_list("at", flat=True).first()
        grain = max(g for g in GRAINS if g == 0 or last is None or _period(last, g) != _period(now, g))
        figures = _figures(machine) if machine else {}
        with writing():
            sample = cls.objects.create(
                node=node, at=now, grain=grain, latency_seconds=latency_seconds, figures=figures
            )
            record("reading.taken", node.pk)
        return sample

    @classmethod
    def series(cls, node: Node, seconds: int) -> dict:
        """The figures of the last seconds as columns, for graphs; None where one is unknown.

        {"now": unix seconds, "at": [unix seconds], "latency": [s], "cpu": [%], "ram": [bytes],
        "gpu_names": ["GPU 0"], "gpus": [{"vram": [bytes], "utilization": [%], "temperature": [°C], "power": [W]}]}
        """
        now = timezone.now()
        grain = next(g for g, kept in GRAINS.items() if timedelta(seconds=seconds) <= kept)
        rows = cls.objects.filter(node=node, grain__gte=grain, at__gte=now - timedelta(seconds=seconds))
        rows = list(rows.order_by("at").values_list("at", "latency_seconds", "figures"))
        names = [f"GPU {gpu}" for gpu in cls._gpu_indices(node)]
        count = max((len(figures.get("gpus", ())) for _, _, figures in rows), default=0)
        return {
            "now": round(now.timestamp(), 1),
            "at": [round(at.timestamp(), 1) for at, _, _ in rows],
            "latency": [latency for _, latency, _ in rows],
            "cpu": [figures.get("cpu") for _, _, figures in rows],
            "ram": [figures.get("ram") for _, _, figures in rows],
            "gpu_names": names,
            "gpus": [
                {name: [_of(figures, gpu, place) for _, _, figures in rows] for place, name in enumerate(GPU_FIGURES)}
                for gpu in range(count)
            ],
        }

    @staticmethod
    def _gpu_indices(node: Node) -> list[int]:
        """The numbers of its GPUs, in the order of a sample's `gpus`, as the last reading had them."""
        reading = Reading.objects.filter(node=node).first()
        return [gpu.index for gpu in reading.machine.gpus] if reading and reading.machine else []

    @property
    def point(self) -> dict:
        """This moment alone: {"at", "latency", "cpu", "ram", "gpus"} as in `figures`."""
        return {"at": round(self.at.timestamp(), 1), "latency": self.latency_seconds} | self.figures

    @classmethod
    def thin(cls) -> int:
        """Remove what is finer than its age deserves; returns how many."""
        return cls.objects.outdated(timezone.now()).delete()[0]


def _period(at: datetime, seconds: int) -> int:
    return int(at.timestamp()) // seconds


def _of(figures: dict, gpu: int, place: int) -> float | None:
    gpus = figures.get("gpus", ())
    return gpus[gpu][place] if gpu < len(gpus) else None


def _figures(machine: Machine) -> dict:
    gpus = [[g.memory_used_bytes, g.utilization_percent, g.temperature_celsius, g.power_watts] for g in machine.gpus]
    return {"cpu": machine.cpu_percent, "ram": machine.ram_used_bytes, "gpus": gpus}
