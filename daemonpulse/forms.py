"""Input of the project's own pages."""

from django import forms
from django.conf import settings
from django.contrib.auth.forms import AuthenticationForm
from django.core.exceptions import ValidationError

from daemonpulse.models.access import Scope
from daemonpulse.throttling import SIGN_IN, client_address


class SignInForm(AuthenticationForm):
    """Name and password; an address that guessed too often waits."""

    def clean(self):
        address = client_address(self.request)
        if SIGN_IN.is_blocked(address):
            minutes = SIGN_IN.seconds // 60
            raise ValidationError(
                f"Too many failed tries. Wait {minutes} minutes, or use a sign-in link.", code="throttled"
            )
        try:
            return super().clean()
        except ValidationError:
            SIGN_IN.count(address)
            raise


def _scopes() -> list[tuple[str, str]]:
    """What a token can be good for here: a client has no models of its own to load."""
    return [choice for choice in Scope.choices if choice[0] != Scope.OPERATE or not settings.IS_CLIENT]


class TokenForm(forms.Form):
    name = forms.CharField(max_length=80, help_text="What will use it, such as “backup script”.")
    scopes = forms.MultipleChoiceField(
        choices=_scopes, initial=[Scope.READ, Scope.WRITE], widget=forms.CheckboxSelectMultiple, label="May"
    )
    days = forms.IntegerField(
        min_value=1, max_value=3650, required=False, label="Valid for", help_text="In days. Empty: until revoked."
    )
