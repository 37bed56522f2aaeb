"""What must hold on every page, looked for in the page as the browser made it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import Browser, BrowserContext, Page

from tests import web

WIDE = {"width": 1280, "height": 800}
NARROW = {"width": 390, "height": 844}

# Returns a list of sentences, empty when all is well. Contrast by WCAG 2: 4.5 for text, 3 for large text.
LOOK = """
() => {
  const faults = [];
  const say = (element, what) => faults.push(`${what}: <${element.tagName.toLowerCase()} class="${element.className}"> ${(element.textContent || "").trim().slice(0, 40)}`);
  if (document.documentElement.scrollWidth > innerWidth) {
    faults.push(`scrolls sideways: ${document.documentElement.scrollWidth} > ${innerWidth}`);
    for (const element of document.querySelectorAll("body *")) {
      if (element.getBoundingClientRect().right > innerWidth + 1 && !element.closest(".scroll, pre, table")) { say(element, "too wide"); break; }
    }
  }
  for (const table of document.querySelectorAll(".panel table")) {
    const room = table.closest(".scroll, .panel").getBoundingClientRect();
    if (!table.closest(".scroll") && table.getBoundingClientRect().right > room.right + 1) say(table, "sticks out of its panel");
  }
  if (document.querySelectorAll("h1").length !== 1) faults.push("not exactly one h1");
  if (!document.querySelector("main")) faults.push("no main");
  if (!document.documentElement.lang) faults.push("no language");
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) faults.push(`id twice: ${id}`);
  for (const control of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
    if (!control.labels?.length && !control.ariaLabel) say(control, "no label");
  }
  for (const button of document.querySelectorAll("button, a[href], summary")) {
    if (!button.textContent.trim() && !button.ariaLabel) say(button, "no name");
  }
  for (const element of document.querySelectorAll("[style]")) say(element, "inline style");
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  const paint = (colors) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => (v /= 255, v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || seen.has(element) || !element.checkVisibility({ visibilityProperty: true })) continue;
    if (element.closest(".sr, .skip, noscript, svg, option, title")) continue;
    seen.add(element);
    const style = getComputedStyle(element);
    const grounds = [];
    for (let at = element; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor);
    const base = matchMedia("(prefers-color-scheme: dark)").matches ? "#121212" : "#ffffff";
    const ground = light(paint([base, ...grounds]));
    const ink = light(paint([base, ...grounds, style.color]));
    const ratio = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) say(element, `contrast ${ratio.toFixed(2)}`);
  }
  return faults;
}
"""


@dataclass
class Visit:
    """One tab, and everything it complained about."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)

    async def open(self, path: str) -> None:
        """Go to *path* and wait until it stands."""
        answer = await self.page.goto(self.url + path, wait_until="load")
        assert answer is not None
        assert answer.status == 200, f"{path} answered {answer.status}"

    async def look(self) -> list[str]:
        """Return what is wrong with the page that is open."""
        found: list[str] = await self.page.evaluate(LOOK)
        return found + self.complaints


async def visit(
    browser: Browser, served: web.Served, cookies: dict[str, str] | None = None, **context: Any
) -> Visit:
    """Open a tab as somebody who is signed in, or as a stranger."""
    opened: BrowserContext = await browser.new_context(viewport=context.pop("viewport", WIDE), **context)
    await opened.add_cookies(
        [{"name": name, "value": value, "url": served.url} for name, value in (cookies or {}).items()]
    )
    page = await opened.new_page()
    page.set_default_timeout(20_000)
    made = Visit(page, served.url)
    page.on(
        "console",
        lambda message: (
            made.complaints.append(message.text) if message.type in {"error", "warning"} else None
        ),
    )
    page.on("pageerror", lambda error: made.complaints.append(str(error)))
    return made
