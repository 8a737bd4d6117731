"""Input about models: what the list shows, how one is loaded, how long it stays, what a node's models may hold."""

import dataclasses

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator

from fleet.allocation.channels import Channel, carried
from fleet.allocation.profile import Profile
from fleet.layout_forms import MAX_CONTEXT
from fleet.models import AllocationProfile, Node
from forge import wishes
from forge.listing import SORTS
from forge.models import Instance, LoadProfile, Model
from forge.models.profile import OPTIONS

MAX_SLOTS = 1023  # contract §6
MAX_BATCH = 65_536
MAX_MINUTES = 525_600  # a year
MAX_GIB = 100_000
MOST_SHOWN = 300  # characters that are searched for

# Only llama.cpp's models have these; embedding models lack them too (contract §2.2).
OF_LLAMA = ("flash_attention", "offload_kv_cache_to_gpu", "eval_batch_size", "num_experts")
NOT_OF_MLX = "Only GGUF models have it; this one is for MLX."
NOT_OF_EMBEDDING = "LM Studio has no such setting for embedding models."
# What REST leaves out (contract §2.2). The idle time is not among them: DaemonPulse keeps it itself.
BY_SOCKET = ("parallel", "offload_ratio", "identifier")


class ListForm(forms.Form):
    """What the list of models shows. What cannot be is ignored: an old link still shows something."""

    q = forms.CharField(
        required=False, max_length=MOST_SHOWN, label="Search",
        widget=forms.TextInput(attrs={"type": "search", "data-search": True, "autocomplete": "off"}),
    )  # fmt: skip
    sort = forms.ChoiceField(
        required=False,
        label="Order",
        choices=list(zip(("", *SORTS[1:]), ("Name", "Loaded first", "Largest first", "Most parameters"), strict=True)),
    )
    node = forms.ChoiceField(required=False)
    state = forms.ChoiceField(
        required=False, choices=[("", "Any state"), ("loaded", "Loaded"), ("disk", "Not loaded")], label="State"
    )
    type = forms.ChoiceField(
        required=False, choices=[("", "All types"), ("llm", "Chat"), ("embedding", "Embedding")], label="Type"
    )
    capability = forms.ChoiceField(
        required=False,
        label="Can do",
        choices=[("", "Anything"), ("vision", "Vision"), ("tools", "Tools"), ("reasoning", "Reasoning")],
    )
    format = forms.ChoiceField(
        required=False, choices=[("", "All formats"), ("gguf", "GGUF"), ("mlx", "MLX")], label="Format"
    )

    def __init__(self, data):
        super().__init__(data, auto_id="filter-%s")
        names = list(Node.objects.values_list("name", flat=True))
        self.fields["node"].choices = [("", "All nodes"), *((name, name) for name in names)]
        self.has_nodes = bool(names)

    @property
    def filters(self) -> dict[str, str]:
        """What is asked for, and can be."""
        self.is_valid()
        return {name: value for name, value in self.cleaned_data.items() if value}


def switch(saved: bool | None, **kwargs) -> forms.TypedChoiceField:
    """On, off, or no word about it."""
    silent = "LM Studio decides" if saved is None else f"As saved: {'on' if saved else 'off'}"
    return forms.TypedChoiceField(
        required=False,
        choices=[("", silent), ("on", "On"), ("off", "Off")],
        coerce=lambda value: value == "on",
        empty_value=None,
        **kwargs,
    )


def minutes_field(**kwargs) -> forms.FloatField:
    """Minutes; 0 = stays."""
    attrs = {"step": "any", "inputmode": "decimal"}
    widget = forms.NumberInput(attrs=attrs)
    return forms.FloatField(required=False, min_value=0, max_value=MAX_MINUTES, widget=widget, **kwargs)


def seconds_of(minutes: float | None) -> int | None:
    """Whole seconds; a moment is one second, not for ever."""
    return None if minutes is None else max(1, round(minutes * 60)) if minutes else 0


def minutes_of(seconds: int | None) -> str:
    return "" if seconds is None else f"{seconds / 60:.4g}"


def default_idle() -> str:
    """What an empty idle time means."""
    seconds = settings.MODEL_TTL_SECONDS
    return f"{minutes_of(seconds)} minutes" if seconds else "it stays"


class LoadForm(forms.Form):
    """One load of a model, or how it is loaded from now on."""

    context_length = forms.IntegerField(required=False, min_value=1, label="Context")
    parallel = forms.IntegerField(
        required=False, min_value=1, max_value=MAX_SLOTS, label="Slots", help_text="Prompts it serves side by side."
    )
    offload_ratio = forms.FloatField(
        required=False, min_value=0, max_value=1, label="Part on the GPUs",
        widget=forms.NumberInput(attrs={"step": "0.05", "inputmode": "decimal"}),
        help_text="0 to 1; the rest runs from the machine’s memory.",
    )  # fmt: skip
    ttl_minutes = minutes_field(label="Idle time")
    num_experts = forms.IntegerField(required=False, min_value=1, label="Experts")
    eval_batch_size = forms.IntegerField(
        required=False, min_value=1, max_value=MAX_BATCH, label="Batch size", help_text="Tokens read at once."
    )
    identifier = forms.CharField(
        required=False, max_length=200, label="Name of the copy",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
        validators=[RegexValidator(r"^[\w.:/@+-]+$", "Only letters, digits and the signs . : / @ + - _, no spaces.")],
        help_text="Empty: the model’s own.",
    )  # fmt: skip
    order = ("context_length", "parallel", "offload_ratio", "ttl_minutes", "flash_attention",
             "offload_kv_cache_to_gpu", "num_experts", "eval_batch_size", "identifier")  # fmt: skip
    first = order[:4]  # the others are behind "More settings"

    def __init__(self, data=None, *, model: Model):
        self.model, self.saved = model, LoadProfile.of(model)
        self.layout = AllocationProfile.chosen(model.node, model.key)
        initial = wishes.with_context(model, self.saved.options) | {
            "offload_ratio": self.layout.offload_ratio,
            "ttl_minutes": minutes_of(self.saved.ttl_seconds),
        }
        flags = ("flash_attention", "offload_kv_cache_to_gpu")
        initial |= {name: "on" if initial[name] else "off" for name in flags if name in initial}
        super().__init__(data, auto_id="load-%s", initial=initial)
        for name, label in zip(flags, ("Flash attention", "Context on the GPUs"), strict=True):
            self.fields[name] = switch(getattr(self.saved, name), label=label)
        self.order_fields(self.order)
        self._describe()
        self._switch_off()

    def _describe(self) -> None:
        longest = self.model.context_length
        told = f"Tokens; trained for up to {longest:,}." if longest else "Tokens; what it was trained for is not known."
        self._bound("context_length", longest or MAX_CONTEXT, told)
        experts = self.model.architecture.experts if self.model.architecture else 0
        if experts:
            self._bound("num_experts", experts, f"Of {experts}, used for each token.")
        else:
            del self.fields["num_experts"]
        self.fields["ttl_minutes"].help_text = f"Minutes; 0: it stays. Empty: {default_idle()}."
        if self.saved.ttl_seconds is not None:
            self.fields["ttl_minutes"].help_text = "Minutes; 0: it stays. Empty: as saved."

    def _bound(self, name: str, most: int, told: str) -> None:
        old = self.fields[name]
        self.fields[name] = forms.IntegerField(
            required=False, min_value=1, max_value=most, label=old.label, help_text=told
        )

    def _switch_off(self) -> None:
        """What cannot reach the daemon is shown, and says why; what may not reach it says so too."""
        is_embedding = self.model.type == "embedding"
        probe = dict.fromkeys(OPTIONS, 1) | {"identifier": "x"}
        for name, field in self.fields.items():
            is_lost = bool(carried(Profile(), _only(probe, name), Channel.SOCKET, is_embedding=is_embedding).dropped)
            if is_lost:
                self._disable(name, NOT_OF_EMBEDDING)
            elif name in OF_LLAMA and self.model.format == "mlx":
                self._disable(name, NOT_OF_MLX)
            elif name in BY_SOCKET:
                field.is_by_socket = True

    def _disable(self, name: str, why: str) -> None:
        self.fields[name].disabled = True
        self.fields[name].help_text = why
        self.initial.pop(name, None)

    def clean_identifier(self):
        told = self.cleaned_data["identifier"]
        if told and Instance.objects.of(self.model.node).filter(identifier=told).exists():
            raise ValidationError("A copy on this node has this name already. Choose another.", code="taken")
        return told

    def clean_offload_ratio(self):
        ratio = self.cleaned_data["offload_ratio"]
        if ratio is not None and (problems := dataclasses.replace(self.layout, offload_ratio=ratio).problems()):
            raise ValidationError(list(problems))
        return ratio

    @property
    def always(self) -> list:
        return [self[name] for name in self.first]

    @property
    def more(self) -> list:
        return [self[name] for name in self.fields if name not in self.first]

    @property
    def is_more_used(self) -> bool:
        """Something behind "More settings" is wished, or wrong."""
        return any(field.errors or field.value() not in (None, "") for field in self.more)

    @property
    def parameters(self) -> dict:
        """Of the command "load_model": what is wished for this load."""
        data = self.cleaned_data
        names = (*OPTIONS, "offload_ratio", "identifier")
        told = {name: data[name] for name in names if data.get(name) not in (None, "")}
        ttl = seconds_of(data["ttl_minutes"])
        return {"model": self.model.key} | told | ({} if ttl is None else {"ttl_seconds": ttl})

    @property
    def whole(self) -> dict:
        """The same where all fields were shown: one that was left empty is for the daemon to decide, whatever is
        saved."""
        return self.parameters | {"is_whole": True}

    def save(self) -> None:
        """Load it so from now on, by hand and for the queue; what it takes is worked out anew."""
        data = self.cleaned_data
        options = {name: data.get(name) for name in OPTIONS}
        LoadProfile.choose(self.model, **options, ttl_seconds=seconds_of(data["ttl_minutes"]))
        if data["offload_ratio"] != self.layout.offload_ratio:
            layout = dataclasses.replace(self.layout, offload_ratio=data["offload_ratio"])
            AllocationProfile.choose(self.model.node, self.model.key, layout)


def _only(probe: dict, name: str) -> dict:
    return {name: probe[name]} if name in probe else {}


class StayForm(forms.Form):
    """How long a model's copies may be idle."""

    ttl_minutes = minutes_field(label="Unload it when it was idle for")

    def __init__(self, data=None, *, model: Model):
        super().__init__(
            data, auto_id="stay-%s", initial={"ttl_minutes": minutes_of(LoadProfile.of(model).ttl_seconds)}
        )
        self.fields["ttl_minutes"].help_text = f"Minutes; 0: it stays. Empty: {default_idle()}."

    @property
    def seconds(self) -> int | None:
        return seconds_of(self.cleaned_data["ttl_minutes"])


class BudgetForm(forms.Form):
    """The most that all models of a node may hold together."""

    gib = forms.FloatField(
        required=False, min_value=0.1, max_value=MAX_GIB, label="Memory for models",
        widget=forms.NumberInput(attrs={"step": "any", "inputmode": "decimal"}),
        help_text="GiB, all copies together; empty: no limit.",
    )  # fmt: skip

    def __init__(self, data=None, *, budget_bytes: int | None):
        initial = {} if budget_bytes is None else {"gib": f"{budget_bytes / 2**30:.6g}"}
        super().__init__(data, auto_id="budget-%s", initial=initial)

    @property
    def bytes(self) -> int | None:
        told = self.cleaned_data["gib"]
        return None if told is None else round(told * 2**30)
