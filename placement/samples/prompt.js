const pattern = /(?<word>[a-z]+)/giu;
const found = [...prompt.matchAll(pattern)].map(({ groups, index }) => [index, groups.word]);
const replaced = prompt.replace(/o/g, (letter) => letter.toUpperCase()).padEnd(20, '.');
const bytes = new TextEncoder().encode(prompt);
const sum = bytes.reduce((total, byte) => (total + byte) % 256, 0);
const when = new Date(0).toISOString();
return { found, replaced, sum, when, slug: prompt.normalize('NFC').toLowerCase().split(' ').join('-') };
