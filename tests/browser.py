"""A real browser for tests of pages: Debian's Chromium by Playwright, with axe-core."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: apt-get install chromium"
)
TIMEOUT = 300_000  # ms
# Of the documentation's theme, which has no option to name the dialog; the field in it has a name.
UNNAMED_SEARCH = (
    "aria-dialog-name",
    '<div class="md-search" data-md-component="search" role="dialog">',
)
SETTLED = (
    "[...document.querySelectorAll('.chart, .vega-embed')].every((e) => e.querySelector('svg'))"
)

# Visible pieces of text of different elements that lie on each other. What is scrolled out of a
# box, or lies left of the page, is not visible.
OVERLAPS = """() => {
  const shown = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const element = node.parentElement;
    const visible = { opacityProperty: true, visibilityProperty: true };
    if (!node.data.trim() || element.closest("script, style, title")) continue;
    if (!element.checkVisibility(visible)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const rect of range.getClientRects()) {
      const { left, right, top, bottom } = rect;
      const box = { left: Math.max(left, 0), right, top, bottom };
      for (let outer = element; outer !== document.body; outer = outer.parentElement) {
        const { overflowX } = getComputedStyle(outer);
        if (outer instanceof SVGElement || overflowX === "visible") continue;
        const limit = outer.getBoundingClientRect();
        box.left = Math.max(box.left, limit.left);
        box.right = Math.min(box.right, limit.right);
        box.top = Math.max(box.top, limit.top);
        box.bottom = Math.min(box.bottom, limit.bottom);
      }
      if (box.right - box.left > 2 && box.bottom - box.top > 2) {
        shown.push({ ...box, node, text: node.data.trim().slice(0, 60) });
      }
    }
  }
  shown.sort((a, b) => a.top - b.top);
  const found = [];
  shown.forEach((one, index) => {
    for (let other, next = index + 1; (other = shown[next]) && other.top < one.bottom; next += 1) {
      const height = Math.min(one.bottom, other.bottom) - other.top;
      const width = Math.min(one.right, other.right) - Math.max(one.left, other.left);
      const small = Math.min(one.bottom - one.top, other.bottom - other.top);
      if (one.node !== other.node && width > 2 && height > 0.35 * small) {
        found.push(`${one.text} | ${other.text}`);
      }
    }
  });
  return found;
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class OpenPage:
    """A page that is open, and everything that it did besides being shown."""

    def __init__(self, browser: Browser, file: Path, width: int, scheme: str) -> None:
        self.width = width
        self.deeds: list[str] = []  # console messages, errors, dialogs, requests to the network
        page = self.page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        page.set_default_timeout(TIMEOUT)
        page.on("console", lambda message: self.deeds.append(message.text))
        page.on("pageerror", lambda error: self.deeds.append(str(error)))
        page.on("request", lambda request: self._requested(request.url))
        page.on("dialog", lambda dialog: self._asked(dialog))
        page.goto(file.as_uri())
        page.wait_for_function(SETTLED)

    def __enter__(self) -> Page:
        return self.page

    def __exit__(self, *_: object) -> None:
        self.page.close()

    def _requested(self, address: str) -> None:
        if not address.startswith(("file:", "data:", "blob:")):
            self.deeds.append(f"request: {address}")

    def _asked(self, dialog) -> None:
        self.deeds.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def faults(self) -> list[str]:
        """What the page did, its width, overlapping text, and serious violations of axe-core."""
        found = [*self.deeds]
        shown = self.page.evaluate("document.documentElement.scrollWidth")
        if shown > self.width:
            found.append(f"{shown} pixels wide")
        found += [f"overlap: {texts}" for texts in self.page.evaluate(OVERLAPS)]
        for violation in Axe().run(self.page).response["violations"]:
            nodes = [node["html"][:200] for node in violation["nodes"]]
            nodes = [html for html in nodes if (violation["id"], html) != UNNAMED_SEARCH]
            if nodes and violation["impact"] in {"serious", "critical"}:
                found.append(f"{violation['id']}: {len(nodes)}, {nodes[0]}")
        return found
