// The rules of Web IDL (https://webidl.spec.whatwg.org) for all web classes: checks of arguments, conversions, iterators, and
// the publication of classes. Evaluated first in the zygote. The other scripts use `webIdl`.
const webIdl = (() => {
  'use strict';
  const { defineProperty, getOwnPropertyDescriptor, getPrototypeOf, ownKeys } = Reflect;
  const isObject = (value) => (typeof value === 'object' && value !== null) || typeof value === 'function';

  const requireArguments = (given, count, what) => {
    if (given.length < count) throw new TypeError(`${what}: too few arguments, ${given.length} of ${count}`);
  };
  const throwNotSupported = (what) => {
    throw new TypeError(`${what} is not available on QuickJS; Deno has it (--engine deno)`);
  };
  const dictionary = (init, what) => {
    if (init === undefined || init === null) return {};
    if (!isObject(init)) throw new TypeError(`${what}: the second argument must be an object`);
    return init;
  };

  // Remove the code units at both ends for which `drops` returns true. A regular expression would take quadratic time.
  const trim = (text, drops) => {
    let from = 0, to = text.length;
    while (from < to && drops(text.charCodeAt(from))) from += 1;
    while (to > from && drops(text.charCodeAt(to - 1))) to -= 1;
    return text.slice(from, to);
  };

  // Return the pairs [name, value] of an iterable of pairs, or of an object's own properties. `convert` converts a name or a
  // value to a text.
  const readPairs = (init, convert, what) => {
    const iterator = init[Symbol.iterator];
    if (iterator !== undefined && iterator !== null) {
      const pairs = [];
      for (const member of init) {
        if (!isObject(member)) throw new TypeError(`${what}: a pair [name, value] is required, not a ${typeof member}`);
        const pair = [...member];
        if (pair.length !== 2) throw new TypeError(`${what}: a pair must have two members, not ${pair.length}`);
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

  // Give a class the methods of a Web IDL iterable. `listOf` returns the pairs of an object. An iterator calls it again for
  // each pair, so it sees changes.
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
        if (typeof callback !== 'function') throw new TypeError(`${made.name}.forEach: a function is required`);
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

  return { dictionary, isObject, iterable, publish, readPairs, requireArguments, throwNotSupported, trim };
})();
