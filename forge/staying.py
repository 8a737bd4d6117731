"""How long a model stays in memory: its saved idle time and its pin, and what they mean for copies already loaded."""

from forge.models import LoadProfile, Model


def keep_for(model: Model, ttl_seconds: int | None) -> None:
    """From now on its copies may be idle for so long: 0 = they stay, None = as the settings say."""
    _carry_over(model, LoadProfile.choose(model, ttl_seconds=ttl_seconds))


def pin(model: Model) -> None:
    """Its copies are not unloaded any more, neither for room nor for being idle, unless a person ejects them."""
    _carry_over(model, LoadProfile.choose(model, is_pinned=True))


def unpin(model: Model) -> None:
    """They may be unloaded again. Their idle time counts from when they were last used, so it may be over."""
    _carry_over(model, LoadProfile.choose(model, is_pinned=False))


def _carry_over(model: Model, profile: LoadProfile) -> None:
    """Copies that somebody else had loaded only get an idle time that a person wished for this model."""
    for instance in model.instances.all():
        instance.model = model
        is_meant = instance.is_ours or profile.ttl_seconds is not None
        instance.keep_for(profile.idle_seconds if is_meant else None)
