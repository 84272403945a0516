// Light or dark colours: the system's setting, or the user's choice on this page.

import { $ } from "./dom.js";

const THEMES = { "": "Colours: auto", light: "Colours: light", dark: "Colours: dark" };

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  $("theme").textContent = THEMES[theme];
  try { localStorage.setItem("promptlog.theme", theme); } catch { /* not allowed */ }
}

function savedTheme() {
  try { return localStorage.getItem("promptlog.theme") ?? ""; } catch { return ""; }
}

export function beginTheme() {
  setTheme(savedTheme() in THEMES ? savedTheme() : "");
  $("theme").addEventListener("click", () => {
    const names = Object.keys(THEMES);
    setTheme(names[(names.indexOf(document.documentElement.dataset.theme ?? "") + 1) % names.length]);
  });
}
