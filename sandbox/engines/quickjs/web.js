// The part of the web platform that a Worker-style module meets in `fetch(request, env)`: Request, Response, Headers,
// URL, URLSearchParams. Text only: no streams, no network. Evaluated once in the zygote, before prelude.js.
(() => {
  'use strict';
  const { defineProperty } = Reflect;
  const { parse, stringify } = JSON;

  // application/x-www-form-urlencoded (https://url.spec.whatwg.org/#application/x-www-form-urlencoded)
  const decode = (text) => {
    const spaced = text.replaceAll('+', ' ');
    try {
      return decodeURIComponent(spaced);
    } catch {
      return spaced;
    }
  };
  const encode = (text) =>
    encodeURIComponent(text.toWellFormed()).replace(/[!'()~]/g, (c) => '%' + c.charCodeAt(0).toString(16).toUpperCase())
      .replaceAll('%20', '+');

  // A list of [name, value], which Headers and URLSearchParams both are.
  class Pairs {
    #pairs = [];
    #name;
    #changed;

    constructor(init, name, changed = () => {}) {
      this.#name = name;
      this.#changed = changed;
      if (init === undefined || init === null) return;
      if (typeof init !== 'object') throw new TypeError('an object, or an iterable of pairs, is needed');
      const pairs = typeof init[Symbol.iterator] === 'function' ? init : Object.entries(init);
      for (const pair of pairs) {
        const [key, value] = pair;
        this.append(key, value);
      }
    }

    append(name, value) {
      this.#pairs.push([this.#name(name), String(value)]);
      this.#changed();
    }

    delete(name) {
      const key = this.#name(name);
      this.#pairs = this.#pairs.filter((pair) => pair[0] !== key);
      this.#changed();
    }

    has(name) {
      const key = this.#name(name);
      return this.#pairs.some((pair) => pair[0] === key);
    }

    getAll(name) {
      const key = this.#name(name);
      return this.#pairs.filter((pair) => pair[0] === key).map((pair) => pair[1]);
    }

    get(name) {
      return this.getAll(name)[0] ?? null;
    }

    set(name, value) {
      const key = this.#name(name);
      const first = this.#pairs.find((pair) => pair[0] === key);
      if (first === undefined) {
        this.append(name, value);
        return;
      }
      first[1] = String(value);
      this.#pairs = this.#pairs.filter((pair) => pair === first || pair[0] !== key);
      this.#changed();
    }

    sort() {
      this.#pairs.sort((one, other) => (one[0] < other[0] ? -1 : one[0] > other[0] ? 1 : 0));
      this.#changed();
    }

    forEach(call, self) {
      for (const [name, value] of this) call.call(self, value, name, this);
    }

    *entries() { for (const [name, value] of this.#pairs) yield [name, value]; }
    *keys() { for (const [name] of this.#pairs) yield name; }
    *values() { for (const [, value] of this.#pairs) yield value; }
    [Symbol.iterator]() { return this.entries(); }
  }

  class Headers extends Pairs {
    constructor(init) {
      super(init, (name) => {
        if (!/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name)) throw new TypeError(`invalid header name: ${name}`);
        return String(name).toLowerCase();
      });
    }

    get(name) {
      const values = this.getAll(name);
      return values.length ? values.join(', ') : null;
    }

    *entries() {
      for (const name of [...new Set(super.keys())].sort()) yield [name, this.get(name)];
    }
  }

  class URLSearchParams extends Pairs {
    constructor(init, changed) {
      if (typeof init === 'string') {
        const text = init.startsWith('?') ? init.slice(1) : init;
        init = text.split('&').filter((part) => part !== '').map((part) => {
          const at = part.indexOf('=');
          return at < 0 ? [decode(part), ''] : [decode(part.slice(0, at)), decode(part.slice(at + 1))];
        });
      }
      let ready = false;
      super(init, String, () => { if (ready && changed) changed(this); });
      ready = true;
    }

    get size() { return [...this].length; }
    toString() { return [...this].map(([name, value]) => `${encode(name)}=${encode(value)}`).join('&'); }
  }

  const ABSOLUTE = /^([a-z][a-z0-9+.-]*):(?:\/\/(?:([^/?#@]*)@)?(\[[0-9a-f:.]+\]|[^/?#:\s]*)(?::([0-9]*))?)?([^?#]*)(\?[^#]*)?(#.*)?$/i;
  const PORTS = { 'http:': '80', 'https:': '443', 'ws:': '80', 'wss:': '443', 'ftp:': '21' };
  const escape = (text) => encodeURI(text.toWellFormed()).replaceAll('%25', '%');

  const normal = (path) => {
    const parts = [];
    const segments = path.split('/').slice(1);
    segments.forEach((segment, index) => {
      const last = index === segments.length - 1;
      if (segment === '..') parts.pop();
      if (segment !== '..' && segment !== '.') parts.push(segment);
      else if (last) parts.push('');
    });
    return '/' + parts.join('/');
  };

  class URL {
    #parts;
    #params;

    constructor(text, base) {
      text = String(text).trim();
      let match = ABSOLUTE.exec(text);
      if (!match && base !== undefined) {
        const at = new URL(base);
        if (!(at.protocol in PORTS)) throw new TypeError(`Invalid base URL: ${at.href}`);
        const start = at.href.slice(0, at.href.indexOf('/', at.protocol.length + 2));
        if (text.startsWith('//')) text = at.protocol + text;
        else if (text.startsWith('/')) text = start + text;
        else if (text.startsWith('?')) text = start + at.pathname + text;
        else if (text.startsWith('#') || text === '') text = start + at.pathname + at.search + text;
        else text = start + at.pathname.replace(/[^/]*$/, '') + text;
        match = ABSOLUTE.exec(text);
      }
      const protocol = match ? match[1].toLowerCase() + ':' : '';
      if (!match || (protocol in PORTS && !(match[3] && /^(?:\/|$)/.test(match[5])))) {
        throw new TypeError(`Invalid URL: ${text}`);
      }
      const [username = '', password = ''] = (match[2] ?? '').split(':', 2);
      this.#parts = {
        protocol, username, password,
        hostname: (match[3] ?? '').toLowerCase(),
        port: match[4] && match[4] !== PORTS[protocol] ? String(Number(match[4])) : '',
        pathname: protocol in PORTS ? normal(escape(match[5] || '/')) : escape(match[5]),
        search: match[6] && match[6] !== '?' ? escape(match[6]).replaceAll("'", '%27') : '',
        hash: match[7] && match[7] !== '#' ? escape(match[7]) : '',
      };
      if (Number(this.#parts.port) > 65535) throw new TypeError(`Invalid URL: ${text}`);
    }

    static canParse(text, base) {
      try {
        return Boolean(new URL(text, base));
      } catch {
        return false;
      }
    }

    get protocol() { return this.#parts.protocol; }
    get username() { return this.#parts.username; }
    get password() { return this.#parts.password; }
    get hostname() { return this.#parts.hostname; }
    get port() { return this.#parts.port; }
    get host() { return this.hostname + (this.port && ':' + this.port); }
    get origin() { return this.protocol in PORTS ? `${this.protocol}//${this.host}` : 'null'; }
    get pathname() { return this.#parts.pathname; }
    set pathname(path) { this.#parts.pathname = normal(escape('/' + String(path).replace(/^\//, ''))); }
    get search() { return this.#parts.search; }
    set search(text) {
      text = String(text).replace(/^\?/, '');
      this.#parts.search = text && '?' + escape(text);
      this.#params = undefined;
    }
    get hash() { return this.#parts.hash; }
    set hash(text) {
      text = String(text).replace(/^#/, '');
      this.#parts.hash = text && '#' + escape(text);
    }
    get searchParams() {
      this.#params ??= new URLSearchParams(this.search, (params) => {
        const text = params.toString();
        this.#parts.search = text && '?' + text;
      });
      return this.#params;
    }
    get href() {
      const { protocol, username, password, pathname, search, hash } = this.#parts;
      const user = username && username + (password && ':' + password) + '@';
      const host = this.host || protocol in PORTS ? `//${user}${this.host}` : '';
      return protocol + host + pathname + search + hash;
    }
    toString() { return this.href; }
    toJSON() { return this.href; }
  }

  class Body {
    #text;
    #used = false;

    constructor(body) {
      this.#text = body === null || body === undefined ? '' : String(body);
    }

    get bodyUsed() { return this.#used; }
    async text() {
      if (this.#used) throw new TypeError('the body was read already');
      this.#used = true;
      return this.#text;
    }
    async json() { return parse(await this.text()); }
    static read(message) { return #text in message ? message.#text : undefined; }
  }
  const read = Body.read;
  delete Body.read;

  const OURS = { __proto__: null };

  class Request extends Body {
    #url;
    #method;
    #headers;

    constructor(input, init = {}) {
      const from = input instanceof Request ? input : undefined;
      super(init.body ?? (from && read(from)));
      this.#url = from ? from.#url : init === OURS ? input : new URL(input).href;
      this.#method = String(init.method ?? from?.method ?? 'GET').toUpperCase();
      this.#headers = new Headers(init.headers ?? from?.headers);
    }

    get url() { return this.#url; }
    get method() { return this.#method; }
    get headers() { return this.#headers; }
    clone() { return new Request(this); }
  }

  class Response extends Body {
    #status;
    #statusText;
    #headers;

    constructor(body, init = {}) {
      super(body);
      this.#status = init.status ?? 200;
      if (!(this.#status >= 200 && this.#status <= 599)) throw new RangeError('a status is a number from 200 to 599');
      this.#statusText = String(init.statusText ?? '');
      this.#headers = new Headers(init.headers);
      if (typeof body === 'string' && !this.#headers.has('content-type')) {
        this.#headers.set('content-type', 'text/plain;charset=UTF-8');
      }
    }

    static json(value, init = {}) {
      const headers = new Headers(init.headers);
      if (!headers.has('content-type')) headers.set('content-type', 'application/json');
      return new Response(stringify(value), { ...init, headers });
    }

    get status() { return this.#status; }
    get statusText() { return this.#statusText; }
    get ok() { return this.#status <= 299; }
    get headers() { return this.#headers; }
    clone() {
      return new Response(read(this), { status: this.status, statusText: this.statusText, headers: this.headers });
    }
    // What a run comes to when its program answers with this: its JSON as a value, another text as a string.
    static value(response) {
      const text = read(response);
      return /[/+]json\b/.test(response.#headers.get('content-type') ?? '') ? parse(text) : text;
    }
    static is(value) { return typeof value === 'object' && value !== null && #status in value; }
  }
  const { is, value } = Response;
  delete Response.is;
  delete Response.value;

  // A URL of ours needs no parsing: a prompt of 1 MiB in it takes a while.
  const request = (url) => new Request(url, OURS);
  const Call = { __proto__: null, request, is, value };
  for (const [name, made] of Object.entries({ Headers, Request, Response, URL, URLSearchParams })) {
    defineProperty(globalThis, name, { value: made, writable: true, configurable: true, enumerable: false });
  }
  globalThis.__promptlog_web = Call;
})();
