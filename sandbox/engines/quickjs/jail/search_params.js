// URLSearchParams (https://url.spec.whatwg.org/#urlsearchparams). Evaluated once in the zygote, after webidl.js and encoding.js.
const searchParams = (() => {
  'use strict';
  const { isObject, iterable, publish, readPairs, requireArguments } = webIdl;

  const bytesIn = (run) => {
    const bytes = new Uint8Array(run.length / 3);
    for (let at = 0; at < bytes.length; at += 1) bytes[at] = parseInt(run.slice(3 * at + 1, 3 * at + 3), 16);
    const mark = bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf;  // utf8.decode removes a byte order mark
    return (mark ? '\ufeff' : '') + utf8.decode(bytes);
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
  // Return a function that tests whether a pair has this name and, if given, this value.
  const matching = (name, value) => {
    const key = scalar(name), only = value === undefined ? undefined : scalar(value);
    return (pair) => pair[0] === key && (only === undefined || pair[1] === only);
  };

  let paramsOfUrl, replacePairs;
  class URLSearchParams {
    #pairs;
    #changed;  // called with the new query after each change, if the parameters belong to a URL

    constructor(init = '') {
      if (isObject(init)) this.#pairs = readPairs(init, scalar, 'URLSearchParams');
      else this.#pairs = parse(`${init}`.replace(/^\?/, ''));
    }

    static {
      paramsOfUrl = (query, changed) => {
        const params = new URLSearchParams();
        params.#pairs = parse(query);
        params.#changed = changed;
        return params;
      };
      replacePairs = (params, query) => { params.#pairs = parse(query); };
      iterable(this, (params) => params.#pairs);
    }

    #change(pairs) {
      this.#pairs = pairs;
      this.#changed?.(serialize(pairs));
    }

    get size() { return this.#pairs.length; }
    append(name, value) {
      requireArguments(arguments, 2, 'URLSearchParams.append');
      this.#pairs.push([scalar(name), scalar(value)]);
      this.#change(this.#pairs);
    }
    delete(name, value = undefined) {
      requireArguments(arguments, 1, 'URLSearchParams.delete');
      const matches = matching(name, value);
      this.#change(this.#pairs.filter((pair) => !matches(pair)));
    }
    get(name) {
      requireArguments(arguments, 1, 'URLSearchParams.get');
      return this.#pairs.find(matching(name))?.[1] ?? null;
    }
    getAll(name) {
      requireArguments(arguments, 1, 'URLSearchParams.getAll');
      return this.#pairs.filter(matching(name)).map((pair) => pair[1]);
    }
    has(name, value = undefined) {
      requireArguments(arguments, 1, 'URLSearchParams.has');
      return this.#pairs.some(matching(name, value));
    }
    set(name, value) {
      requireArguments(arguments, 2, 'URLSearchParams.set');
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

  publish({ URLSearchParams });
  return { URLSearchParams, paramsOfUrl, replacePairs };
})();
