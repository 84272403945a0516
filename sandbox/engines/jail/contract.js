// What a program finds and how its run ends, the same in each engine: `console`, and what the program comes to as one
// string. Evaluated before any program is known, with the intrinsics as they were made. More than 300 lines, since it is
// one closure over these.
//
// A program can get hold of every function here (CallSite.getFunction), so nothing here decides anything but what the
// program could say by itself: its own result, exception and log lines.
//
// In brackets of its own, by which V8 knows that it is called at once.
// contract(log, web, now) -> { follow, fail, report, start, call }. log(level, text) takes one console line. web is how a
// Worker-style module is asked: request(url), is(response), value(response). now() gives milliseconds.
const contract = ((globalThis) => ((log, web, now) => {
  'use strict';
  const { apply, defineProperty } = Reflect;
  const { stringify } = JSON;
  const then = Promise.prototype.then;
  const { indexOf, isWellFormed, slice, split, startsWith, trimEnd } = String.prototype;
  const { join } = Array.prototype;
  const tagOf = Object.prototype.toString;
  const toWellFormed = String.prototype.toWellFormed;
  const text = String;
  const encode = encodeURIComponent;
  const isArray = Array.isArray;
  const { trunc } = Math;
  const { parseFloat } = globalThis;
  const { get: mapSize } = Reflect.getOwnPropertyDescriptor(Map.prototype, 'size');
  const { get: setSize } = Reflect.getOwnPropertyDescriptor(Set.prototype, 'size');
  const forEachOf = { Map: Map.prototype.forEach, Set: Set.prototype.forEach };
  const bigIntValueOf = BigInt.prototype.valueOf;
  const ErrorPrototypeString = Error.prototype.toString;
  const isError = Error.isError ?? ((value) => value instanceof Error);

  const MESSAGE_CHARACTERS = 16384;
  const MISSING =
    'the program gave no result: set `const result = ...` in its outermost block, or `return` a value';
  const MISSING_IN_MODULE = 'the module gave no result: let its default export return a value';

  let resultLimit = 0;
  let logLeft = 0;
  let cutTold = false;

  const cut = (string, length) => apply(toWellFormed, apply(slice, string, [0, length]), []);

  // --- console -------------------------------------------------------------------------------------------

  const isBigIntObject = (value) => {
    try {
      return typeof value === 'object' && typeof apply(bigIntValueOf, value, []) === 'bigint';
    } catch {
      return false;
    }
  };

  // An error's own account: name and message, frames, what caused it. The daemon puts frames in the program's terms.
  const CAUSES_DEEP = 4;
  const framesOf = (error) => {
    const { stack } = error;
    if (typeof stack !== 'string') return '';
    if (apply(startsWith, stack, ['    at '])) return '\n' + stack;
    // V8 has the name and the message above the frames: a message may hold a stack as well.
    const header = isError(error) ? apply(ErrorPrototypeString, error, []) : '';
    const from = apply(indexOf, stack, ['\n    at ', apply(startsWith, stack, [header]) ? header.length : 0]);
    return from < 0 ? '' : apply(slice, stack, [from]);
  };
  const causesOf = (error, deep) => {
    if (deep === CAUSES_DEEP) return '';
    const { cause } = error;
    if (cause === undefined || cause === null) return '';
    if (isError(cause)) return '\nCaused by: ' + account(cause, deep + 1);
    return '\nCaused by: ' + brief(cause);
  };
  // What is thrown along with an error may be large.
  const brief = (value) =>
    typeof value === 'object' && value !== null ? readable(value, CAUSE_MEMBERS) ?? '[object]' : show(value);
  // The errors in an AggregateError.
  const ERRORS_TOLD = 8;
  const errorsOf = (error, deep) => {
    if (deep === CAUSES_DEEP) return '';
    const { errors } = error;
    if (!isArray(errors)) return '';
    let told = '';
    const { length } = errors;
    for (let i = 0; i < length && i < ERRORS_TOLD && told.length <= MESSAGE_CHARACTERS; i++) {
      const one = errors[i];
      told += '\nOne of its errors: ' + (isError(one) ? account(one, deep + 1) : brief(one));
    }
    return length > ERRORS_TOLD ? told + '\nand ' + text(length - ERRORS_TOLD) + ' more' : told;
  };
  const account = (error, deep = 0) =>
    apply(trimEnd, apply(ErrorPrototypeString, error, []) + framesOf(error), []) + errorsOf(error, deep) + causesOf(error, deep);

  // As JSON, with something in the place of what JSON has no word for; undefined if there is too much of it for a line that
  // someone reads. `seen` and `path` go down side by side.
  const MEMBERS = 1000, CAUSE_MEMBERS = 100;
  const TOO_MUCH = {};
  const PLAIN = { __proto__: null, '[object Object]': true, '[object Array]': true };
  const readable = (value, most) => {
    const seen = [], path = [];
    let members = 0;
    const put = (list, member) => {
      defineProperty(list, list.length, { __proto__: null, value: member, writable: true, configurable: true });
    };
    const instead = (member) => {
      const tag = apply(tagOf, member, []);
      if (PLAIN[tag]) return member;
      if (isError(member)) return apply(ErrorPrototypeString, member, []);
      if (tag === '[object RegExp]') return text(member);
      if (tag === '[object BigInt]' && isBigIntObject(member)) return text(member) + 'n';
      return membersOf(member, most - members) ?? member;
    };
    try {
      return stringify(value, function (key, member) {
        while (path.length && path[path.length - 1] !== this) path.length = seen.length = path.length - 1;
        if ((members += 1) > most) throw TOO_MUCH;
        if (typeof member === 'bigint') return text(member) + 'n';
        if (typeof member === 'function') return '[function]';
        if (typeof member === 'symbol') return text(member);
        if (typeof member !== 'object' || member === null) return member;
        for (let i = 0; i < seen.length; i++) if (seen[i] === member) return '[circular]';
        const shown = instead(member);
        if (typeof shown === 'object') {
          put(seen, member);
          put(path, shown);
        }
        return shown;
      });
    } catch {}
    return undefined;
  };
  // The members of a Map or a Set, and undefined for what is none.
  const membersOf = (value, most) => {
    const tag = apply(tagOf, value, []);
    const kind = tag === '[object Map]' ? 'Map' : tag === '[object Set]' ? 'Set' : '';
    if (kind === '') return undefined;
    const found = [];
    try {
      apply(forEachOf[kind], value, [(member, key) => {
        if (found.length > most) throw TOO_MUCH;
        defineProperty(found, found.length, {
          __proto__: null, value: kind === 'Map' ? [key, member] : member, writable: true, configurable: true, enumerable: true,
        });
      }]);
    } catch (error) {
      if (error === TOO_MUCH) throw error;
      return undefined;
    }
    return found;
  };
  const sizeOf = (value, tag) => tag + '(' + text(apply(tag === 'Map' ? mapSize : setSize, value, [])) + ')';
  const show = (value) => {
    if (typeof value === 'string') return value;
    try {
      if (typeof value === 'bigint') return text(value) + 'n';
      if (typeof value === 'function') return '[function]';
      if (typeof value !== 'object' || value === null) return text(value);
      if (isError(value)) return account(value);
      let json;
      try {
        json = stringify(value);
      } catch {}
      // What is empty, or can't be told, may be something that JSON has no word for.
      if (json !== undefined && apply(indexOf, json, ['{}']) < 0) return json;
      const tag = apply(tagOf, value, []);
      if (tag === '[object RegExp]') return text(value);
      if (tag === '[object Map]' || tag === '[object Set]') {
        const name = sizeOf(value, tag === '[object Map]' ? 'Map' : 'Set');
        return name + ' ' + (readable(value, MEMBERS) ?? stringify(membersOf(value, Infinity)));
      }
      return readable(value, MEMBERS) ?? json ?? (isArray(value) ? '[array]' : '[object]');
    } catch {
      try {
        return isArray(value) ? '[array]' : '[object]';
      } catch {
        return '[object]';
      }
    }
  };

  // The first text may have places for those behind it (Console Standard, 2.2.1): %s %d %i %f %o %O %c, and %% for a %.
  const placed = (values) => {
    const pattern = values[0];
    if (values.length < 2 || typeof pattern !== 'string') return { text: '', used: 0 };
    let done = '', from = 0, used = 1;
    for (let at; (at = apply(indexOf, pattern, ['%', from])) >= 0; from = at + 2) {
      const how = pattern[at + 1] ?? '';
      const takes = how !== '' && apply(indexOf, 'sdifoOc', [how]) >= 0;
      if (takes && used === values.length) break;
      done += apply(slice, pattern, [from, at]);
      const value = values[used];
      const number = (convert) => (typeof value === 'symbol' ? 'NaN' : text(convert(typeof value === 'bigint' ? value : text(value))));
      if (how === 's' || how === 'o' || how === 'O') done += show(value);
      else if (how === 'd' || how === 'i') done += number((it) => (typeof it === 'bigint' ? it : trunc(parseFloat(it))));
      else if (how === 'f') done += number((it) => parseFloat(text(it)));
      else if (how !== 'c') done += '%' + (how === '%' ? '' : how);
      if (takes) used += 1;
      if (done.length > logLeft) break;
    }
    return { text: done + apply(slice, pattern, [from]), used };
  };

  const GROUPS_DEEP = 32;
  let indent = '';
  // Each line of a text, but for frames, which the daemon knows by how they begin.
  const indented = (string) => {
    let done = indent;
    for (let at; (at = apply(indexOf, string, ['\n'])) >= 0 && done.length <= logLeft; string = apply(slice, string, [at + 1])) {
      done += apply(slice, string, [0, at + 1]);
      if (!apply(startsWith, string, ['    at ', at + 1])) done += indent;
    }
    return done + string;
  };
  const write = (level, values) => {
    if (logLeft < 0) {
      if (!cutTold) log(level, '');  // past the limit: told as cut, and not kept
      cutTold = true;
      return;
    }
    const before = placed(values);
    let line = before.text;
    let apart = before.used ? ' ' : '';
    for (let i = before.used; i < values.length; i++) {
      const shown = show(values[i]);
      line += apart + shown;
      apart = apply(indexOf, shown, ['\n    at ']) < 0 ? ' ' : '\n';
      if (line.length > logLeft) break;
    }
    line = cut(indent === '' ? line : indented(line), logLeft + 1);
    logLeft -= line.length + 16;
    log(level, line);
  };

  const console = {};
  const levels = { debug: 0, log: 1, info: 2, warn: 3, error: 4, trace: 0, dir: 1, table: 1 };
  for (const name of Object.keys(levels)) {
    const level = levels[name];
    console[name] = { [name](...values) { write(level, values); } }[name];
  }
  console.assert = function assert(condition, ...values) {
    if (condition) return;
    const [first, ...others] = values;
    write(4, typeof first === 'string' ? ['Assertion failed: ' + first, ...others] : ['Assertion failed', ...values]);
  };
  console.group = function group(...values) {
    if (values.length) write(1, values);
    if (indent.length < 2 * GROUPS_DEEP) indent += '  ';
  };
  console.groupCollapsed = { groupCollapsed(...values) { apply(console.group, undefined, values); } }.groupCollapsed;
  console.groupEnd = function groupEnd() {
    indent = apply(slice, indent, [2]);
  };
  const label = (value) => (value === undefined ? 'default' : text(value));
  const counts = { __proto__: null }, began = { __proto__: null };
  console.count = function count(name) {
    const key = label(name);
    counts[key] = (counts[key] ?? 0) + 1;
    write(2, [key + ': ' + counts[key]]);
  };
  console.countReset = function countReset(name) {
    counts[label(name)] = 0;
  };
  console.time = function time(name) {
    began[label(name)] = now();
  };
  console.timeLog = function timeLog(name, ...values) {
    const key = label(name);
    if (key in began) write(2, [key + ': ' + text(trunc((now() - began[key]) * 1000) / 1000) + 'ms', ...values]);
  };
  console.timeEnd = function timeEnd(name) {
    console.timeLog(name);
    delete began[label(name)];
  };
  defineProperty(globalThis, 'console', { value: console, writable: true, configurable: true, enumerable: false });

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

  // What a run comes to, for the zygote: the value's JSON, or `!` and how else it ended. A string, since a promise
  // asks an object for a `then`, which a program may have put on any prototype.
  const clean = (string) => {
    let done = '';
    for (let at; (at = apply(indexOf, string, ['\0'])) >= 0; string = apply(slice, string, [at + 1])) {
      done += apply(slice, string, [0, at]) + '\\0';
    }
    return done + string;
  };
  const report = (kind, first, message, stack) =>
    '!' + kind + '\0' + clean(first) + '\0' + clean(message) + '\0' + clean(stack);

  // The frames alone, since a message of any length stands above them, and what caused it.
  const traceOf = (error) => {
    try {
      const frames = cut(apply(slice, framesOf(error), [1]), MESSAGE_CHARACTERS);
      const others = isError(error) ? errorsOf(error, 0) + causesOf(error, 0) : '';
      return apply(trimEnd, frames, []) + cut(others, MESSAGE_CHARACTERS);
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
      const name = field(error, 'name');
      let message = field(error, 'message');
      if (!name && !message) {
        if (!isError(error)) return report('x', '', 'thrown: ' + cut(show(error), MESSAGE_CHARACTERS), '');
        message = 'thrown: an error without a name and a message';
      }
      return report('x', name || 'Error', message, traceOf(error));
    }
    return report('x', '', 'thrown: ' + cut(show(error), MESSAGE_CHARACTERS), '');
  };

  // Why JSON.stringify failed, if for what the value is (a BigInt, a cycle) and not for what its code threw.
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
      return report('b', type === 'undefined' ? (inModule ? MISSING_IN_MODULE : MISSING) : 'the result is not JSON: it is a ' + type, '', '');
    }
    // What is replaced below gets shorter, at most from six characters to one.
    if (json.length > ESCAPE_CHARACTERS * resultLimit) return report('o', text(json.length), '', '');
    const sent = typeof value === 'string' && apply(isWellFormed, value, []) ? json : withoutLoneSurrogates(json);
    if (sent.length > resultLimit) return report('o', text(sent.length), '', '');
    if (sent !== json) write(3, ['the result has a lone surrogate; U+FFFD takes its place']);
    return sent;
  };

  // JSON.stringify escapes lone surrogates, which strict readers of JSON refuse: U+FFFD takes their place. It writes small
  // digits; the text of JSON.rawJSON may have capitals, and whole pairs.
  const ESCAPE_CHARACTERS = 6;
  const HIGH = '89abAB', LOW = 'cdefCDEF';
  const isSurrogate = (string, at, digits) =>
    string[at] === '\\' && string[at + 1] === 'u' && (string[at + 2] === 'd' || string[at + 2] === 'D') &&
    apply(indexOf, digits, [string[at + 3] ?? '?']) >= 0;
  const isLone = (string, at) =>
    (isSurrogate(string, at, HIGH) && !isSurrogate(string, at + ESCAPE_CHARACTERS, LOW)) ||
    (isSurrogate(string, at, LOW) && !isSurrogate(string, at - ESCAPE_CHARACTERS, HIGH));
  const withoutLoneSurrogates = (json) => {
    for (const escape of ['\\ud', '\\uD']) {
      if (apply(indexOf, json, [escape]) < 0) continue;
      // Of the same length, without the backslashes that stand for themselves.
      const escapes = apply(join, apply(split, json, ['\\\\']), ['--']);
      let done = '', from = 0;
      for (let at = 0; (at = apply(indexOf, escapes, [escape, at])) >= 0; at += ESCAPE_CHARACTERS) {
        if (!isLone(escapes, at)) continue;
        done += apply(slice, json, [from, at]) + '\ufffd';
        from = at + ESCAPE_CHARACTERS;
      }
      if (from > 0) json = done + apply(slice, json, [from]);
    }
    return json;
  };

  // Without a constructor of its own a promise is followed with the pristine one, whatever the program did
  // to Promise.prototype.
  const pristine = { __proto__: null, value: undefined };
  const follow = (promise) => {
    defineProperty(promise, 'constructor', pristine);
    const followed = apply(then, promise, [succeed, fail]);
    defineProperty(followed, 'constructor', pristine);
    return followed;
  };

  // A Worker-style module: the prompt comes in the request's URL, the response's body is the result.
  const answer = async (handler, main, prompt, env) => {
    const request = web.request('http://promptlog/?prompt=' + encode(prompt));
    const response = await apply(handler, main, [request, env, { waitUntil() {}, passThroughOnException() {} }]);
    return web.is(response) ? web.value(response) : response;
  };

  // What the default export of a module comes to.
  let inModule = false;
  const call = (namespace, prompt, env, module = true) => {
    inModule = module;
    const main = namespace.default;
    if (typeof main === 'function') return apply(main, undefined, [prompt, env]);
    const handler = typeof main === 'object' && main !== null ? main.fetch : undefined;
    if (typeof handler !== 'function') throw NOT_A_PROGRAM;
    return answer(handler, main, prompt, env);
  };

  // Bytes are counted by who reads; these are UTF-16 units.
  let started = false;
  const start = (resultUnits, logUnits) => {
    if (started) return;  // who gets hold of what calls this can lift no limit
    started = true;
    resultLimit = resultUnits;
    logLeft = logUnits;
  };

  return { follow, fail, report, start, call };
}))(globalThis);
