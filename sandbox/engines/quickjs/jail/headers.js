// Headers (https://fetch.spec.whatwg.org/#headers-class). Evaluated once in the zygote, after webidl.js.
const headers = (() => {
  'use strict';
  const { isObject, iterable, publish, readPairs, requireArguments, trim } = webIdl;

  const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
  const nameOf = (value) => {
    const name = `${value}`;
    if (!TOKEN.test(name)) throw new TypeError(`Headers: invalid name: ${name.slice(0, 100).toWellFormed()}`);
    return name.toLowerCase();
  };
  const valueOf = (value) => {
    const text = trim(`${value}`, (code) => code === 0x20 || code === 0x09 || code === 0x0a || code === 0x0d);
    const bad = /[\0\n\r]|[^\0-\xff]/.exec(text);
    if (bad) {
      const code = bad[0].charCodeAt(0).toString(16).toUpperCase().padStart(4, '0');
      throw new TypeError(`Headers: a value cannot contain the character U+${code}`);
    }
    return text;
  };
  const valuesOf = (pairs, key) => pairs.filter((pair) => pair[0] === key).map((pair) => pair[1]);
  // Return one pair for each name, sorted by name, with all values of the name joined. Cookies are not joined.
  const combined = (pairs) => {
    const values = new Map();
    for (const [name, value] of pairs) {
      if (name !== 'set-cookie' && values.has(name)) values.get(name).push(value);
      else values.set(name, [value]);
    }
    return [...values.keys()].sort().flatMap((name) =>
      name === 'set-cookie' ? pairs.filter((pair) => pair[0] === name) : [[name, values.get(name).join(', ')]]);
  };

  class Headers {
    #pairs = [];  // names are in lower case
    #sorted;  // the list for iterators, or undefined after a change

    constructor(init = undefined) {
      if (init === undefined) return;
      if (!isObject(init)) throw new TypeError('Headers: an object or an iterable of pairs is required');
      for (const [name, value] of readPairs(init, (part) => `${part}`, 'Headers')) this.append(name, value);
    }

    static {
      iterable(this, (headers) => (headers.#sorted ??= combined(headers.#pairs)));
    }

    #change(pairs) {
      this.#pairs = pairs;
      this.#sorted = undefined;
    }

    append(name, value) {
      requireArguments(arguments, 2, 'Headers.append');
      this.#pairs.push([nameOf(name), valueOf(value)]);
      this.#change(this.#pairs);
    }
    delete(name) {
      requireArguments(arguments, 1, 'Headers.delete');
      const key = nameOf(name);
      this.#change(this.#pairs.filter((pair) => pair[0] !== key));
    }
    get(name) {
      requireArguments(arguments, 1, 'Headers.get');
      const values = valuesOf(this.#pairs, nameOf(name));
      return values.length === 0 ? null : values.join(', ');
    }
    getSetCookie() { return valuesOf(this.#pairs, 'set-cookie'); }
    has(name) {
      requireArguments(arguments, 1, 'Headers.has');
      const key = nameOf(name);
      return this.#pairs.some((pair) => pair[0] === key);
    }
    set(name, value) {
      requireArguments(arguments, 2, 'Headers.set');
      const key = nameOf(name), text = valueOf(value);
      this.#change([...this.#pairs.filter((pair) => pair[0] !== key), [key, text]]);
    }
  }

  publish({ Headers });
  return { Headers, TOKEN };
})();
