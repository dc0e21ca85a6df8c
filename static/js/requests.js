// The request log: attempts unfold below their row, and times are typed as the reader's clock shows them.

const byId = (id) => document.getElementById(id);

// -- attempts -----------------------------------------------------------------------------------------

function fold(link, open) {
  const row = byId(link.dataset.unfold);
  row.hidden = !open;
  link.setAttribute("aria-expanded", String(open));
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-unfold]");
  if (!link || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  const row = byId(link.dataset.unfold);
  const cell = row.firstElementChild;
  const open = row.hidden;
  if (open && !cell.childElementCount) {
    window.htmx.ajax("GET", link.dataset.from, { target: cell, swap: "innerHTML" }).then(() => fold(link, cell.childElementCount > 0));
  } else fold(link, open);
});

// -- times --------------------------------------------------------------------------------------------

const two = (number) => String(number).padStart(2, "0");
const asLocal = (at) => `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}T${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
const asUtc = (text) => (text && !Number.isNaN(Date.parse(text)) ? new Date(text).toISOString().replace(/\.\d+Z$/, "Z") : "");

function instantOf(text) {
  if (!text) return null;
  const at = /^\d+(\.\d+)?$/.test(text) ? new Date(Number(text) * 1000) : new Date(/Z|[+-]\d\d:?\d\d$/.test(text) ? text : `${text}Z`);
  return Number.isNaN(at.getTime()) ? null : at;
}

// What is sent is UTC: a hidden field takes the name, the visible one shows the reader's time.
for (const input of document.querySelectorAll("input[data-instant]")) {
  const sent = document.createElement("input");
  sent.type = "hidden";
  sent.name = input.name;
  const given = instantOf(input.getAttribute("value"));
  input.removeAttribute("name");
  input.value = given ? asLocal(given) : "";
  sent.value = asUtc(input.value);
  input.addEventListener("input", () => { sent.value = asUtc(input.value); });
  input.after(sent);
  const zone = input.parentElement.querySelector("[data-zone]");
  if (zone) zone.textContent = "(your time)";
}
