// Helps to choose rows of a list: one box for all of a page, a range with Shift, and how many are chosen. Without this script
// each row has its own box all the same.
"use strict";

document.documentElement.classList.add("scripted");

const rows = (form) => [...form.querySelectorAll("td.pick input[type=checkbox]")];
let last = null;

function tell(form) {
  const boxes = rows(form);
  const chosen = boxes.filter((box) => box.checked).length;
  const all = form.querySelector("[data-choose-all]");
  if (all) {
    all.checked = chosen > 0 && chosen === boxes.length;
    all.indeterminate = chosen > 0 && chosen < boxes.length;
  }
  const told = form.querySelector("[data-chosen]");
  if (told) told.textContent = chosen ? ` (${chosen})` : "";
}

document.addEventListener("click", (event) => {
  const box = event.target;
  if (!box.matches("td.pick input[type=checkbox]")) return;
  const boxes = rows(box.form);
  if (event.shiftKey && boxes.includes(last)) {
    const [from, to] = [boxes.indexOf(last), boxes.indexOf(box)].sort((a, b) => a - b);
    for (const between of boxes.slice(from, to + 1)) between.checked = box.checked;
  }
  last = box;
});

document.addEventListener("change", (event) => {
  const box = event.target;
  if (!box.form || !box.closest("th.pick, td.pick")) return;
  if (box.matches("[data-choose-all]")) for (const row of rows(box.form)) row.checked = box.checked;
  const chosen = box.form.querySelector("input[name=scope][value=chosen]");
  if (chosen && box.checked) chosen.checked = true;
  tell(box.form);
});

// A browser that comes back to a page may have kept its ticks.
addEventListener("pageshow", () => {
  for (const all of document.querySelectorAll("[data-choose-all]")) tell(all.form);
});
