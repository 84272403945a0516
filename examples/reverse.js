// Returns some facts about the prompt. The value of `const result` is the result of the run.
const words = prompt.split(/\s+/).filter((word) => word !== '');

const result = {
  original: prompt,
  reversed: [...prompt].reverse().join(''),
  wordCount: words.length,
  timestamp: new Date().toISOString(),
};
