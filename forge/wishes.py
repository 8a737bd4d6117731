"""One load as it is wanted: a model of a node, what was asked for, and for the rest what was saved."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from django.conf import settings

from fleet.allocation.channels import CLI_FLAGS, Channel, carried
from fleet.allocation.profile import Profile
from fleet.daemons.types import LoadedModel, LoadRequest
from fleet.hosts import Host
from fleet.lms.actions import Action
from fleet.models import AllocationProfile, Node
from fleet.telemetry.readings import Machine
from fleet.telling import Telling
from forge.fit.size import Facts, Options
from forge.models import LoadProfile, Model, Origin
from forge.models.profile import OPTIONS

FOR_QUEUE = "queue"


@dataclass(frozen=True)
class Wish:
    """`options`: as far as wished, in the names of LoadRequest. `idle_seconds`: how long it may be idle, None = stays.

    `is_anyway`: load it even where it does not seem to fit. `may_take_wanted`: what other prompts wait for may go.
    """

    model: Model
    options: dict
    layout: Profile
    idle_seconds: int | None
    identifier: str = ""
    origin: str = Origin.PERSON
    is_anyway: bool = False
    may_take_wanted: bool = False

    @property
    def is_for_queue(self) -> bool:
        return self.origin == Origin.QUEUE

    @property
    def node(self) -> Node:
        return self.model.node

    @cached_property
    def facts(self) -> Facts:
        return Facts(self.model.size_bytes, self.model.architecture, self.model.context_length)

    @cached_property
    def fit_options(self) -> Options:
        known = {field.name for field in dataclasses.fields(Options)}
        return Options(**{name: value for name, value in self.options.items() if name in known})

    def request(self, machine: Machine | None) -> LoadRequest:
        return LoadRequest(
            model=self.model.key,
            identifier=self.identifier,
            profile=self.layout,
            gpu_indices=tuple(gpu.index for gpu in machine.gpus) if machine else (),
            is_embedding=self.model.type == "embedding",
            **self.options,
        )


def read(node: Node, parameters: dict) -> Wish:
    """A command's parameters over what is saved for the model; `is_whole`: they are all that is wished.

    Raises ValueError for a model that the node lacks.
    """
    model = Model.objects.present().filter(node=node, key=parameters["model"]).select_related("node").first()
    if model is None:
        raise ValueError(f"{node} has no model {parameters['model']}.")
    saved = LoadProfile.of(model)
    asked = {name: parameters[name] for name in OPTIONS if parameters.get(name) is not None}
    is_for_queue = parameters.get("for") == FOR_QUEUE
    return Wish(
        model=model,
        options=with_context(model, asked if parameters.get("is_whole") else saved.options | asked),
        layout=layout_of(model, parameters.get("offload_ratio"), bool(parameters.get("is_whole"))),
        idle_seconds=_idle_seconds(saved, parameters.get("ttl_seconds")),
        identifier=parameters.get("identifier") or "",
        origin=Origin.QUEUE if is_for_queue else Origin.PERSON,
        is_anyway=bool(parameters.get("anyway")),
        may_take_wanted=bool(parameters.get("may_take_wanted")) or not is_for_queue,
    )


def saved(model: Model) -> Wish:
    """As the queue would load it."""
    return read(model.node, {"model": model.key, "for": FOR_QUEUE})


def with_context(model: Model, options: dict) -> dict:
    """We always say how much context: what a daemon takes by itself is told nowhere, and no fit could be checked."""
    if "context_length" in options or not settings.DEFAULT_CONTEXT:
        return options
    return options | {"context_length": min(settings.DEFAULT_CONTEXT, model.context_length or settings.DEFAULT_CONTEXT)}


def layout_of(model: Model, offload_ratio: float | None = None, is_whole: bool = False) -> Profile:
    """Over the node's GPUs, as saved; the part on them may be wished for this load alone."""
    layout = AllocationProfile.chosen(model.node, model.key)
    return (
        layout if offload_ratio is None and not is_whole else dataclasses.replace(layout, offload_ratio=offload_ratio)
    )


def _idle_seconds(saved: LoadProfile, asked: int | None) -> int | None:
    return saved.idle_seconds if asked is None or saved.is_pinned else asked or None


def by_cli(wish: Wish, host: Host | None, telling: Telling) -> Callable[[LoadRequest], LoadedModel] | None:
    """Loading through `lms` on the node's machine, where that can be reached."""
    if host is None or not wish.node.can_be_managed:
        return None

    def load(request: LoadRequest) -> LoadedModel:
        told = {name: value for name, value in request.options.items() if name in CLI_FLAGS and value not in (None, "")}
        parameters = told | {"model": request.model, "gpu_ratio": request.profile.offload_ratio}
        answer = host.execute(Action.LOAD, parameters, telling.line, None, telling.signed)
        dropped = carried(request.profile, request.options, Channel.CLI).dropped
        return LoadedModel(str(answer.get("identifier") or request.model), Channel.CLI, dropped)

    return load
