"""Sign-in, settings and error pages."""

from datetime import timedelta

from django.contrib import messages
from django.contrib.auth import login, update_session_auth_hash, views
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.forms import SetPasswordForm
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from daemonpulse.api import ApiError
from daemonpulse.forms import SignInForm, TokenForm
from daemonpulse.models import ApiToken, SignInLink
from daemonpulse.throttling import SIGN_IN, client_address

BACKEND = "django.contrib.auth.backends.ModelBackend"


class SignIn(views.LoginView):
    template_name = "daemonpulse/sign_in.html"
    authentication_form = SignInForm
    redirect_authenticated_user = True

    def form_valid(self, form):
        SIGN_IN.forget(client_address(self.request))
        return super().form_valid(form)


class SignOut(views.LogoutView):
    next_page = "sign_in"


@login_not_required
@never_cache
@require_GET
def sign_in_by_link(request, secret):
    """Once, within the hour; afterwards the page says how to get a new link.

    Not throttled: 256 random bits cannot be guessed, and it is the way in for those who are.
    """
    user = SignInLink.redeem(secret)
    if user is None:
        return render(request, "daemonpulse/link_expired.html", status=410)
    login(request, user, backend=BACKEND)
    return redirect("board")


@require_GET
def settings_page(request, **extra):
    return _settings(request)


def _settings(request, status: int = 200, **extra):
    context = {
        "section": "settings",
        "tokens": ApiToken.objects.filter(user=request.user),
        "token_form": TokenForm(),
        "password_form": SetPasswordForm(request.user),
    }
    return render(request, "daemonpulse/settings.html", context | extra, status=status)


@require_POST
def token_create(request):
    """The secret is on this answer's page and nowhere else, so there is no redirect."""
    form = TokenForm(request.POST)
    if not form.is_valid():
        return _settings(request, 422, token_form=form)
    days = form.cleaned_data["days"]
    lifetime = timedelta(days=days) if days else None
    token, secret = ApiToken.issue(request.user, form.cleaned_data["name"], form.cleaned_data["scopes"], lifetime)
    return _settings(request, 201, new_token=token, new_secret=secret)


@require_POST
def token_revocation(request, pk):
    get_object_or_404(ApiToken, pk=pk, user=request.user).revoke()
    messages.success(request, "The token is revoked; nothing gets in with it any more.")
    return redirect("settings")


@require_POST
def password_change(request):
    form = SetPasswordForm(request.user, request.POST)
    if not form.is_valid():
        return _settings(request, 422, password_form=form)
    update_session_auth_hash(request, form.save())
    messages.success(request, "The password is set.")
    return redirect("settings")


@require_GET
def styleguide(request):
    return render(request, "styleguide.html")


def _error(request, status: int, title: str, text: str):
    if request.path.startswith("/api/"):
        return ApiError(status, f"{title}. {text}").response()
    return render(request, "daemonpulse/error.html", {"title": title, "text": text}, status=status)


def bad_request(request, exception):
    return _error(
        request, 400, "This request cannot be read", "It is larger than 8 MB, or broken. Go back and try a smaller one."
    )


def forbidden(request, exception):
    return _error(request, 403, "Not allowed", "Your account may not do this.")


def csrf_failure(request, reason=""):
    return _error(request, 403, "The form has expired", "Go back, reload the page and send it again.")


def not_found(request, exception):
    return _error(request, 404, "Not found", "There is no such page, or it is not yours.")


def server_error(request):
    return _error(
        request, 500, "Something broke on our side", "The log of the server says what. Your prompts are safe."
    )
