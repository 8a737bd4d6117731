"""Commands of this installation in pages."""

from django import template

from daemonpulse import program

register = template.Library()


@register.simple_tag
def command(name: str, *rest: str) -> str:
    """To be typed in DaemonPulse's folder on the server's machine."""
    return program.line_on_pages(name, *rest)
