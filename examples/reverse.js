// Looks at the prompt from a few sides. `const result = ...` is what the run gives back.
const words = prompt.split(/\s+/).filter((word) => word !== '');

const result = {
  original: prompt,
  reversed: [...prompt].reverse().join(''),
  wordCount: words.length,
  timestamp: new Date().toISOString(),
};
