"use strict";
// The page reads the same without this. It points from bytes to their field and back, copies lines, opens and closes.
const now = document.getElementById("now");
const steps = [...document.querySelectorAll("details.step")];

// A pair: some bytes, and the row of their field. Their ids differ in the letter before the last number.
const pairOf = (target) => {
  if (target === now) return lit;
  const one = target.closest?.(".bytes a, .fields li");
  if (!one) return [];
  const other = one.id.replace(/[bf](\d+)$/, (all, n) => (one.matches("li") ? "b" : "f") + n);
  return [one, document.getElementById(other)];
};
// In a narrow window the message stands between the bytes, where it covers nothing.
const narrow = matchMedia("(max-width: 40rem)");
const short = (text) => (text.length > 60 ? text.slice(0, 60) + "…" : text);
let lit = [];
const point = (pair) => {
  if (pair[0] && lit.includes(pair[0])) return;
  lit.forEach((element) => element.classList.remove("on"));
  lit = pair;
  lit.forEach((element) => element.classList.add("on"));
  // Whoever looks at bytes may not see their field, further down.
  const field = pair.find((element) => element.matches("li"));
  now.hidden = !field || pair[0] === field;
  if (!now.hidden) {
    if (narrow.matches) pair[0].after(now);
    else document.body.append(now);
    const [name, place, value, meaning] = [...field.children].map((child) => child.firstChild?.textContent.trim() ?? "");
    now.textContent = `${name}, ${place.includes("–") ? "bytes" : "byte"} ${place}: ${value ? short(value) + ", " : ""}${meaning}`;
  }
};
for (const layer of document.querySelectorAll(".layer")) {
  layer.addEventListener("pointerover", (event) => point(pairOf(event.target)));
  layer.addEventListener("focusin", (event) => point(pairOf(event.target)));
  layer.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && point([]));
  layer.addEventListener("focusout", () => point([]));
  layer.addEventListener("click", (event) => {
    const pair = pairOf(event.target);
    if (!pair.length) return;
    event.preventDefault(); // a tap shows the field and does not jump; the Enter key goes there
    if (event.detail === 0) (pair[1].querySelector("a") ?? pair[1]).focus();
    else point(pair);
  });
}
document.addEventListener("keydown", (event) => event.key === "Escape" && point([]));

// Lines to copy: those of a step, or all that it needs.
const linesOf = (block) => block.querySelector("code").textContent;
const blocks = [...document.querySelectorAll(".python")];
for (const block of blocks) {
  const chapter = block.closest(".chapter");
  const before = chapter ? blocks.filter((other) => other.closest(".chapter") === chapter) : [];
  const all = () => [blocks[0], ...before.slice(0, before.indexOf(block) + 1)].map(linesOf).join("\n");
  const row = document.createElement("p");
  row.className = "buttons";
  const choices = [["Copy", () => linesOf(block)], ["Copy with all that comes before", all]];
  for (const [name, text] of choices.slice(0, chapter ? 2 : 1)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text());
      } catch { // a page opened from a file may not have the clipboard
        const area = document.body.appendChild(document.createElement("textarea"));
        area.value = text();
        area.select();
        document.execCommand("copy");
        area.remove();
      }
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = name), 1500);
    });
    row.append(button);
  }
  block.append(row);
}

for (const button of document.querySelectorAll("[data-open]")) {
  button.parentElement.hidden = false;
  button.addEventListener("click", () => steps.forEach((step) => (step.open = button.dataset.open === "true")));
}
// A link to something inside a step opens it; printing opens all.
const reveal = () => {
  const target = document.getElementById(location.hash.slice(1));
  const step = target?.closest("details");
  if (step && !step.open) {
    step.open = true;
    target.scrollIntoView();
  }
};
addEventListener("hashchange", reveal);
addEventListener("beforeprint", () => steps.forEach((step) => (step.open = true)));
reveal();
