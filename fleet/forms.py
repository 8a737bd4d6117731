"""Input about nodes."""

import re
from urllib.parse import urlsplit

from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import transaction

from daemonpulse.models.event import record
from fleet.agent.keys import AgentKey
from fleet.daemons.errors import DaemonError
from fleet.daemons.kinds import connect, detect
from fleet.hosts import agent_at, explain_agent
from fleet.lms.actions import Action
from fleet.models import Kind, Node

HOST = re.compile(r"[\w.:%-]+")  # a name, with or without a domain, or an IP address
PATH = re.compile(r"[!-~]*")
PORTS = {"http": 80, "https": 443}
MAX_TAGS, MAX_TAG = 10, 30

token_characters = RegexValidator(r"^[!-~]+$", "A token has only letters, digits and signs, no spaces or accents.")


def clean_address(written: str, example: str) -> str:
    """An address written in one way: scheme://host:port/path, without a slash at its end. Raises ValidationError."""
    url = written.strip()
    url = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in {"http", "https"} and HOST.fullmatch(parts.hostname or "") and parts.port != 0
        is_address = is_address and PATH.fullmatch(parts.path)
    except ValueError:  # a port or an IPv6 address that is none
        is_address = False
    if not is_address:
        raise ValidationError(f"Write an address such as {example}.", code="invalid")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValidationError(
            "Only scheme, host and port belong into the address; a token has its own field.", code="invalid"
        )
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


class TagsField(forms.CharField):
    """Words with commas between them ↔ a list."""

    def prepare_value(self, value):
        return ", ".join(value) if isinstance(value, list) else value

    def to_python(self, value):
        words = [" ".join(word.split()) for word in (value or "").split(",")]
        return list(dict.fromkeys(word for word in words if word))

    def validate(self, value):
        super().validate(value)
        if len(value) > MAX_TAGS:
            raise ValidationError(f"At most {MAX_TAGS} tags; these are {len(value)}.", code="too_many")
        for word in value:
            if len(word) > MAX_TAG:
                raise ValidationError(
                    f"“{word[:MAX_TAG]}…” is too long: a tag has at most {MAX_TAG} letters.", code="long"
                )


def place(url: str) -> str:
    """Scheme, host and port: who gets what is sent there. Names of this machine are one, default ports are written."""
    parts = urlsplit(url)
    host = "127.0.0.1" if parts.hostname in {"localhost", "::1"} else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or PORTS[parts.scheme]}"


def canonical(url: str) -> str:
    """An address in the way in which it is compared with others."""
    return place(url) + urlsplit(url).path


class NodeForm(forms.ModelForm):
    """Add or change a node: its address is asked what it is; one that does not answer needs its kind chosen.

    When changing one, an empty token or agent's key leaves what is there, unless its address is another one: a stored
    secret is not sent to where it was not written for. With `is_test` everything is asked, and `found` says who
    answered.
    """

    kind = forms.ChoiceField(choices=[("", "Find out"), *Kind.choices], required=False)
    base_url = forms.CharField(
        max_length=300,
        label="Address",
        widget=forms.TextInput(attrs={"placeholder": "http://192.168.1.20:1234", "inputmode": "url"}),
    )
    token = forms.CharField(
        max_length=300, required=False, widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        validators=[token_characters],
        help_text="Only if the daemon asks for one. It is stored encrypted.",
    )  # fmt: skip
    tags = TagsField(required=False, max_length=400, help_text="Words to tell nodes apart, with commas between them.")
    notes = forms.CharField(required=False, max_length=5000, widget=forms.Textarea(attrs={"rows": 3}))
    agent_url = forms.CharField(
        max_length=300, required=False, label="Agent’s address",
        widget=forms.TextInput(attrs={"placeholder": "https://192.168.1.20:8643", "inputmode": "url"}),
        help_text="The small program on that machine that tells of its GPUs and can start LM Studio there.",
    )  # fmt: skip
    agent_key = forms.CharField(
        max_length=300, required=False, label="Agent’s key", widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        help_text="What <code>daemonpulse agent key</code> prints there. It is stored encrypted.",
    )  # fmt: skip
    forget_token = forms.BooleanField(required=False, label="Forget the stored token")
    starts_with_up = forms.BooleanField(
        required=False, label="Start its LM Studio server together with DaemonPulse, when it is down"
    )

    class Meta:
        model = Node
        fields = ["name", "base_url", "token", "kind", "tags", "notes", "agent_url", "agent_key", "starts_with_up"]

    def __init__(self, *args, is_test: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.is_test, self.found = is_test, []
        if not self.instance.token:
            del self.fields["forget_token"]

    MORE = ("tags", "notes", "agent_url", "agent_key", "starts_with_up")

    @property
    def main_fields(self):
        return [field for field in self if field.name not in self.MORE]

    @property
    def more_fields(self):
        return [field for field in self if field.name in self.MORE]

    @property
    def wrote_secrets(self) -> bool:
        """They are not sent back with the form, and must be written again."""
        return self.is_bound and any(self.data.get(name) for name in ("token", "agent_key"))

    @property
    def has_more_errors(self) -> bool:
        return any(name in self.errors for name in self.MORE)

    def clean_base_url(self):
        url = clean_address(self.cleaned_data["base_url"], "http://192.168.1.20:1234")
        return url.removesuffix("/api/v1").removesuffix("/v1")

    def clean_agent_url(self):
        written = self.cleaned_data["agent_url"].strip()
        return clean_address(written, "https://192.168.1.20:8643") if written else ""

    def clean_agent_key(self):
        if written := self.cleaned_data["agent_key"].strip():
            try:
                AgentKey.parse(written)
            except ValueError as error:
                raise ValidationError(str(error), code="invalid") from error
        return written

    def clean(self):
        data = super().clean()
        url, agent_url = data.get("base_url"), data.get("agent_url")
        others = Node.objects.exclude(pk=self.instance.pk).values_list("base_url", flat=True)
        if url and canonical(url) in {canonical(other) for other in others}:
            self.add_error("base_url", ValidationError("There is a node with this address already.", code="duplicate"))
        if url and not self.errors:
            self._keep_secret(data, "token", self.initial.get("base_url"), url, bool(data.get("forget_token")))
        if agent_url and not self.errors:
            self._keep_secret(data, "agent_key", self.initial.get("agent_url"), agent_url)
            self._check_agent(data, agent_url)
        if url and not self.errors and (self.is_test or not data.get("kind")):
            self._find_out_kind(data, url)
        return data

    def _keep_secret(self, data: dict, name: str, old_url: str | None, new_url: str, is_to_go: bool = False) -> None:
        """An empty field leaves the stored secret, but not for another address."""
        stored = self.initial.get(name)
        if data.get(name) or is_to_go or not stored:
            return
        if place(old_url) == place(new_url):
            data[name] = stored
            return
        wording = f"The address is another one. Write the {self[name].label.lower()} for it again."
        if name == "token":
            wording += " If it wants none, tick “Forget the stored token”."
        self.add_error(name, ValidationError(wording, code="other_address"))

    def _check_agent(self, data: dict, url: str) -> None:
        if "agent_key" in self.errors:
            return
        if not data.get("agent_key"):
            self.add_error("agent_key", ValidationError("An agent is asked with its key.", code="required"))
            return
        try:
            agent = agent_at(url, data["agent_key"])
            if self.is_test:
                agent.telemetry()
                self.found.append("Its agent answers, and takes our key.")
        except ValueError as error:
            self.add_error("agent_url", ValidationError(str(error), code="invalid"))
        except DaemonError as error:
            self.add_error("agent_url", ValidationError(explain_agent(error), code=error.reason.value))

    def _find_out_kind(self, data: dict, url: str) -> None:
        try:
            data["kind"] = detect(url, data.get("token") or "")
            self.instance.is_simulated = connect(data["kind"], url, data.get("token") or "").is_simulated()
            simulated = ", but a simulated one" if self.instance.is_simulated else ""
            self.found.insert(0, f"It answers, as {Kind(data['kind']).label}{simulated}.")
        except DaemonError as error:
            hint = "" if self.is_test else " Choose its kind to add it anyway; it is used as soon as it answers."
            self.add_error("base_url", ValidationError(f"{error.reason.explanation}{hint}", code=error.reason.value))

    def save(self, commit=True):
        """Add the node, or change what the form changed."""
        if self.instance.pk:
            written = {name: self.cleaned_data[name] for name in self.Meta.fields}
            changed = {name: value for name, value in written.items() if value != self.initial.get(name)}
            self.instance.change(**changed, is_simulated=self.instance.is_simulated)
            return self.instance
        with transaction.atomic():
            node = super().save(commit)
            record("node.added", node.pk)
        return node


class CommandForm(forms.Form):
    """A button of a node's page."""

    BUTTONS = (
        Action.SERVER_START,
        Action.SERVER_STOP,
        Action.SERVER_RESTART,
        Action.DAEMON_UP,
        Action.DAEMON_DOWN,
        Action.DAEMON_UPDATE,
        Action.HEADLESS_ON,
    )
    action = forms.ChoiceField(choices=[(action.value, action.label) for action in BUTTONS])
