"""Would a load fit? For a page, at every key press: from what was measured last, without asking the node."""

import dataclasses
from dataclasses import dataclass

from fleet.models import Reading
from forge import eviction, residents, sizing
from forge.backends import backend_of
from forge.eviction import Decision, Resident
from forge.fit.learning import Learned
from forge.fit.verdict import Fit, fit
from forge.fit.words import about_largest
from forge.models import NodePolicy
from forge.wishes import Wish


@dataclass(frozen=True)
class Preview:
    """`fit`: beside what is loaded. `decision`: what must go for it first (None where that cannot be judged), and
    `fit_after`: the fit when that is gone; where nothing helps, its largest context is what would fit when all that can
    go is gone. `learned`: what earlier loads taught. `reading`: what it is judged by."""

    wish: Wish
    fit: Fit
    decision: Decision | None
    fit_after: Fit
    learned: Learned
    reading: Reading | None
    residents: list[Resident]


def preview(wish: Wish, believes_old: bool = True) -> Preview:
    """A fixed number of queries. `believes_old`: of a node that does not answer, what was measured last."""
    node = wish.node
    reading = Reading.objects.filter(node=node).first()
    machine = reading.machine if reading and node.has_host and (node.is_online or believes_old) else None
    held = residents.of_nodes([node.pk])[node.pk]
    budget = NodePolicy.budget(node)
    backend = backend_of(machine, node.has_simulated_machine)
    learned, told = sizing.learned_of(wish.model, backend), sizing.told_before(wish)

    def judged(gone: tuple[str, ...] = ()) -> Fit:
        memory = sizing.memory_of(machine, held, budget, gone)
        return fit(wish.facts, wish.fit_options, memory, wish.layout, backend, learned, told)

    now = judged()
    if machine is None or not now.is_measured:
        return Preview(wish, now, None, now, learned, reading, held)
    careful = _decide(wish, now, machine, held, budget, is_careful=True)
    decision = careful if careful.is_possible else _decide(wish, now, machine, held, budget, is_careful=False)
    after = judged(decision.evict) if decision.is_possible and decision.evict else now
    if not decision.is_possible:  # what a shorter context could still have
        others = residents.others(held, wish.model.key)
        spare = judged(tuple(one.id for one in others if not (one.is_busy or one.is_pinned)))
        after = with_largest(after, spare.largest_context)
    return Preview(wish, now, decision, after, learned, reading, held)


def with_largest(planned: Fit, tokens: int | None) -> Fit:
    """The same fit, with another largest context in its figure and in its sentence."""
    said = set(about_largest(planned.largest_context))
    sentences = [sentence for sentence in planned.sentences if sentence not in said]
    return dataclasses.replace(planned, largest_context=tokens, sentences=(*sentences, *about_largest(tokens)))


def _decide(wish: Wish, planned: Fit, machine, held, budget, *, is_careful: bool) -> Decision:
    has_room = sizing.has_room(planned.size, wish.layout, machine, held, budget, is_careful)
    return eviction.make_room(has_room, residents.others(held, wish.model.key), may_take_wanted=wish.may_take_wanted)
