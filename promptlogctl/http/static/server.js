// Sends requests to this page's server, with a token if the server requires one.

import { $ } from "./dom.js";

function headers(more = {}) {
  const token = sessionStorage.getItem("promptlog.token");
  return { ...(token ? { authorization: `Bearer ${token}` } : {}), ...more };
}

export async function ask(path, options = {}) {
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

export function problemText(problem) {
  return problem?.detail ?? problem?.error ?? "the server gave no reason";
}
