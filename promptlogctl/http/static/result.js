// Shows how a run ended, its result, its console lines, and what it used.

import { $ } from "./dom.js";
import { show } from "./tree.js";

export const MIB = 1024 * 1024;

// The daemon's defaults. A daemon with other settings tells its own limit only when a run reaches it.
export const LIMITS = { cpu_ms: 50, memory_bytes: 128 * MIB, wall_ms: 1000 };
const MOST_LINES = 2000;

let resultText = "";

export function clear() {
  $("console").replaceChildren();
  $("console-count").textContent = "";
  $("excerpt").hidden = true;
  $("tree").replaceChildren();
  $("text").textContent = "";
  $("copy").disabled = true;
  showUsage(null);
}

export function copyResult() {
  return navigator.clipboard.writeText(resultText);
}

export function showOutcome(kind, title, text) {
  $("outcome").className = `outcome ${kind}`;
  $("outcome").querySelector(".outcome-title").textContent = title;
  $("outcome").querySelector(".outcome-text").textContent = text;
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

export function showUsage(usage, limits = LIMITS) {
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
