// The part of promptlog that runs inside a Deno jail, behind contract.js and `ofThisDeno`, the names of globals that are to
// go and not every Deno has (one module at the root's making: root.py). It keeps what
// it needs, takes away what a program should not see, waits for its one frame, runs that, writes what came of it, and
// waits for its end. It has seen no user byte when it says that it is ready.
//
// To the daemon: R, ready; then frames as in replies.py, each with the token of the run before it. What else a program
// may write to the descriptor has no token, and ends its run as `crashed`.
// From the daemon: token:16 kind:1 language:1 code:4 prompt:4 env:4 result:4 log:4 (big-endian), then the three texts.
//   kind R: wrapped code; S: a source, checked and run; C: a source to be checked. language j or t.
// Wrapped code: B, a body that is JavaScript; T, a body that is TypeScript; M and N, a module of either; b and m, a body and
// a module that were TypeScript, with blanks for its types. From a check of all others the letter alone comes back, since
// the daemon has the rest.
(() => {
  'use strict';
  const { Deno } = globalThis;
  const { apply, defineProperty, getOwnPropertyDescriptor, getPrototypeOf } = Reflect;
  const { parse } = JSON;
  const { stdin, stdout, exit } = Deno;
  const read = stdin.readSync.bind(stdin);
  const write = stdout.writeSync.bind(stdout);
  const encoder = new TextEncoder();
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  const encode = encoder.encode.bind(encoder);
  const decode = decoder.decode.bind(decoder);
  const Bytes = Uint8Array;
  const { set, subarray } = getPrototypeOf(Bytes.prototype);
  // An accessor that a program may replace, and would be called with what goes out, the token in it.
  const getLength = getOwnPropertyDescriptor(getPrototypeOf(Bytes.prototype), 'length').get;
  const getBuffer = getOwnPropertyDescriptor(getPrototypeOf(Bytes.prototype), 'buffer').get;
  const lengthOf = (bytes) => apply(getLength, bytes, []);
  const { split, slice, startsWith, endsWith, indexOf, lastIndexOf } = String.prototype;
  const textOf = Function.prototype.toString;
  const test = RegExp.prototype.test;
  const exec = RegExp.prototype.exec;
  const then = Promise.prototype.then;
  const AsyncFunction = (async () => {}).constructor;
  const { isArray } = Array;
  const { Blob, Event, ErrorEvent, URL, addEventListener } = globalThis;
  const createObjectURL = URL.createObjectURL;
  const preventDefault = Event.prototype.preventDefault;
  const errorOf = getOwnPropertyDescriptor(ErrorEvent.prototype, 'error').get;
  const { MessageChannel } = globalThis;
  const closePort = MessagePort.prototype.close;
  const hasInstance = Function.prototype[Symbol.hasInstance];
  const say = String;
  const importModule = (url) => import(url);

  let token = new Bytes(16);
  let mapped = 0;  // how stacks count lines: stack.py
  let ended = false;

  // --- the channel ----------------------------------------------------------------------------------------

  const writeAll = (bytes) => {
    const length = lengthOf(bytes);
    // Not with subarray, which asks the program's idea of a constructor for what it makes.
    for (let at = 0; at < length;) at += write(at ? new Bytes(apply(getBuffer, bytes, []), at) : bytes);
  };
  const number = (bytes, at) => bytes[at] * 16777216 + (bytes[at + 1] << 16) + (bytes[at + 2] << 8) + bytes[at + 3];
  const put = (bytes, at, value) => {
    bytes[at] = value >>> 24;
    bytes[at + 1] = value >>> 16;
    bytes[at + 2] = value >>> 8;
    bytes[at + 3] = value;
  };
  const send = (kind, payload) => {
    const length = lengthOf(payload);
    const bytes = new Bytes(21 + length);
    apply(set, bytes, [token]);
    bytes[16] = kind;
    put(bytes, 17, length);
    apply(set, bytes, [payload, 21]);
    writeAll(bytes);
  };
  const TEXT_CHARACTERS = 16384;  // an error may quote all of a program
  const sendFields = (kind, a, b, c) => {
    const first = encode(apply(slice, a, [0, TEXT_CHARACTERS])), second = encode(apply(slice, b, [0, TEXT_CHARACTERS]));
    const third = encode(apply(slice, c, [0, 4 * TEXT_CHARACTERS]));
    const one = lengthOf(first), two = lengthOf(second), three = lengthOf(third);
    const bytes = new Bytes(12 + one + two + three);
    put(bytes, 0, one);
    apply(set, bytes, [first, 4]);
    put(bytes, 4 + one, two);
    apply(set, bytes, [second, 8 + one]);
    put(bytes, 8 + one + two, three);
    apply(set, bytes, [third, 12 + one + two]);
    send(kind, bytes);
  };
  const take = (count) => {
    const bytes = new Bytes(count);
    for (let at = 0; at < count;) {
      const got = read(at ? apply(subarray, bytes, [at]) : bytes);
      if (got === null) exit(0);
      at += got;
    }
    return bytes;
  };
  const V = 118, O = 111, B = 98, X = 120, S = 115, L = 108, W = 119, Q = 113;
  // Frames of what was loaded have a name of their own: a program can load as well.
  const CODES = '0123456789:;<=>';
  let loaded = '';
  const named = (stack) => {
    if (loaded === '') return stack;
    let done = '';
    for (let at; (at = apply(indexOf, stack, [loaded])) >= 0; stack = apply(slice, stack, [at + loaded.length])) {
      done += apply(slice, stack, [0, at]) + 'program:module';
    }
    return done + stack;
  };
  const log = (level, line) => send(L, encode(CODES[level + 5 * mapped] + named(line)));

  // Nothing of the program runs any more: the daemon has read the kernel's accounts by the time it ends this process.
  const end = () => {
    ended = true;
    for (const waste = new Bytes(1); ;) if (read(waste) === null) exit(0);
  };

  // --- the program ----------------------------------------------------------------------------------------

  // Deno makes these when they are first looked at, which takes some ms: so only for a module that answers a Request, and
  // by Deno's own getters, whatever the program has put in their place.
  const made = (name) => {
    const { get, value } = getOwnPropertyDescriptor(globalThis, name);
    return get === undefined ? () => value : () => apply(get, globalThis, []);
  };
  const makeProcess = made('process');
  const makeRequest = made('Request'), makeResponse = made('Response'), makeHeaders = made('Headers');
  const web = {
    request: (url) => new (makeRequest())(url),
    is: (value) => apply(hasInstance, makeResponse(), [value]),
    value: async (response) => {
      const { prototype } = makeResponse();
      const headers = apply(getOwnPropertyDescriptor(prototype, 'headers').get, response, []);
      const type = apply(makeHeaders().prototype.get, headers, ['content-type']);
      const text = await apply(prototype.text, response, []);
      return type !== null && apply(test, /[/+]json\b/, [type]) ? parse(text) : text;
    },
  };
  const { follow, fail, report, start, call } = contract(log, web, performance.now.bind(performance));

  // Deno tells whoever runs it which of its options would help; whoever wrote a program has no use for that.
  const OWN_TEXT = 'a program has its own text alone, and can not import';
  const NOT_FOUND = 'module not found: ';
  const OF_RIGHTS = [/^Requires (\w+ access to "[^]*"), run again with the --allow-/, 'no program has '];
  const OF_IMPORTS = [
    OF_RIGHTS,
    [/^Blocked by null entry for ""([^]*?)""/, NOT_FOUND],
    [/^Import "([^]*)" not a dependency and not in import map/, NOT_FOUND],
    [/^A remote specifier was requested: "?([^"\s]*?)"?, but --no-remote/, NOT_FOUND],
    [/^JSR package manifest for '([^]*)' failed to load/, NOT_FOUND + 'jsr:'],
    [/^(npm specifiers) were requested; but --no-npm/, 'no program can import '],
  ];
  const OF_ERRORS = {
    __proto__: null,
    NotCapable: [OF_RIGHTS],
    TypeError: OF_IMPORTS,
    SyntaxError: [
      ...OF_IMPORTS,
      [/^Single (function) literal required$/, 'a bracket closes that it did not open: the program is the body of one '],
      [/^Cannot use import statement outside a module()$/, OWN_TEXT],
      [/^'import', and 'export' cannot be used outside of module code()$/, OWN_TEXT],
      [/^Expected '[})]', got '<eof>'()$/, 'Unexpected end of input: a bracket, a comment or a text is left open'],
      [/^(Expected [^]*), got '<lexing error:/, ''],
      [/^SyntaxError: ([^\n]*)\n[^]*\n    at data:/, 'in what it imports: '],
    ],
  };
  const OUR_PLACE = /^([^]*?)\n    at blob:null\/[0-9a-f-]{36}:\d+:\d+\s*$/;  // TypeScript's errors end with it
  const reworded = (name, message) => {
    message = apply(exec, OUR_PLACE, [message])?.[1] ?? message;
    const words = OF_ERRORS[name];
    for (let i = 0; i < (words?.length ?? 0); i++) {
      const found = apply(exec, words[i][0], [message]);
      if (found !== null) return words[i][1] + found[1];
    }
    return message;
  };

  // What contract.js says of the end, as a frame.
  const finish = (said) => {
    if (ended) return;
    ended = true;
    if (said[0] !== '!') {
      send(V, encode(said));
    } else {
      const parts = apply(split, apply(slice, said, [1]), ['\0']);  // no iterator: that may be the program's by now
      const kind = parts[0], first = parts[1], message = parts[2], stack = parts[3];
      if (kind === 'o') send(O, encode(first));
      else if (kind === 'b') send(B, encode(first));
      else if (kind === 's') sendFields(S, 'SyntaxError', first, '');
      else sendFields(X, first, reworded(first, message), say(mapped) + '\n' + named(stack));
    }
    end();
  };

  const TYPES = { __proto__: null, j: 'text/javascript', t: 'application/typescript' };
  // The last such line counts: so a map that a program brings with it moves no place.
  const NO_MAP = '\n//# sourceMappingURL=none';
  const urls = [];
  const load = (source, language) => {
    loaded = createObjectURL(new Blob([source + NO_MAP], { __proto__: null, type: TYPES[language] }));
    defineProperty(urls, urls.length, { __proto__: null, value: loaded });
    return importModule(loaded);
  };
  const END = '\n;return typeof result === "undefined" ? void 0 : result;\n';
  const BODY = ['export default (async function (prompt, env) {"use strict";\n', '})'];
  const OUR_NAME = '//# sourceURL=program.js';

  // V8 names the place of a syntax error in a module alone, and swc as well, behind its message: a body's, below the line
  // of its bracket. No text can hold the name of what it is loaded as.
  const placeIn = (error) => {
    const whole = say(error?.message ?? error);
    for (let i = 0; i < urls.length; i++) {
      const end = apply(lastIndexOf, whole, [urls[i] + ':']);
      const head = apply(slice, whole, [0, end]);
      const parser = apply(endsWith, head, ['\n    at ']) ? 'swc' : 'v8';
      const place = apply(exec, /^:(\d+):(\d+)(?=\s|$)/, [apply(slice, whole, [end + urls[i].length])]);
      if (end < 0 || place === null || !apply(endsWith, head, [' at '])) continue;
      const text = apply(slice, head, [0, parser === 'swc' ? -8 : -4]);
      const message = apply(exec, /^(?:SyntaxError: )?([^\n]*)/, [text])[1];
      return { message, parser, line: +place[1], column: +place[2] };
    }
    return null;
  };
  const placed = (error, form) => {
    const found = error instanceof Placed ? error : placeIn(error);
    if (found === null) return [say(error?.message ?? error), ''];
    // Before the first line of a module stands STOP; that of a body is its bracket's.
    const column = form === 'M' && found.line === 1 ? found.column - STOP.length : found.column;
    // V8 and swc count differently (stack.py).
    return [found.message, `    at ${found.parser}:${found.line}:${column}`];
  };

  // Whatever the program did to promises: `follow` gives one that has the pristine constructor.
  const settle = (promise) => apply(then, promise, [finish]);
  const run = (wrapped, prompt, env) => {
    const kind = wrapped[0];
    const code = apply(slice, wrapped, [1]);
    if (kind === 'B' || kind === 'b') {
      settle(follow(new AsyncFunction('prompt', 'env', '"use strict";\n' + code + END + OUR_NAME)(prompt, env)));
      return;
    }
    mapped = kind === 'T' ? 1 : kind === 'N' ? 2 : 0;
    // An event loop that runs dry while a module waits for ever would end Deno; so it is the wall limit that ends it.
    const { port1 } = new MessageChannel();
    port1.onmessage = () => {};
    const loaded = kind === 'T' ? load(BODY[0] + code + END + BODY[1], 't') : load(code, kind === 'N' ? 't' : 'j');
    const close = closePort.bind(port1);
    settle(follow(apply(then, loaded, [(namespace) => {
      close();
      return call(namespace, prompt, env, kind !== 'T');
    }])));
  };

  // --- the check ------------------------------------------------------------------------------------------

  // What is loaded with this before it is parsed and linked, and not run: imports are evaluated in their order, and this
  // first one throws. A body that parses between all three brackets closes none of them (CHECKS in zygote.py has the
  // proof; what TypeScript lets follow a method's or an expression's end is disjoint as well).
  const STOP = 'import "data:text/javascript,throw null";';
  const BRACKETS = [
    ['export default (async function (prompt, env) {"use strict";\n', '\n})'],
    ['export default ({async program(prompt, env) {"use strict";\n', '\n}})'],
    ['export default (class {async program(prompt, env) {\n', '\n}})'],
  ];
  // Not closed, so that what is wrong with a body is told in its own text.
  const LOOSE = 'async function loose(prompt, env) {"use strict";\n';
  const refusal = async (source, language) => {
    try {
      await load(STOP + source, language);
    } catch (error) {
      return error === null ? null : error;
    }
    return null;
  };
  class Unparsed {
    constructor(error, form, message) {
      this.error = error;
      this.form = form;
      this.message = message;
    }
  }
  class Placed {
    constructor(message, source, end, above = 0) {
      const lines = apply(split, apply(slice, source, [0, end]), ['\n']);
      this.message = message;
      this.parser = 'v8';
      this.line = lines.length + above;
      this.column = lines[lines.length - 1].length + 1;
    }
  }
  const braceAt = (source, end) => new Unparsed(new Placed("Unexpected token '}'", source, end, 1), 'B');
  // The function is declared, and not run: where its text ends, the source has closed the bracket.
  const closed = (source) => {
    for (const after of ['', '\n}']) {
      try {
        const end = apply(textOf, new Function('return loose; ' + LOOSE + source + after)(), []).length - 1;
        if (end < LOOSE.length + source.length) return braceAt(source, end - LOOSE.length);
      } catch {}
    }
    return null;
  };
  const before = (error, source) => {
    const found = placeIn(error);
    if (found === null) return source.length;
    const lines = apply(split, source, ['\n']);
    let at = found.column - 1;
    for (let line = 0; line < found.line - 2 && line < lines.length; line++) at += lines[line].length + 1;
    return at;
  };
  const scriptsError = async (source, error) => {
    const brace = closed(source);
    if (brace !== null) return brace;
    const where = await refusal('export default ' + LOOSE + source, 'j');
    // What V8 says of a bracket of ours would be of no use.
    const message = say(error.message);
    const ours = apply(test, /^Unexpected token '[})]'$|^Single function literal required$/, [message]);
    return new Unparsed(where ?? error, 'B', ours ? undefined : message);
  };
  const bodysError = async (source, error) => {
    // What swc has read, and V8 refuses for what it means, has its place from V8: all brackets are closed.
    if (placeIn(error)?.parser === 'v8') return new Unparsed(error, 'B');
    const where = await refusal('export default ' + LOOSE + source, 't');
    if (where !== null) {
      const late = before(where, source) >= source.length && before(error, source) < source.length;
      return new Unparsed(late ? error : where, 'B');
    }
    // It closes the bracket: before what can't follow a method, or with its last brace.
    const method = await refusal(BRACKETS[2][0] + source, 't');
    const brace = apply(lastIndexOf, source, ['}', before(method, source)]);
    return brace < 0 ? new Unparsed(error, 'B') : braceAt(source, brace);
  };
  // An export at a line's start goes before one elsewhere, which a text or a comment may hold as well.
  const EXPORT_FIRST = /^([ \t]*)export\b/m;
  const EXPORT = /()\bexport(?:\s*[{*=]|\s+[a-z])/;
  const NO_DEFAULT =
    'a module needs a default export: a function (prompt, env) => value, or an object with fetch(request, env)';
  // What there is to tell if the process does not survive swc, which has no bound for how deep it goes.
  const TOO_DEEP = 'it is nested too deeply, or Deno has failed to parse it';
  const atLeast = (message) => sendFields(Q, 'BSyntaxError', message, '');
  // V8 wants a single function here, so that what closes the bracket is refused.
  const compile = (source) => new AsyncFunction('prompt', 'env', '"use strict";\n' + source + '\n');
  // Where types are all that there is of TypeScript they are blanked out for good, byte by byte: nothing moves, and what is
  // kept starts like JavaScript. Node's module that can do it takes 15 ms to load, too long for a single run; it wants
  // Deno, which is there for so long: in a check nothing of a program runs. What is no such thing, or might mean something
  // else without its types, stays as it is: null.
  const MORE_THAN_TYPES =
    /\b(?:enum|namespace|module)[ \t]+[\w$"']|^[ \t]*@[\w(]|\bimport\b|\bfrom[ \t]*["']|\bexport[ \t]*=|\b(?:public|private|protected|readonly|override|declare|abstract)[ \t]*[\r\n\u2028\u2029]/m;
  const SPACE = /\s/;
  const NO_STATEMENT = { __proto__: null, as: true, satisfies: true, this: true, implements: true, extends: true };
  const NEEDS_ITS_LINE = /(?:^|[^\w$.])(?:return|throw|yield|break|continue|async)\s*$/;
  // A statement or a member that was taken out may have been what ended the line before it: it leaves a semicolon.
  const withSemicolons = (source, blank) => {
    let done = '', from = 0;
    for (let at = 0; at < source.length; at++) {
      if (source[at] === blank[at]) continue;
      const start = at;
      let end = at;
      for (; at < source.length; at++) {
        if (source[at] !== blank[at]) end = at + 1;
        else if (!apply(test, SPACE, [source[at]])) break;
      }
      let before = start - 1;
      while (source[before] === ' ' || source[before] === '\t') before -= 1;
      const opens = before < 0 || apply(test, /[\r\n\u2028\u2029]/, [source[before]]) || (source[before] === '/' && source[before - 1] === '*');
      const word = apply(exec, /^(?:\[|[A-Za-z_$][\w$]*)/, [apply(slice, source, [start, start + 16])]);
      if (opens && word !== null && !NO_STATEMENT[word[0]]) {
        if (blank[start] === ' ') {
          done += apply(slice, blank, [from, start]) + ';';
          from = start + 1;
        }
      } else if (apply(test, /[\r\n\u2028\u2029]/, [apply(slice, source, [start, end])]) &&
          apply(test, NEEDS_ITS_LINE, [apply(slice, source, [start > 16 ? start - 16 : 0, start])])) {
        return null;
      }
    }
    return done + apply(slice, blank, [from]);
  };
  const AROUND = ['async function loose(prompt, env) {"use strict";\n', '\n}'];
  const withoutTypes = async (source) => {
    if (apply(test, MORE_THAN_TYPES, [source])) return null;
    defineProperty(globalThis, 'Deno', { __proto__: null, value: Deno, configurable: true });
    try {
      const { stripTypeScriptTypes } = makeProcess().getBuiltinModule('node:module');
      const strip = (text) => {
        const blank = stripTypeScriptTypes(text);
        return blank.length === text.length ? withSemicolons(text, blank) : null;
      };
      const [before, after] = AROUND;
      try {
        const whole = strip(before + source + after);
        if (whole === null) return null;
        const body = apply(slice, whole, [before.length, -after.length]);
        compile(body);
        if (whole === before + body + after) return 'b' + body;
      } catch {}
      const module = strip(source);
      if (module === null || !apply(test, /default/, [source])) return null;
      return await refusal(module, 'j') === null ? 'm' + module : null;
    } catch {
      return null;
    } finally {
      delete globalThis.Deno;
    }
  };
  const check = async (source, language, keep) => {
    const script = language === 'j';
    let error = null, first = true;
    if (!script) {
      atLeast(TOO_DEEP);
      const kept = keep ? await withoutTypes(source) : null;
      if (kept !== null) return kept;
    }
    if (script) {
      try {
        compile(source);
      } catch (thrown) {
        error = thrown;
        if (!(error instanceof SyntaxError)) throw new Unparsed('it is nested too deeply', 'B');
      }
    } else {
      error = await refusal(BRACKETS[0][0] + source + BRACKETS[0][1], 't');
      first = error !== null;
      for (const [before, after] of [BRACKETS[1], BRACKETS[2]]) error ??= await refusal(before + source + after, 't');
    }
    if (error === null) return (script ? 'B' : 'T') + source;
    const opening = apply(exec, EXPORT_FIRST, [source]), module = opening ?? apply(exec, EXPORT, [source]);
    // What V8 can't parse as a body may be more than swc survives.
    const says = say(error.message), ofModule = opening !== null || apply(test, /'export'|import statement/, [says]);
    if (script) atLeast(module !== null && ofModule ? TOO_DEEP : reworded('SyntaxError', says));
    if (module !== null) {
      // A line for a shell is a comment where nothing stands before it.
      const shell = apply(startsWith, source, ['#!']);
      const other = await refusal(shell ? '//' + apply(slice, source, [2]) : source, language);
      if (other !== null) {
        // A body in which nothing is wrong before the export is none.
        if (ofModule) throw new Unparsed(other, 'M');
      } else if (apply(test, /default/, [source])) {
        return (script ? 'M' : 'N') + source;
      } else {
        const end = STOP.length + module.index + module[1].length;
        throw new Unparsed(new Placed(NO_DEFAULT, STOP + source, end), 'M');
      }
    }
    if (script) throw await scriptsError(source, error);
    throw first ? await bodysError(source, error) : new Unparsed(error, 'B');
  };

  // --- what a program should not see ------------------------------------------------------------------------

  const removed = [
    'Deno', 'process', 'global', 'Buffer', 'Worker', 'localStorage', 'sessionStorage', 'Storage', 'caches', 'Cache', 'CacheStorage',
    'navigator', 'Navigator', 'NavigatorUAData', 'alert', 'confirm', 'prompt', 'close', 'closed', 'name', 'location',
    'Location', 'Window', 'WebSocket', 'EventSource', 'BroadcastChannel', 'createImageBitmap', 'ImageBitmap',
    'ImageBitmapRenderingContext', 'OffscreenCanvas', 'Lock', 'LockManager', 'setImmediate', 'clearImmediate', 'onload',
    'onbeforeunload', 'onunload', 'onerror', 'onunhandledrejection', ...ofThisDeno,
  ];
  const reports = (type, listener) => apply(addEventListener, globalThis, [type, listener]);
  reports('error', (event) => {
    apply(preventDefault, event, []);
    finish(fail(apply(errorOf, event, [])));
  });
  reports('unhandledrejection', (event) => apply(preventDefault, event, []));
  reports('beforeunload', () => {
    finish(report('x', 'Error', 'the program waits for a promise that nothing can settle', ''));
  });
  for (const name of removed) delete globalThis[name];
  for (const name of removed) {
    if (name in globalThis) defineProperty(globalThis, name, { __proto__: null, value: undefined });
  }

  // A delay that Node would warn of makes Deno load what it warns with, and that wants what is taken away. Made when it is
  // first looked at, as Deno does it: it takes a while.
  for (const name of ['setTimeout', 'setInterval']) {
    const make = made(name);
    let timer;
    const get = () => {
      if (timer === undefined) {
        const original = make();
        timer = { [name](callback, delay, ...values) {
          const ms = delay * 1;  // as Node has it: what it can't wait for is not waited for
          return apply(original, globalThis, [callback, ms >= 1 && ms <= 2147483647 ? ms : 0, ...values]);
        } }[name];
      }
      return timer;
    };
    const set = function (value) {
      defineProperty(this, name, { __proto__: null, value, writable: true, configurable: true, enumerable: true });
    };
    defineProperty(globalThis, name, { __proto__: null, get, set, configurable: true, enumerable: true });
  }

  // Each job takes a thread for itself, of which a process has so many; Deno ends if it gets none.
  const JOBS = 8;
  const MadePromise = Promise;
  let jobs = 0, next = null, last = null;
  const over = () => {
    if (next === null) {
      jobs -= 1;
      return;
    }
    const { go } = next;  // its place goes on to that one
    next = next.after;
    go();
  };
  const inTurn = (go) => {
    const turn = { __proto__: null, go, after: null };
    if (next === null) next = turn;
    else last.after = turn;
    last = turn;
  };
  // Who calls may change what was handed over while it waits: of bytes, of an algorithm's fields and of lists, what they are.
  const { isView } = ArrayBuffer;
  const sliceBuffer = ArrayBuffer.prototype.slice;
  const tagOf = Object.prototype.toString;
  const PlainObject = Object.prototype;
  const copied = (value, deep = 0) => {
    if (typeof value !== 'object' || value === null) return value;
    if (isView(value)) {
      const bytes = new Bytes(value.buffer, value.byteOffset, value.byteLength), copy = new Bytes(lengthOf(bytes));
      apply(set, copy, [bytes]);
      return copy;
    }
    if (apply(tagOf, value, []) === '[object ArrayBuffer]') return apply(sliceBuffer, value, [0]);
    const prototype = getPrototypeOf(value);
    if (deep === 2 || (prototype !== PlainObject && prototype !== null && !isArray(value))) return value;
    const copy = isArray(value) ? [] : {};
    for (const key in value) {
      const field = copied(value[key], deep + 1);
      defineProperty(copy, key, { __proto__: null, value: field, writable: true, configurable: true, enumerable: true });
    }
    return copy;
  };
  const { prototype: subtle } = SubtleCrypto;
  for (const name of Object.getOwnPropertyNames(subtle)) {
    const method = subtle[name];
    if (name === 'constructor' || typeof method !== 'function') continue;
    // Asynchronous itself, so that stacks go on through it.
    const { [name]: limited } = { async [name](...values) {
      if (jobs === JOBS) {
        for (let i = 0; i < values.length; i++) values[i] = copied(values[i]);
        await new MadePromise(inTurn);
      } else {
        jobs += 1;
      }
      try {
        return await apply(method, this, values);
      } finally {
        over();
      }
    } };
    defineProperty(limited, 'length', { __proto__: null, value: method.length, configurable: true });
    subtle[name] = limited;
  }

  // --- the one job ------------------------------------------------------------------------------------------

  const refuse = ({ error, form, message }) => {
    const [found, place] = placed(error, form);
    sendFields(S, form + 'SyntaxError', reworded('SyntaxError', message ?? found), place);
    end();
  };
  writeAll(encode('R'));
  const header = take(38);
  token = apply(subarray, header, [0, 16]);
  const lengths = [number(header, 18), number(header, 22), number(header, 26)];
  const texts = take(lengths[0] + lengths[1] + lengths[2]);
  const code = decode(apply(subarray, texts, [0, lengths[0]]));
  const prompt = decode(apply(subarray, texts, [lengths[0], lengths[0] + lengths[1]]));
  const env = decode(apply(subarray, texts, [lengths[0] + lengths[1]]));
  start(number(header, 30), number(header, 34));
  const [kind, language] = [decode(apply(subarray, header, [16, 17])), decode(apply(subarray, header, [17, 18]))];
  const given = env === '{}' ? {} : parse(env);
  if (kind === 'R') {
    run(code, prompt, given);
  } else {
    check(code, language, kind === 'C').then((wrapped) => {
      if (kind === 'S') {
        send(Q, new Bytes(0));  // from here on an end is the program's
        run(wrapped, prompt, given);
      } else {
        send(W, encode(apply(test, /^[bm]/, [wrapped]) ? wrapped : wrapped[0]));
        end();
      }
    }, (error) => {
      if (error instanceof Unparsed) refuse(error);
      else finish(fail(error));
    });
  }
})();
