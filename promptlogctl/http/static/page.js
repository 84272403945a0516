// The page. It runs the program in the editor, and shows the result.

import { $, choose, chosen } from "./dom.js";
import { draftOf, forgetDraft, keepDraftSoon } from "./draft.js";
import { makeEditor } from "./editor.js";
import { beginEnv, checkEnv } from "./env.js";
import { events } from "./events.js";
import { examples } from "./examples.js";
import { remember } from "./history.js";
import { beginHistory } from "./history_dialog.js";
import { beginLimits, limitsAsked, limitsWritten, tellWrong, writeLimits } from "./limits.js";
import { addLine, clear, copyResult, learnDefaults, revealOutcome, showExcerpt, showNoResult, showOutcome, showResult, showUsage } from "./result.js";
import { ask, problemText } from "./server.js";
import { linkTo, linkWith, named } from "./share.js";
import { beginTheme } from "./theme.js";

const TITLES = {
  ok: "Done", exception: "The program threw", syntax_error: "The program does not parse",
  bad_result: "The program gave no result", cpu_limit: "Stopped: CPU time", wall_limit: "Stopped: wall time",
  memory_limit: "Stopped: memory", output_limit: "The result is too large", cancelled: "Stopped", crashed: "The engine crashed",
};

const MIB = 1024 * 1024;

let running = null;
let opened = ""; // the reference of the stored program in the editor, or ""
let loading = false; // whether the page itself is changing the fields

const editor = await makeEditor($("editor"), $("code"), { onChange: changed, onRun: run });

// running

async function run() {
  if (running) return;
  const { value: env, why } = checkEnv();
  if (why) { $("env").focus(); notRun(why); return; }
  const limits = limitsAsked();
  if (limits === null) { notRun("A limit is a whole number above 0."); return; }
  const body = { code: editor.text, prompt: $("prompt").value, engine: chosen("engine"), language: chosen("language"), env, limits };
  running = new AbortController();
  begin(limits);
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
      else if (event.name === "finished") { ended = true; finished(event.data, limits); }
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
    revealOutcome();
  }
}

// Remove the result of an earlier run, because it does not belong to the current inputs.
function notRun(why) {
  editor.clearMarks();
  clear();
  showOutcome("idle", "Not run", why);
}

function begin(limits) {
  $("run").disabled = true;
  $("stop").hidden = false;
  editor.clearMarks();
  clear(limits);
  showOutcome("running", "Running", "");
}

function finished(data, asked) {
  const answer = JSON.parse(data);
  const { outcome: end, usage } = answer;
  if (answer.limits && !Object.keys(asked).length) learnDefaults(answer.limits);
  showUsage(usage, answer.limits ?? undefined);
  const kind = end.kind === "ok" ? "ok" : end.kind.endsWith("_limit") || end.kind === "cancelled" ? "limit" : "failed";
  showOutcome(kind, TITLES[end.kind] ?? end.kind, outcomeSentence(end, answer));
  if (end.kind === "ok") showResult(valueText(data), end.value);
  else showNoResult("The program gave no result.");
  if (end.line) {
    editor.mark(end.line, end.column ?? 1, end.message);
    showExcerpt(editor.text, end.line, end.column ?? 1);
  }
  if (answer.logs_truncated) $("console-count").textContent += " (cut at the limit)";
  remember({ code: editor.text, prompt: $("prompt").value, env: $("env").value, engine: chosen("engine"), language: chosen("language"), limits: limitsWritten() ?? {}, kind: end.kind, at: Date.now() });
}

function outcomeSentence(end, answer) {
  switch (end.kind) {
    case "ok": return `${answer.engine_version}`;
    case "exception": return `${end.name ? `${end.name}: ` : ""}${end.message}${end.line ? `\nin line ${end.line}, column ${end.column}` : ""}`;
    case "syntax_error": return `${end.message}${end.line ? `\nin line ${end.line}, column ${end.column}` : ""}`;
    case "cpu_limit": return `The limit is ${end.limit} ms of CPU time. The run used ${end.used.toFixed(1)} ms.`;
    case "wall_limit": return `The limit is ${end.limit} ms of wall time.`;
    case "memory_limit": return `The limit is ${end.limit / MIB} MiB. The program needed more.`;
    case "output_limit": return `The limit is ${end.limit.toLocaleString()} bytes. The result has ${end.used.toLocaleString()}.`;
    default: return end.message ?? "";
  }
}

// Return the original text of the value, because JSON.parse and JSON.stringify would round long numbers.
function valueText(data) {
  const begin = data.indexOf('"value":') + 8;
  const end = data.lastIndexOf('},"logs":');
  return end > begin ? data.slice(begin, end) : JSON.stringify(JSON.parse(data).outcome.value);
}

function refused(problem) {
  const titles = { busy: "Busy", quota: "A quota is used up", no_daemon: "No daemon", shutting_down: "The daemon is stopping", connection_lost: "The connection to the daemon was lost" };
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
    showShareStatus("A name has letters, digits, '.', '_' and '-', and begins with a letter or a digit.", true);
    return;
  }
  const body = { code: editor.text, engine: chosen("engine"), language: chosen("language"), ...(name ? { name } : {}) };
  try {
    const response = await ask("submit", { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } });
    const answer = await response.json();
    if (!response.ok) {
      showShareStatus(`${problemText(answer)}${answer.line ? ` (line ${answer.line}, column ${answer.column})` : ""}`, true);
      if (answer.line) editor.mark(answer.line, answer.column ?? 1, problemText(answer));
      return;
    }
    opened = name ? `@${name}` : answer.hash;
    history.replaceState(null, "", `#${opened}`);
    keepDraftSoon(written);
    showKept(answer);
  } catch {
    showShareStatus("The server can't be reached.", true);
  }
}

function showKept({ hash, moved_from: before }) {
  const code = document.createElement("code");
  code.textContent = hash;
  const parts = ["Stored as ", code, ". Open it here: ", linkTo(location.href)];
  const whole = linkWith(opened, $("prompt").value, $("env").value);
  if (whole) parts.push(". This link has only the program; ", linkTo(whole, "this one also has the prompt and env"));
  else if (whole === "") parts.push(". The link has only the program, because the prompt and env are too long for a link");
  if (before) parts.push(". Before, the name was on another program: ", linkTo(`#${before}`, before.slice(0, 12)));
  showShareStatus(parts);
}

function showShareStatus(parts, failed = false) {
  $("shared").replaceChildren(...[parts].flat());
  $("shared").classList.toggle("failed", failed);
  $("shared").hidden = false;
}

// Open the program that the page's address names. Unsaved changes to it are loaded instead, if there are any.
async function open() {
  const { reference, prompt, env } = named();
  if (!reference) return;
  opened = reference;
  try {
    const response = await ask(`programs/${encodeURIComponent(reference)}?code=1`);
    const answer = await response.json();
    if (!response.ok) { notThere(reference, answer); return; }
    $("name").value = reference.startsWith("@") ? reference.slice(1) : "";
    const saved = { code: answer.code, engine: answer.engine, language: answer.language, prompt, env };
    const draft = prompt === undefined && env === undefined ? draftOf(reference) : null;
    load(draft ?? saved);
    if (draft && draft.code !== answer.code) tellDraft(saved);
  } catch {
    notThere(reference, { detail: "The server can't be reached." });
  }
}

function notThere(reference, problem) {
  const short = reference.startsWith("@") ? reference : reference.slice(0, 12);
  if (problem.code === "not_found") showOutcome("failed", `No program ${short} here`, "It was removed, or the link is for another server.");
  else showOutcome("failed", `Program ${short} can't be opened`, problemText(problem));
  revealOutcome();
}

function tellDraft(saved) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Open the saved program";
  button.addEventListener("click", () => { forgetDraft(); load(saved); $("shared").hidden = true; });
  showShareStatus(["This text has your unsaved changes. ", button]);
}

// the fields

function changed() {
  if (loading) return;
  $("shared").hidden = true;
  keepDraftSoon(written);
}

function written() {
  return {
    of: opened, code: editor.text, prompt: $("prompt").value, env: $("env").value,
    engine: chosen("engine"), language: chosen("language"), limits: limitsWritten() ?? {},
  };
}

function load({ code, prompt, env, limits, engine = "quickjs", language = "javascript" }) {
  loading = true;
  editor.text = code;
  if (prompt !== undefined) $("prompt").value = prompt;
  if (env !== undefined) $("env").value = env;
  if (!$("env-error").hidden) checkEnv();
  writeLimits(limits);
  tellWrong();
  choose("language", language);
  choose("engine", engine);
  languageChanged();
  editor.clearMarks();
  loading = false;
}

function languageChanged() {
  const typescript = chosen("language") === "typescript";
  if (typescript) choose("engine", "deno");
  document.querySelector('input[name="engine"][value="quickjs"]').disabled = typescript;
  editor.language(chosen("language"));
}

// start

beginTheme();
beginEnv();
beginLimits(changed);
beginHistory(TITLES, (past) => { load(past); changed(); editor.focus(); });
examples.forEach((example, index) => $("examples").append(new Option(example.title, String(index))));
$("examples").addEventListener("change", () => {
  const example = examples[Number($("examples").value)];
  if ($("examples").value === "") return;
  load({ prompt: "", env: "", ...example });
  changed();
});
document.querySelectorAll('input[name="language"]').forEach((input) => input.addEventListener("change", languageChanged));
document.querySelectorAll('#prompt, #env, input[name="engine"], input[name="language"]').forEach((input) => input.addEventListener("input", changed));
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
addEventListener("hashchange", open);

await open();
if (!editor.text) load(draftOf("") ?? examples[0]);
document.documentElement.dataset.ready = "true";
