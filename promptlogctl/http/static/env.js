// The field `env`. It contains a JSON object or nothing.

import { $ } from "./dom.js";

// Return { value }, or { why } if the text is not a JSON object.
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

// An error disappears as soon as it is corrected. A new error appears only at the next run, so that an incomplete text is
// not reported while the user types.
export function beginEnv() {
  $("env").addEventListener("input", () => { if (!$("env-error").hidden) checkEnv(); });
}
