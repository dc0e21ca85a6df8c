// The playground: asks the server what the chat is in the chosen wire format, sends that to the proxy as any client
// would, and shows what goes and what comes. Answers are text and stay text.

import { Events, read } from "./dialects.js";

const API = "/middleware/api/playground";
// More than this of a body would make the page slow.
const MAX_SHOWN_CHARS = 400_000;

const byId = (id) => document.getElementById(id);
const form = byId("playground");
const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);
const grouped = (number) => number.toLocaleString("en-US");

/** The turns that count: {role, text}. */
let turns = [];
let running = null;
let csrf = form.elements.csrf_token.value;

// -- the administration -----------------------------------------------------------------------------

/** A problem with words for the reader. `field` is the one that it is about; `logIn`: the session has ended. */
class Problem extends Error {
  constructor(message, more = {}) {
    super(message);
    Object.assign(this, more);
  }
}

/** POST to the admin API; with another token where the session began anew in another tab. */
async function ask(path, body, signal, again = true) {
  const answer = await fetch(API + path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf },
    body: JSON.stringify(body),
    signal,
  });
  const said = await answer.json().catch(() => ({}));
  if (answer.ok) return said;
  if (said.code === "csrf_token" && again) {
    const session = await fetch("/middleware/api/session", { signal });
    csrf = (await session.json()).csrf_token;
    return ask(path, body, signal, false);
  }
  const names = { turns: "message", text: "message" };
  throw new Problem((answer.status === 401 ? "Your session has ended." : said.error) ?? `The server answered with ${answer.status}.`, {
    field: answer.status === 400 ? names[said.param] ?? said.param : undefined,
    logIn: answer.status === 401,
  });
}

const number = (field) => (field.value.trim() === "" ? null : Number(field.value.replaceAll(",", "")));

function chat(message) {
  const { dialect, model, system, max_tokens, temperature, stream } = form.elements;
  const given = {
    dialect: dialect.value,
    model: model.value,
    system: system.value,
    turns: [...turns, { role: "user", text: message }],
    max_tokens: number(max_tokens),
    temperature: number(temperature),
    stream: stream.checked,
  };
  // JSON knows no NaN: what is no number goes as it was typed, and is refused by name.
  for (const field of [max_tokens, temperature]) if (Number.isNaN(given[field.name])) given[field.name] = field.value;
  return given;
}

// -- faults -----------------------------------------------------------------------------------------

function clearFaults() {
  for (const fault of form.querySelectorAll("small.fault")) fault.remove();
  for (const field of form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
}

function showFault(name, message) {
  const field = byId(`field-${name}`);
  if (!field) return false;
  const fault = document.createElement("small");
  fault.className = "fault";
  fault.id = `field-${name}-fault`;
  fault.setAttribute("role", "alert");
  fault.textContent = message.replace(/^`\w+` m/, "M");
  field.after(fault);
  field.setAttribute("aria-invalid", "true");
  if (field.closest("details")) field.closest("details").open = true;
  field.focus();
  return true;
}

// -- the conversation -------------------------------------------------------------------------------

/** A turn on the page. `text` is a text node that grows, `end` a line below it. */
function show(kind, name, text = "") {
  const box = document.createElement("article");
  box.className = `turn turn--${kind}`;
  const heading = document.createElement("h3");
  heading.textContent = name;
  const paragraph = document.createElement("p");
  paragraph.className = "turn-text";
  const node = document.createTextNode(text);
  paragraph.append(node);
  const end = document.createElement("p");
  end.className = "turn-end";
  end.hidden = true;
  box.append(heading, paragraph, end);
  byId("turns").hidden = false;
  byId("turns").append(box);
  follow(true);
  return { box, text: node, end };
}

/** Keep the end in sight, unless the reader has scrolled away from it. */
function follow(anyway = false) {
  const log = byId("turns");
  if (anyway || log.scrollHeight - log.scrollTop - log.clientHeight < 80) log.scrollTop = log.scrollHeight;
}

function say(end, words, requestId) {
  end.hidden = false;
  end.textContent = words;
  if (requestId) {
    const link = document.createElement("a");
    link.href = `/middleware/requests/${encodeURIComponent(requestId)}`;
    link.textContent = "in the log";
    end.append(words ? " · " : "", link);
  }
}

// -- the wire ---------------------------------------------------------------------------------------

function showRequest(call, headers) {
  byId("request-empty").hidden = true;
  byId("request").hidden = false;
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${name === call.key_header ? `${call.key_prefix}…` : value}`);
  byId("request-head").textContent = [`${call.method} ${call.path}`, `Host: ${location.host}`, ...lines].join("\n");
  byId("request-body").textContent = JSON.stringify(call.body, null, 2);
  for (const place of ["facts", "response-head", "response-body"]) byId(place).textContent = "";
  byId("response").hidden = true;
  byId("response-empty").hidden = false;
}

function showPrograms(programs) {
  byId("code-empty").hidden = programs !== null;
  for (const [name, text] of Object.entries(programs ?? { curl: "", python: "", javascript: "" })) {
    byId(`code-${name}`).textContent = text;
    byId(`program-${name}`).hidden = programs === null;
  }
}

function fact(name, value, href) {
  const term = document.createElement("dt");
  term.textContent = name;
  const detail = document.createElement("dd");
  if (href) {
    const link = document.createElement("a");
    link.href = href;
    link.textContent = value;
    detail.append(link);
  } else {
    detail.textContent = value;
  }
  byId("facts").append(term, detail);
}

/** The answer as it is shown raw: a text node that grows up to a limit. */
class Raw {
  #node = document.createTextNode("");
  #length = 0;

  constructor(answer) {
    byId("response-empty").hidden = true;
    byId("response").hidden = false;
    const lines = [...answer.headers].map(([name, value]) => `${name}: ${value}`);
    byId("response-head").textContent = [`${answer.status} ${answer.statusText}`.trim(), ...lines].join("\n");
    byId("response-body").replaceChildren(this.#node);
  }

  add(text) {
    const room = MAX_SHOWN_CHARS - this.#length;
    this.#length += text.length;
    if (room <= 0) return;
    this.#node.appendData(text.length <= room ? text : `${text.slice(0, room)}\n… the rest is not shown here.`);
  }
}

// -- sending ----------------------------------------------------------------------------------------

const parsed = (text) => {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
};
const words = (error) => (typeof error === "string" ? error : [error.message, error.code ?? error.type].filter(Boolean).join(" (") + (error.message && (error.code ?? error.type) ? ")" : ""));

/** Read the answer as it comes; returns what it said. Throws when it breaks off. */
async function receive(call, answer, begun, shown, outcome) {
  const raw = new Raw(answer);
  const decoder = new TextDecoder();
  const streams = (answer.headers.get("content-type") ?? "").startsWith("text/event-stream");
  const events = new Events();
  let whole = "";
  const take = (said) => {
    if (said.text) shown.text.appendData(said.text);
    outcome.text += said.text ?? "";
    outcome.input = said.input ?? outcome.input;
    outcome.output = said.output ?? outcome.output;
    outcome.error = said.error ?? outcome.error;
    follow();
  };
  const reader = answer.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (value?.length && outcome.firstMs === undefined) outcome.firstMs = performance.now() - begun;
    const text = decoder.decode(value ?? new Uint8Array(), { stream: !done });
    raw.add(text);
    if (streams) for (const data of events.feed(text)) take(read(call.dialect, parsed(data)));
    else whole += text;
    if (done) break;
  }
  if (!streams) {
    const answered = parsed(whole);
    take(answered === null ? { error: answer.ok ? undefined : whole.slice(0, 2000) } : read(call.dialect, answered));
    outcome.plain = answered === null && answer.ok ? whole : "";
  }
}

function showFacts(answer, outcome) {
  byId("facts").textContent = "";
  const header = (name) => answer.headers.get(name);
  fact("Status", `${answer.status} ${answer.statusText}`.trim());
  if (outcome.firstMs !== undefined) fact("First byte", seconds(outcome.firstMs));
  if (outcome.totalMs !== undefined) fact("Total", seconds(outcome.totalMs));
  if (outcome.output !== undefined) fact("Tokens", `${grouped(outcome.input ?? 0)} in, ${grouped(outcome.output)} out`);
  if (header("x-middleware-provider")) fact("Provider", header("x-middleware-provider"), "/middleware/providers");
  if (header("x-middleware-key")) fact("Key", header("x-middleware-key"), `/middleware/keys/${encodeURIComponent(header("x-middleware-key"))}`);
  if (header("x-middleware-attempts")) fact("Attempts", header("x-middleware-attempts"));
  if (header("retry-after")) fact("Retry after", `${header("retry-after")} s`);
  if (header("x-request-id")) fact("Request", header("x-request-id"), `/middleware/requests/${encodeURIComponent(header("x-request-id"))}`);
}

async function send(call, signal) {
  const typedKey = byId("field-key").value.trim();
  const key = typedKey || (await ask("/key", {}, signal)).key;
  const headers = { "Content-Type": "application/json" };
  if (key) headers[call.key_header] = call.key_prefix + key;
  showRequest(call, headers);
  const shown = show("assistant", form.elements.model.value);
  const outcome = { text: "", begun: performance.now() };
  const timer = setInterval(() => tell(`${outcome.firstMs === undefined ? "Waiting" : "Answering"}… ${seconds(performance.now() - outcome.begun)}`), 250);
  let answer = null;
  try {
    answer = await fetch(call.path, { method: call.method, headers, body: JSON.stringify(call.body), signal });
    await receive(call, answer, outcome.begun, shown, outcome);
  } catch (error) {
    outcome.stopped = signal.aborted;
    outcome.broken = signal.aborted ? "" : `The connection broke: ${error.message}.`;
  } finally {
    clearInterval(timer);
    outcome.totalMs = performance.now() - outcome.begun;
    if (answer) showFacts(answer, outcome);
  }
  return finish(answer, shown, outcome);
}

/** Say how it ended; returns whether the answer counts as a turn. */
function finish(answer, shown, outcome) {
  const requestId = answer?.headers.get("x-request-id");
  const failed = outcome.broken || outcome.error || (answer && !answer.ok);
  if (failed) {
    shown.box.classList.add("turn--error");
    const why = outcome.broken || (outcome.error ? words(outcome.error) : "The answer says no more.");
    const wait = answer?.headers.get("retry-after");
    const status = answer && !answer.ok ? `${answer.status}: ` : "";
    shown.text.appendData(`${outcome.text ? "\n\n" : ""}${status}${why}${wait ? `\nTry again in ${wait} s.` : ""}`);
    say(shown.end, "Failed", requestId);
    select(byId("tab-response"));
  } else if (outcome.stopped) {
    say(shown.end, `Stopped after ${seconds(outcome.totalMs)}`, requestId);
    if (!outcome.text) shown.box.classList.add("turn--failed");
  } else {
    if (!outcome.text) shown.text.appendData(outcome.plain || "The answer has no text. See the response.");
    const tokens = outcome.output === undefined ? "" : ` · ${grouped(outcome.output)} tokens`;
    say(shown.end, `${seconds(outcome.totalMs)}, first byte ${seconds(outcome.firstMs ?? 0)}${tokens}`, requestId);
  }
  follow();
  tell(failed ? "Failed." : outcome.stopped ? "Stopped." : `Answered in ${seconds(outcome.totalMs)}.`);
  return !failed && outcome.text !== "" ? outcome.text : null;
}

const tell = (text) => { byId("state").textContent = text; };

function busy(is) {
  byId("stop").hidden = !is;
  byId("send").disabled = is;
  byId("clear").disabled = is;
}

async function submit() {
  if (running) return;
  clearFaults();
  const message = form.elements.message.value;
  running = new AbortController();
  busy(true);
  tell("Preparing…");
  let mine = null;
  try {
    const wanted = chat(message);
    const call = await ask("", wanted, running.signal);
    showPrograms(call.snippets);
    mine = show("user", "You", message);
    form.elements.message.value = "";
    const answered = await send({ ...call, dialect: wanted.dialect }, running.signal);
    if (answered !== null) {
      turns = [...wanted.turns, { role: "assistant", text: answered }];
      byId("clear").hidden = false;
    } else {
      restore(mine, message);
    }
  } catch (error) {
    restore(mine, message);
    explain(error);
  } finally {
    running = null;
    busy(false);
  }
}

/** A message without an answer is no turn: it goes back to where it was typed. */
function restore(mine, message) {
  mine?.box.classList.add("turn--failed");
  byId("clear").hidden = byId("turns").hidden;
  if (form.elements.message.value === "") form.elements.message.value = message;
}

function explain(error) {
  tell("");
  if (error.name === "AbortError") return tell("Stopped.");
  if (error.field && showFault(error.field, error.message)) return undefined;
  const shown = show("error", "Not sent", error instanceof Problem ? error.message : `The server does not answer: ${error.message}.`);
  if (error.logIn) {
    const link = document.createElement("a");
    link.href = "/middleware/login?next=/middleware/playground";
    link.target = "_blank";
    link.textContent = "Log in again in a new tab, then send once more.";
    shown.end.hidden = false;
    shown.end.append(link);
  }
  return undefined;
}

// -- tabs -------------------------------------------------------------------------------------------

const tabs = [...document.querySelectorAll("#tabs [role=tab]")];

function select(tab, focus = false) {
  for (const one of tabs) {
    one.setAttribute("aria-selected", String(one === tab));
    one.tabIndex = one === tab ? 0 : -1;
    byId(one.getAttribute("aria-controls")).hidden = one !== tab;
  }
  if (focus) tab.focus();
  if (tab.id === "tab-code") program();
}

/** The programs for what stands in the form now. */
async function program() {
  if (running) return;
  const message = form.elements.message.value || "Hello";
  if (!form.elements.model.value.trim()) return showPrograms(null);
  try {
    showPrograms((await ask("", chat(message))).snippets);
  } catch (error) {
    clearFaults();
    explain(error);
  }
}

byId("tabs").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const at = tabs.findIndex((tab) => tab.getAttribute("aria-selected") === "true");
  select(tabs[(at + step + tabs.length) % tabs.length], true);
});
for (const tab of tabs) tab.addEventListener("click", () => select(tab));

// -- the form ---------------------------------------------------------------------------------------

const offered = [...byId("models").options];

/** Offer what this wire format reaches: providers that speak it, and aliases. */
function offer() {
  const dialect = form.elements.dialect.value;
  byId("models").replaceChildren(...offered.filter((option) => !option.dataset.dialects || option.dataset.dialects.split(" ").includes(dialect)));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    submit();
  } else if (event.key === "Escape" && running) {
    running.abort();
  }
});
form.elements.dialect.addEventListener("change", offer);
byId("stop").addEventListener("click", () => running?.abort());
byId("clear").addEventListener("click", () => {
  turns = [];
  byId("turns").replaceChildren();
  byId("turns").hidden = true;
  byId("clear").hidden = true;
  tell("");
  form.elements.message.focus();
});

byId("send-words").textContent = "Send";
tell("Ctrl+Enter sends.");
byId("tabs").hidden = false;
byId("own-key").hidden = false;
select(tabs.find((tab) => !byId(tab.getAttribute("aria-controls")).hidden) ?? tabs[0]);
offer();
