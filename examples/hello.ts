// TypeScript runs on Deno, which removes the types and does not check them.
interface Greeting {
  text: string;
  length: number;
}

const greet = (whom: string): Greeting => {
  const text = `hello, ${whom}`;
  return { text, length: text.length };
};

const result: Greeting = greet(prompt);
