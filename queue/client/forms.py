"""Input of the client's own pages."""

from django import forms


class PairForm(forms.Form):
    """A server and its code; see pairing.pair()."""

    server = forms.CharField(
        max_length=300,
        label="The server’s address",
        widget=forms.TextInput(attrs={"placeholder": "https://box.local:8643"}),
    )
    code = forms.CharField(
        max_length=20, label="Code", widget=forms.TextInput(attrs={"autocomplete": "off", "placeholder": "K7QM-2XPA"})
    )
    name = forms.CharField(
        max_length=80, required=False, label="Call this computer",
        help_text="So that you know it in the server’s list of devices.",
    )  # fmt: skip
    fingerprint = forms.CharField(
        max_length=120, required=False, label="Fingerprint of the server’s CA",
        help_text="Only for a server with a certificate of its own: its page /ca/ shows it.",
    )  # fmt: skip
