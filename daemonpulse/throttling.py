"""Slows down guessing: after a few failed sign-ins an address waits."""

from django.core.cache import cache


class Throttle:
    """Counts failures by address in this process's cache; `limit` within `seconds` block it for as long."""

    def __init__(self, name: str, limit: int, seconds: int):
        self.name, self.limit, self.seconds = name, limit, seconds

    def _key(self, address: str) -> str:
        return f"throttle:{self.name}:{address}"

    def is_blocked(self, address: str) -> bool:
        return cache.get(self._key(address), 0) >= self.limit

    def count(self, address: str) -> None:
        cache.add(self._key(address), 0, self.seconds)
        try:
            cache.incr(self._key(address))
        except ValueError:  # the count ended, or was forgotten, in this very moment
            cache.set(self._key(address), 1, self.seconds)

    def forget(self, address: str) -> None:
        cache.delete(self._key(address))


SIGN_IN = Throttle("sign-in", limit=8, seconds=300)


def client_address(request) -> str:
    """The peer's address; headers of proxies are not believed."""
    return request.META.get("REMOTE_ADDR", "")
