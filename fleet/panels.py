"""What the apps above add to a node's card and page: they are named in the settings and reached by name only.

Each path is a function (nodes, user) → {node's pk: HTML}, with a fixed number of queries however many nodes.
"""

from collections import defaultdict

from django.conf import settings
from django.utils.module_loading import import_string


def on_cards(nodes, user) -> dict[int, list[str]]:
    return _made(settings.NODE_CARD_PANELS, nodes, user)


def on_page(node, user) -> list[str]:
    return _made(settings.NODE_PAGE_PANELS, [node], user)[node.pk]


def _made(paths: list[str], nodes, user) -> dict[int, list[str]]:
    panels: dict[int, list[str]] = defaultdict(list)
    for path in paths:
        for pk, html in import_string(path)(nodes, user).items():
            panels[pk].append(html)
    return panels
