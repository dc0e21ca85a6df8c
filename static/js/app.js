// What every page does with JavaScript: local times, countdowns, dialogs, messages, colors, copying, and parts that
// update without losing what the reader does. Texts from outside go in as text only.

import { drawCharts } from "./charts.js";
import { startClocks, showTimes } from "./times.js";

const byId = (id) => document.getElementById(id);

// -- messages ---------------------------------------------------------------------------------------

const SHOWN_MS = 8000;

/** Show a message at the edge of the page; `bad` ones stay until they are closed. */
export function notice(message, level = "good") {
  const box = document.createElement("div");
  box.className = `notice notice--${["good", "info", "warn", "bad"].includes(level) ? level : "info"}`;
  const text = document.createElement("p");
  text.textContent = message;
  const close = byId("dialog-close").cloneNode(true);
  close.removeAttribute("id");
  close.className = "icon-button";
  close.addEventListener("click", () => box.remove());
  box.append(text, close);
  // A modal dialog hides what is outside of it.
  const dialog = byId("dialog");
  (dialog.open ? dialog : document.body).append(byId("notices"));
  byId("notices").append(box);
  if (level !== "bad") setTimeout(() => box.remove(), SHOWN_MS);
}

document.addEventListener("middleware:notice", (event) => notice(event.detail.message, event.detail.level));

// -- parts that update ------------------------------------------------------------------------------

const isPoll = (event) => /every/.test(event.detail.elt?.getAttribute("hx-trigger") ?? "") && !event.detail.requestConfig.triggeringEvent;

document.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden && isPoll(event)) event.preventDefault();
});

let lost = false;
function sayLost(message) {
  if (!lost) notice(`${message} This page goes on trying.`, "warn");
  lost = true;
}
document.addEventListener("htmx:sendError", () => sayLost("The server does not answer."));
document.addEventListener("htmx:afterRequest", (event) => { if (event.detail.successful) lost = false; });
document.addEventListener("htmx:responseError", (event) => {
  const status = event.detail.xhr.status;
  if (isPoll(event)) {
    sayLost(`The server answers with ${status}.`);
    return;
  }
  notice(`That did not work: the server answered with ${status}. Try again, or look at the log.`, "bad");
});

// Parts that update lead to the login when the session has ended, but not away from what somebody is typing.
let ended = false;
function hasTyped() {
  const fields = document.querySelectorAll("main form :is(input:not([type=hidden], [type=search], [type=checkbox], [type=radio]), textarea)");
  return [...fields].some((field) => field.value !== field.defaultValue);
}
document.addEventListener("htmx:beforeOnLoad", (event) => {
  if (event.detail.xhr.status !== 401 || !isPoll(event) || !hasTyped()) return;
  event.preventDefault();
  if (!ended) notice("Your session has ended. Keep a copy of what you typed, then load this page again to log in.", "bad");
  ended = true;
});

// A part that is replaced by its newer self keeps what belongs to the reader.
const KEPT = { CANVAS: true, DIALOG: ["open"], DETAILS: ["open"], INPUT: ["value", "checked"], TEXTAREA: ["value"], SELECT: true, OPTION: ["selected"] };
if (window.Idiomorph) {
  window.Idiomorph.defaults.ignoreActiveValue = true;
  window.Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, node) => {
    const kept = KEPT[node.tagName];
    if (kept === true || kept?.includes(name)) return node.hasAttribute("data-live") ? undefined : false;
    if (name === "hidden" && node.hasAttribute("data-js-shown")) return false;
    return undefined;
  };
}

// -- everything that arrives ------------------------------------------------------------------------

/** Bring what is inside `root` to life. */
export function enliven(root) {
  showTimes(root);
  drawCharts(root);
  for (const button of root.querySelectorAll("[data-copy]")) reveal(button);
  for (const box of root.querySelectorAll("[data-select-all]")) reveal(box);
}

function reveal(element) {
  element.hidden = false;
  element.setAttribute("data-js-shown", "");
}

document.addEventListener("htmx:afterSwap", (event) => enliven(event.detail.target ?? document));
document.addEventListener("htmx:oobAfterSwap", (event) => enliven(event.detail.target ?? document));
// What takes the place of its target (outerHTML) is not the target.
document.addEventListener("htmx:load", (event) => enliven(event.detail.elt));

// -- dialogs ----------------------------------------------------------------------------------------

function openDialog(address) {
  const dialog = byId("dialog");
  byId("dialog-body").replaceChildren();
  window.htmx.ajax("GET", address, { target: "#dialog-body", swap: "innerHTML show:none" }).then(() => {
    if (!byId("dialog-body").childElementCount) return;
    if (!dialog.open) dialog.showModal();
    (dialog.querySelector("[autofocus]") ?? dialog.querySelector("#dialog-body :is(input:not([type=hidden]), select, textarea)"))?.focus();
  });
}

function closeDialog() {
  byId("dialog").close();
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-dialog]");
  const plain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey;
  if (link && plain && window.htmx) {
    event.preventDefault();
    openDialog(link.href);
  } else if (event.target.closest("[data-dialog-close], #dialog-close") && byId("dialog").open) {
    event.preventDefault();
    closeDialog();
  } else if (event.target === byId("dialog")) {
    if (!byId("dialog").querySelector("form :is(input:not([type=hidden]), textarea)")) closeDialog();
  }
});
// In a dialog htmx follows links: one that only closes it leads nowhere.
document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.detail.elt?.closest?.("#dialog-body a[data-dialog-close]")) event.preventDefault();
});
byId("dialog")?.addEventListener("close", () => {
  document.body.append(byId("notices"));
  byId("dialog-body").replaceChildren();
});

// -- copying, choosing, finding ---------------------------------------------------------------------

/** Put `text` on the clipboard; resolves to whether it is there. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without HTTPS browsers have no clipboard for pages, only for selections.
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "visually-hidden";
    (byId("dialog").open ? byId("dialog") : document.body).append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = button.dataset.copy ? document.querySelector(button.dataset.copy) : button.parentElement.querySelector("code");
  const copied = await copy(source.value ?? source.textContent);
  notice(copied ? "Copied." : "This browser does not let pages copy. Select the text and copy it.", copied ? "good" : "warn");
});

document.addEventListener("change", (event) => {
  const all = event.target.closest("[data-select-all]");
  if (all) {
    for (const box of document.querySelectorAll(all.dataset.selectAll)) {
      if (box.checked !== all.checked) {
        box.checked = all.checked;
        box.dispatchEvent(new Event("change", { bubbles: true }));
      }
    }
  }
});

// A form whose work takes a while says so, and is not sent twice.
document.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-busy]");
  const button = form && (event.submitter ?? form.querySelector("[type=submit]"));
  if (!button || event.defaultPrevented) return;
  button.setAttribute("aria-busy", "true");
  button.textContent = form.dataset.busy;
  form.addEventListener("submit", (again) => again.preventDefault(), { once: true });
});
window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

// Links that look like buttons answer to the space bar as buttons do.
document.addEventListener("keydown", (event) => {
  const link = event.key === " " && event.target.closest("a[role=button]");
  if (!link) return;
  event.preventDefault();
  link.click();
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input:not([type=checkbox], [type=radio], [type=button]), textarea, select, [contenteditable]")) return;
  const search = document.querySelector("main input[type=search]");
  if (search) {
    event.preventDefault();
    search.focus();
    search.select();
  }
});

// -- colors and menu --------------------------------------------------------------------------------

byId("themes")?.addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.currentTarget;
  const theme = event.submitter.value;
  const sent = new URLSearchParams(new FormData(form));
  sent.set("theme", theme);
  fetch(form.action, { method: "POST", body: sent, headers: { "HX-Request": "true" } });
  if (theme === "system") document.documentElement.removeAttribute("data-theme");
  else document.documentElement.setAttribute("data-theme", theme);
  for (const button of form.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.value === theme));
  drawCharts(document, { again: true });
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawCharts(document, { again: true }));

const menu = byId("menu-button");
if (menu) {
  menu.hidden = false;
  document.querySelector(".menu-link").hidden = true;
  document.body.classList.add("has-menu");
  const show = (open) => {
    document.body.classList.toggle("menu-open", open);
    menu.setAttribute("aria-expanded", String(open));
  };
  menu.addEventListener("click", () => show(menu.getAttribute("aria-expanded") !== "true"));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && menu.getAttribute("aria-expanded") === "true") {
      show(false);
      menu.focus();
    }
  });
}

startClocks();
enliven(document);
document.documentElement.dataset.ready = "true";
