// The pages of keys: how many are chosen, answers that open in the dialog, and a list that follows what dialogs changed.

const byId = (id) => document.getElementById(id);
const boxes = () => [...document.querySelectorAll("#key-form input[name=ids]")];
const number = new Intl.NumberFormat();

// -- what is chosen ---------------------------------------------------------------------------------

let matched = byId("choose-matching")?.dataset.count;

function showChosen() {
  const all = boxes();
  const chosen = all.filter((box) => box.checked).length;
  const matching = byId("choose-matching");
  // Who chose all that matched did not choose all that match now.
  if (matching && matching.dataset.count !== matched) matching.checked = false;
  matched = matching?.dataset.count;
  const everything = matching?.checked ? Number(matching.dataset.count) : 0;
  const words = document.querySelector("[data-chosen]");
  if (words) words.textContent = everything || chosen ? `${number.format(everything || chosen)} chosen:` : "With the chosen keys:";
  const choose = byId("choose-all");
  if (choose) {
    choose.checked = chosen > 0 && chosen === all.length;
    choose.indeterminate = chosen > 0 && chosen < all.length;
  }
}

let last = null;
document.addEventListener("click", (event) => {
  const box = event.target.closest?.("#key-form input[name=ids]");
  if (!box) return;
  const all = boxes();
  if (event.shiftKey && last && all.includes(last)) {
    const [from, to] = [all.indexOf(last), all.indexOf(box)].sort((one, other) => one - other);
    for (const between of all.slice(from, to + 1)) between.checked = box.checked;
  }
  last = box;
  showChosen();
});
document.addEventListener("change", (event) => {
  // Choosing all tells of each box: only the last word counts.
  if (event.isTrusted && event.target.closest("#key-form")) showChosen();
});
document.addEventListener("htmx:afterSettle", showChosen);

// -- answers in the dialog --------------------------------------------------------------------------

// Some buttons of the list answer with a page of their own: it belongs into the dialog.
document.addEventListener("htmx:configRequest", (event) => {
  const submitter = event.detail.triggeringEvent?.submitter;
  if (submitter?.hasAttribute("data-to-dialog") && (byId("choose-matching")?.checked || boxes().some((box) => box.checked))) {
    event.detail.headers["HX-Target"] = "dialog-body";
    submitter.setAttribute("aria-busy", "true");
    submitter.closest("form").dataset.busy = submitter.value;
  }
});
const belongsIntoDialog = ({ detail: { requestConfig } }) =>
  requestConfig?.headers["HX-Target"] === "dialog-body" && requestConfig.elt?.closest?.("#key-form");
document.addEventListener("htmx:beforeSwap", (event) => {
  if (belongsIntoDialog(event)) {
    event.detail.target = byId("dialog-body");
    event.detail.swapOverride = "innerHTML show:none";
  }
});
document.addEventListener("htmx:afterRequest", (event) => {
  if (!belongsIntoDialog(event)) return; // the list looks for news meanwhile
  for (const form of document.querySelectorAll("#key-form[data-busy]")) {
    delete form.dataset.busy;
    for (const button of form.querySelectorAll("[aria-busy]")) button.removeAttribute("aria-busy");
  }
});
document.addEventListener("htmx:afterSwap", (event) => {
  const dialog = byId("dialog");
  if (event.detail.target === byId("dialog-body") && !dialog.open && byId("dialog-body").childElementCount) {
    dialog.showModal();
  }
});

byId("dialog")?.addEventListener("close", () => {
  // The first key may have been added.
  if (byId("no-keys")) location.reload();
  for (const id of ["key-rows", "key-state"]) {
    const part = byId(id);
    if (part) window.htmx?.trigger(part, "refresh");
  }
});

showChosen();
