import { makeEditor } from "./editor.js";
import { events } from "./events.js";
import { examples } from "./examples.js";
import { forget, remember, remembered } from "./history.js";
import { show } from "./tree.js";

const $ = (id) => document.getElementById(id);
const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;
const choose = (name, value) => { document.querySelector(`input[name="${name}"][value="${value}"]`).checked = true; };

const MIB = 1024 * 1024;
// The daemon's defaults. A daemon with other settings tells its own limit only when a run reaches it.
const LIMITS = { cpu_ms: 50, memory_bytes: 128 * MIB, wall_ms: 1000 };
const TITLES = {
  ok: "Done", exception: "The program threw", syntax_error: "The program does not parse",
  bad_result: "The program gave no result", cpu_limit: "Stopped: CPU time", wall_limit: "Stopped: wall time",
  memory_limit: "Stopped: memory", output_limit: "The result is too large", cancelled: "Stopped", crashed: "The engine crashed",
};
const MOST_LINES = 2000;

let running = null;
let resultText = "";

const editor = await makeEditor($("editor"), $("code"), { onChange: changed, onRun: run });

// --- what is asked of the server ---------------------------------------------------------------------------------

function headers(more = {}) {
  const token = sessionStorage.getItem("promptlog.token");
  return { ...(token ? { authorization: `Bearer ${token}` } : {}), ...more };
}

async function ask(path, options = {}) {
  const response = await fetch(path, { ...options, headers: headers(options.headers) });
  if (response.status === 401 && await askToken()) return ask(path, options);
  return response;
}

async function askToken() {
  const dialog = $("token-dialog");
  $("token").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  if (dialog.returnValue !== "use" || !$("token").value) return false;
  sessionStorage.setItem("promptlog.token", $("token").value);
  return true;
}

function problemText(problem) {
  return problem?.detail ?? problem?.error ?? "the server gave no reason";
}

// --- running -----------------------------------------------------------------------------------------------------

async function run() {
  if (running) return;
  const env = envOf();
  if (env === undefined) return;
  const body = { code: editor.text, prompt: $("prompt").value, engine: chosen("engine"), language: chosen("language"), env };
  running = new AbortController();
  begin();
  try {
    const response = await ask("exec", {
      method: "POST", body: JSON.stringify(body), signal: running.signal,
      headers: { "content-type": "application/json", accept: "text/event-stream" },
    });
    if (!response.ok || !response.headers.get("content-type")?.startsWith("text/event-stream")) {
      refused(await response.json().catch(() => null));
      return;
    }
    let ended = false;
    for await (const event of events(response)) {
      if (event.name === "log") addLine(JSON.parse(event.data));
      else if (event.name === "finished") { ended = true; finished(event.data); }
      else if (event.name === "problem") { ended = true; refused(JSON.parse(event.data)); }
    }
    if (!ended) outcome("failed", "No answer", "The server closed the connection before the run had ended.");
  } catch (error) {
    if (error.name === "AbortError") outcome("limit", "Stopped", "You stopped the run.");
    else outcome("failed", "No answer", "The server can't be reached. Is promptlogctl http still running?");
  } finally {
    running = null;
    $("run").disabled = false;
    $("stop").hidden = true;
  }
}

function envOf() {
  const text = $("env").value.trim();
  let why = "";
  let value = {};
  if (text) {
    try {
      value = JSON.parse(text);
      if (value === null || typeof value !== "object" || Array.isArray(value)) why = "env is a JSON object, such as {\"a\": 1}";
    } catch (error) {
      why = `env is not JSON: ${error.message}`;
    }
  }
  $("env").setAttribute("aria-invalid", String(Boolean(why)));
  $("env-error").textContent = why;
  $("env-error").hidden = !why;
  if (why) $("env").focus();
  return why ? undefined : value;
}

function begin() {
  $("run").disabled = true;
  $("stop").hidden = false;
  editor.clearMarks();
  $("console").replaceChildren();
  $("console-count").textContent = "";
  $("excerpt").hidden = true;
  $("tree").replaceChildren();
  $("text").textContent = "";
  $("copy").disabled = true;
  meters(null);
  outcome("running", "Running", "");
}

function finished(data) {
  const answer = JSON.parse(data);
  const { outcome: end, usage } = answer;
  const limits = { ...LIMITS };
  if (end.kind === "cpu_limit") limits.cpu_ms = end.limit;
  if (end.kind === "wall_limit") limits.wall_ms = end.limit;
  if (end.kind === "memory_limit") limits.memory_bytes = end.limit;
  meters(usage, limits);
  const kind = end.kind === "ok" ? "ok" : end.kind.endsWith("_limit") || end.kind === "cancelled" ? "limit" : "failed";
  outcome(kind, TITLES[end.kind] ?? end.kind, words(end, answer));
  if (end.kind === "ok") showResult(valueText(data), end.value);
  else $("tree").replaceChildren(empty("The program gave no result."));
  if (end.line) {
    editor.mark(end.line, end.column ?? 1, end.message);
    excerpt(end.line, end.column ?? 1);
  }
  if (answer.logs_truncated) $("console-count").textContent += " (cut at the limit)";
  remember({ code: editor.text, prompt: $("prompt").value, env: $("env").value, engine: chosen("engine"), language: chosen("language"), kind: end.kind, at: Date.now() });
}

function words(end, answer) {
  switch (end.kind) {
    case "ok": return `${answer.engine_version}`;
    case "exception": return `${end.name ? `${end.name}: ` : ""}${end.message}${end.line ? `\nin line ${end.line}, column ${end.column}` : ""}`;
    case "syntax_error": return `${end.message}${end.line ? `\nin line ${end.line}, column ${end.column}` : ""}`;
    case "cpu_limit": return `It had ${end.limit} ms of CPU time, and used ${end.used.toFixed(1)} ms.`;
    case "wall_limit": return `It had ${end.limit} ms, and was still running.`;
    case "memory_limit": return `It had ${end.limit / MIB} MiB, and asked for more.`;
    case "output_limit": return `The result has ${end.used.toLocaleString()} bytes, and ${end.limit.toLocaleString()} are allowed.`;
    default: return end.message ?? "";
  }
}

// The value's own text, since JSON.parse and JSON.stringify would round long numbers.
function valueText(data) {
  const begin = data.indexOf('"value":') + 8;
  const end = data.lastIndexOf('},"logs":');
  return end > begin ? data.slice(begin, end) : JSON.stringify(JSON.parse(data).outcome.value);
}

function refused(problem) {
  const titles = { busy: "Busy", no_daemon: "No daemon", shutting_down: "The daemon is stopping", connection_lost: "The daemon went away" };
  outcome("failed", titles[problem?.code] ?? "Refused", problemText(problem));
  if (problem?.line) {
    editor.mark(problem.line, problem.column ?? 1, problemText(problem));
    excerpt(problem.line, problem.column ?? 1);
  }
}

// --- what is shown -----------------------------------------------------------------------------------------------

function outcome(kind, title, text) {
  $("outcome").className = `outcome ${kind}`;
  $("outcome").querySelector(".outcome-title").textContent = title;
  $("outcome").querySelector(".outcome-text").textContent = text;
}

function excerpt(line, column) {
  const text = editor.text.split(/\r\n|[\r\n]/)[line - 1];
  if (text === undefined) return;
  const start = Math.max(0, column - 60);
  const caret = document.createElement("span");
  caret.className = "caret";
  caret.textContent = "^";
  const before = text.slice(start, column - 1).replace(/[^\t]/g, " ");
  $("excerpt").replaceChildren(`${text.slice(start, start + 120)}\n${before}`, caret);
  $("excerpt").hidden = false;
}

function meters(usage, limits = LIMITS) {
  const set = (id, used, most, unit, digits) => {
    const meter = $(id);
    meter.max = most;
    meter.high = most * 0.95;
    meter.low = most * 0.6;
    meter.optimum = 0;
    meter.value = used ?? 0;
    $(`${id}-text`).textContent = `${used === undefined ? "–" : used.toFixed(digits)} of ${most} ${unit}`;
  };
  set("cpu", usage?.cpu_ms, limits.cpu_ms, "ms", 1);
  set("memory", usage ? usage.peak_memory_bytes / MIB : undefined, limits.memory_bytes / MIB, "MiB", 1);
  set("wall", usage?.wall_ms, limits.wall_ms, "ms", 1);
}

function showResult(text, value) {
  resultText = text;
  $("text").textContent = text;
  $("copy").disabled = false;
  show(value, $("tree"));
}

function empty(text) {
  const p = document.createElement("p");
  p.className = "empty";
  p.textContent = text;
  return p;
}

function addLine({ level, text }) {
  const lines = $("console");
  if (lines.children.length >= MOST_LINES) lines.firstElementChild.remove();
  const item = document.createElement("div");
  item.className = `line ${level}`;
  item.dataset.level = level;
  item.textContent = text;
  lines.append(item);
  lines.scrollTop = lines.scrollHeight;
  const count = lines.children.length;
  $("console-count").textContent = `${count} ${count === 1 ? "line" : "lines"}`;
}

// --- sharing -----------------------------------------------------------------------------------------------------

async function share() {
  const name = $("name").value.trim();
  if (!$("name").checkValidity()) {
    told("A name has letters, digits, '.', '_' and '-'.", true);
    return;
  }
  const body = { code: editor.text, engine: chosen("engine"), language: chosen("language"), ...(name ? { name } : {}) };
  try {
    const response = await ask("submit", { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } });
    const answer = await response.json();
    if (!response.ok) {
      told(problemText(answer), true);
      if (answer.line) editor.mark(answer.line, answer.column ?? 1, problemText(answer));
      return;
    }
    const reference = name ? `@${name}` : answer.hash;
    history.replaceState(null, "", `#${reference}`);
    const link = document.createElement("a");
    link.href = location.href;
    link.textContent = location.href;
    const hash = document.createElement("code");
    hash.textContent = answer.hash;
    $("shared").replaceChildren("Kept as ", hash, ". Open it here: ", link);
    $("shared").classList.remove("failed");
    $("shared").hidden = false;
  } catch {
    told("The server can't be reached.", true);
  }
}

function told(text, failed = false) {
  $("shared").textContent = text;
  $("shared").classList.toggle("failed", failed);
  $("shared").hidden = false;
}

async function open(reference) {
  if (!/^(@[A-Za-z0-9][A-Za-z0-9._-]{0,63}|[0-9a-f]{8,64})$/.test(reference)) return;
  try {
    const response = await ask(`programs/${encodeURIComponent(reference)}?code=1`);
    const answer = await response.json();
    if (!response.ok) { told(problemText(answer), true); return; }
    load({ code: answer.code, engine: answer.engine, language: answer.language });
    $("name").value = reference.startsWith("@") ? reference.slice(1) : "";
  } catch {
    told("The server can't be reached.", true);
  }
}

// --- what is in the fields ---------------------------------------------------------------------------------------

function changed() {
  $("shared").hidden = true;
}

function load({ code, prompt, env, engine = "quickjs", language = "javascript" }) {
  editor.text = code;
  if (prompt !== undefined) $("prompt").value = prompt;
  if (env !== undefined) $("env").value = env;
  choose("language", language);
  choose("engine", engine);
  languageChanged();
  editor.clearMarks();
}

function languageChanged() {
  const typescript = chosen("language") === "typescript";
  if (typescript) choose("engine", "deno");
  document.querySelector('input[name="engine"][value="quickjs"]').disabled = typescript;
  editor.language(chosen("language"));
}

function showHistory() {
  const runs = remembered();
  $("history").replaceChildren(...runs.map((past) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    const code = document.createElement("code");
    code.textContent = past.code.trim().split("\n").find((line) => line.trim() && !line.startsWith("//")) ?? past.code.slice(0, 80);
    const small = document.createElement("small");
    small.textContent = `${TITLES[past.kind] ?? past.kind} · ${past.engine} · ${new Date(past.at).toLocaleString()}`;
    button.append(code, small);
    button.addEventListener("click", () => { load(past); $("history-dialog").close(); editor.focus(); });
    item.append(button);
    return item;
  }));
  if (!runs.length) $("history").replaceChildren(Object.assign(document.createElement("li"), { className: "hint", textContent: "No runs yet." }));
  $("history-dialog").showModal();
}

const THEMES = { "": ["Auto", "as the system"], light: ["Light", "light"], dark: ["Dark", "dark"] };

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  const [text, told] = THEMES[theme];
  $("theme").textContent = text;
  $("theme").setAttribute("aria-label", `Colours: ${told}`);
  try { localStorage.setItem("promptlog.theme", theme); } catch { /* not allowed */ }
}

function savedTheme() {
  try { return localStorage.getItem("promptlog.theme") ?? ""; } catch { return ""; }
}

// --- begin -------------------------------------------------------------------------------------------------------

setTheme(savedTheme() in THEMES ? savedTheme() : "");
examples.forEach((example, index) => $("examples").append(new Option(example.title, String(index))));
$("examples").addEventListener("change", () => {
  const example = examples[Number($("examples").value)];
  if ($("examples").value !== "") load({ prompt: "", env: "", ...example });
});
document.querySelectorAll('input[name="language"]').forEach((input) => input.addEventListener("change", languageChanged));
document.querySelectorAll('input[name="view"]').forEach((input) => input.addEventListener("change", () => {
  $("tree").hidden = chosen("view") !== "tree";
  $("text").hidden = chosen("view") !== "text";
}));
$("run").addEventListener("click", run);
$("stop").addEventListener("click", () => running?.abort());
$("share").addEventListener("click", share);
$("copy").addEventListener("click", () => navigator.clipboard.writeText(resultText).then(() => {
  $("copy").textContent = "Copied";
  setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
}));
$("open-history").addEventListener("click", showHistory);
$("close-history").addEventListener("click", () => $("history-dialog").close());
$("clear-history").addEventListener("click", () => { forget(); $("history-dialog").close(); });
$("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  setTheme(names[(names.indexOf(document.documentElement.dataset.theme ?? "") + 1) % names.length]);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.defaultPrevented) { event.preventDefault(); run(); }
});
addEventListener("hashchange", () => open(decodeURIComponent(location.hash.slice(1))));

if (location.hash.length > 1) await open(decodeURIComponent(location.hash.slice(1)));
if (!editor.text) load(examples[0]);
document.documentElement.dataset.ready = "true";
