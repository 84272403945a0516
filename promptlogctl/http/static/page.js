// The page: runs the program in the editor, and shows what came of it.

import { $, choose, chosen } from "./dom.js";
import { makeEditor } from "./editor.js";
import { events } from "./events.js";
import { examples } from "./examples.js";
import { remember } from "./history.js";
import { beginHistory } from "./history_dialog.js";
import { LIMITS, MIB, addLine, clear, copyResult, showExcerpt, showNoResult, showOutcome, showResult, showUsage } from "./result.js";
import { ask, problemText } from "./server.js";
import { beginTheme } from "./theme.js";

const TITLES = {
  ok: "Done", exception: "The program threw", syntax_error: "The program does not parse",
  bad_result: "The program gave no result", cpu_limit: "Stopped: CPU time", wall_limit: "Stopped: wall time",
  memory_limit: "Stopped: memory", output_limit: "The result is too large", cancelled: "Stopped", crashed: "The engine crashed",
};

let running = null;

const editor = await makeEditor($("editor"), $("code"), { onChange: changed, onRun: run });

// running

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
    if (!ended) showOutcome("failed", "No answer", "The server closed the connection before the run had ended.");
  } catch (error) {
    if (error.name === "AbortError") showOutcome("limit", "Stopped", "You stopped the run.");
    else showOutcome("failed", "No answer", "The server can't be reached. Is promptlogctl http still running?");
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
  clear();
  showOutcome("running", "Running", "");
}

function finished(data) {
  const answer = JSON.parse(data);
  const { outcome: end, usage } = answer;
  const limits = { ...LIMITS };
  if (end.kind === "cpu_limit") limits.cpu_ms = end.limit;
  if (end.kind === "wall_limit") limits.wall_ms = end.limit;
  if (end.kind === "memory_limit") limits.memory_bytes = end.limit;
  showUsage(usage, limits);
  const kind = end.kind === "ok" ? "ok" : end.kind.endsWith("_limit") || end.kind === "cancelled" ? "limit" : "failed";
  showOutcome(kind, TITLES[end.kind] ?? end.kind, outcomeSentence(end, answer));
  if (end.kind === "ok") showResult(valueText(data), end.value);
  else showNoResult("The program gave no result.");
  if (end.line) {
    editor.mark(end.line, end.column ?? 1, end.message);
    showExcerpt(editor.text, end.line, end.column ?? 1);
  }
  if (answer.logs_truncated) $("console-count").textContent += " (cut at the limit)";
  remember({ code: editor.text, prompt: $("prompt").value, env: $("env").value, engine: chosen("engine"), language: chosen("language"), kind: end.kind, at: Date.now() });
}

function outcomeSentence(end, answer) {
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
  showOutcome("failed", titles[problem?.code] ?? "Refused", problemText(problem));
  if (problem?.line) {
    editor.mark(problem.line, problem.column ?? 1, problemText(problem));
    showExcerpt(editor.text, problem.line, problem.column ?? 1);
  }
}

// sharing

async function share() {
  const name = $("name").value.trim();
  if (!$("name").checkValidity()) {
    showShareStatus("A name has letters, digits, '.', '_' and '-'.", true);
    return;
  }
  const body = { code: editor.text, engine: chosen("engine"), language: chosen("language"), ...(name ? { name } : {}) };
  try {
    const response = await ask("submit", { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } });
    const answer = await response.json();
    if (!response.ok) {
      showShareStatus(problemText(answer), true);
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
    showShareStatus("The server can't be reached.", true);
  }
}

function showShareStatus(text, failed = false) {
  $("shared").textContent = text;
  $("shared").classList.toggle("failed", failed);
  $("shared").hidden = false;
}

// The program that the page's address names: #HASH or #@NAME.
async function openShared() {
  let reference = "";
  try { reference = decodeURIComponent(location.hash.slice(1)); } catch { /* not an address of ours */ }
  if (!/^(@[A-Za-z0-9][A-Za-z0-9._-]{0,63}|[0-9a-f]{8,64})$/.test(reference)) return;
  try {
    const response = await ask(`programs/${encodeURIComponent(reference)}?code=1`);
    const answer = await response.json();
    if (!response.ok) { showShareStatus(problemText(answer), true); return; }
    load({ code: answer.code, engine: answer.engine, language: answer.language });
    $("name").value = reference.startsWith("@") ? reference.slice(1) : "";
  } catch {
    showShareStatus("The server can't be reached.", true);
  }
}

// what is in the fields

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

// begin

beginTheme();
beginHistory(TITLES, (past) => { load(past); editor.focus(); });
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
$("copy").addEventListener("click", () => copyResult().then(() => {
  $("copy").textContent = "Copied";
  setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
}));
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.defaultPrevented) { event.preventDefault(); run(); }
});
addEventListener("hashchange", openShared);

await openShared();
if (!editor.text) load(examples[0]);
document.documentElement.dataset.ready = "true";
