"""Whether what the hub offers would fit on a node, by the size of its files and the node's last reading."""

from dataclasses import dataclass

from fleet.allocation.amounts import amount
from fleet.allocation.profile import Profile
from fleet.models import Node
from forge.backends import backend_of
from forge.fit.size import Facts, Options, Told
from forge.fit.verdict import Fit, Verdict, fit
from forge.hub.search import Quantization
from forge.models import NodePolicy
from forge.residents import free_ram, of_nodes
from forge.sizing import memory_of

# The size of a context is in the file, which is not here yet. So it counts nothing, and the page says so.
NO_CONTEXT = Told(context_bytes=0)


@dataclass(frozen=True, slots=True)
class Offer:
    """A quantization, and how it would fit on the chosen node; None when there is none to judge by."""

    quantization: Quantization
    fit: Fit | None

    @property
    def verdict(self) -> str:
        return (self.fit.verdict if self.fit else Verdict.UNKNOWN).value


def offers(quantizations: tuple[Quantization, ...], node: Node | None) -> list[Offer]:
    reading = getattr(node, "reading", None)
    machine = reading.machine if reading else None
    if machine is None:
        return [Offer(one, None) for one in quantizations]
    memory = memory_of(machine, of_nodes([node.pk])[node.pk], NodePolicy.budget(node))
    backend = backend_of(machine, node.has_simulated_machine)

    def judged(one: Quantization) -> Fit:
        return fit(Facts(one.size_bytes, None, None), Options(), memory, Profile(), backend, told=NO_CONTEXT)

    return [Offer(one, judged(one)) for one in quantizations]


def basis(node: Node | None) -> str:
    """In words, what the labels rest on."""
    reading = getattr(node, "reading", None)
    machine = reading.machine if reading else None
    if node is None:
        return "Choose a node above to see what fits there."
    if machine is None:
        return f"Nothing is known of {node}’s memory, so nobody can say what fits there."
    free = [gpu.memory_free_bytes for gpu in machine.gpus]
    if machine.gpus:
        told = "an unknown amount" if None in free else amount(sum(free))
        return f"Judged by what is free on {node} now: {told} of GPU memory. A context is not counted; it comes on top."
    ram = free_ram(machine)
    told = "an unknown amount" if ram is None else amount(ram)
    return f"Judged by what is free on {node} now: {told} of RAM, as it has no GPU. A context is not counted."
