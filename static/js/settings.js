// The settings page: finds while one types, tells how many settings are changed, and says large numbers in larger units.
// All of it works without this file, too: the server finds, counts and saves.

const byId = (id) => document.getElementById(id);
const form = () => byId("settings");
const fields = () => [...form().querySelectorAll("[data-setting] :is(input, select)")];
const isNumber = (text) => /^[+-]?\d+(\.\d*)?$/.test(text);

function isChanged(field) {
  const before = initial.get(field.name);
  if (field.type === "checkbox") return field.checked !== before;
  const now = field.value.trim();
  return isNumber(now) && isNumber(before) ? Number(now) !== Number(before) : now !== before;
}

// What is saved, by the hidden field `was`: after a refused save the fields hold what was typed instead.
let initial = new Map();
let leaving = false;
// What is looked for, kept over a save.
let sought = null;

function remember() {
  const was = JSON.parse(form().elements.was.value);
  initial = new Map(fields().map((field) => [field.name, field.type === "checkbox" ? was[field.name] : String(was[field.name])]));
}

// -- changes ----------------------------------------------------------------------------------------

function count() {
  const changed = fields().filter(isChanged);
  for (const field of fields()) field.closest("[data-setting]").classList.toggle("setting--typed", isChanged(field));
  const names = changed.slice(0, 3).map((field) => field.name).join(", ") + (changed.length > 3 ? ", …" : "");
  const told = changed.length === 0 ? "Nothing is changed." : `${changed.length} changed: ${names}`;
  if (byId("changes").textContent !== told) byId("changes").textContent = told;
  byId("changes").classList.toggle("muted", changed.length === 0);
  byId("discard").hidden = changed.length === 0;
  byId("save").disabled = changed.length === 0;
  return changed.length;
}

function discard() {
  for (const field of fields()) {
    if (field.type === "checkbox") field.checked = initial.get(field.name);
    else field.value = initial.get(field.name);
  }
  for (const fault of form().querySelectorAll("p.fault")) fault.remove();
  for (const field of fields()) field.removeAttribute("aria-invalid");
  update();
}

// -- readable numbers -------------------------------------------------------------------------------

const SIZES = ["bytes", "KiB", "MiB", "GiB"];

function inBytes(number) {
  let unit = 0;
  while (number >= 1024 && unit < SIZES.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return unit ? `= ${Number.isInteger(number) || number >= 100 ? number.toFixed(0) : number.toFixed(1)} ${SIZES[unit]}` : "";
}

function inTime(number) {
  if (number < 60) return "";
  const whole = Math.round(number);
  const parts = [["d", Math.floor(whole / 86400)], ["h", Math.floor(whole / 3600) % 24], ["min", Math.floor(whole / 60) % 60], ["s", whole % 60]];
  return `= ${parts.filter(([, count]) => count).map(([unit, count]) => `${count} ${unit}`).slice(0, 2).join(" ")}`;
}

function read() {
  for (const place of form().querySelectorAll("[data-readable]")) {
    const text = byId(place.dataset.of).value.trim();
    const number = isNumber(text) ? Number(text) : NaN;
    const said = Number.isNaN(number) ? "" : place.dataset.readable === "bytes" ? inBytes(number) : inTime(number);
    if (place.textContent !== said) place.textContent = said;
  }
}

// -- finding ----------------------------------------------------------------------------------------

function find() {
  const filter = byId("settings-filter").elements;
  const words = filter.q.value.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  for (const group of form().querySelectorAll("[data-group]")) {
    let inGroup = 0;
    for (const setting of group.querySelectorAll("[data-setting]")) {
      const wanted = !filter.changed.checked || setting.dataset.changed === "true" || setting.classList.contains("setting--typed");
      setting.hidden = !(wanted && words.every((word) => setting.dataset.words.includes(word)));
      inGroup += setting.hidden ? 0 : 1;
    }
    group.hidden = inGroup === 0;
    found += inGroup;
  }
  byId("nothing-found").hidden = found > 0;
}

function update() {
  if (!form()?.elements.was || !byId("changes")) return;
  read();
  count();
  find();
}

// -- sessions ---------------------------------------------------------------------------------------

let renewed = false;

/** The session has ended, or began anew in another tab: nothing that was typed is lost, and it can be saved again. */
async function renew(hasSession) {
  const session = hasSession && !renewed ? await fetch("/middleware/api/session") : null;
  if (!session?.ok) {
    renewed = false;
    const message = "Your session has ended. Log in again in another tab, then save once more: what you typed stays here.";
    document.dispatchEvent(new CustomEvent("middleware:notice", { detail: { level: "bad", message } }));
    return;
  }
  const token = (await session.json()).csrf_token;
  renewed = true;
  form().elements.csrf_token.value = token;
  document.body.setAttribute("hx-headers", JSON.stringify({ "X-CSRF-Token": token }));
  form().requestSubmit();
}

// -- events -----------------------------------------------------------------------------------------

function begin() {
  if (!form()?.elements.was || !byId("changes")) return;
  leaving = renewed = false;
  remember();
  const filter = byId("settings-filter").elements;
  if (sought) {
    filter.q.value = sought.words;
    filter.changed.checked = sought.changed;
  }
  for (const button of document.querySelectorAll("[data-without-script]")) button.hidden = true;
  for (const button of document.querySelectorAll("[data-take]")) button.hidden = false;
  update();
  form().querySelector("[aria-invalid]")?.focus();
}

document.addEventListener("input", (event) => {
  if (!event.target.closest("#settings, #settings-filter")) return;
  const filter = byId("settings-filter").elements;
  sought = { words: filter.q.value, changed: filter.changed.checked };
  update();
});
document.addEventListener("submit", (event) => {
  if (event.target.id === "settings-filter") event.preventDefault();
});
document.addEventListener("reset", (event) => {
  if (event.target.id !== "settings") return;
  event.preventDefault();
  discard();
});
document.addEventListener("click", (event) => {
  const take = event.target.closest("[data-take]");
  if (!take) return;
  const field = byId(take.dataset.for);
  const value = JSON.parse(take.dataset.take);
  if (field.type === "checkbox") field.checked = value;
  else field.value = String(value);
  take.closest("p").remove();
  field.focus();
  update();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "s" || !(event.ctrlKey || event.metaKey) || event.shiftKey || event.altKey) return;
  event.preventDefault();
  if (!byId("save").disabled) byId("save").click();
});
document.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target.id === "main") begin();
});
document.addEventListener("htmx:beforeOnLoad", (event) => {
  const { elt, xhr } = event.detail;
  if (elt.id === "settings" && (xhr.status === 401 || xhr.status === 403)) {
    event.preventDefault();
    renew(xhr.status === 403);
  } else if (xhr.status < 400 && xhr.getResponseHeader("HX-Redirect")) {
    leaving = true;
  }
});
addEventListener("beforeunload", (event) => {
  if (!leaving && form() && byId("changes") && count() > 0) event.preventDefault();
});

begin();
