"""What could be added as a node: offered, never added by itself."""

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from daemonpulse import lan
from fleet.discovery import find_here
from fleet.forms import canonical
from fleet.lms.home import DEFAULT_PORT, Folder
from fleet.models import Node

log = logging.getLogger(__name__)

BROWSE_SECONDS = 1.5
SAME_SECONDS = 10.0  # several people who look around at once look around once


@dataclass(frozen=True, slots=True)
class Offer:
    """`base_url`, or `agent_url` and `likely_url`, fill the add form; neither: it can only be opened (`link`)."""

    title: str
    detail: str
    base_url: str = ""
    agent_url: str = ""
    likely_url: str = ""
    link: str = ""


_lock = threading.Lock()
_last: tuple[float, list[Offer]] = (-1e9, [])


def look_around() -> list[Offer]:
    """Offers of this machine and of the network; takes BROWSE_SECONDS."""
    global _last
    with _lock:
        at, offers = _last
        if time.monotonic() - at > SAME_SECONDS:
            offers = [*here(), *network()]
            _last = time.monotonic(), offers
    urls = {url for row in Node.objects.values_list("base_url", "agent_url") for url in row if url}
    known = {canonical(url) for url in urls}
    return [offer for offer in offers if canonical(offer.base_url or offer.agent_url or offer.link) not in known]


def here(user_home: Path | None = None) -> list[Offer]:
    """The LM Studio of this machine, whether its server runs or is only installed."""
    if url := find_here(user_home):
        return [Offer("LM Studio on this machine", f"Its server answers at {url}.", base_url=url)]
    folder = Folder.find(user_home)
    if folder.is_installed and folder.is_bootstrapped:
        return [
            Offer(
                "LM Studio on this machine",
                "It is installed, but its server is down. Add it, then start it from its page.",
                base_url=folder.base_url,
            )
        ]
    return []


def network(interfaces: list[str] | None = None) -> list[Offer]:
    """Agents and other DaemonPulse servers that announce themselves."""
    try:
        found = lan.browse([lan.AGENT, lan.SERVER], BROWSE_SECONDS, interfaces)
    except OSError as error:
        log.info("offers.no_network error=%s", type(error).__name__)
        return []
    return [_offer(service) for service in found]


def _offer(service: lan.Found) -> Offer:
    scheme = "https" if service.properties.get("tls") == "1" else "http"
    host = f"[{service.host}]" if ":" in service.host else service.host
    url = f"{scheme}://{host}:{service.port}"
    if service.type == lan.AGENT:
        # A daemon beside an agent usually has LM Studio's own port; whoever adds it can write another one.
        daemon = f"http://{host}:{DEFAULT_PORT}"
        return Offer(f"Agent on {service.name}", f"It answers at {url}.", agent_url=url, likely_url=daemon)
    return Offer(f"DaemonPulse on {service.name}", f"Another control plane, at {url}.", link=url)
