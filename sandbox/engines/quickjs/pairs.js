// The two lists of [name, value] of the web platform: URLSearchParams (https://url.spec.whatwg.org/#urlsearchparams) and
// Headers (https://fetch.spec.whatwg.org/#headers-class). Evaluated once in the zygote, before url.js and web.js, which
// use what `lists` has.
const lists = (() => {
  'use strict';
  const { defineProperty, getOwnPropertyDescriptor, getPrototypeOf, ownKeys } = Reflect;
  const isObject = (value) => (typeof value === 'object' && value !== null) || typeof value === 'function';

  const need = (given, count, what) => {
    if (given.length < count) throw new TypeError(`${what}: too few arguments, ${given.length} of ${count}`);
  };
  const absent = (what) => {
    throw new TypeError(`${what} is not there on QuickJS; Deno has it (--engine deno)`);
  };
  const dictionary = (init, what) => {
    if (init === undefined || init === null) return {};
    if (!isObject(init)) throw new TypeError(`${what}: the second argument must be an object`);
    return init;
  };

  // Return the text without the code units at its ends that `drops` is true for. A regular expression takes quadratic time.
  const trim = (text, drops) => {
    let from = 0, to = text.length;
    while (from < to && drops(text.charCodeAt(from))) from += 1;
    while (to > from && drops(text.charCodeAt(to - 1))) to -= 1;
    return text.slice(from, to);
  };

  // Return the pairs of an iterable of pairs, or of an object's own properties. `convert` makes a name or a value a text.
  const read = (init, convert, what) => {
    const iterator = init[Symbol.iterator];
    if (iterator !== undefined && iterator !== null) {
      const pairs = [];
      for (const member of init) {
        if (!isObject(member)) throw new TypeError(`${what}: a pair [name, value] is needed, not a ${typeof member}`);
        const pair = [...member];
        if (pair.length !== 2) throw new TypeError(`${what}: a pair has two members, not ${pair.length}`);
        pairs.push([convert(pair[0]), convert(pair[1])]);
      }
      return pairs;
    }
    const record = new Map();
    for (const key of ownKeys(init)) {
      if (getOwnPropertyDescriptor(init, key)?.enumerable) record.set(convert(key), convert(init[key]));
    }
    return [...record];
  };

  // Give a class the methods of a Web IDL iterable. An iterator reads the list anew for each pair, so it sees changes.
  const IteratorPrototype = getPrototypeOf(getPrototypeOf([].values()));
  const iterable = (made, listOf) => {
    class Pairs {
      #of;
      #pick;
      #at = 0;
      constructor(of, pick) {
        this.#of = of;
        this.#pick = pick;
      }
      next() {
        const pair = listOf(this.#of)[this.#at];
        if (pair === undefined) return { value: undefined, done: true };
        this.#at += 1;
        return { value: this.#pick(pair), done: false };
      }
    }
    delete Pairs.prototype.constructor;
    Object.setPrototypeOf(Pairs.prototype, IteratorPrototype);
    tag(Pairs, `${made.name} Iterator`);
    const iterate = (self, pick) => {
      listOf(self);  // throws if `self` is of another class
      return new Pairs(self, pick);
    };
    const methods = {
      entries() { return iterate(this, ([name, value]) => [name, value]); },
      keys() { return iterate(this, (pair) => pair[0]); },
      values() { return iterate(this, (pair) => pair[1]); },
      forEach(callback, self = undefined) {
        let list = listOf(this);
        if (typeof callback !== 'function') throw new TypeError(`${made.name}.forEach: a function is needed`);
        for (let at = 0; at < list.length; at += 1, list = listOf(this)) callback.call(self, list[at][1], list[at][0], this);
      },
    };
    methods[Symbol.iterator] = methods.entries;
    for (const name of ownKeys(methods)) {
      defineProperty(made.prototype, name, { value: methods[name], writable: true, configurable: true });
    }
  };
  const tag = (made, name = made.name) => {
    defineProperty(made.prototype, Symbol.toStringTag, { value: name, configurable: true });
  };
  const publish = (made) => {
    for (const [name, value] of Object.entries(made)) {
      if (value.prototype) tag(value);
      defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false });
    }
  };

  // --- URLSearchParams --------------------------------------------------------------------------------------------

  const decoder = new TextDecoder();
  const bytesIn = (run) => {
    const bytes = new Uint8Array(run.length / 3);
    for (let at = 0; at < bytes.length; at += 1) bytes[at] = parseInt(run.slice(3 * at + 1, 3 * at + 3), 16);
    const mark = bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf;  // the decoder drops a byte order mark
    return (mark ? '\ufeff' : '') + decoder.decode(bytes);
  };
  const decode = (text) => {
    const spaced = text.replaceAll('+', ' ');
    try {
      return decodeURIComponent(spaced);
    } catch {
      return spaced.replace(/(?:%[0-9A-Fa-f]{2})+/g, bytesIn);
    }
  };
  const encode = (text) =>
    encodeURIComponent(text).replace(/[!'()~]/g, (c) => '%' + c.charCodeAt(0).toString(16).toUpperCase())
      .replaceAll('%20', '+');
  const parse = (query) =>
    query.toWellFormed().split('&').filter((part) => part !== '').map((part) => {
      const at = part.indexOf('=');
      return at < 0 ? [decode(part), ''] : [decode(part.slice(0, at)), decode(part.slice(at + 1))];
    });
  const serialize = (pairs) => pairs.map(([name, value]) => `${encode(name)}=${encode(value)}`).join('&');
  const scalar = (value) => `${value}`.toWellFormed();
  // Return a test of a pair for this name and, if one is given, this value.
  const matching = (name, value) => {
    const key = scalar(name), only = value === undefined ? undefined : scalar(value);
    return (pair) => pair[0] === key && (only === undefined || pair[1] === only);
  };

  let ofUrl, refill;
  class URLSearchParams {
    #pairs;
    #changed;  // tells the URL that these parameters belong to

    constructor(init = '') {
      if (isObject(init)) this.#pairs = read(init, scalar, 'URLSearchParams');
      else this.#pairs = parse(`${init}`.replace(/^\?/, ''));
    }

    static {
      ofUrl = (query, changed) => {
        const params = new URLSearchParams();
        params.#pairs = parse(query);
        params.#changed = changed;
        return params;
      };
      refill = (params, query) => { params.#pairs = parse(query); };
      iterable(this, (params) => params.#pairs);
    }

    #change(pairs) {
      this.#pairs = pairs;
      this.#changed?.(serialize(pairs));
    }

    get size() { return this.#pairs.length; }
    append(name, value) {
      need(arguments, 2, 'URLSearchParams.append');
      this.#pairs.push([scalar(name), scalar(value)]);
      this.#change(this.#pairs);
    }
    delete(name, value = undefined) {
      need(arguments, 1, 'URLSearchParams.delete');
      const matches = matching(name, value);
      this.#change(this.#pairs.filter((pair) => !matches(pair)));
    }
    get(name) {
      need(arguments, 1, 'URLSearchParams.get');
      return this.#pairs.find(matching(name))?.[1] ?? null;
    }
    getAll(name) {
      need(arguments, 1, 'URLSearchParams.getAll');
      return this.#pairs.filter(matching(name)).map((pair) => pair[1]);
    }
    has(name, value = undefined) {
      need(arguments, 1, 'URLSearchParams.has');
      return this.#pairs.some(matching(name, value));
    }
    set(name, value) {
      need(arguments, 2, 'URLSearchParams.set');
      const matches = matching(name), pair = [scalar(name), scalar(value)];
      const at = this.#pairs.findIndex(matches);
      if (at < 0) this.#pairs.push(pair);
      else this.#pairs[at] = pair;
      this.#change(this.#pairs.filter((other) => other === pair || !matches(other)));
    }
    sort() {
      this.#change(this.#pairs.sort((one, other) => (one[0] < other[0] ? -1 : one[0] > other[0] ? 1 : 0)));
    }
    toString() { return serialize(this.#pairs); }
  }

  // --- Headers ----------------------------------------------------------------------------------------------------

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
      throw new TypeError(`Headers: a value can not have the character U+${code}`);
    }
    return text;
  };
  const valuesOf = (pairs, key) => pairs.filter((pair) => pair[0] === key).map((pair) => pair[1]);
  // Return one pair for each name, in order, with all its values; cookies are not joined.
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
    #pairs = [];  // with names in lower case
    #sorted;  // the list for iterators, or undefined after a change

    constructor(init = undefined) {
      if (init === undefined) return;
      if (!isObject(init)) throw new TypeError('Headers: an object, or an iterable of pairs, is needed');
      for (const [name, value] of read(init, (part) => `${part}`, 'Headers')) this.append(name, value);
    }

    static {
      iterable(this, (headers) => (headers.#sorted ??= combined(headers.#pairs)));
    }

    #change(pairs) {
      this.#pairs = pairs;
      this.#sorted = undefined;
    }

    append(name, value) {
      need(arguments, 2, 'Headers.append');
      this.#pairs.push([nameOf(name), valueOf(value)]);
      this.#change(this.#pairs);
    }
    delete(name) {
      need(arguments, 1, 'Headers.delete');
      const key = nameOf(name);
      this.#change(this.#pairs.filter((pair) => pair[0] !== key));
    }
    get(name) {
      need(arguments, 1, 'Headers.get');
      const values = valuesOf(this.#pairs, nameOf(name));
      return values.length === 0 ? null : values.join(', ');
    }
    getSetCookie() { return valuesOf(this.#pairs, 'set-cookie'); }
    has(name) {
      need(arguments, 1, 'Headers.has');
      const key = nameOf(name);
      return this.#pairs.some((pair) => pair[0] === key);
    }
    set(name, value) {
      need(arguments, 2, 'Headers.set');
      const key = nameOf(name), text = valueOf(value);
      this.#change([...this.#pairs.filter((pair) => pair[0] !== key), [key, text]]);
    }
  }

  publish({ Headers, URLSearchParams });
  return { Headers, TOKEN, URLSearchParams, absent, dictionary, isObject, need, ofUrl, publish, refill, trim };
})();
