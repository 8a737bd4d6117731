"""Input about nodes."""

import re
from urllib.parse import urlsplit

from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import transaction

from daemonpulse.models.event import record
from fleet.daemons.errors import DaemonError
from fleet.daemons.kinds import detect
from fleet.models import Kind, Node

HOST = re.compile(r"[\w.:%-]+")  # a name, with or without a domain, or an IP address
PATH = re.compile(r"[!-~]*")


class TokenForm(forms.Form):
    """Another token for a node; empty: none."""

    token = forms.CharField(
        max_length=300,
        required=False,
        validators=[RegexValidator(r"^[!-~]+$", "A token has only letters, digits and signs, no spaces or accents.")],
    )


class NodeForm(forms.ModelForm):
    """Add a node: its address is asked what it is; an address that does not answer can be added with a kind chosen."""

    kind = forms.ChoiceField(choices=[("", "Find out"), *Kind.choices], required=False)
    base_url = forms.CharField(
        max_length=300,
        label="Address",
        widget=forms.TextInput(attrs={"placeholder": "http://192.168.1.20:1234", "inputmode": "url"}),
    )
    token = forms.CharField(
        max_length=300, required=False, widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        validators=[RegexValidator(r"^[!-~]+$", "A token has only letters, digits and signs, no spaces or accents.")],
        help_text="Only if the daemon asks for one. It is stored encrypted.",
    )  # fmt: skip

    class Meta:
        model = Node
        fields = ["name", "base_url", "token", "kind"]

    def clean_base_url(self):
        url = self.cleaned_data["base_url"].strip()
        url = url if "://" in url else f"http://{url}"
        try:
            parts = urlsplit(url)
            is_address = parts.scheme in {"http", "https"} and HOST.fullmatch(parts.hostname or "") and parts.port != 0
            is_address = is_address and PATH.fullmatch(parts.path)
        except ValueError:  # a port or an IPv6 address that is none
            is_address = False
        if not is_address:
            raise ValidationError("Write an address such as http://192.168.1.20:1234.", code="invalid")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValidationError(
                "Only scheme, host and port belong into the address; a token has its own field.", code="invalid"
            )
        path = parts.path.rstrip("/").removesuffix("/api/v1").removesuffix("/v1")
        return f"{parts.scheme}://{parts.netloc.lower()}{path}"

    def clean(self):
        data = super().clean()
        url = data.get("base_url")
        if url and Node.objects.filter(base_url=url).exists():
            self.add_error("base_url", ValidationError("There is a node with this address already.", code="duplicate"))
        if url and not self.errors and not data.get("kind"):
            try:
                data["kind"] = detect(url, data.get("token") or "")
            except DaemonError as error:
                wording = (
                    f"{error.reason.explanation} Choose its kind to add it anyway; it is used as soon as it answers."
                )
                self.add_error("base_url", ValidationError(wording, code=error.reason.value))
        return data

    def save(self, commit=True):
        with transaction.atomic():
            node = super().save(commit)
            record("node.added", node.pk)
        return node
