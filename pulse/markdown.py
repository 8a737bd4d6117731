"""Model output as safe HTML. The text is hostile: a model repeats what others told it to say."""

import re
import time
from functools import cache
from html import escape

import nh3
import pygments
from django.utils.safestring import SafeString
from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline, image, link
from markdown_it.token import Token
from pygments.formatters import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import get_all_lexers, get_lexer_by_name
from pygments.style import Style
from pygments.token import STANDARD_TYPES, Comment, Generic, Keyword, Literal, Name, Number, Operator, String

MAX_TEXT_CHARS = 200_000
MAX_HIGHLIGHTED_CHARS = 100_000  # of one code block, and of all blocks of one text together
MAX_HIGHLIGHT_SECONDS = 0.5  # of CPU, for all blocks of one text together; 100,000 characters of Python: 0.3
MAX_HIGHLIGHTED_LINE_CHARS = 1000
MAX_LANGUAGE_CHARS = 30
# Enough for lists in lists 15 deep; what is nested deeper is left out. Bounds the recursion.
MAX_NESTING = 30
# Each "[" may be tried once for every level of nesting around it. A text with 10,000 links needs 10,000.
MAX_LINK_TRIES = 20_000

_LONG_LINE = re.compile(rf"[^\n]{{{MAX_HIGHLIGHTED_LINE_CHARS + 1}}}")
_SCHEMES = frozenset({"http", "https", "mailto"})
# The page has its own h1 and h2.
_DEMOTED = {"h1": "h3", "h2": "h4", "h3": "h5", "h4": "h6", "h5": "h6", "h6": "h6"}
_ALIGNMENTS = {
    "text-align:left": "align-left",
    "text-align:center": "align-center",
    "text-align:right": "align-right",
}
_TAGS = {
    *("a", "blockquote", "br", "button", "code", "div", "em", "figcaption", "figure", "h3", "h4", "h5", "h6"),
    *("hr", "li", "ol", "p", "pre", "s", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"),
}


def render(text: str) -> SafeString:
    """HTML for Markdown (CommonMark, tables, strikethrough) written by a model.

    Guaranteed whatever the text: no script, style, event handler, form or embedded content; nothing is
    loaded from elsewhere (an image becomes a link); links only to http, https and mailto, in a new tab,
    without referrer. HTML in the text is shown as text, so are task list boxes and links to other schemes or
    to our own pages. Over MAX_TEXT_CHARS the text is not formatted but shown as written, with a line that
    says so.
    """
    # A lone surrogate can come out of a JSON escape, and nothing can encode it for the page.
    text = text.encode("utf-8", "replace").decode("utf-8")
    if len(text) > MAX_TEXT_CHARS:
        return SafeString(f'<p>Too long to format, shown as written.</p><pre tabindex="0">{escape(text)}</pre>')
    return SafeString(_CLEANER.clean(_MARKDOWN.render(text)))


def highlight_css() -> str:
    """Rules for the token classes inside `.code`, for the light theme and under [data-theme="dark"]."""
    light = HtmlFormatter(style=LightCode).get_token_style_defs(".code")
    dark = HtmlFormatter(style=DarkCode).get_token_style_defs('[data-theme="dark"] .code')
    return "\n".join([*light, *dark]) + "\n"


def _token_colours(*, comment: str, keyword: str, name: str, string: str, number: str, added: str, removed: str):
    return {
        Comment: f"italic {comment}",
        Comment.Preproc: f"noitalic {keyword}",
        Keyword: keyword,
        Operator.Word: keyword,
        Name.Function: name,
        Name.Class: name,
        Name.Decorator: name,
        Name.Tag: name,
        Name.Attribute: number,
        Name.Builtin: number,
        Name.Constant: number,
        Literal: number,
        Number: number,
        String: string,
        Generic.Heading: f"bold {name}",
        Generic.Subheading: f"bold {name}",
        Generic.Inserted: added,
        Generic.Deleted: removed,
        Generic.Error: removed,
        Generic.Prompt: comment,
        Generic.Emph: "italic",
        Generic.Strong: "bold",
    }


class LightCode(Style):
    """At least 4.5:1 on #f8fafc."""

    styles = _token_colours(
        comment="#52606d",
        keyword="#a3195b",
        name="#1d4ed8",
        string="#166534",
        number="#8a3b0c",
        added="#166534",
        removed="#b01818",
    )


class DarkCode(Style):
    """At least 4.5:1 on #0b1220."""

    styles = _token_colours(
        comment="#94a3b8",
        keyword="#f58fc0",
        name="#8ab8ff",
        string="#8fdca8",
        number="#f5b27a",
        added="#8fdca8",
        removed="#ff9a9a",
    )


@cache
def _lexer_aliases() -> frozenset[str]:
    # Asking Pygments for an unknown name makes it look through the installed packages, each time.
    return frozenset(alias for _, aliases, _, _ in get_all_lexers(plugins=False) for alias in aliases)


def _lexer(language: str) -> Lexer | None:
    if language not in _lexer_aliases():
        return None
    return get_lexer_by_name(language, stripnl=False, ensurenl=False)


def _highlight(code: str, language: str, env: dict) -> str | None:
    """None for an unknown language, and when the text has used up what may be spent on it.

    Many lexers of Pygments take quadratic time on hostile code: some from token to token, which the clock in
    `env` stops, some within one token on a long line, which the limit on lines keeps short.
    """
    env["code_chars"] = env.get("code_chars", 0) + len(code)
    lexer = _lexer(language)
    if lexer is None or env["code_chars"] > MAX_HIGHLIGHTED_CHARS or _LONG_LINE.search(code):
        return None
    deadline = time.thread_time() + env.setdefault("highlight_seconds", MAX_HIGHLIGHT_SECONDS)
    tokens = []
    for token in lexer.get_tokens(code):
        tokens.append(token)
        if time.thread_time() > deadline:
            break
    env["highlight_seconds"] = max(deadline - time.thread_time(), 0)
    return pygments.format(tokens, HtmlFormatter(nowrap=True)) if env["highlight_seconds"] else None


def _render_code(renderer, tokens: list[Token], index: int, options, env: dict) -> str:
    """A fenced or indented block. The language is only ever what the text names, never guessed."""
    code = tokens[index].content
    words = tokens[index].info.split(maxsplit=1)
    language = words[0][:MAX_LANGUAGE_CHARS] if words else ""
    body = _highlight(code, language.lower(), env) or escape(code)
    return (
        f'<figure class="code"><figcaption><span class="code-lang">{escape(language)}</span>'
        '<button type="button" class="btn btn-small" data-copy>Copy</button></figcaption>'
        f'<pre tabindex="0"><code>{body}</code></pre></figure>\n'
    )


def _render_table_open(renderer, tokens: list[Token], index: int, options, env: dict) -> str:
    return '<div class="table-scroll" tabindex="0" role="region" aria-label="Table"><table>\n'


def _render_table_close(renderer, tokens: list[Token], index: int, options, env: dict) -> str:
    return "</table></div>\n"


def _adapt_tokens(state: StateCore) -> None:
    """Demotes headings, gives table cells a class instead of a style, and makes images links."""
    for token in state.tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = _DEMOTED[token.tag]
        elif token.type in ("th_open", "td_open") and "style" in token.attrs:
            token.attrs = {"class": _ALIGNMENTS[token.attrs["style"]]}
        elif token.type == "inline":
            token.children = _images_as_links(token.children)


def _images_as_links(children: list[Token]) -> list[Token]:
    """An image inside a link becomes that link's text, because links cannot be nested."""
    result, is_in_link = [], False
    for token in children:
        if token.type != "image":
            is_in_link = token.type == "link_open" or (is_in_link and token.type != "link_close")
            result.append(token)
            continue
        alt = Token("text", "", 0, content=_plain_text(token.children or []) or token.attrs["src"])
        if is_in_link:
            result.append(alt)
        else:
            opening = Token("link_open", "a", 1, attrs={"href": token.attrs["src"]})
            result += [opening, alt, Token("link_close", "a", -1)]
    return result


def _plain_text(tokens: list[Token]) -> str:
    return "".join(
        _plain_text(token.children or []) if token.type == "image" else " " if "break" in token.type else token.content
        for token in tokens
    )


def _is_allowed_link(url: str) -> bool:
    return url.partition(":")[0].lower() in _SCHEMES


def _with_budget(rule):
    """The rule for a link or image, which finds nothing once the text has used up its tries."""

    def try_rule(state: StateInline, silent: bool) -> bool:
        tries = state.env["link_tries"] = state.env.get("link_tries", 0) + 1
        return tries <= MAX_LINK_TRIES and rule(state, silent)

    return try_rule


def _build_markdown() -> MarkdownIt:
    options = {"html": False, "maxNesting": MAX_NESTING, "xhtmlOut": False}
    markdown = MarkdownIt("commonmark", options).enable(["table", "strikethrough"])
    markdown.validateLink = _is_allowed_link
    markdown.inline.ruler.at("link", _with_budget(link))
    markdown.inline.ruler.at("image", _with_budget(image))
    markdown.core.ruler.push("adapt_tokens", _adapt_tokens)
    markdown.add_render_rule("fence", _render_code)
    markdown.add_render_rule("code_block", _render_code)
    markdown.add_render_rule("table_open", _render_table_open)
    markdown.add_render_rule("table_close", _render_table_close)
    return markdown


_MARKDOWN = _build_markdown()

# The second wall: if the parser lets something through, it is not more than what render() itself can write.
_CLEANER = nh3.Cleaner(
    tags=_TAGS,
    attributes={"a": {"href", "title"}, "ol": {"start"}},
    tag_attribute_values={
        "button": {"type": {"button"}, "data-copy": {""}},
        "div": {"tabindex": {"0"}, "role": {"region"}, "aria-label": {"Table"}},
        "pre": {"tabindex": {"0"}},
    },
    allowed_classes={
        "figure": {"code"},
        "button": {"btn", "btn-small"},
        "div": {"table-scroll"},
        "span": {"code-lang", *filter(None, STANDARD_TYPES.values())},
        "th": set(_ALIGNMENTS.values()),
        "td": set(_ALIGNMENTS.values()),
    },
    set_tag_attribute_values={"a": {"target": "_blank"}},
    link_rel="noopener noreferrer nofollow",
    url_schemes=set(_SCHEMES),
    url_relative="deny",
)
