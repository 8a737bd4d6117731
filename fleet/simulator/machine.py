"""The machine of the simulated cards: a reading of them, and what the models' files on its disk say."""

import time

from fleet.simulator.catalogue import ScriptedModel
from fleet.simulator.daemon import Daemon
from fleet.simulator.errors import ApiError, UnknownModel
from fleet.simulator.exchange import Exchange
from fleet.telemetry.readings import Gpu, Machine
from fleet.weights.architecture import Architecture

DISK_BYTES = 10**12
VOCABULARY = 128_256


async def show_machine(daemon: Daemon, exchange: Exchange) -> None:
    """What GET /simulator/machine answers: Machine.as_json()."""
    exchange.reply(reading(daemon).as_json())


async def show_metadata(daemon: Daemon, exchange: Exchange) -> None:
    """What GET /simulator/metadata?model=KEY answers: the same as the metadata action on a real machine."""
    model = daemon.models.get(key := exchange.asked("model"))
    if model is None:
        raise UnknownModel(key)
    exchange.reply({"architecture": architecture_of(model.script).as_json(), "format": "gguf"})


def architecture_of(script: ScriptedModel) -> Architecture:
    """A plain transformer in which everything is on the cards. Raises ApiError where its cache is not of its shape."""
    if script.kv_bytes_per_token is not None:
        raise ApiError(400, "not_implemented", "The scenario gives this model a cache without telling its shape.")
    heads = (script.kv_heads or 3) * 4
    return Architecture(
        name=script.architecture,
        layers=script.layers,
        embedding_length=heads * script.head_size,
        heads=heads,
        kv_heads=(script.kv_heads,) * script.layers,
        key_length=script.head_size,
        value_length=script.head_size,
        key_length_swa=script.head_size,
        value_length_swa=script.head_size,
        feed_forward_length=4 * heads * script.head_size,
        context_length=script.max_context_length,
        vocabulary=VOCABULARY,
        weights_bytes=script.size_bytes,
        file_type=script.quantization,
    )


def reading(daemon: Daemon) -> Machine:
    """Nothing of the machine that this runs on is in it."""
    settings, memory = daemon.settings, daemon.memory
    return Machine(
        at=time.time(),
        hostname="simulated",
        ram_total_bytes=settings.ram_bytes,
        ram_used_bytes=settings.ram_bytes - memory.free_ram_bytes(),
        disk_free_bytes=max(0, DISK_BYTES - sum(model.script.size_bytes for model in daemon.models.values())),
        gpu_note="These cards are simulated.",
        gpus=tuple(
            Gpu(
                index=card,
                name="Simulated GPU",
                source="simulated",
                memory_total_bytes=total,
                memory_used_bytes=total - free,
                memory_free_bytes=free,
                utilization_percent=_utilization(daemon, card),
            )
            for card, (total, free) in enumerate(zip(settings.card_bytes(), memory.free_bytes(), strict=True))
        ),
    )


def _utilization(daemon: Daemon, card: int) -> float:
    """Busy slots of all slots of the copies that lie on a card, in percent."""
    there = [one for one in daemon.memory.instances.values() if one.landed[card]]
    slots = sum(one.slots for one in there)
    return 100 * sum(len(one.running) for one in there) / slots if slots else 0.0
