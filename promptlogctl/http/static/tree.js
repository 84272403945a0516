// Shows a JSON value as a tree that can be folded. It creates only text nodes, so text from a program is never markup.

const AT_ONCE = 100;
const OPEN_DEPTH = 2;
const OPEN_ENTRIES = 20;

export function show(value, element) {
  element.replaceChildren(list([["", value]], 0));
}

function list(entries, depth, from = 0) {
  const ul = document.createElement("ul");
  for (const [key, value] of entries.slice(from, from + AT_ONCE)) {
    const li = document.createElement("li");
    li.append(node(key, value, depth));
    ul.append(li);
  }
  const left = entries.length - from - AT_ONCE;
  if (left > 0) {
    const li = document.createElement("li");
    const more = document.createElement("button");
    more.type = "button";
    more.textContent = `${left} more`;
    more.addEventListener("click", () => {
      const rest = list(entries, depth, from + AT_ONCE);
      const first = rest.firstElementChild;
      li.replaceWith(...rest.children);
      first?.querySelector("summary")?.focus();
    });
    li.append(more);
    ul.append(li);
  }
  return ul;
}

function node(key, value, depth) {
  if (value === null || typeof value !== "object") return leaf(key, value);
  const entries = Object.entries(value);
  const isList = Array.isArray(value);
  if (!entries.length) return leaf(key, isList ? "[]" : "{}", "size");
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  const count = `${entries.length} ${isList ? (entries.length === 1 ? "item" : "items") : entries.length === 1 ? "member" : "members"}`;
  summary.append(...label(key), part(isList ? `[ ${count} ]` : `{ ${count} }`, "size"));
  details.append(summary);
  let filled = false;
  const fill = () => {
    if (!filled && details.open) {
      filled = true;
      details.append(list(entries, depth + 1));
    }
  };
  details.addEventListener("toggle", fill);
  if (depth < OPEN_DEPTH && entries.length <= OPEN_ENTRIES) {
    details.open = true;
    fill();
  }
  return details;
}

function leaf(key, value, kind) {
  const div = document.createElement("div");
  div.className = "leaf";
  const kinds = { string: "string", number: "number" };
  div.append(...label(key), part(kind ? value : JSON.stringify(value), kind ?? kinds[typeof value] ?? "word"));
  return div;
}

function label(key) {
  return key === "" ? [] : [part(key, "key"), ": "];
}

function part(text, kind) {
  const span = document.createElement("span");
  span.className = kind;
  span.textContent = text;
  return span;
}
