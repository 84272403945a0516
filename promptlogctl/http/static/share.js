// Links to stored programs: #HASH or #@NAME, optionally followed by &prompt=...&env=...

const REFERENCE = /^(@[A-Za-z0-9][A-Za-z0-9._-]{0,63}|[0-9a-f]{8,64})$/;
const MOST_CHARACTERS = 8000;

// Return { reference, prompt, env } from the page's address. The reference is "" if the address names no program.
export function named() {
  const [first, ...rest] = location.hash.slice(1).split("&");
  let reference = "";
  try { reference = decodeURIComponent(first); } catch { /* another program made this address */ }
  if (!REFERENCE.test(reference)) return { reference: "" };
  const given = new URLSearchParams(rest.join("&"));
  return { reference, prompt: given.get("prompt") ?? undefined, env: given.get("env") ?? undefined };
}

// Return a link to a program with its inputs. Return null if there are no inputs, and "" if they are too long for a link.
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
