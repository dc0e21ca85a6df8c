// Instants in the reader's own time zone, ages and countdowns. The exact UTC stays in the title.

const FORMATS = {
  both: { dateStyle: "medium", timeStyle: "medium" },
  date: { dateStyle: "medium" },
  time: { timeStyle: "medium" },
};
const formatters = Object.fromEntries(Object.entries(FORMATS).map(([name, style]) => [name, new Intl.DateTimeFormat(undefined, style)]));
const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

/** 90 -> "1 min 30 s": at most two units. */
export function duration(seconds) {
  let rest = Math.max(0, Math.round(seconds));
  const parts = [];
  for (const [unit, size] of UNITS) {
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count) parts.push(`${count} ${unit}`);
  }
  return parts.slice(0, 2).join(" ") || "0 s";
}

const secondsTo = (element) => (Date.parse(element.dateTime) - Date.now()) / 1000;

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Show the times below `root` as the reader knows them. */
export function showTimes(root) {
  for (const element of root.querySelectorAll("time[data-local]")) {
    setText(element, (formatters[element.dataset.local] ?? formatters.both).format(Date.parse(element.dateTime)));
  }
  tick(root);
}

function tick(root) {
  for (const element of root.querySelectorAll("time[data-until]")) {
    const left = secondsTo(element);
    setText(element, left > 0 ? `in ${duration(left)}` : "now");
  }
  for (const element of root.querySelectorAll("time[data-ago]")) {
    const age = -secondsTo(element);
    setText(element, age < 5 ? "just now" : `${age < 60 ? duration(age) : duration(age).split(" ").slice(0, 2).join(" ")} ago`);
  }
}

/** Keep ages and countdowns current. */
export function startClocks() {
  setInterval(() => { if (!document.hidden) tick(document); }, 1000);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) tick(document); });
}
