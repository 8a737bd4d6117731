"""Host manifests: what stands in them, and where each browser looks for them (contract §11)."""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

HOST_NAME = "com.daemonpulse.host"
DESCRIPTION = "DaemonPulse: the LM Studio of this machine"
FOLDER_OF_PROFILE_ROOT = "NativeMessagingHosts"  # below --user-data-dir, for the Chrome family


class Browser(StrEnum):
    CHROME = "chrome"
    CHROMIUM = "chromium"
    EDGE = "edge"
    FIREFOX = "firefox"


# Edge's places: Microsoft's documentation on native messaging; not in the contract, UNVERIFIED.
LINUX = {
    Browser.CHROME: ".config/google-chrome/NativeMessagingHosts",
    Browser.CHROMIUM: ".config/chromium/NativeMessagingHosts",
    Browser.EDGE: ".config/microsoft-edge/NativeMessagingHosts",
    Browser.FIREFOX: ".mozilla/native-messaging-hosts",
}
MACOS = {
    Browser.CHROME: "Library/Application Support/Google/Chrome/NativeMessagingHosts",
    Browser.CHROMIUM: "Library/Application Support/Chromium/NativeMessagingHosts",
    Browser.EDGE: "Library/Application Support/Microsoft Edge/NativeMessagingHosts",
    Browser.FIREFOX: "Library/Application Support/Mozilla/NativeMessagingHosts",
}
WINDOWS = {
    Browser.CHROME: r"Software\Google\Chrome\NativeMessagingHosts",
    Browser.CHROMIUM: r"Software\Chromium\NativeMessagingHosts",  # Chromium's sources; UNVERIFIED
    Browser.EDGE: r"Software\Microsoft\Edge\NativeMessagingHosts",
    Browser.FIREFOX: r"Software\Mozilla\NativeMessagingHosts",
}


@dataclass(frozen=True)
class Place:
    """Where a browser looks: in a folder, or (Windows) in a key of HKEY_CURRENT_USER that names the manifest."""

    folder: Path | None = None
    registry_key: str = ""


def where(browser: Browser, platform: str, home: Path) -> Place:
    """The place for this user. `platform` as sys.platform; `home` the user's folder."""
    if platform == "win32":
        return Place(registry_key=WINDOWS[browser])
    return Place(home / (MACOS if platform == "darwin" else LINUX)[browser])


def manifest(browser: Browser, extension_ids: list[str], path: str, name: str = HOST_NAME) -> dict:
    """The manifest's content. `path` is the launcher's, absolute. Raises ValueError for an id or name that no
    browser would take."""
    for extension_id in extension_ids:
        check_extension_id(browser, extension_id)
    content = {"name": checked_name(name), "description": DESCRIPTION, "path": path, "type": "stdio"}
    if browser is Browser.FIREFOX:
        return content | {"allowed_extensions": list(extension_ids)}
    return content | {"allowed_origins": [f"chrome-extension://{one}/" for one in extension_ids]}


def extension_ids_in(content: dict) -> list[str]:
    """The ids that a manifest of either kind lets in."""
    origins = [str(origin) for origin in content.get("allowed_origins") or []]
    chrome = [origin.removeprefix("chrome-extension://").rstrip("/") for origin in origins]
    return chrome + [str(one) for one in content.get("allowed_extensions") or []]


CHROME_ID = re.compile(r"[a-p]{32}")
FIREFOX_ID = re.compile(
    r"[A-Za-z0-9._-]{0,80}@[A-Za-z0-9._-]{1,80}"
    r"|\{[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\}"
)
NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")


def check_extension_id(browser: Browser, extension_id: str) -> None:
    """Raises ValueError with what an id of this browser looks like."""
    if browser is Browser.FIREFOX:
        if not FIREFOX_ID.fullmatch(extension_id):
            raise ValueError(
                f"{extension_id!r} is no Firefox add-on id. It looks like addon@example.org or {{a UUID}}, and stands "
                "in the add-on's manifest as browser_specific_settings.gecko.id."
            )
    elif not CHROME_ID.fullmatch(extension_id):
        raise ValueError(
            f"{extension_id!r} is no extension id. It is 32 letters from a to p; the browser shows it on its "
            "extensions page in developer mode."
        )


def checked_name(name: str) -> str:
    if len(name) > 200 or not NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be a host's name: lowercase letters, digits and _ in parts joined by single dots, "
            f"such as {HOST_NAME}."
        )
    return name
