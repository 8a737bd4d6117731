"""Channels' in-memory layer for many viewers of fast streams."""

import time

from channels.layers import InMemoryChannelLayer

CLEAN_SECONDS = 5.0


class Message(dict):
    """A message that all its receivers may share, because none of them changes it; the layer copies others whole
    for each of them."""

    def __deepcopy__(self, memo):
        return self


class ViewersLayer(InMemoryChannelLayer):
    """As it comes, the layer looks through all channels and groups at every single message for what has expired."""

    cleaned_at = 0.0

    def _clean_expired(self):
        if time.monotonic() - self.cleaned_at > CLEAN_SECONDS:
            self.cleaned_at = time.monotonic()
            super()._clean_expired()
