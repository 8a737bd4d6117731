"""Whether a download finds room on its node's disk, as far as the last reading of that machine tells."""

from fleet.allocation.amounts import amount
from fleet.models import Node
from forge.models import Download


def free_bytes(node: Node) -> int | None:
    """What was free on the disk that holds the node's models; None = not known."""
    reading = getattr(node, "reading", None)
    machine = reading.machine if reading else None
    return machine.disk_free_bytes if machine else None


def problem(node: Node, needed: int | None) -> str:
    """Why it cannot begin; "" when it can, or when nobody knows."""
    free = free_bytes(node)
    if needed is None or free is None or needed <= free:
        return ""
    return (
        f"It needs {amount(needed)}, but {amount(free)} are free on the node’s disk, as last read. "
        "Make room there, then retry."
    )


def caution(node: Node, needed: int | None, promised: int = 0) -> str:
    """What to know of one that has begun; `promised`: bytes that others on their way to this node still need."""
    free = free_bytes(node)
    if needed is None or free is None or needed + promised <= free:
        return ""
    whole = f"It needs {amount(needed)}"
    if needed <= free:
        whole = f"With what is on its way already it needs {amount(needed + promised)}"
    return (
        f"{whole}, and {amount(free)} were free on the node’s disk. "
        "Make room there, or stop it in LM Studio: it cannot be stopped from here."
    )


def promised_bytes(download: Download) -> int:
    """Bytes that other downloads on their way to the same node still need, as far as they tell."""
    others = Download.objects.under_way().filter(node=download.node_id).exclude(pk=download.pk)
    told = others.exclude(total_bytes=None).values_list("total_bytes", "downloaded_bytes")
    return sum(max(0, total - (got or 0)) for total, got in told)


def in_words(node: Node, needed: int | None) -> str:
    """What is not known of the room it needs; "" when both figures are there."""
    if needed is None:
        return "How much it needs is not known beforehand."
    if free_bytes(node) is None:
        return f"It needs {amount(needed)}; how much is free on the node’s disk is unknown."
    return ""
