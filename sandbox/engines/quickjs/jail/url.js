// URL, for a part of the grammar of the URL Standard (https://url.spec.whatwg.org). docs/engines.md documents this part. Within
// it, all values are those of the standard. Any other URL is a TypeError, so that no host is parsed wrongly. Evaluated once in
// the zygote, after webidl.js and search_params.js.
const urls = (() => {
  'use strict';
  const { publish, requireArguments, trim } = webIdl;
  const { paramsOfUrl, replacePairs } = searchParams;
  const PORTS = { __proto__: null, http: '80', https: '443', ws: '80', wss: '443', ftp: '21' };
  // The standard's percent-encode sets. `unsafe` finds a character that must be encoded. `differs` lists the replacements that
  // turn the output of encodeURI into the standard's.
  const IN_PATH = {
    unsafe: /[^!$-;=@-[\]_a-z|~]/,
    differs: [['%5B', '['], ['%5D', ']'], ['%7C', '|'], ['#', '%23'], ['?', '%3F']],
  };
  const IN_FRAGMENT = {
    unsafe: /[^!#-;=?-_a-~]/,
    differs: [['%5B', '['], ['%5C', '\\'], ['%5D', ']'], ['%5E', '^'], ['%7B', '{'], ['%7C', '|'], ['%7D', '}']],
  };
  const IN_QUERY = {
    unsafe: /[^!$%&(-;=?-~]/,
    differs: [...IN_FRAGMENT.differs, ['%60', '`'], ["'", '%27'], ['#', '%23']],
  };

  const shown = (text) => text.slice(0, 200).toWellFormed();
  const refuse = (what, text) => {
    throw new TypeError(`URL: ${what} is not supported on QuickJS; Deno has the full parser (--engine deno): ${shown(text)}`);
  };
  const encode = (text, { unsafe, differs }) => {
    if (!unsafe.test(text)) return text;
    if (/[\0-\x1f]/.test(text)) refuse('a control character', text);
    let encoded = encodeURI(text.toWellFormed());
    for (const [from, to] of differs) encoded = encoded.replaceAll(from, to);
    return encoded.replaceAll('%25', '%');
  };

  // Return the path without its dot segments (RFC 3986, 5.2.4). In the URL Standard, %2E also stands for a dot.
  const DOTTED = /\/(?:\.|%2[Ee]){1,2}(?:\/|$)/;
  const removeDotSegments = (path) => {
    if (!DOTTED.test(path)) return path;
    const kept = [];
    const segments = path.split('/').slice(1);
    segments.forEach((segment, at) => {
      const dots = /^(?:\.|%2[Ee]){1,2}$/.test(segment) ? segment.replace(/%2[Ee]/g, '.') : '';
      if (dots === '..') kept.pop();
      if (dots === '') kept.push(segment);
      else if (at === segments.length - 1) kept.push('');
    });
    return '/' + kept.join('/');
  };

  const HOST = /^[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*$/;
  const PUNYCODE = /(?:^|\.)[Xx][Nn]--/;
  const NUMBER_AT_END = /(?:^|\.)(?:[0-9]+|0[Xx][0-9A-Fa-f]*)$/;
  const IPV4 = /^(?:(?:[0-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5])(?:\.(?!$)|$)){4}$/;
  // Whether the standard also refuses the host. It decodes `%` and maps non-ASCII characters first, so a host with these
  // counts as not supported.
  const forbidden = (host) => /[ <>\]^|]/.test(host) && /^[ -$&-~]*$/.test(host);

  // Return { host, port } of an authority, or null if the standard also refuses it.
  const parseAuthority = (scheme, authority, path, text) => {
    if (authority === '') return /^\/*$/.test(path) ? null : refuse('a URL without a host', text);
    if (authority.includes('@')) refuse('a user name or a password', text);
    if (authority.includes('[')) refuse('an IPv6 address', text);
    const colon = authority.indexOf(':');
    const host = colon < 0 ? authority : authority.slice(0, colon);
    const port = colon < 0 ? '' : authority.slice(colon + 1);
    if (host === '' || !/^[0-9]*$/.test(port) || Number(port) > 65535 || forbidden(host)) return null;
    if (!HOST.test(host)) refuse('a host that is not letters, digits, "-" and "_", with single dots between them,', text);
    if (PUNYCODE.test(host)) refuse('an international host (xn--)', text);
    if (NUMBER_AT_END.test(host) && !IPV4.test(host)) refuse('a host that ends in a number and is not a plain IPv4 address', text);
    const number = port === '' ? '' : String(Number(port));
    return { host: host.toLowerCase(), port: number === PORTS[scheme] ? '' : number };
  };

  // The URL of the request that a module answers. It contains the prompt of up to 1 MiB. So it is never parsed, and it is
  // converted to the standard's form only when a program reads it.
  let requestUrl, serializedRequestUrl;
  const setRequestUrl = (url) => { requestUrl = url; };
  const getRequestUrl = () => {
    serializedRequestUrl ??= requestUrl.includes("'") ? requestUrl.replaceAll("'", '%27') : requestUrl;
    return serializedRequestUrl;
  };

  // Return the parts of a URL, or null if the standard also refuses it. Throws a TypeError if the URL is not supported here.
  const parse = (input, base) => {
    if (input === serializedRequestUrl && base === undefined) {
      return { scheme: 'http', host: 'promptlog', port: '', path: '/', query: input.slice(input.indexOf('?') + 1), fragment: null };
    }
    const from = base === undefined ? undefined : parse(base);
    if (from === null) return null;
    const text = trim(input, (code) => code <= 0x20);
    const hash = text.indexOf('#'), main = hash < 0 ? text : text.slice(0, hash);
    const mark = main.indexOf('?'), front = mark < 0 ? main : main.slice(0, mark);
    const bad = /[\0-\x1f\\]/.exec(front);
    if (bad) refuse(bad[0] === '\\' ? 'a backslash' : 'a control character', text);
    const [, prefix, authority, rest] = /^(?:([A-Za-z][A-Za-z0-9+.-]*):)?(?:\/\/([^/]*))?([^]*)/.exec(front);
    if (prefix === undefined && from === undefined) return null;
    const scheme = prefix?.toLowerCase() ?? from.scheme;
    if (!(scheme in PORTS)) refuse(`the scheme ${scheme.slice(0, 40)}:`, text);
    if (prefix !== undefined && authority === undefined) refuse('a URL without "//" after the scheme', text);
    const at = authority === undefined ? from : parseAuthority(scheme, authority, rest, text);
    if (at === null) return null;
    let path = rest;
    if (authority !== undefined) path ||= '/';
    else if (rest === '') path = from.path;
    else if (rest[0] !== '/') path = from.path.slice(0, from.path.lastIndexOf('/') + 1) + rest;
    const inherits = authority === undefined && rest === '' && mark < 0;
    return {
      scheme, host: at.host, port: at.port,
      path: removeDotSegments(encode(path, IN_PATH)),
      query: mark >= 0 ? encode(main.slice(mark + 1), IN_QUERY) : inherits ? from.query : null,
      fragment: hash < 0 ? null : encode(text.slice(hash + 1), IN_FRAGMENT),
    };
  };
  const parseAll = (text, base) => parse(`${text}`, base === undefined ? undefined : `${base}`);
  const parseOrThrow = (text, base) => {
    const parts = parseAll(text, base);
    if (parts === null) throw new TypeError(`Invalid URL: ${shown(`${text}`)}`);
    return parts;
  };
  const hostOf = ({ host, port }) => host + (port && ':' + port);
  const originOf = (parts) => `${parts.scheme}://${hostOf(parts)}`;
  const hrefOf = (parts) => {
    const { path, query, fragment } = parts;
    return originOf(parts) + path + (query === null ? '' : '?' + query) + (fragment === null ? '' : '#' + fragment);
  };

  class URL {
    #parts;
    #params;

    constructor(url, base = undefined) {
      requireArguments(arguments, 1, 'URL');
      this.#parts = parseOrThrow(url, base);
    }

    static canParse(url, base = undefined) {
      requireArguments(arguments, 1, 'URL.canParse');
      return parseAll(url, base) !== null;
    }

    #setQuery(query) {
      this.#parts.query = query;
      if (this.#params) replacePairs(this.#params, query ?? '');
    }

    get href() { return hrefOf(this.#parts); }
    set href(url) {
      this.#parts = parseOrThrow(url);
      this.#setQuery(this.#parts.query);
    }
    get origin() { return originOf(this.#parts); }
    get protocol() { return this.#parts.scheme + ':'; }
    get username() { return (this.#parts, ''); }
    get password() { return (this.#parts, ''); }
    get host() { return hostOf(this.#parts); }
    get hostname() { return this.#parts.host; }
    get port() { return this.#parts.port; }
    get pathname() { return this.#parts.path; }
    set pathname(value) {
      const text = `${value}`;
      if (text.includes('\\')) refuse('a backslash', text);
      this.#parts.path = removeDotSegments('/' + encode(text.replace(/^\//, ''), IN_PATH));
    }
    get search() { return this.#parts.query ? '?' + this.#parts.query : ''; }
    set search(value) {
      const text = `${value}`;
      this.#setQuery(text === '' ? null : encode(text.replace(/^\?/, ''), IN_QUERY));
    }
    get searchParams() {
      this.#params ??= paramsOfUrl(this.#parts.query ?? '', (query) => { this.#parts.query = query === '' ? null : query; });
      return this.#params;
    }
    get hash() { return this.#parts.fragment ? '#' + this.#parts.fragment : ''; }
    set hash(value) {
      const text = `${value}`;
      this.#parts.fragment = text === '' ? null : encode(text.replace(/^#/, ''), IN_FRAGMENT);
    }
    toString() { return hrefOf(this.#parts); }
    toJSON() { return hrefOf(this.#parts); }
  }

  // Without these setters, an assignment in sloppy mode would be ignored without an error.
  for (const name of ['protocol', 'username', 'password', 'host', 'hostname', 'port']) {
    const { get } = Reflect.getOwnPropertyDescriptor(URL.prototype, name);
    const { set } = Reflect.getOwnPropertyDescriptor({ set [name](value) { refuse(`setting ${name}`, `${value}`); } }, name);
    Reflect.defineProperty(URL.prototype, name, { get, set });
  }
  publish({ URL });
  return { URL, getRequestUrl, setRequestUrl };
})();
