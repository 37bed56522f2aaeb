// Keeps parts of a page current: a page names its stream in <body data-live="…">, the stream sends {id, html} for each
// fragment that changed, and the element with that id is replaced. Without this script the page reads the same after a reload.
"use strict";

const url = document.body.dataset.live;

// What a person is typing or has ticked is never taken away; the server answers for what has changed meanwhile.
function isBeingWritten(element) {
  const boxes = "[type=checkbox], [type=radio]";
  return [...element.querySelectorAll("input:not([type=hidden]), textarea")].some((field) =>
    field.matches(boxes)
      ? field.checked !== field.defaultChecked
      : field.value !== field.defaultValue || field === document.activeElement,
  );
}

// Who walks through a part by keyboard finds the place again in what took its place.
function focusAgain(fresh, focused) {
  const same = (name) => (focused.hasAttribute(name) ? `[${name}="${CSS.escape(focused.getAttribute(name))}"]` : "");
  const marks = ["href", "name", "value"].map(same).join("");
  const holder = focused.closest("[id]");
  const twin = holder !== focused && marks ? fresh.querySelector(focused.localName + marks) : document.getElementById(holder?.id);
  if (twin) (twin.matches("details") ? twin.querySelector("summary") : twin).focus({ preventScroll: true });
}

function replace({ id, html }) {
  const old = document.getElementById(id);
  if (!old) return;
  const fragment = document.createElement("template");
  fragment.innerHTML = html;
  const fresh = fragment.content.firstElementChild;
  if (!fresh || fresh.isEqualNode(old) || isBeingWritten(old)) return;
  for (const open of old.querySelectorAll("details[id][open]")) {
    const twin = fresh.querySelector(`#${CSS.escape(open.id)}`);
    if (twin) twin.open = true;
  }
  const output = old.querySelector("[data-follow]");
  const followed = output && output.scrollTop + output.clientHeight >= output.scrollHeight - 40;
  const place = output ? output.scrollTop : 0;
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  const aside = old.querySelector(".scroll")?.scrollLeft;
  old.replaceWith(fresh);
  const grown = fresh.querySelector("[data-follow]");
  if (grown) grown.scrollTop = followed || !output ? grown.scrollHeight : place;
  if (aside) fresh.querySelector(".scroll")?.scrollTo({ left: aside });
  if (focused) focusAgain(fresh, focused);
}

// A tab that nobody sees lets its stream go: browsers allow six to one server.
let source = null;
let ended = false;

function connect() {
  source?.close();
  if (document.hidden || ended) return;
  source = new EventSource(url);
  source.addEventListener("fragment", (event) => replace(JSON.parse(event.data)));
  source.addEventListener("end", () => {
    ended = true;
    source.close();
  });
}

if (url) {
  connect();
  document.addEventListener("visibilitychange", connect);
  addEventListener("pagehide", () => source?.close());
}
