"""Input about how models lie over a node's GPUs."""

from django import forms
from django.core.exceptions import ValidationError

from fleet.allocation.profile import Profile, Strategy
from fleet.models import Node

MAX_CONTEXT = 10_000_000  # tokens


def model_keys(node: Node) -> list[str]:
    """The models that the node has told of."""
    return list(node.models.filter(gone_at=None).order_by("key").values_list("key", flat=True))


class LayoutForm(forms.Form):
    """A model and a context: what would land where, or load it so."""

    model = forms.ChoiceField()
    context_length = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=MAX_CONTEXT,
        label="Context",
        help_text="Tokens; empty: LM Studio decides.",
    )

    def __init__(self, *args, node: Node, **kwargs):
        super().__init__(*args, auto_id="layout-%s", **kwargs)
        self.fields["model"].choices = [("", "Choose a model"), *((key, key) for key in model_keys(node))]

    @property
    def parameters(self) -> dict:
        return {name: value for name, value in self.cleaned_data.items() if value is not None}


class ProfileForm(forms.Form):
    """How models, or one model, are laid out over a node's GPUs."""

    CHOICES = (
        (Strategy.AUTOMATIC.value, "LM Studio decides"),
        (Strategy.PRIORITY.value, "Fill in an order"),
        (Strategy.EVEN.value, "Even parts"),
        (Strategy.DEDICATED.value, "One GPU alone"),
    )
    model = forms.ChoiceField(required=False, label="For")
    strategy = forms.ChoiceField(choices=CHOICES)
    gpu_order = forms.CharField(
        required=False, max_length=200, label="GPUs",
        widget=forms.TextInput(attrs={"placeholder": "1, 0", "inputmode": "numeric"}),
        help_text="Their numbers, in the order to use them; empty: all.",
    )  # fmt: skip
    offload_ratio = forms.FloatField(
        required=False, min_value=0, max_value=1, label="Part on the GPUs",
        help_text="0 to 1; empty: LM Studio decides.",
        widget=forms.NumberInput(attrs={"step": "0.05"}),
    )  # fmt: skip
    strict_vram_limit = forms.BooleanField(required=False, label="Never spill over into shared memory")

    def __init__(self, *args, node: Node, gpus=None, **kwargs):
        super().__init__(*args, auto_id="profile-%s", **kwargs)
        self.gpus = gpus
        self.fields["model"].choices = [("", "every model"), *((key, key) for key in model_keys(node))]

    def clean_gpu_order(self):
        written = self.cleaned_data["gpu_order"].replace(",", " ").split()
        try:
            return tuple(int(number) for number in written)
        except ValueError:
            raise ValidationError("Write GPU numbers with commas between them, such as 1, 0.", code="invalid") from None

    def clean(self):
        data = super().clean()
        if not self.errors:
            self.profile = Profile(
                Strategy(data["strategy"]), data["gpu_order"], data["offload_ratio"], data["strict_vram_limit"]
            )
            for problem in self.profile.problems(self.gpus):
                self.add_error(None, problem)
        return data
