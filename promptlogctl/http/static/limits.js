// The fields for the limits of a run. For an empty field, the daemon uses its default.

import { $ } from "./dom.js";

const MIB = 1024 * 1024;
const FIELDS = { cpu_ms: "limit-cpu", memory_mb: "limit-memory", wall_ms: "limit-wall" };

// Return the limits in the fields, for example { cpu_ms: 200 }, or null if one is not a whole number above 0.
export function limitsWritten() {
  const found = {};
  for (const [name, id] of Object.entries(FIELDS)) {
    if (!$(id).checkValidity()) return null;
    if ($(id).value) found[name] = Number($(id).value);
  }
  return found;
}

// Return the same limits in the units of the HTTP API, which has memory in bytes.
export function limitsAsked() {
  const written = limitsWritten();
  if (written === null) {
    $("limits").open = true;
    Object.values(FIELDS).map($).find((field) => !field.checkValidity()).focus();
    return null;
  }
  const { memory_mb: memory, ...asked } = written;
  return memory === undefined ? asked : { ...asked, memory_bytes: memory * MIB };
}

export function writeLimits(limits = {}) {
  for (const [name, id] of Object.entries(FIELDS)) $(id).value = limits[name] ?? "";
  if (Object.keys(limits).length) $("limits").open = true;
}

// `onChange` is called when the user has changed one.
export function beginLimits(onChange) {
  for (const id of Object.values(FIELDS)) $(id).addEventListener("input", () => { tellWrong(); onChange(); });
}

export function tellWrong() {
  $("limits-error").hidden = limitsWritten() !== null;
}
