"""The paired devices of all users: list, rename, revoke."""

import json
import uuid

from django.core.management.base import BaseCommand, CommandError

from daemonpulse import program

from ...devices.forms import NameForm
from ...models import Device

HEAD = ("NAME", "OWNER", "KIND", "APP", "SEALED", "STATE", "PAIRED", "LAST HEARD", "TO SEND", "ID")


class Command(BaseCommand):
    help = "Lists the paired devices, renames one or revokes one."

    def add_arguments(self, parser):
        parser.add_argument("--json", action="store_true")
        one = parser.add_mutually_exclusive_group()
        one.add_argument("--revoke", metavar="NAME-OR-ID", help="shut this device out at once")
        one.add_argument("--rename", nargs=2, metavar=("ID", "NEW"), help="give this device (id or name) another name")

    def handle(self, *args, **options):
        if options["revoke"]:
            device = device_of(options["revoke"])
            device.revoke()
            self.stdout.write(f"{device.name} is revoked; it gets in no more.")
        elif options["rename"]:
            device = device_of(options["rename"][0])
            device.rename(checked(options["rename"][1]))
            self.stdout.write(f"It is called {device.name} now.")
        else:
            self.show([told(device) for device in Device.objects.paired().select_related("owner")], options["json"])

    def show(self, rows: list[dict], is_json: bool) -> None:
        if is_json:
            self.stdout.write(json.dumps({"devices": rows}, indent=2))
        elif not rows:
            self.stdout.write(f"No device is paired. Pair one: {program.line('pair-device')}")
        else:
            self.stdout.write("\n".join(table(rows)))


def told(device: Device) -> dict:
    """What is known of a device; `to_send` is None while nothing was heard from it."""
    return {
        "name": device.name,
        "owner": device.owner.username,
        "kind": device.kind,
        "app": device.app,
        "is_sealed": device.is_sealed,
        "state": "online" if device.is_online else "away" if device.is_usable else "expired",
        "paired_at": device.paired_at.isoformat(timespec="seconds"),
        "last_heard_at": device.last_heard_at.isoformat(timespec="seconds") if device.last_heard_at else None,
        "to_send": device.pending if device.last_heard_at else None,
        "id": str(device.pk),
    }


def table(rows: list[dict]) -> list[str]:
    cells = [HEAD, *(tuple(in_words(value) for value in row.values()) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def in_words(value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))  # a device says how it is called


def device_of(wanted: str) -> Device:
    """The paired device with this id or name. Raises CommandError when there is none, or several of the name."""
    try:
        found = list(Device.objects.paired().filter(pk=uuid.UUID(wanted)))
    except ValueError:
        found = list(Device.objects.paired().filter(name=wanted).select_related("owner"))
    if not found:
        known = program.line("devices")
        raise CommandError(f"No paired device is called “{wanted}” or has this id. `{known}` lists them.")
    if len(found) > 1:
        ids = ", ".join(f"{device.pk} ({device.owner})" for device in found)
        raise CommandError(f"{len(found)} devices are called “{wanted}”. Name one by its id: {ids}.")
    return found[0]


def checked(name: str) -> str:
    """A name as the pages take it. Raises CommandError that says what is wrong with it."""
    form = NameForm({"name": name})
    if not form.is_valid():
        raise CommandError(" ".join(form.errors["name"]))
    return form.cleaned_data["name"]
