"""Loading a model: room made for it by one policy, laid out by its profile, measured, learned from."""

import dataclasses
import logging
import time

from django.conf import settings
from django.utils import timezone

from fleet.allocation.placement import growth, verdict
from fleet.allocation.profile import Strategy
from fleet.daemons.errors import DaemonError, LoadCancelled, Reason
from fleet.daemons.types import LoadedModel
from fleet.hosts import Host, host_of
from fleet.models import Node, Reading
from fleet.telemetry.readings import Machine
from fleet.telling import Telling
from forge import eviction, inventory, residents, sizing, unloading, wishes
from forge.backends import backend_of
from forge.eviction import Decision, Resident, Why
from forge.fit.room import lay_out
from forge.fit.size import Told
from forge.fit.verdict import Fit, Verdict, fit
from forge.models import Instance, NodePolicy, Origin
from forge.wishes import Wish

log = logging.getLogger(__name__)

TRIES = 3  # a copy that was to go may have become busy


class NoRoom(DaemonError):
    """What may be unloaded does not make enough room. `blockers` as eviction.Decision has them."""

    def __init__(self, words: str, blockers: tuple = ()):
        super().__init__(Reason.OUT_OF_MEMORY, words)
        self.blockers = blockers

    @property
    def can_pass(self) -> bool:
        """It may be possible later: something that works, or is waited for, is in the way."""
        return any(why in {Why.BUSY, Why.WANTED} for _, why in self.blockers)


class Site:
    """A node at one moment: what its machine has free, and what it holds."""

    def __init__(self, wish: Wish, told: Told | None = None):
        self.wish, self.told = wish, told
        self.node = wish.node
        self.host: Host | None = host_of(self.node) if self.node.has_host else None
        self.budget = NodePolicy.budget(self.node)
        self.look()

    def look(self) -> None:
        self.machine = read(self.host)
        self.backend = backend_of(self.machine, self.node.has_simulated_machine)
        self.residents: list[Resident] = residents.of_nodes([self.node.pk])[self.node.pk]
        self.learned = sizing.learned_of(self.wish.model, self.backend)

    def settle(self) -> None:
        """Give the driver's figures a moment to follow."""
        if self.machine is not None and not self.node.has_simulated_machine:
            time.sleep(unloading.SETTLE_SECONDS)

    def fit(self) -> Fit:
        """Whether it fits beside what is loaded."""
        wish, memory = self.wish, sizing.memory_of(self.machine, self.residents, self.budget)
        return fit(wish.facts, wish.fit_options, memory, wish.layout, self.backend, self.learned, self.told)

    def make_room(self, is_careful: bool = True) -> Decision:
        """What must go first. Not careful: so that it fits, if tightly."""
        fits = sizing.has_room(self.fit().size, self.wish.layout, self.machine, self.residents, self.budget, is_careful)
        others = residents.others(self.residents, self.wish.model.key)
        return eviction.make_room(fits, others, may_take_wanted=self.wish.may_take_wanted)

    def may_spill(self, decision: Decision) -> bool:
        """Too large for the GPUs even when they are empty, but not for them and the machine's memory together."""
        if not decision.blockers or any(why not in {Why.TOO_LARGE, Why.UNKNOWN} for _, why in decision.blockers):
            return False
        memory = sizing.memory_of(self.machine, self.residents, self.budget, self.spare)
        is_automatic = self.wish.layout.strategy is Strategy.AUTOMATIC and not self.wish.layout.strict_vram_limit
        return bool(memory.gpus) and is_automatic and lay_out(self.fit().size, memory, self.wish.layout).fits is True

    @property
    def is_silent_for_a_moment(self) -> bool:
        """Its machine told what is free a short while ago, and does not now."""
        reading = Reading.objects.filter(node=self.node).first() if self.machine is None else None
        return reading is not None and reading.machine_json is not None and not reading.is_old

    @property
    def replaceable(self) -> tuple[str, ...]:
        """Of these what nobody loaded by hand: what LM Studio would evict for another request, were it idle."""
        passing = Instance.objects.of(self.node).filter(origin__in=[Origin.QUEUE, Origin.JUST_IN_TIME])
        names = set(passing.values_list("identifier", flat=True))
        return tuple(one for one in self.spare if one in names)

    @property
    def spare(self) -> tuple[str, ...]:
        """All that could go: neither at work nor pinned nor, for the queue, waited for."""
        others = residents.others(self.residents, self.wish.model.key)
        may = [one for one in others if not (one.is_busy or one.is_pinned)]
        return tuple(one.id for one in may if self.wish.may_take_wanted or not one.is_wanted)


def plan(node: Node, parameters: dict, telling: Telling) -> dict:
    """The command "plan_load": {"model", "context_length"?…}. What would land where; nothing is loaded."""
    site = Site(wishes.read(node, parameters), told=None)
    site.told = estimate(site.wish, site.machine)
    planned = site.fit()
    for sentence in planned.sentences:
        telling.line(sentence)
    return as_json(site.wish, planned) | {"told": dataclasses.asdict(site.told) if site.told else None}


def load(node: Node, parameters: dict, telling: Telling) -> dict:
    """The command "load_model". Raises NoRoom, DaemonError or ValueError. With "only_copy" it makes no second one.

    1. What is wanted, and what there is. 2. Room for it: the fewest idle copies go. 3. Load it through the channel that
    carries most of the wish. 4. What do the GPUs hold now that they did not before? 5. Keep what was learned.
    """
    wish = wishes.read(node, parameters)
    inventory.look(node)  # others load and unload too, and the last look may be a while ago
    there = Instance.objects.of(node).filter(model=wish.model, state=Instance.State.LOADED).first()
    if wish.is_for_queue and there is not None:
        telling.line(f"{there} is loaded already.")
        return {"model": wish.model.key, "instance": there.identifier}
    if parameters.get("only_copy") and there is not None:
        raise ValueError(f"{there} is loaded already. A second copy is made on the model's own page.")
    site = Site(wish)  # 1
    if wish.model.architecture is None:
        site.told = estimate(wish, site.machine)
    _make_room(site, telling)  # 2
    planned = site.fit()
    began_at = time.monotonic()
    loaded = _load(site, telling)  # 3
    telling.line(f"{loaded.instance} is loaded.")
    if loaded.dropped:
        telling.line(f"LM Studio could not be told: {', '.join(loaded.dropped)}.")
    result = as_json(wish, planned) | {
        "instance": loaded.instance,
        "channel": loaded.channel,
        "dropped": list(loaded.dropped),
        "load_seconds": loaded.load_seconds or round(time.monotonic() - began_at, 1),
    }
    return result | _measure(site, planned, loaded, telling)  # 4, 5


def _make_room(site: Site, telling: Telling) -> None:
    """Unload what must go. Raises NoRoom; a wish that is to be tried anyway is."""
    for _ in range(TRIES + 1):
        gone = _chosen(site)
        if telling.cancelled.is_set():
            raise LoadCancelled
        if not gone:
            return
        telling.line(f"Makes room: {', '.join(gone)}.")
        try:
            for identifier in gone:
                _release(site.node, identifier)
        except unloading.StillBusy as busy:
            telling.line(busy.detail)
        except ValueError as gone_already:
            telling.line(str(gone_already))
        else:
            site.settle()
        site.look()
    raise NoRoom("What was to make room for it was used again and again.", (("", Why.BUSY),))


def _chosen(site: Site) -> tuple[str, ...]:
    """Which copies must go. Where memory cannot be measured, for the queue all that can: one model at a time, as
    LM Studio does by itself; a person may know better.

    What not even the empty GPUs would hold is still tried for the queue, when all that can go is gone: LM Studio runs
    it partly on the processor, as it does by itself.
    """
    planned = site.fit()
    is_measured = site.machine is not None and planned.is_measured
    if site.wish.is_for_queue and site.is_silent_for_a_moment:
        raise NoRoom("Its machine does not tell what is free right now.", (("", Why.BUSY),))
    if not is_measured or (site.wish.is_for_queue and not settings.RUN_LANES_SIDE_BY_SIDE):
        return site.replaceable if site.wish.is_for_queue else ()
    decision = site.make_room()
    tight = decision if decision.is_possible else site.make_room(is_careful=False)
    if tight.is_possible:
        return tight.evict
    if site.wish.is_anyway or planned.verdict is Verdict.UNKNOWN:
        return ()
    if site.wish.is_for_queue and site.may_spill(decision):
        return site.spare
    raise NoRoom(in_words(planned, decision), decision.blockers)


def in_words(planned: Fit, decision: Decision) -> str:
    """Why there is no room, with the figures and who is in the way."""
    because = {
        Why.BUSY: "{} is at work",
        Why.PINNED: "{} is pinned",
        Why.WANTED: "prompts wait for {}",
        Why.UNKNOWN: "what {} holds is not known",
        Why.TOO_LARGE: "nothing else that is loaded could make room for it",
    }
    reasons = [because[why].format(model) for model, why in decision.blockers]
    sentences = [*planned.sentences, *([f"It cannot be loaded now: {', '.join(reasons)}."] if reasons else [])]
    return " ".join(sentences)


def _release(node: Node, identifier: str) -> None:
    instance = Instance.objects.of(node).filter(identifier=identifier).select_related("model__node").first()
    if instance is not None:
        unloading.release(instance)


def _load(site: Site, telling: Telling) -> LoadedModel:
    request = site.wish.request(site.machine)
    by_cli = wishes.by_cli(site.wish, site.host, telling)
    return site.node.connect().load_with(request, telling.at, telling.cancelled, by_cli)


def _measure(site: Site, planned: Fit, loaded: LoadedModel, telling: Telling) -> dict:
    """Where it went, held against the wish; kept for the copy, and for the next estimate."""
    wish, before = site.wish, site.machine
    site.settle()
    after = read(site.host)
    inventory.look(site.node)
    measured = sizing.taken(before, after)
    _keep_instance(site, loaded.instance, measured, planned)
    if after is not None:
        Reading.of(site.node).keep(after)
    if before is None or after is None:
        telling.line("Where it went could not be measured: the machine's memory is unknown.")
        return {}
    if measured and sizing.is_comparable(planned, wish):
        sizing.learn(wish, site.backend, planned, sum(measured.values()))
    grown = growth(before, after)
    placement = verdict(wish.layout, planned.plan, grown)
    for sentence in placement.sentences:
        telling.line(sentence)
    return {
        "measured": [dataclasses.asdict(one) for one in grown],
        "is_kept": placement.is_kept,
        "sentences": list(placement.sentences),
    }


def _keep_instance(site: Site, identifier: str, measured: dict[int, int] | None, planned: Fit) -> None:
    wish, now = site.wish, timezone.now()
    bytes_by_gpu = measured or (sizing.expected(planned) if site.machine is not None else None)
    values = {"origin": wish.origin, "bytes_by_gpu": bytes_by_gpu, "is_measured": measured is not None,
              "loaded_at": now, "used_at": now, "context_length": wish.options.get("context_length")}  # fmt: skip
    instance, is_new = Instance.objects.get_or_create(model=wish.model, identifier=identifier, defaults=values)
    if not is_new:
        told_context = instance.context_length  # what the node says counts more than what was wished
        Instance.objects.filter(pk=instance.pk).update(
            **values | ({"context_length": told_context} if told_context else {})
        )
        instance.refresh_from_db()
    instance.keep_for(wish.idle_seconds)


def estimate(wish: Wish, machine: Machine | None) -> Told | None:
    """The daemon's own estimate; None where it cannot be had."""
    try:
        told = wish.node.connect().estimate(wish.request(machine))
    except DaemonError:
        return None
    return Told(
        told.get("model_bytes"),
        told.get("context_bytes"),
        told.get("total_vram_bytes"),
        told.get("confidence", ""),
        told.get("passes_guardrails"),
    )


def read(host: Host | None) -> Machine | None:
    """The machine now, None where it cannot be read."""
    try:
        return host.telemetry() if host else None
    except DaemonError:
        return None


def as_json(wish: Wish, planned: Fit) -> dict:
    """What a plan and a load tell alike."""
    size = planned.size
    return {
        "model": wish.model.key,
        "context_length": size.context_length,
        "need": {
            "weights_bytes": size.weights,
            "context_bytes": size.context,
            "is_estimate": True,
            "source": size.source,
        }
        | {"overhead_bytes": size.overhead, "correction_bytes": size.correction},
        "verdict": planned.verdict,
        "free_bytes": planned.free_bytes,
        "largest_context": planned.largest_context,
        "fit_sentences": list(planned.sentences),
        "profile": dataclasses.asdict(wish.layout),
        "plan": dataclasses.asdict(planned.plan),
    }
