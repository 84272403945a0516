// Light or dark colours: as the system has them, or as chosen here.

import { $ } from "./dom.js";

const THEMES = { "": ["Auto", "as the system"], light: ["Light", "light"], dark: ["Dark", "dark"] };

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  const [text, told] = THEMES[theme];
  $("theme").textContent = text;
  $("theme").setAttribute("aria-label", `Colours: ${told}`);
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
