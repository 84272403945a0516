// Shows the outcome of a run, its result, its console lines, and its usage.

import { $ } from "./dom.js";
import { show } from "./tree.js";

const MIB = 1024 * 1024;

// promptlog's defaults, until a run without its own limits returns those of the daemon.
let defaults = { cpu_ms: 50, memory_bytes: 128 * MIB, wall_ms: 1000 };
const MOST_LINES = 2000;

let resultText = "";

export function learnDefaults(limits) {
  defaults = limits;
  $("limit-cpu").placeholder = limits.cpu_ms;
  $("limit-memory").placeholder = limits.memory_bytes / MIB;
  $("limit-wall").placeholder = limits.wall_ms;
}

// `limits`: the limits that the next run asks for.
export function clear(limits = {}) {
  $("console").replaceChildren();
  $("console-count").textContent = "";
  $("excerpt").hidden = true;
  $("tree").replaceChildren();
  $("text").textContent = "";
  $("copy").disabled = true;
  showUsage(null, { ...defaults, ...limits });
}

export function copyResult() {
  return navigator.clipboard.writeText(resultText);
}

export function showOutcome(kind, title, text) {
  $("outcome").className = `outcome ${kind}`;
  $("outcome").querySelector(".outcome-title").textContent = title;
  $("outcome").querySelector(".outcome-text").textContent = text;
}

// Scroll to the outcome if it is not visible. On a phone, it is below the program.
export function revealOutcome() {
  const { top, bottom } = $("outcome").getBoundingClientRect();
  if (top < 0 || bottom > innerHeight) $("outcome").scrollIntoView({ block: "start" });
}

export function showExcerpt(source, line, column) {
  const text = source.split(/\r\n|[\r\n]/)[line - 1];
  if (text === undefined) return;
  const start = Math.max(0, column - 60);
  const caret = document.createElement("span");
  caret.className = "caret";
  caret.textContent = "^";
  const before = text.slice(start, column - 1).replace(/[^\t]/g, " ");
  $("excerpt").replaceChildren(`${text.slice(start, start + 120)}\n${before}`, caret);
  $("excerpt").hidden = false;
}

export function showUsage(usage, limits = defaults) {
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

export function showResult(text, value) {
  resultText = text;
  $("text").textContent = text;
  $("copy").disabled = false;
  show(value, $("tree"));
}

export function showNoResult(text) {
  const p = document.createElement("p");
  p.className = "empty";
  p.textContent = text;
  $("tree").replaceChildren(p);
}

export function addLine({ level, text }) {
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
