const fail = (text) => {
  throw new TypeError(`not a number: ${text}`);
};
const check = (text) => (Number.isNaN(Number(text)) ? fail(text) : Number(text));
try {
  null.missing;
} catch (error) {
  error.stack.split('\n');
}
return check(prompt);
