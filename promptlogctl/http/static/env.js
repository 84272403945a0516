// The field `env`: a JSON object, or nothing.

import { $ } from "./dom.js";

// Returns { value }, or { why } if the text is no JSON object.
function read() {
  const text = $("env").value.trim();
  if (!text) return { value: {} };
  try {
    const value = JSON.parse(text);
    if (value !== null && typeof value === "object" && !Array.isArray(value)) return { value };
    return { why: "env is a JSON object, such as {\"a\": 1}" };
  } catch (error) {
    return { why: `env is not JSON: ${error.message}` };
  }
}

export function checkEnv() {
  const { value, why = "" } = read();
  $("env").setAttribute("aria-invalid", String(Boolean(why)));
  $("env-error").textContent = why;
  $("env-error").hidden = !why;
  return { value, why };
}

// An error goes away as soon as it is mended; a text that is being written is not called wrong before a run.
export function beginEnv() {
  $("env").addEventListener("input", () => { if (!$("env-error").hidden) checkEnv(); });
}
