"""Input of scripts and terminals about models. How a load may be wished is judged by the page's own form."""

import difflib

from django import forms
from django.core.exceptions import ValidationError

from daemonpulse.models.event import writing
from fleet.models import Command, Kind, Node
from fleet.models.command import LOAD, UNLOAD
from fleet.texts import clean
from forge import wishes
from forge.forms import MAX_MINUTES, LoadForm
from forge.models import Instance, Model
from forge.places import Copy, copies_of, loads_under_way

TEXT, WHOLE, NUMBER, FLAG = (
    (str, "a string"),
    (int, "a whole number"),
    ((int, float), "a number"),
    (bool, "true or false"),
)
OPTION_TYPES = {
    "context_length": WHOLE,
    "parallel": WHOLE,
    "offload_ratio": NUMBER,
    "flash_attention": FLAG,
    "offload_kv_cache_to_gpu": FLAG,
    "num_experts": WHOLE,
    "eval_batch_size": WHOLE,
    "identifier": TEXT,
}
FIT_TYPES = {"model": TEXT, "node": TEXT} | OPTION_TYPES
LOAD_TYPES = FIT_TYPES | {"ttl_seconds": WHOLE, "anyway": FLAG, "again": FLAG}
EJECTION_TYPES = {"instance": TEXT, "node": TEXT}
WORDS = {"true": True, "on": True, "false": False, "off": False}
MOST_NAMED, MOST_SHOWN = 10, 100  # names, characters of one


class Refused(Exception):
    """It is asked for as it should be, but cannot be done as things are. `rule`: in a word, why."""

    def __init__(self, message: str, field: str, rule: str):
        super().__init__(message)
        self.message, self.field, self.rule = message, field, rule


def type_errors(data: object, types: dict) -> dict[str, list[ValidationError]]:
    """Field → errors for a JSON value whose fields should have these types; "" is the whole value."""
    if not isinstance(data, dict):
        return {"": [ValidationError("Send a JSON object.", code="type")]}
    return {name: [error] for name, value in data.items() if (error := _type_error(name, value, types))}


def _type_error(name: str, value: object, types: dict) -> ValidationError | None:
    if name not in types:
        return ValidationError(f"There is no field “{name}”. Known: {', '.join(types)}.", code="unknown_field")
    expected, wording = types[name]
    is_bool_for_number = isinstance(value, bool) and expected is not bool
    if value is None or (isinstance(value, expected) and not is_bool_for_number):
        return None
    return ValidationError(f"Must be {wording}.", code="type")


def of_query(query: dict[str, str], types: dict) -> dict:
    """What an address asks for, as JSON would have it; what is no flag stays as it is, and fails as such."""
    return {
        name: WORDS.get(value.lower(), value) if types.get(name) is FLAG else value for name, value in query.items()
    }


def query_errors(data: dict, types: dict) -> dict[str, list[ValidationError]]:
    """The same of what of_query() made of an address: fields that are unknown, and flags that are none."""
    return type_errors({name: value for name, value in data.items() if types.get(name) in (None, FLAG)}, types)


class Name(forms.CharField):
    """Of a model, a node, a copy. JSON can spell half a character, which no database takes."""

    def clean(self, value):
        text = super().clean(value)
        if any("\ud800" <= sign <= "\udfff" for sign in text):
            raise ValidationError("It contains half a character (a lone surrogate).", code="surrogate")
        return text


class WishForm(forms.Form):
    """A load: which model, where, and how. When it is valid, `target` is the model of one node.

    Without a node it is the only one that can load the model; where there are several, one must be named.
    """

    model = Name(max_length=300)
    node = Name(max_length=80, required=False)
    ttl_seconds = forms.IntegerField(required=False, min_value=0, max_value=MAX_MINUTES * 60)
    target: Model

    def __init__(self, data: dict):
        super().__init__(data)
        for name in OPTION_TYPES:
            self.fields[name] = forms.Field(required=False)  # judged in clean()

    def clean(self):
        data = super().clean()
        if "model" in data and "node" in data:
            self.target = choose(data["model"], data["node"])
            self._judge()
        return data

    def _judge(self) -> None:
        """By the form of the model's page: it knows what this model, and its node, can be told."""
        self.load_form = LoadForm(self._as_of_page(), model=self.target)
        for name in OPTION_TYPES:
            field = self.load_form.fields.get(name)
            is_asked = self.data.get(name) not in (None, "")
            if is_asked and (field is None or field.disabled):
                why = field.help_text if field else "This model has none, as far as is known."
                self.add_error(name, ValidationError(f"It cannot be set. {why}", code="not_supported"))
            elif errors := self.load_form.errors.as_data().get(name):
                self.add_error(name, errors)

    def _as_of_page(self) -> dict:
        options = {name: self.data.get(name) for name in OPTION_TYPES}
        return {name: {True: "on", False: "off"}[told] if isinstance(told, bool) else told
                for name, told in options.items()}  # fmt: skip

    @property
    def parameters(self) -> dict:
        """Of the command "load_model"."""
        ttl = self.cleaned_data["ttl_seconds"]
        return self.load_form.parameters | ({} if ttl is None else {"ttl_seconds": ttl})

    @property
    def wish(self) -> wishes.Wish:
        return wishes.read(self.target.node, self.parameters)

    def save(self, user=None) -> Command:
        """Ask for it. Raises Refused where the model is loaded, or about to be, and no other copy is wished."""
        anyway = {"anyway": True} if self.data.get("anyway") else {}
        with writing():
            refusal = None if self.data.get("again") else self._there_already()
            if refusal is None:
                return Command.ask(self.target.node, LOAD, user, **self.parameters, **anyway)
        raise refusal

    def _there_already(self) -> Refused | None:
        node, key = self.target.node, self.target.key
        if (node.pk, key) in loads_under_way([node.pk]):
            return Refused(f"{key} is being loaded on {node} already.", "model", "loading")
        if copies := list(Instance.objects.filter(model=self.target).values_list("identifier", flat=True)):
            as_what = f", as {', '.join(copies)}" if copies != [key] else ""
            return Refused(f"{key} is loaded on {node} already{as_what}.", "model", "loaded")
        return None


class EjectionForm(forms.Form):
    """A loaded copy, by its identifier or, where it has only one, by its model's key."""

    instance = Name(max_length=300)
    node = Name(max_length=80, required=False)
    copy: Copy

    def clean(self):
        data = super().clean()
        if "instance" in data and "node" in data:
            self.copy = choose_copy(data["instance"], data["node"])
        return data

    def save(self, user=None) -> Command:
        return eject(self.copy, user)


def eject(copy: Copy, user=None) -> Command:
    """Ask for its unloading. Raises Refused where it has to stay."""
    instance = copy.instance
    if why := copy.why_it_stays:
        raise Refused(f"{instance} stays loaded. {why}", "instance", "stays")
    return Command.ask(instance.model.node, UNLOAD, user, instance=instance.identifier, model=instance.model.key)


def choose(key: str, node_name: str = "") -> Model:
    """The model of that node, or of the only one that can load it. Raises ValidationError by field."""
    models = Model.objects.present().filter(key=key).select_related("node__reading").order_by("node__name")
    if node_name:
        node = named(node_name)
        found = [model for model in models if model.node_id == node.pk]
        if not found:
            raise ValidationError({"node": _error(f"{node} does not have {key}.", "model_not_on_node")})
    else:
        found = [model for model in models if model.node.is_enabled]
        if not found:
            raise ValidationError({"model": _error(f"No node has the model “{key}”. {alike(key)}", "unknown_model")})
    able = [model for model in found if model.node.kind == Kind.LMSTUDIO]
    if not able:
        told = f"{found[0].node} is no LM Studio: it has no call to load or unload a model."
        raise ValidationError({"node": _error(told, "cannot_load")})
    return _only(able, f"Several nodes have {key}", [model.node.name for model in able])


def choose_copy(identifier: str, node_name: str = "") -> Copy:
    """The loaded copy of this identifier, else the only one of the model of this key."""
    rows = Instance.objects.filter(model__gone_at=None).select_related("model__node")
    if node_name:
        rows = rows.filter(model__node=named(node_name))
    found = list(rows.filter(identifier=identifier)) or list(rows.filter(model__key=identifier))
    if not found:
        known = shortened(rows.order_by("identifier").values_list("identifier", flat=True).distinct())
        told = f"There is no loaded copy “{identifier}”. Loaded: {known}."
        raise ValidationError({"instance": _error(told, "not_loaded")})
    if len({row.model.node_id for row in found}) == 1 and len(found) > 1:
        names = ", ".join(row.identifier for row in found)
        raise ValidationError({"instance": _error(f"It has several copies: {names}. Name one.", "ambiguous")})
    row = _only(found, f"Several nodes have a copy {identifier}", [row.model.node.name for row in found])
    return next(copy for copy in copies_of([row.model])[row.model_id] if copy.instance.pk == row.pk)


def named(name: str) -> Node:
    """The node of this name. Raises ValidationError."""
    node = Node.objects.select_related("reading").filter(name=name).first()
    if node is None:
        known = shortened(Node.objects.values_list("name", flat=True))
        raise ValidationError({"node": _error(f"There is no node “{name}”. Known: {known}.", "unknown_node")})
    return node


def alike(key: str) -> str:
    """What may have been meant."""
    known = Model.objects.present().filter(node__is_enabled=True).keys()
    near = [one for one in known if key.casefold() in one.casefold()] or difflib.get_close_matches(key, known)
    return f"Perhaps: {shortened(near)}." if near else f"Known: {shortened(known)}."


def shortened(names) -> str:
    names = [clean(name, MOST_SHOWN) for name in names]
    more = ", …" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}" or "none"


def _only(found: list, problem: str, node_names: list[str]):
    if len(found) > 1:
        told = f"{problem}: {', '.join(node_names)}. Name one of them."
        raise ValidationError({"node": _error(told, "ambiguous")})
    return found[0]


def _error(message: str, code: str) -> ValidationError:
    return ValidationError(message, code=code)
