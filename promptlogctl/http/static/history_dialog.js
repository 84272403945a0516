// The dialog with this browser's runs.

import { $ } from "./dom.js";
import { forget, remembered } from "./history.js";

export function beginHistory(titles, chosen) {
  $("open-history").addEventListener("click", () => showHistory(titles, chosen));
  $("close-history").addEventListener("click", () => $("history-dialog").close());
  $("clear-history").addEventListener("click", () => { forget(); $("history-dialog").close(); });
}

function showHistory(titles, chosen) {
  const runs = remembered();
  $("history").replaceChildren(...runs.map((past) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    const code = document.createElement("code");
    code.textContent = past.code.trim().split("\n").find((line) => line.trim() && !line.startsWith("//")) ?? past.code.slice(0, 80);
    const small = document.createElement("small");
    small.textContent = `${titles[past.kind] ?? past.kind} · ${past.engine} · ${new Date(past.at).toLocaleString()}`;
    button.append(code, small);
    button.addEventListener("click", () => { $("history-dialog").close(); chosen(past); });
    item.append(button);
    return item;
  }));
  if (!runs.length) $("history").replaceChildren(Object.assign(document.createElement("li"), { className: "hint", textContent: "No runs yet." }));
  $("history-dialog").showModal();
}
