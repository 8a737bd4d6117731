"""How a pairing code is handed over: in letters, as a link in a QR code, and as a line for a terminal."""

from dataclasses import dataclass, field

import segno
from django.conf import settings

SECURE = "https:"


@dataclass(frozen=True)
class Offer:
    """A code, as PairingCode.issue() gave it, and the origin (scheme, host, port) under which a device gets here."""

    code: str = field(repr=False)  # whatever prints an offer does not print the code
    origin: str

    @property
    def shown(self) -> str:
        """In two groups, which is how people read it out."""
        return "-".join(self.groups)

    @property
    def groups(self) -> tuple[str, str]:
        return self.code[:4], self.code[4:]

    @property
    def is_secure(self) -> bool:
        return self.origin.startswith(SECURE)

    @property
    def link(self) -> str:
        """What a phone opens. The code is behind the #, which browsers keep to themselves."""
        fingerprint = self._fingerprint()
        return f"{self.origin}/m/#pair={self.code}" + (f"&fp={fingerprint}" if fingerprint else "")

    @property
    def line(self) -> str:
        """What a terminal is told, in DaemonPulse's folder on the other computer: `make install` puts it into .venv."""
        fingerprint = self._fingerprint()
        trust = f" --fingerprint {fingerprint}" if fingerprint else ""
        return f"make install && .venv/bin/daemonpulse client --server {self.origin} --pair {self.shown}{trust}"

    @property
    def image(self) -> str:
        """The link's QR code as an SVG in a data: URI, which our policy lets an <img> show."""
        return self.qr().svg_data_uri(scale=5, border=4, dark="#000", light="#fff")

    def qr(self) -> segno.QRCode:
        return segno.make(self.link, error="m", micro=False)

    def _fingerprint(self) -> str:
        """Our CA's, for a device that does not trust it yet; "" where our certificate is not what the device sees."""
        if not self.is_secure or settings.IS_BEHIND_TLS:
            return ""
        from daemonpulse import certs  # takes 10 MB

        return certs.fingerprint() or ""
