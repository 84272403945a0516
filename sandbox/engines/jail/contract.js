// Converts the end of a run to one string, on both engines. It is evaluated before the program and keeps the original
// built-in functions.
//
// A program can get every function in this file with CallSite.getFunction. So this file decides nothing except the
// program's own result, exception and log lines, which the program could choose anyway.
//
// The parentheses around the function tell V8 to compile it at once, because it is called at once.
//
// contract(console, web, sizeOf) -> { follow, fail, report, start, call }. `console` is the result of makeConsole.
// `web` handles a module with `fetch`: request(url) creates a Request, is(value) tests for a Response, value(response)
// returns the result. sizeOf(text) returns the size in UTF-8.
const contract = (() => ((console, web, sizeOf) => {
  'use strict';
  const { write, show, framesOf, begin } = console;
  const { apply, defineProperty } = Reflect;
  const { stringify } = JSON;
  const then = Promise.prototype.then;
  const { charCodeAt, indexOf, isWellFormed, slice, split, toWellFormed, trimEnd } = String.prototype;
  const { join } = Array.prototype;
  const text = String;
  const encode = encodeURIComponent;
  const isArray = Array.isArray;
  const { setPrototypeOf } = Object;
  const bigIntValueOf = BigInt.prototype.valueOf;
  const { isError } = Error;
  const ErrorPrototypeString = Error.prototype.toString;

  const MESSAGE_CHARACTERS = 16384;
  const MISSING =
    'the program gave no result: set `const result = ...` in its outermost block, or `return` a value';
  const MISSING_IN_MODULE = 'the module gave no result: let its default export return a value';

  let resultLimit = 0;

  const cut = (string, length) => apply(toWellFormed, apply(slice, string, [0, length]), []);

  // The description of an error: name, message, frames, inner errors and causes. The daemon maps the frames to the program.
  const CAUSES_DEEP = 4;
  const DATA_CHARACTERS = 4096;  // most characters of a cause or an inner error that is not an Error
  const otherThan = (error, deep) => (isError(error) ? account(error, deep + 1) : show(error, DATA_CHARACTERS));
  const causesOf = (error, deep) => {
    if (deep === CAUSES_DEEP) return '';
    const { cause } = error;
    return cause === undefined || cause === null ? '' : '\nCaused by: ' + otherThan(cause, deep);
  };
  const ERRORS_TOLD = 8;  // most inner errors of an AggregateError
  const errorsOf = (error, deep) => {
    if (deep === CAUSES_DEEP) return '';
    const { errors } = error;
    if (!isArray(errors)) return '';
    let told = '';
    const { length } = errors;
    for (let i = 0; i < length && i < ERRORS_TOLD && told.length <= MESSAGE_CHARACTERS; i++) {
      told += '\nOne of its errors: ' + otherThan(errors[i], deep);
    }
    return length > ERRORS_TOLD ? told + '\nand ' + text(length - ERRORS_TOLD) + ' more' : told;
  };
  const account = (error, deep) => {
    const frames = framesOf(error);  // read first: on QuickJS this improves the message (places.c)
    return apply(ErrorPrototypeString, error, []) + frames + errorsOf(error, deep) + causesOf(error, deep);
  };

  // --- how a run ends -----------------------------------------------------------------------------------

  const field = (error, name) => {
    try {
      const value = error[name];
      if (value === undefined || value === null) return '';
      return cut(typeof value === 'string' ? value : text(value), MESSAGE_CHARACTERS);
    } catch {
      return '';
    }
  };

  // The end of a run as a string: the JSON of the value, or a report, which starts with `!`. It is not an object, because a
  // promise looks up `then` of an object, and a program may have defined `then` on a prototype.
  const clean = (string) => {
    let done = '';
    for (let at; (at = apply(indexOf, string, ['\0'])) >= 0; string = apply(slice, string, [at + 1])) {
      done += apply(slice, string, [0, at]) + '\\0';
    }
    return done + string;
  };
  const report = (kind, first, message, stack) =>
    '!' + kind + '\0' + clean(first) + '\0' + clean(message) + '\0' + clean(stack);

  // Return the frames, inner errors and causes of an error. The message is left out, because it may have any length.
  const traceOf = (error) => {
    try {
      const frames = cut(apply(slice, framesOf(error), [1]), MESSAGE_CHARACTERS);
      return isError(error) ? frames + cut(errorsOf(error, 0) + causesOf(error, 0), MESSAGE_CHARACTERS) : frames;
    } catch {
      return '';
    }
  };

  const NOT_A_PROGRAM = {};
  const NEEDS =
    'the default export of a module must be a function (prompt, env) => value, or an object with fetch(request, env)';
  const fail = (error) => {
    if (error === NOT_A_PROGRAM) {
      return report('s', NEEDS, '', '');
    }
    const type = typeof error;
    if ((type === 'object' && error !== null) || type === 'function') {
      const trace = traceOf(error);  // read first: on QuickJS this improves the message (places.c)
      const name = field(error, 'name');
      let message = field(error, 'message');
      if (type === 'function' || (!name && !message)) {
        if (!isError(error)) return report('x', '', 'thrown: ' + show(error, MESSAGE_CHARACTERS), '');
        message = 'thrown: an error without a name and a message';
      }
      return report('x', name || 'Error', message, trace);
    }
    return report('x', '', 'thrown: ' + show(error, MESSAGE_CHARACTERS), '');
  };

  const isBigIntObject = (value) => {
    try {
      return typeof value === 'object' && typeof apply(bigIntValueOf, value, []) === 'bigint';
    } catch {
      return false;
    }
  };
  // Return why a value has no JSON: a BigInt or a cycle. Return '' if code of the program threw instead.
  const whyNoJson = (value) => {
    let found = '';
    const path = [];
    try {
      stringify(value, function (key, member) {
        while (path.length && path[path.length - 1] !== this) path.length -= 1;
        if (typeof member === 'bigint' || isBigIntObject(member)) {
          found ||= 'it holds a BigInt';
          return 0;
        }
        if (typeof member === 'object' && member !== null) {
          for (let i = 0; i < path.length; i++) {
            if (path[i] === member) {
              found ||= 'it refers to itself';
              return 0;
            }
          }
          defineProperty(path, path.length, { __proto__: null, value: member, writable: true, configurable: true });
        }
        return member;
      });
    } catch {}
    return found;
  };

  // Report a result over the limit by its size. The parts avoid a second copy of the whole result in UTF-8.
  const PART_UNITS = 65536;
  const tooLarge = (json) => {
    let bytes = 0;
    for (let from = 0, to; from < json.length; from = to) {
      to = from + PART_UNITS;
      const last = apply(charCodeAt, json, [to - 1]);
      if (last >= 0xd800 && last < 0xdc00) to += 1;  // do not split a surrogate pair
      bytes += sizeOf(apply(slice, json, [from, to]));
    }
    return report('o', text(bytes), '', '');
  };
  const succeed = (value) => {
    let json;
    try {
      json = stringify(value);
    } catch (error) {
      const why = whyNoJson(value);
      return why ? report('b', 'the result is not JSON: ' + why, '', '') : fail(error);
    }
    if (json === undefined) {
      const type = typeof value;
      const why = type === 'object' ? 'its toJSON returns no value' : 'it is a ' + type;
      return report('b', type === 'undefined' ? (inModule ? MISSING_IN_MODULE : MISSING) : 'the result is not JSON: ' + why, '', '');
    }
    // A replacement below shortens the text, from six characters to one at most.
    if (json.length > ESCAPE_CHARACTERS * resultLimit) return tooLarge(json);
    const sent = typeof value === 'string' && apply(isWellFormed, value, []) ? json : withoutLoneSurrogates(json);
    if (sent.length > resultLimit) return tooLarge(sent);
    if (sent !== json) write(3, ['the result has a lone surrogate; U+FFFD takes its place']);
    return sent;
  };

  // Replace escaped lone surrogates by U+FFFD, because strict JSON parsers refuse them. JSON.stringify writes lowercase
  // digits. JSON.rawJSON may contain uppercase digits and complete pairs.
  const ESCAPE_CHARACTERS = 6;
  const HIGH = '89abAB', LOW = 'cdefCDEF';
  const isSurrogate = (string, at, digits) =>
    string[at] === '\\' && string[at + 1] === 'u' && (string[at + 2] === 'd' || string[at + 2] === 'D') &&
    apply(indexOf, digits, [string[at + 3] ?? '?']) >= 0;
  const isLone = (string, at) =>
    (string[at + ESCAPE_CHARACTERS] !== '\\' && string[at - ESCAPE_CHARACTERS] !== '\\') ||
    (isSurrogate(string, at, HIGH) && !isSurrogate(string, at + ESCAPE_CHARACTERS, LOW)) ||
    (isSurrogate(string, at, LOW) && !isSurrogate(string, at - ESCAPE_CHARACTERS, HIGH));
  const withoutLoneSurrogates = (json) => {
    for (const escape of ['\\ud', '\\uD']) {
      if (apply(indexOf, json, [escape]) < 0) continue;
      // The same text, with each escaped backslash replaced by two other characters.
      const escapes = apply(join, apply(split, json, ['\\\\']), ['--']);
      const parts = setPrototypeOf([], null);
      let from = 0;
      for (let at = 0; (at = apply(indexOf, escapes, [escape, at])) >= 0; at += ESCAPE_CHARACTERS) {
        if (!isLone(escapes, at)) continue;
        parts[parts.length] = apply(slice, json, [from, at]);
        from = at + ESCAPE_CHARACTERS;
      }
      if (from === 0) continue;
      parts[parts.length] = apply(slice, json, [from]);
      json = apply(join, parts, ['\ufffd']);
    }
    return json;
  };

  // `then` uses the original Promise if the promise has an own `constructor` that is undefined. So changes to
  // Promise.prototype have no effect.
  const pristine = { __proto__: null, value: undefined };
  const follow = (promise) => {
    defineProperty(promise, 'constructor', pristine);
    const followed = apply(then, promise, [succeed, fail]);
    defineProperty(followed, 'constructor', pristine);
    return followed;
  };

  // Run a module with `fetch`. The prompt is in the URL of the request, and the body of the response is the result.
  const answer = async (handler, main, prompt, env) => {
    const request = web.request('http://promptlog/?prompt=' + encode(prompt));
    const response = await apply(handler, main, [request, env, { waitUntil() {}, passThroughOnException() {} }]);
    return web.is(response) ? web.value(response) : response;
  };

  // Call the default export of a module.
  let inModule = false;
  const call = (namespace, prompt, env, module = true) => {
    inModule = module;
    const main = namespace.default;
    if (typeof main === 'function') return apply(main, undefined, [prompt, env]);
    const handler = typeof main === 'object' && main !== null ? main.fetch : undefined;
    if (typeof handler !== 'function') throw NOT_A_PROGRAM;
    return answer(handler, main, prompt, env);
  };

  let started = false;
  const start = (resultBytes, logBytes) => {
    if (started) return;  // a program that gets this function cannot raise its limits
    started = true;
    resultLimit = resultBytes;
    begin(logBytes);
  };

  return { follow, fail, report, start, call };
}))();
