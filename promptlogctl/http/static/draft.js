// Keeps the text in the editor in this browser's local storage, so that a reload or a closed tab does not lose it.

const KEY = "promptlog.draft";
const MOST_CHARACTERS = 500_000;
const WAIT_MS = 300;

let timer = 0;
let waiting = null;

// Return the draft for the opened program. `of` is the reference of this stored program, or "".
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
    // The storage is full or not allowed. The page works without drafts.
  }
}

addEventListener("pagehide", keepNow);
