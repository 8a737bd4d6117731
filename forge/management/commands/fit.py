"""Would a load fit? Measured now, with LM Studio's own estimate beside it."""

import json
import sys

from django.core.management.base import BaseCommand

from daemonpulse.templatetags.durations import duration
from fleet.allocation.amounts import amount
from fleet.daemons.errors import DaemonError
from fleet.hosts import explain, host_of
from fleet.models import Node, Reading
from fleet.texts import clean
from forge import described, loading, terminal
from forge.api_forms import WishForm
from forge.fit.verdict import Verdict
from forge.pages import IN_THE_WAY
from forge.preview import Preview, preview

EXIT = {Verdict.FITS: 0, Verdict.TIGHT: 0, Verdict.TOO_LARGE: 1, Verdict.UNKNOWN: 2}
NOT_ASKED = 2  # wrong options: nothing is known then, too


class Command(BaseCommand):
    help = "Says whether a load would fit; nothing is loaded. Exit status: 0 fits, 1 does not, 2 not known."

    def add_arguments(self, parser):
        terminal.add_options(parser)
        parser.add_argument("--json", action="store_true")

    def handle(self, *args, **options):
        data = terminal.wished(options)
        terminal.look_first(options["node"])
        node = terminal.check(WishForm(data), NOT_ASKED).target.node
        notes = [*asked(node), *measured(node)]
        wish = terminal.check(WishForm(data | {"node": node.name}), NOT_ASKED).wish
        seen = preview(wish)
        estimate = loading.estimate(wish, seen.reading.machine if seen.reading else None)
        if options["json"]:
            told = described.of_fit(seen) | {"lmstudio": described.of_estimate(estimate), "notes": notes}
            self.stdout.write(json.dumps(told, indent=2))
        else:
            told = [*lines(seen), in_words(estimate), *notes]
            self.stdout.write("\n".join(clean(line, terminal.MOST * 10) for line in told))
        sys.exit(EXIT[seen.fit_after.verdict])


def asked(node: Node) -> list[str]:
    """Look what it holds now; what to know where it does not say."""
    if not terminal.look([node]):
        return []
    return [f"{node} does not answer: what it holds is as last known. {node.reason_explanation}"]


def measured(node: Node) -> list[str]:
    """Read its machine now, and keep it; what to know where that cannot be done."""
    if not node.has_host:
        return [f"How much memory is free is not known: {node}'s machine cannot be asked without an agent."]
    try:
        Reading.of(node).keep(host_of(node).telemetry())
    except DaemonError as error:
        return [f"The machine could not be measured now. {explain(error, node)}"]
    return []


def lines(seen: Preview) -> list[str]:
    """The verdict, how it comes about, and what it takes."""
    fit = seen.fit_after
    told = [f"{seen.wish.model.key} on {seen.wish.node}: {fit.verdict}", *(f"  {one}" for one in fit.sentences)]
    if seen.decision and seen.decision.is_possible and seen.decision.evict:
        told.append(f"  Unloads first: {', '.join(seen.decision.evict)}.")
    if seen.decision and not seen.decision.is_possible:
        told += [f"  {IN_THE_WAY[why].format(model)}" for model, why in seen.decision.blockers]
    if seen.decision and seen.reading:
        age = loading.timezone.now() - seen.reading.read_at
        told.append(f"  Measured {duration(age)} ago.")
    return told


def in_words(estimate) -> str:
    """LM Studio's own estimate; it counts what the model takes, not what other programs hold."""
    if estimate is None or estimate.model_bytes is None:
        return "LM Studio's own estimate could not be had."
    parts = [f"{amount(estimate.model_bytes)} for the model"]
    if estimate.context_bytes is not None:
        parts.append(f"{amount(estimate.context_bytes)} for the context")
    sure = f", {estimate.confidence} confidence" if estimate.confidence else ""
    guard = {True: " Its guardrail would let it load.", False: " Its guardrail is against it.", None: ""}
    return f"LM Studio's own estimate: {' and '.join(parts)}{sure}.{guard[estimate.passes_guardrails]}"
