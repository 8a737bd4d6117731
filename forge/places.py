"""What a node does with its models: they lie on its disk, are being loaded, or are loaded, in one copy or several."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from daemonpulse.models.event import writing
from fleet.models import Command
from fleet.models.command import LOAD, UNLOAD
from forge import use
from forge.models import Instance, LoadProfile, Model

COMMAND_FIELDS = ("node_id", "action", "parameters", "progress", "state")  # without the output, which is long


@dataclass(frozen=True, slots=True)
class Place:
    """One model on one node. `progress`: 0..1 of the load that is under way, None = not told."""

    model: Model
    is_loading: bool = False
    progress: float | None = None

    @property
    def copies(self) -> int | None:
        """How many are loaded; None = this kind of node does not tell."""
        return None if self.model.loaded is None else len(self.model.loaded)


@dataclass(frozen=True, slots=True)
class Copy:
    """One loaded copy. `running`: our prompts on its model, whichever copy they are on."""

    instance: Instance
    running: int = 0
    is_pinned: bool = False
    is_leaving: bool = False

    @property
    def is_busy(self) -> bool:
        return self.running > 0 or self.instance.was_seen_busy

    @property
    def why_it_stays(self) -> str:
        """Why it cannot be ejected right now; "" = it can."""
        if not self.instance.model.node.is_online:
            return "Its node does not answer."
        if self.is_leaving:
            return "It is being unloaded."
        if self.running:
            return f"{self.running} prompt{'s run' if self.running > 1 else ' runs'} on it. Eject it when it is idle."
        if self.instance.was_seen_busy:
            return "It works for somebody else. Eject it when it is idle."
        return ""


def places(models: Iterable[Model]) -> list[Place]:
    """One query more, for the loads under way; `models` come with their nodes."""
    models = list(models)
    loading = loads_under_way({model.node_id for model in models})
    return [
        Place(model, command is not None, command.progress if command else None)
        for model in models
        for command in [loading.get((model.node_id, model.key))]
    ]


def ask_for_load(model: Model, parameters: dict, user, is_again: bool) -> tuple[Command | None, str]:
    """Have a model loaded; or None and why not: it is being loaded, or is loaded and no other copy is wished.

    Looked up and asked for in one transaction: of two presses only one is a load.
    """
    with writing():
        if (model.node_id, model.key) in loads_under_way([model.node_id]):
            return None, "It is being loaded already."
        if not is_again and Instance.objects.filter(model=model).exists():
            return None, "It is loaded already. “Load another copy” makes a second one."
        return Command.ask(model.node, LOAD, user, **parameters), ""


def loads_under_way(node_ids: Collection[int]) -> dict[tuple[int, str], Command]:
    """(node id, model key) → the load that runs or waits."""
    open_loads = Command.objects.open().filter(action=LOAD, node__in=node_ids).only(*COMMAND_FIELDS)
    return {(one.node_id, one.parameters.get("model")): one for one in open_loads.order_by("-asked_at")}


def copies_of(models: Collection[Model]) -> dict[int, list[Copy]]:
    """model's pk → its loaded copies; a fixed number of queries."""
    by_pk = {model.pk: model for model in models}
    node_ids = {model.node_id for model in models}
    used = use.of(node_ids)
    pinned = set(LoadProfile.objects.filter(model__in=by_pk, is_pinned=True).values_list("pk", flat=True))
    leaving = _asked_to_go(node_ids)
    found: dict[int, list[Copy]] = defaultdict(list)
    for instance in Instance.objects.filter(model__in=by_pk):
        model = instance.model = by_pk[instance.model_id]
        is_leaving = instance.state == Instance.State.UNLOADING or (model.node_id, instance.identifier) in leaving
        its_use = used.get((model.node_id, model.key), use.NONE)
        found[model.pk].append(Copy(instance, its_use.running, model.pk in pinned, is_leaving))
    return found


def _asked_to_go(node_ids: Collection[int]) -> set[tuple[int, str]]:
    """(node id, identifier) of copies whose unloading is asked for."""
    unloads = Command.objects.open().filter(action=UNLOAD, node__in=node_ids).only(*COMMAND_FIELDS)
    return {(one.node_id, one.parameters.get("instance")) for one in unloads}
