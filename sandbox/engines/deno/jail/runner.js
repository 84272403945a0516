// The runner: promptlog's code in a Deno jail. root.py joins it with other files to one module: console.js, contract.js,
// `ofThisDeno` (globals to remove that only some versions of Deno have), `checkText` (check.js) and `inspectText`
// (inspect.js and format.js).
//
// The runner keeps the functions that it needs, removes everything that a program must not see, and waits for its only frame.
// It runs the job in the frame, writes the result, and waits until the daemon ends it. It reports that it is ready before it
// has read any byte of a user.
//
// This file has more than 300 lines because everything that must happen before the first byte of a user is in one place.
//
// To the daemon: R (ready), then frames as in sandbox/protocol/frames.py, each after the token of the run. A program can also
// write to the descriptor, but it does not have the token: its run then ends as `crashed`.
// From the daemon: one frame: j and the size of the rest; then token:16 task:1 form:1 language:1, the sizes of code, prompt
//   and env and the limits of result and logs (4 bytes each, big-endian), then the three texts.
//   Task R: run checked code. S: check a source and run it. C: check a source. Form B: a body. M: a module.
//   Language: j (JavaScript) or t (TypeScript).
// The answer to a check is the form, and the text without its types if they could be removed.
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
  // A program may replace this accessor. It would then be called with the bytes of a frame, which contain the token.
  const getLength = getOwnPropertyDescriptor(getPrototypeOf(Bytes.prototype), 'length').get;
  const getBuffer = getOwnPropertyDescriptor(getPrototypeOf(Bytes.prototype), 'buffer').get;
  const lengthOf = (bytes) => apply(getLength, bytes, []);
  const { split, slice, trimStart, endsWith, indexOf, lastIndexOf } = String.prototype;
  const textOf = Function.prototype.toString;
  const test = RegExp.prototype.test;
  const exec = RegExp.prototype.exec;
  const then = Promise.prototype.then;
  const AsyncFunction = (async () => {}).constructor;
  const evaluate = eval;
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
  let mapped = 0;  // how stacks count lines (stack.py)
  let ended = false;

  // --- the channel ----------------------------------------------------------------------------------------

  const writeAll = (bytes) => {
    const length = lengthOf(bytes);
    // This avoids subarray, which calls a constructor that the program may have replaced.
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
  const TEXT_CHARACTERS = 16384;  // the message of an error may quote the whole program
  const sendThrown = (a, b, c) => {
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
    send(X, bytes);
  };
  // S: the source is not a program. Q: the provisional form of S, which counts if the process crashes after it.
  const sendRefused = (kind, module, message, place) => {
    const first = encode(apply(slice, message, [0, TEXT_CHARACTERS])), second = encode(place);
    const one = lengthOf(first), two = lengthOf(second);
    const bytes = new Bytes(9 + one + two);
    bytes[0] = module ? MODULE : BODY_FORM;
    put(bytes, 1, one);
    apply(set, bytes, [first, 5]);
    put(bytes, 5 + one, two);
    apply(set, bytes, [second, 9 + one]);
    send(kind, bytes);
  };
  const sendChecked = ({ module, code, stripped }) => {
    const text = encode(stripped ? code : '');
    const bytes = new Bytes(1 + lengthOf(text));
    bytes[0] = module ? MODULE : BODY_FORM;
    apply(set, bytes, [text, 1]);
    send(F, bytes);
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
  const V = 118, O = 111, B = 98, X = 120, S = 115, L = 108, F = 102, Q = 113;
  const BODY_FORM = 66, MODULE = 77;  // B and M
  // The URL of the loaded program in stacks becomes `program:module`. A program can load other modules.
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
  const log = (level, line) => {
    const bytes = encode(CODES[level + 5 * mapped] + named(line));
    send(L, bytes);
    return lengthOf(bytes) - 1;
  };

  // Block until the daemon ends this process. No code of the program runs from now on, so the daemon can read the usage first.
  const end = () => {
    ended = true;
    for (const waste = new Bytes(1); ;) if (read(waste) === null) exit(0);
  };

  // --- the program ----------------------------------------------------------------------------------------

  // Deno creates these objects on first access, which takes some milliseconds. So they are created only for a module with
  // `fetch`, with Deno's original getters, which a program cannot replace.
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
  // V8's information about promises and proxies, from an internal part of Deno that other versions may lack.
  const core = Deno[Deno.internal]?.core ?? {};
  const { isPromise = () => false, getPromiseDetails, getProxyDetails = () => null } = core;
  // Tests for built-in classes. A test that is missing is no reason not to start.
  const KINDS = [
    ['Map', core.isMap], ['Set', core.isSet], ['Promise', isPromise], ['Date', core.isDate], ['RegExp', core.isRegExp],
    ['WeakMap', core.isWeakMap], ['WeakSet', core.isWeakSet], ['ArrayBuffer', core.isArrayBuffer],
    ['SharedArrayBuffer', core.isSharedArrayBuffer], ['DataView', core.isDataView], ['Map Iterator', core.isMapIterator],
    ['Set Iterator', core.isSetIterator], ['Number', core.isNumberObject], ['String', core.isStringObject],
    ['Boolean', core.isBooleanObject], ['Symbol', core.isSymbolObject], ['BigInt', core.isBigIntObject],
  ];
  const { isArgumentsObject } = core, { prototype: objectPrototype } = Object;
  const STATES = ['pending', 'fulfilled', 'rejected'];
  const engine = {
    target(value) {
      for (let details; value !== null && (details = getProxyDetails(value)) !== null;) value = details[0];
      return value;
    },
    proxy(value) {
      const details = getProxyDetails(value);
      return { __proto__: null, target: details[0], handler: details[1] };
    },
    kindOf(value) {
      if (isArgumentsObject?.(value)) return 'Arguments';
      if (getPrototypeOf(value) === objectPrototype) return undefined;
      for (let i = 0; i < KINDS.length; i++) if (KINDS[i][1]?.(value)) return KINDS[i][0];
      return undefined;
    },
    promise(value) {
      if (!isPromise(value)) return undefined;
      const details = getPromiseDetails(value);
      return { __proto__: null, state: STATES[details[0]], value: details[1] };
    },
  };
  let lazily;  // inspect.js and format.js, evaluated on first use
  const inspecting = (kept) => {
    lazily = evaluate(inspectText + '({ inspecting, formatting })\n//# sourceURL=file:///app/inspect.js');
    return lazily.inspecting(kept);
  };
  const formatting = (kept, inspector) => lazily.formatting(kept, inspector);
  const console = makeConsole(log, performance.now.bind(performance), engine, inspecting, formatting);
  const { follow, fail, report, start, call } = contract(console, web, (text) => lengthOf(encode(text)));

  // Some messages of Deno suggest command-line options. These are useless to the author of a program, so they are replaced.
  const OWN_TEXT = 'a program cannot import other modules';
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
      [/^Expected '[,})\]]', got '<eof>'()$/, 'Unexpected end of input: a bracket, a comment or a text is left open'],
      [/^(?:Expected [^]*, got '<eof>'|Unexpected token `<eof>`[^]*)()$/, 'Unexpected end of input'],
      [/^(Expected [^]*), got '<lexing error:/, ''],
      [/^SyntaxError: ([^\n]*)\n[^]*\n    at data:/, 'in what it imports: '],
    ],
  };
  const OUR_PLACE = /^([^]*?)\n    at blob:null\/[0-9a-f-]{36}:\d+:\d+\s*$/;  // at the end of errors in TypeScript
  const reworded = (name, message) => {
    message = apply(exec, OUR_PLACE, [message])?.[1] ?? message;
    const words = OF_ERRORS[name];
    for (let i = 0; i < (words?.length ?? 0); i++) {
      const found = apply(exec, words[i][0], [message]);
      if (found !== null) return words[i][1] + found[1];
    }
    return message;
  };

  // Send the report of contract.js as a frame.
  const finish = (said) => {
    if (ended) return;
    ended = true;
    if (said[0] !== '!') {
      send(V, encode(said));
    } else {
      const parts = apply(split, apply(slice, said, [1]), ['\0']);  // no destructuring: the program may have replaced the iterator
      const kind = parts[0], first = parts[1], message = parts[2], stack = parts[3];
      if (kind === 'o') send(O, encode(first));
      else if (kind === 'b') send(B, encode(first));
      else if (kind === 's') sendRefused(S, true, first, '');
      else sendThrown(first, reworded(first, message), say(mapped) + '\n' + named(stack));
    }
    end();
  };

  const TYPES = { __proto__: null, j: 'text/javascript', t: 'application/typescript' };
  // Only the last such line counts. So a source map in a program cannot change positions.
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

  // `follow` returns a promise with the original constructor, so changes that the program made to promises have no effect.
  const settle = (promise) => apply(then, promise, [finish]);
  const run = ({ module, typed, code }, prompt, env) => {
    if (!module && !typed) {
      settle(follow(new AsyncFunction('prompt', 'env', '"use strict";\n' + code + END + OUR_NAME)(prompt, env)));
      return;
    }
    mapped = typed ? (module ? 2 : 1) : 0;
    // Without this port, Deno would exit if a module waits forever and the event loop is empty. With it, the wall limit ends
    // the run.
    const { port1 } = new MessageChannel();
    port1.onmessage = () => {};
    const loaded = module ? load(code, typed ? 't' : 'j') : load(BODY[0] + code + END + BODY[1], 't');
    const close = closePort.bind(port1);
    settle(follow(apply(then, loaded, [(namespace) => {
      close();
      return call(namespace, prompt, env, module);
    }])));
  };

  // --- removed globals --------------------------------------------------------------------------------------

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

  // For an invalid delay, Deno would load code for a warning, and this code needs removed globals. So these functions correct
  // the delay first. They are created on first access, as in Deno, because that takes time.
  for (const name of ['setTimeout', 'setInterval']) {
    const make = made(name);
    let timer;
    const get = () => {
      if (timer === undefined) {
        const original = make();
        timer = { [name](callback, delay, ...values) {
          const ms = delay * 1;  // as in Node: an invalid delay becomes 0
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

  // Each operation of crypto.subtle uses a thread, and Deno starts up to 32. On one core, so many threads delay the watchdog:
  // a run exceeded its CPU limit by up to 76 ms. So at most JOBS operations run at once.
  const JOBS = 8;
  const MadePromise = Promise;
  let jobs = 0, next = null, last = null;
  const over = () => {
    if (next === null) {
      jobs -= 1;
      return;
    }
    const { go } = next;  // the next operation takes over the slot
    next = next.after;
    go();
  };
  const inTurn = (go) => {
    const turn = { __proto__: null, go, after: null };
    if (next === null) next = turn;
    else last.after = turn;
    last = turn;
  };
  // Copy the arguments of a waiting operation, because the caller may change them: bytes, fields of an algorithm, lists.
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
    // An async function, so that async stacks include the caller.
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

  // --- the job ----------------------------------------------------------------------------------------------

  writeAll(encode('R'));
  const header = take(44);
  token = apply(subarray, header, [5, 21]);
  const letter = (at) => decode(apply(subarray, header, [at, at + 1]));
  const task = letter(21), form = letter(22), language = letter(23);
  const lengths = [number(header, 24), number(header, 28), number(header, 32)];
  const texts = take(lengths[0] + lengths[1] + lengths[2]);
  const code = decode(apply(subarray, texts, [0, lengths[0]]));
  const prompt = decode(apply(subarray, texts, [lengths[0], lengths[0] + lengths[1]]));
  const env = decode(apply(subarray, texts, [lengths[0] + lengths[1]]));
  start(number(header, 36), number(header, 40));
  const given = env === '{}' ? {} : parse(env);
  if (task === 'R') {
    run({ module: form === 'M', typed: language === 't', code }, prompt, given);
  } else {
    const { check, told } = evaluate(checkText)({
      apply, defineProperty, exec, test, slice, split, trimStart, endsWith, lastIndexOf, textOf, say, AsyncFunction, Deno,
      makeProcess, load, urls, reworded, atLeast: (message) => sendRefused(Q, false, message, ''),
    });
    check(code, language, task === 'C').then((checked) => {
      if (task === 'S') {
        send(Q, new Bytes(0));  // the check has passed: if the process ends now, the program caused it
        run(checked, prompt, given);
      } else {
        sendChecked(checked);
        end();
      }
    }, (error) => {
      const refused = told(error);
      if (refused === null) {
        finish(fail(error));
      } else {
        sendRefused(S, refused.form === 'M', refused.message, refused.place);
        end();
      }
    });
  }
})();
