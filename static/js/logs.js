// The live log: lines pushed by the server, held back while somebody reads. Lines are text, never HTML.

const MOST_LINES = 1000; // in the page
const POLL_MS = 2000; // where no stream is to be had
const STREAM_AGAIN_MS = 30000;
const REQUEST_ID = /\(([\w.:-]{6,128})\)$/;

const byId = (id) => document.getElementById(id);
const root = byId("log");
const list = byId("lines");
const scroller = byId("log-scroll");
const template = byId("log-line").content.firstElementChild;
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const grouped = new Intl.NumberFormat();

let lastId = Number(root.dataset.after);
let waiting = []; // lines that are held back
let passed = 0; // how many of these were dropped, because nobody could read so many
let paused = false; // by the button
let reading = false; // the pointer or the focus is in the list
const COLORS = ["blue", "green", "yellow", "red"];
let shown = new Set(COLORS);
let wanted = "";

// -- lines ------------------------------------------------------------------------------------------

function element(line) {
  const row = template.cloneNode(true);
  const color = COLORS.includes(line.color) ? line.color : COLORS[0];
  row.className = `line line--${color}`;
  row.dataset.color = color;
  const time = row.querySelector("time");
  time.dateTime = line.time;
  time.title = line.time.replace("T", " ").replace("Z", " UTC");
  time.textContent = clock.format(Date.parse(line.time));
  row.querySelector(".line-text").textContent = line.msg;
  const id = line.msg.startsWith('Key "') ? "" : REQUEST_ID.exec(line.msg)?.[1];
  const link = row.querySelector(".line-link");
  if (id) link.href = `/middleware/requests/${encodeURIComponent(id)}`;
  link.hidden = !id;
  row.hidden = !matches(row);
  return row;
}

const matches = (row) => shown.has(row.dataset.color) && (!wanted || row.querySelector(".line-text").textContent.toLowerCase().includes(wanted));

function add(lines) {
  const fresh = lines.slice(-MOST_LINES);
  if (!fresh.length) return;
  list.append(...fresh.map(element));
  while (list.childElementCount > MOST_LINES) list.firstElementChild.remove();
  showEmptiness();
  if (byId("log-follow").checked) toEnd();
}

function showEmptiness() {
  byId("log-empty").hidden = list.childElementCount > 0;
}

let byUs = false;
function toEnd() {
  byUs = true;
  scroller.scrollTop = scroller.scrollHeight;
}

function take(lines) {
  const fresh = lines.filter((line) => line.id > lastId);
  if (!fresh.length) return;
  lastId = fresh[fresh.length - 1].id;
  if (!(paused || reading)) {
    add(fresh);
    return;
  }
  waiting.push(...fresh);
  if (waiting.length > MOST_LINES) passed += waiting.splice(0, waiting.length - MOST_LINES).length;
  showWaiting();
}

function showWaiting() {
  const count = waiting.length + passed;
  const button = byId("log-waiting");
  button.hidden = count === 0;
  button.textContent = count === 1 ? "1 new line: show" : `${grouped.format(count)} new lines: show`;
  byId("log-pause-words").textContent = paused ? "Go on" : "Pause";
  byId("log-pause").setAttribute("aria-pressed", String(paused));
  showState();
}

function release() {
  const lines = waiting;
  waiting = [];
  if (passed) note(`${grouped.format(passed)} lines were not kept.`);
  passed = 0;
  add(lines);
  showWaiting();
}

const goOn = () => { if (!paused && !reading) release(); };

function note(text) {
  const row = template.cloneNode(true);
  row.className = "line line--note";
  row.dataset.color = "yellow";
  row.querySelector(".line-text").textContent = text;
  list.append(row);
}

// -- where lines come from ----------------------------------------------------------------------------

let source = null;
let timer = 0;

const LIVE = "Live: new lines appear by themselves.";
const PAUSED = "Paused: new lines wait.";
let said = ["", ""]; // of the connection

function say(words, level = "") {
  said = [words, level];
  showState();
}

/** The state of the connection; while that is good, whether the reader has paused. */
function showState() {
  const [words, level] = paused && said[1] === "good" ? [PAUSED, ""] : said;
  const state = byId("log-connection");
  if (state.textContent !== words) state.textContent = words;
  state.className = level ? `level--${level}` : "";
}

function listen() {
  clearTimeout(timer);
  source?.close();
  if (document.hidden) return;
  source = new EventSource(`/middleware/logs/stream?after=${lastId}`);
  source.onopen = () => say(LIVE, "good");
  source.onmessage = (event) => take([JSON.parse(event.data)]);
  source.addEventListener("missing", (event) => note(`${grouped.format(Number(event.data))} lines in between are no longer kept.`));
  source.addEventListener("end", () => location.reload());
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) poll(Date.now() + STREAM_AGAIN_MS); // refused
    else say("The connection was lost. Trying again …", "warn");
  };
}

async function poll(until) {
  clearTimeout(timer);
  source?.close();
  if (document.hidden) return;
  try {
    const answer = await fetch(`/middleware/api/logs?after_id=${lastId}&limit=1000`, { headers: { Accept: "application/json" } });
    if (answer.status === 401) {
      location.reload();
      return;
    }
    if (!answer.ok) throw new Error(String(answer.status));
    take(await answer.json());
    say("Live: new lines appear every two seconds.", "good");
  } catch {
    say("The server does not answer. Trying again …", "warn");
  }
  timer = setTimeout(() => (Date.now() > until ? listen() : poll(until)), POLL_MS);
}

// A tab that nobody sees gives its connection back: browsers have few for one server.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    source?.close();
    clearTimeout(timer);
  } else listen();
});
window.addEventListener("pagehide", () => source?.close());
window.addEventListener("pageshow", (event) => { if (event.persisted) listen(); });

// -- what the reader does -------------------------------------------------------------------------------

function hold(on) {
  reading = on;
  goOn();
}

let pointer = false;
let focus = false;
scroller.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") { pointer = true; hold(true); } });
scroller.addEventListener("pointerleave", () => { pointer = false; hold(focus); });
scroller.addEventListener("focusin", () => { focus = true; hold(true); });
scroller.addEventListener("focusout", (event) => {
  focus = scroller.contains(event.relatedTarget);
  hold(pointer || focus);
});
// Whoever scrolls up wants to read, whoever scrolls to the end wants to follow.
scroller.addEventListener("scroll", () => {
  if (byUs) {
    byUs = false;
    return;
  }
  byId("log-follow").checked = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 24;
});

byId("log-pause").addEventListener("click", () => {
  paused = !paused;
  showWaiting();
  goOn();
});
byId("log-waiting").addEventListener("click", () => {
  paused = false;
  release();
  toEnd();
  byId("log-pause").focus(); // the button that was clicked is gone
});
byId("log-clear").addEventListener("click", () => {
  list.replaceChildren();
  waiting = [];
  passed = 0;
  showWaiting();
  showEmptiness();
});
byId("log-follow").addEventListener("change", (event) => { if (event.target.checked) toEnd(); });
byId("log-bar").addEventListener("input", () => {
  shown = new Set([...byId("log-bar").querySelectorAll("[name=color]:checked")].map((box) => box.value));
  wanted = byId("log-search").value.trim().toLowerCase();
  for (const row of list.children) row.hidden = !matches(row);
  if (byId("log-follow").checked) toEnd();
});

byId("log-bar").hidden = false;
byId("log-reload").hidden = true;
toEnd();
listen();
