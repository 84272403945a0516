// Keeps the runs of this browser in its local storage.

const KEY = "promptlog.history";
const MOST = 30;
const MOST_CHARACTERS = 20_000;

export function remembered() {
  try {
    const runs = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(runs) ? runs.filter((run) => typeof run?.code === "string") : [];
  } catch {
    return [];
  }
}

export function remember(run) {
  if (run.code.length + run.prompt.length + run.env.length > MOST_CHARACTERS) return;
  const others = remembered().filter((other) => other.code !== run.code || other.prompt !== run.prompt || other.env !== run.env);
  store([run, ...others].slice(0, MOST));
}

export function forget() {
  store([]);
}

function store(runs) {
  try {
    localStorage.setItem(KEY, JSON.stringify(runs));
  } catch {
    // The storage is full or not allowed. The page works without a history.
  }
}
