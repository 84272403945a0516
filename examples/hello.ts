// TypeScript runs on Deno: types are taken off, not checked.
interface Greeting {
  text: string;
  length: number;
}

const greet = (whom: string): Greeting => {
  const text = `hello, ${whom}`;
  return { text, length: text.length };
};

const result: Greeting = greet(prompt);
