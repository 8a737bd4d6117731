"""Input of the devices' pages."""

from django import forms


class NameForm(forms.Form):
    """A device's new name."""

    name = forms.CharField(
        max_length=80,
        error_messages={"required": "Give it a name, such as “Kitchen tablet”."},
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
