// Links to kept programs: #HASH or #@NAME, and behind it, if wanted, &prompt=...&env=...

const REFERENCE = /^(@[A-Za-z0-9][A-Za-z0-9._-]{0,63}|[0-9a-f]{8,64})$/;
const MOST_CHARACTERS = 8000;

// What the page's address names: { reference, prompt, env }. The reference is "" if it names no program.
export function named() {
  const [first, ...rest] = location.hash.slice(1).split("&");
  let reference = "";
  try { reference = decodeURIComponent(first); } catch { /* not an address of ours */ }
  if (!REFERENCE.test(reference)) return { reference: "" };
  const given = new URLSearchParams(rest.join("&"));
  return { reference, prompt: given.get("prompt") ?? undefined, env: given.get("env") ?? undefined };
}

// A link to a program with its inputs; null if there are none, "" if they are too long for a link.
export function linkWith(reference, prompt, env) {
  if (!prompt && !env) return null;
  const given = new URLSearchParams({ ...(prompt ? { prompt } : {}), ...(env ? { env } : {}) });
  const url = new URL(location.href);
  url.hash = `${reference}&${given}`;
  return url.href.length > MOST_CHARACTERS ? "" : url.href;
}

export function linkTo(href, text = href) {
  const link = document.createElement("a");
  link.href = href;
  link.textContent = text;
  return link;
}
