"""All input of the queue: pages, files and JSON go through these forms."""

import json

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError

from fleet.models import Node
from forge.models import Model

from .models import Lane, Prompt, RemoteModel
from .outbox import SETTINGS
from .states import PRIORITIES, PRIORITY_NAMES, State

MAX_TEXT = 1_000_000  # characters
MAX_BATCH = 1000  # prompts at once
REASONING = ("off", "low", "medium", "high", "on")


def _known_models() -> list[str]:
    """The models that can be asked for: those of the nodes, on a client those that its server has named."""
    return RemoteModel.keys() if settings.IS_CLIENT else Model.objects.usable().keys()


def whole_characters(text: str) -> None:
    """JSON can spell half of a surrogate pair; no page could be encoded with it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValidationError("It contains half a character (a lone surrogate).", code="surrogate") from error


class PromptForm(forms.Form):
    """One prompt. `draft()` gives the fields of Prompt.submit. `known_models`: keys that may be asked for."""

    model = forms.CharField(max_length=300)
    text = forms.CharField(
        max_length=MAX_TEXT,
        strip=False,
        validators=[whole_characters],
        widget=forms.Textarea(attrs={"rows": 7, "placeholder": "Ask something…"}),
        label="Prompt",
    )
    system_prompt = forms.CharField(
        max_length=MAX_TEXT, required=False, strip=False, validators=[whole_characters],
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="What the model should keep in mind, such as its role or the form of the answer.",
    )  # fmt: skip
    priority = forms.ChoiceField(
        choices=[(name, name.capitalize()) for name in ("high", "normal", "low")], initial="normal", required=False
    )
    node = forms.ModelChoiceField(
        Node.objects.none(), required=False, empty_label="Any node that has the model", label="Run on"
    )
    temperature = forms.FloatField(min_value=0, max_value=2, required=False, help_text="0 to 2. Higher is more varied.")
    top_p = forms.FloatField(min_value=0, max_value=1, required=False, label="Top P")
    top_k = forms.IntegerField(min_value=0, max_value=100_000, required=False, label="Top K")
    min_p = forms.FloatField(min_value=0, max_value=1, required=False, label="Min P")
    repeat_penalty = forms.FloatField(min_value=0, max_value=10, required=False, help_text="1 is none.")
    max_output_tokens = forms.IntegerField(
        min_value=1, max_value=10_000_000, required=False, label="Longest answer", help_text="In tokens."
    )
    reasoning = forms.ChoiceField(
        choices=[("", "As the model does by itself"), *((level, level.capitalize()) for level in REASONING)],
        required=False,
    )
    follows = forms.ModelChoiceField(Prompt.objects.none(), required=False, widget=forms.HiddenInput)

    def __init__(self, *args, owner, known_models: list[str] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.owner = owner
        self.known_models = _known_models() if known_models is None else known_models
        if "node" in self.fields:
            self.fields["node"].queryset = Node.objects.enabled()
            if settings.IS_CLIENT:
                self.fields["node"].widget = forms.HiddenInput()
        if "follows" in self.fields:
            self.fields["follows"].queryset = Prompt.objects.of(owner)

    def clean_text(self):
        text = self.cleaned_data["text"]
        if not text.strip():
            raise ValidationError("Write a prompt; this one is only white space.", code="required")
        return text

    def clean_model(self):
        model = self.cleaned_data["model"]
        if model not in self.known_models and settings.IS_CLIENT:
            known = ", ".join(self.known_models[:10]) or "none yet; it names them when it is reached"
            raise ValidationError(f"The server has no model “{model}”. Known: {known}.", code="unknown_model")
        if model not in self.known_models:
            known = ", ".join(self.known_models[:10]) or "none yet; add a node first"
            raise ValidationError(f"No node has the model “{model}”. Known: {known}.", code="unknown_model")
        return model

    def clean_follows(self):
        earlier = self.cleaned_data["follows"]
        if earlier is not None and earlier.state != State.DONE:
            raise ValidationError("Only a prompt that is done can be followed up.", code="not_done")
        return earlier

    def clean(self):
        data = super().clean()
        node, model = data.get("node"), data.get("model")
        if node and model and not Model.objects.present().filter(node=node, key=model).exists():
            self.add_error("node", ValidationError(f"{node} does not have {model}.", code="model_not_on_node"))
        earlier = data.get("follows")
        if earlier is not None and model and model != earlier.model:
            self.add_error(
                "model", ValidationError(f"A follow-up stays with its model, {earlier.model}.", code="other_model")
            )
        return data

    def draft(self) -> dict:
        """The fields of Prompt.submit, without its owner."""
        data = self.cleaned_data
        earlier = data.get("follows")
        settings = {name: data[name] for name in SETTINGS if data.get(name) not in (None, "")}
        return {
            "model": data["model"],
            "text": data["text"],
            "system_prompt": data.get("system_prompt", ""),
            "priority": PRIORITIES[data.get("priority") or "normal"],
            # LM Studio keeps a chat on the node that had it, so its follow-up goes there too.
            "node_pin": data.get("node") or (earlier.node if earlier else None),
            "settings": settings,
            "follows": earlier,
        }


class EditForm(PromptForm):
    """A waiting prompt, changed; what it follows stays, and with that its model, whatever is sent."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["follows"].disabled = True

    @classmethod
    def initial_of(cls, prompt: Prompt) -> dict:
        stored = prompt.settings | {
            "model": prompt.model,
            "text": prompt.text,
            "system_prompt": prompt.system_prompt,
            "priority": PRIORITY_NAMES.get(prompt.priority, "normal"),
            "node": prompt.node_pin_id,
            "follows": prompt.follows_id,
        }
        return stored | prompt.wanted


class SubmissionForm(PromptForm):
    """The JSON API's submit: one prompt with an id that its client may have made."""

    id = forms.UUIDField(required=False)
    stream = forms.BooleanField(required=False)

    def __init__(self, data, **kwargs):
        # Making a form copies each of its fields, which is most of its cost; a script sends few of them.
        self.base_fields = {
            name: field for name, field in type(self).base_fields.items() if field.required or name in data
        }
        super().__init__(data, **kwargs)

    def is_of_another_owner(self) -> bool:
        id = self.cleaned_data.get("id")
        return id is not None and Prompt.objects.filter(pk=id).exclude(owner=self.owner).exists()

    def draft(self) -> dict:
        id = self.cleaned_data.get("id")
        return super().draft() | ({"id": id} if id else {})


NUMBER = (int, float)
# JSON has types and a form does not; what a field must be in JSON, and how to say so.
JSON_TYPES = {
    "id": (str, "a string with a UUID"),
    "model": (str, "a string"),
    "text": (str, "a string"),
    "system_prompt": (str, "a string"),
    "priority": (str, "one of low, normal, high"),
    "node": (int, "a node's number"),
    "follows": (str, "a prompt's id"),
    "stream": (bool, "true or false"),
    "temperature": (NUMBER, "a number"),
    "top_p": (NUMBER, "a number"),
    "top_k": (int, "a whole number"),
    "min_p": (NUMBER, "a number"),
    "repeat_penalty": (NUMBER, "a number"),
    "max_output_tokens": (int, "a whole number"),
    "reasoning": (str, "a string"),
}


def type_errors(data: object) -> dict[str, list[ValidationError]]:
    """Field → errors for a JSON value that should be a prompt; "" is the whole value."""
    if not isinstance(data, dict):
        return {"": [ValidationError("Send a JSON object.", code="type")]}
    errors: dict[str, list[ValidationError]] = {}
    for name, value in data.items():
        if name not in JSON_TYPES:
            known = ", ".join(JSON_TYPES)
            errors[name] = [ValidationError(f"There is no field “{name}”. Known: {known}.", code="unknown_field")]
            continue
        expected, wording = JSON_TYPES[name]
        is_bool_for_number = isinstance(value, bool) and expected is not bool
        is_too_long = expected == NUMBER and isinstance(value, int) and value.bit_length() > 63  # no float holds it
        if value is not None and (not isinstance(value, expected) or is_bool_for_number or is_too_long):
            errors[name] = [ValidationError(f"Must be {wording}.", code="type")]
    return errors


class BatchForm(forms.Form):
    """Many prompts: pasted, or a file of JSON lines. All are queued or none."""

    LINES, BLOCKS = "lines", "blocks"

    model = forms.CharField(max_length=300, required=False, help_text="For every prompt that does not name its own.")
    texts = forms.CharField(
        required=False, max_length=MAX_TEXT, widget=forms.Textarea(attrs={"rows": 8}), label="Prompts"
    )
    split = forms.ChoiceField(
        choices=[(LINES, "One prompt on each line"), (BLOCKS, "Prompts separated by a line with ---")],
        widget=forms.RadioSelect, initial=LINES, required=False, label="How they are separated",
    )  # fmt: skip
    file = forms.FileField(
        required=False, label="Or a JSONL file",
        help_text="One JSON object a line: text, and what the API's submit takes.",
        widget=forms.ClearableFileInput(attrs={"accept": ".jsonl,.ndjson,application/x-ndjson"}),
    )  # fmt: skip

    def __init__(self, *args, owner, **kwargs):
        super().__init__(*args, **kwargs)
        self.owner = owner
        self.known_models = _known_models()

    def clean(self):
        data = super().clean()
        if self.errors:
            return data
        if data.get("file"):
            rows = self._file_rows(data["file"])
            what = "file"
        else:
            rows = [(number, {"text": text}) for number, text in self._pasted(data)]
            what = "texts"
        if not rows:
            raise ValidationError("Paste some prompts or choose a file.", code="required")
        if len(rows) > MAX_BATCH:
            raise ValidationError(f"At most {MAX_BATCH} prompts at once; these are {len(rows)}.", code="too_many")
        data["drafts"] = [self._draft(what, number, row, data.get("model")) for number, row in rows]
        lines: dict = {}
        for (number, _), draft in zip(rows, data["drafts"], strict=True):
            if (id := draft.get("id")) and lines.setdefault(id, number) != number:
                raise self._line_error(what, number, f"id: line {lines[id]} has it already.")
        return data

    def _pasted(self, data) -> list[tuple[int, str]]:
        lines = lines_of(data.get("texts") or "")
        if data.get("split") != self.BLOCKS:
            return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        blocks, start, block = [], 1, []
        for number, line in enumerate([*lines, "---"], 1):
            if line.strip() == "---":
                if any(part.strip() for part in block):
                    blocks.append((start, "\n".join(block).strip("\n")))
                start, block = number + 1, []
            else:
                block.append(line)
        return blocks

    def _file_rows(self, file) -> list[tuple[int, dict]]:
        try:
            lines = lines_of(file.read().decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise ValidationError({"file": "The file is not UTF-8 text."}, code="encoding") from error
        rows = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                rows.append((number, json.loads(line)))
            except (ValueError, RecursionError) as error:
                raise self._line_error("file", number, f"not valid JSON ({error}).") from error
        return rows

    def _draft(self, what: str, number: int, row: object, model: str | None) -> dict:
        if errors := type_errors(row):
            field, (error, *_) = next(iter(errors.items()))
            raise self._line_error(what, number, f"{field + ': ' if field else ''}{error.message}")
        if "stream" in row:
            raise self._line_error(what, number, "stream: a line cannot be streamed; leave it out.")
        if not (model or row.get("model")):
            raise self._line_error(what, number, "choose a model above, or name one on the line.")
        form = SubmissionForm({"model": model} | row, owner=self.owner, known_models=self.known_models)
        if not form.is_valid():
            field, messages = next(iter(form.errors.items()))
            raise self._line_error(what, number, f"{field}: {messages[0]}")
        if form.is_of_another_owner():
            raise self._line_error(what, number, "id: it belongs to another user's prompt.")
        return form.draft()

    @staticmethod
    def _line_error(what: str, number: int, message: str) -> ValidationError:
        message = message.encode(errors="replace").decode()  # it may quote what no page can be encoded with
        return ValidationError({what: ValidationError(f"Line {number}: {message} Nothing was queued.", code="line")})


def lines_of(text: str) -> list[str]:
    """Only line feeds end a line; str.splitlines() also cuts at characters that JSON allows inside a string."""
    return text.replace("\r\n", "\n").split("\n")


class HistoryForm(forms.Form):
    """The filters of the history; wrong values count as none."""

    q = forms.CharField(
        required=False,
        max_length=200,
        label="Search",
        widget=forms.TextInput(attrs={"type": "search", "data-search": True}),
    )
    model = forms.ModelChoiceField(Lane.objects.all(), required=False, empty_label="All models", to_field_name="model")
    state = forms.ChoiceField(required=False, choices=[("", "All states"), *State.choices])


class ReorderForm(forms.Form):
    where = forms.ChoiceField(choices=[(name, name) for name in ("first", "up", "down", "last")])
