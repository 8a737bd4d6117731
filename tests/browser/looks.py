"""What every page must be: accessible in both themes, and nothing sideways on a phone."""

from axe_playwright_python.sync_playwright import Axe

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], "resultTypes": ["violations"]}
# Each theme and each width once: colours do not change with the width.
LOOKS = (("dark", 1280), ("light", 360))
SIDEWAYS = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


def problems_of(page, name: str = "", looks=LOOKS) -> list[str]:
    """What axe and a ruler say of the page as it is; a sentence each."""
    found = []
    page.emulate_media(reduced_motion="reduce")  # no colour is still on its way to another
    for theme, width in looks:
        page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        page.set_viewport_size({"width": width, "height": 800})
        where = f"{name or page.url}, {theme}, {width}"
        results = Axe().run(page, options=RULES)
        if results.violations_count:
            found.append(f"{where}: {results.generate_report()}")
        if (pixels := page.evaluate(SIDEWAYS)) > 0:
            found.append(f"{where}: scrolls sideways by {pixels} px")
    page.set_viewport_size({"width": 1280, "height": 800})
    return found


def check(page) -> None:
    """The page has none of these problems."""
    assert not (found := problems_of(page)), "\n".join(found)
