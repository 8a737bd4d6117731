"""Which installation this is: clients know by it that a server behind an address is still the same."""

import uuid

from django.db import models


class Installation(models.Model):
    """One row. A copy of the data folder is the same installation."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)

    def __str__(self):
        return f"installation {self.id}"

    @classmethod
    def own_id(cls) -> uuid.UUID:
        """Made at the first question."""
        if not cls.objects.exists():
            cls.objects.create()
        return cls.objects.order_by("pk").values_list("pk", flat=True).first()
