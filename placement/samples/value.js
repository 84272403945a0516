const words = prompt.trim().split(/\s+/);
const counts = new Map();
for (const word of words) counts.set(word, (counts.get(word) ?? 0) + 1);
const result = { words: words.length, longest: Math.max(...words.map((word) => word.length)), counts: [...counts] };
