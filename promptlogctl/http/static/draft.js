// The program that is being written, in this browser's local storage: a reload, or a closed tab, does not lose it.

const KEY = "promptlog.draft";
const MOST_CHARACTERS = 500_000;
const WAIT_MS = 300;

let timer = 0;
let waiting = null;

// `of` is the reference of the kept program that was opened, or "": another link opens another program.
export function draftOf(of) {
  try {
    const draft = JSON.parse(localStorage.getItem(KEY) ?? "null");
    return typeof draft?.code === "string" && (draft.of === of || of === "") ? draft : null;
  } catch {
    return null;
  }
}

export function keepDraftSoon(take) {
  waiting = take;
  clearTimeout(timer);
  timer = setTimeout(keepNow, WAIT_MS);
}

export function forgetDraft() {
  waiting = null;
  clearTimeout(timer);
  try { localStorage.removeItem(KEY); } catch { /* not allowed */ }
}

function keepNow() {
  if (!waiting) return;
  const text = JSON.stringify(waiting());
  waiting = null;
  try {
    if (text.length > MOST_CHARACTERS) localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, text);
  } catch {
    // full, or not allowed: the page works without it
  }
}

addEventListener("pagehide", keepNow);
