console.log('prompt', prompt, { length: prompt.length, parts: [1, 'two', null] });
console.warn('%s has %d characters', prompt, prompt.length);
console.error(new RangeError('an error, with a stack'));
return null;
