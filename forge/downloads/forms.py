"""Input about downloads and about the search for them."""

import re
from urllib.parse import unquote, urlsplit

from django import forms
from django.core.exceptions import ValidationError

from fleet.models import Kind, Node
from forge.hub import search as hub
from forge.hub.place import HUB, address, endpoint
from forge.models import Download

CATALOGUE_HOST = "lmstudio.ai"
QUANTIZATION = re.compile(r"[\w.-]{1,40}", re.ASCII)
HOW = "Write owner/name, owner/name@quantization, or a repository’s address."
MOST = 2**62


def parse_source(written: str) -> tuple[str, str]:
    """What a node is asked for: (a catalogue name or a repository's address, a quantization or "").

    Raises ValidationError. A quantization goes with addresses only (contract §2.4), so a name with one becomes one.
    """
    text = written.strip()
    if "://" in text:
        return _of_address(text)
    name, _, quantization = text.partition("@")
    if not hub.is_name(name) or ("@" in text and not QUANTIZATION.fullmatch(quantization)):
        raise ValidationError(HOW, code="invalid")
    return (address(name), quantization) if quantization else (name, "")


def _of_address(text: str) -> tuple[str, str]:
    try:
        parts = urlsplit(text)
        has_secret = "@" in parts.netloc
        host = parts.hostname or ""
    except ValueError:
        raise ValidationError(HOW, code="invalid") from None
    if has_secret:
        raise ValidationError("Leave names and passwords out of the address.", code="credentials")
    known = {urlsplit(HUB).hostname, urlsplit(endpoint()).hostname, CATALOGUE_HOST}
    if parts.scheme != "https" or host.removeprefix("www.") not in known:
        raise ValidationError(
            f"Models come from {HUB} or https://{CATALOGUE_HOST}; this is another address.", code="host"
        )
    return _of_path(host.removeprefix("www."), unquote(parts.path).strip("/").split("/"))


def _of_path(host: str, path: list[str]) -> tuple[str, str]:
    """What a page of the hub, or of LM Studio's catalogue, is about; of a file's page the quantization too."""
    if host == CATALOGUE_HOST and path[0] == "models":
        path = path[1:]
    name, more = "/".join(path[:2]), path[2:]
    if not hub.is_name(name):
        raise ValidationError(HOW, code="invalid")
    if host == CATALOGUE_HOST:
        return name, ""
    is_file = bool(more) and more[-1].lower().endswith(".gguf")
    return address(name), hub.quantization_of(more[-1]) if is_file else ""


# Nodes that can download, by name; asked of the database by each form anew.
NODES = {"queryset": Node.objects.enabled().filter(kind=Kind.LMSTUDIO), "to_field_name": "name"}


class DownloadForm(forms.Form):
    """Ask for a download. `size_bytes`: as the hub told it, so that the disk can be looked at beforehand."""

    node = forms.ModelChoiceField(
        **NODES,
        empty_label="Choose a node",
        error_messages={"invalid_choice": "There is no such node, or it cannot download. Choose one of LM Studio’s."},
    )
    source = forms.CharField(
        label="Model", max_length=400, help_text=f"{HOW} A name alone is looked up in LM Studio’s catalogue.",
        widget=forms.TextInput(attrs={"placeholder": "qwen/qwen3-8b", "autocapitalize": "none", "spellcheck": "false"}),
    )  # fmt: skip
    quantization = forms.CharField(
        max_length=40, required=False, help_text="Such as Q4_K_M. Without one LM Studio chooses.",
        widget=forms.TextInput(attrs={"placeholder": "Q4_K_M", "autocapitalize": "none", "spellcheck": "false"}),
    )  # fmt: skip
    size_bytes = forms.IntegerField(required=False, min_value=0, max_value=MOST, widget=forms.HiddenInput)

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        nodes = list(self.fields["node"].queryset[:2])
        self.has_nodes = bool(nodes)
        if len(nodes) == 1 and not self.initial.get("node"):
            self.initial["node"] = nodes[0].name

    def clean_quantization(self) -> str:
        written = self.cleaned_data["quantization"].strip()
        if written and not QUANTIZATION.fullmatch(written):
            raise ValidationError("A quantization is one word, such as Q4_K_M.", code="invalid")
        return written

    def clean(self):
        data = super().clean()
        if not data.get("source"):
            return data
        try:
            source, told = parse_source(data["source"])
        except ValidationError as error:
            self.add_error("source", error)
            return data
        wanted = data.get("quantization") or ""
        if told and wanted and told.casefold() != wanted.casefold():
            self.add_error("quantization", ValidationError(f"The model says {told}. Write one of the two.", code="two"))
        quantization = wanted or told
        is_name = "://" not in source
        data["source"] = address(source) if quantization and is_name else source
        data["quantization"] = quantization
        return data

    def save(self, user) -> Download:
        wish = {name: self.cleaned_data[name] for name in ("node", "source", "quantization", "size_bytes")}
        return Download.ask(user=user, **wish)


class HubForm(forms.Form):
    """What to look for in the hub, and on which node it should fit."""

    text = forms.CharField(
        label="Search", required=False, max_length=100,
        widget=forms.TextInput(attrs={"type": "search", "data-search": "", "placeholder": "qwen3 8b"}),
    )  # fmt: skip
    format = forms.ChoiceField(choices=[("gguf", "GGUF"), ("mlx", "MLX (Apple)")], required=False)
    sort = forms.ChoiceField(
        choices=[("downloads", "Most downloads"), ("likes", "Most likes"), ("trending", "Trending")], required=False
    )
    node = forms.ModelChoiceField(**NODES, empty_label="No node", required=False, label="Fits on")
    page = forms.IntegerField(required=False, min_value=1, max_value=hub.LAST_PAGE, widget=forms.HiddenInput)

    @property
    def query(self) -> dict:
        """What hub.search() takes; what was not written, or makes no sense, is as if it had been left alone."""
        data = getattr(self, "cleaned_data", {})
        return {
            "text": data.get("text") or "",
            "format": data.get("format") or hub.FORMATS[0],
            "sort": data.get("sort") or next(iter(hub.SORTS)),
            "page": data.get("page") or 1,
        }
