// Formats a value for the console, as Node's util.inspect does by default: nested objects down to two levels below the
// first, 100 members of a list, lines of up to 76 columns. Getters and traps of proxies are not called.
//
// console.js passes the built-in functions, which it kept before the program. On Deno this file is evaluated when a run
// first needs it, because compiling it would slow down each start. The parentheses around the function tell V8 that it is
// called at once. Only these parts run code of the program: accessors of toStringTag, of errors and of web classes.
//
// The length of the text limits the time: formatting stops when the text is longer than requested.
//
// This file has more than 300 lines because all functions share one closure over the built-in functions.
//
// inspecting(kept) -> { inspect(value, state), newState(left, changes), widthOf, BUILT_INS }. A state has `left`, the number of
// characters that may still follow (below zero: the text is too long, and may be incomplete); `depth`; `most`, the
// number of members of a list; `width`, the length of lines; and the options of util.inspect that console.dir accepts:
// `hidden` (showHidden), `proxies` (showProxy), `characters` (maxStringLength), `sorted`, and `compact`. An option that
// differs from Node's default must come with `isUsual: false`, because the engine's own functions do not know it.
const inspecting = ((kept) => {
  'use strict';
  const {
    apply, ownKeys, getOwnPropertyDescriptor, getPrototypeOf, setPrototypeOf, isArray, isError, join, slice, indexOf, split,
    repeat, padStart, charCodeAt, codePointAt, upper, exec, text, objectKeys, ownSymbols, hasOwn, isEnumerable,
    isPrototypeOf, kindOf, toStringTag, ObjectPrototype, ArrayPrototype, ErrorPrototype, textOfError, textOfFunction, textOfRegExp, RegularExpression, textOfNumber, valueOf, mapEntries, mapNext, mapSize,
    setValues, setNext, setSize, typedTag, typedLength, typedBytes, typedOffset, typedBuffer, bufferLength, sharedLength,
    isDetached, viewBuffer, viewLength, viewOffset, dateTime, dateText, Bytes, framesOf, ofNumber, engine, sort,
    floor, max, min, round, sqrt,
  } = kept;

  // A list without a prototype, so that `items[i] = item` calls no setter of the program.
  const list = () => setPrototypeOf([], null);
  const add = (items, item) => {
    items[items.length] = item;
    return items;
  };
  const joined = (items, between) => apply(join, items, [between]);
  const has = (object, key) => apply(hasOwn, object, [key]);
  const holds = (string, part) => apply(indexOf, string, [part]) >= 0;
  const matches = (pattern, string) => apply(exec, pattern, [string]) !== null;
  const blanks = (count) => apply(repeat, ' ', [count]);
  const dataOf = (object, key) => {
    const descriptor = getOwnPropertyDescriptor(object, key);
    return descriptor !== undefined && has(descriptor, 'value') ? descriptor.value : undefined;
  };
  // Call a built-in method on a value. Return undefined if the value is of another class.
  const attempt = (method, value) => {
    try {
      return apply(method, value, []);
    } catch {
      return undefined;
    }
  };

  // `open`: the objects around the current one. `reached`: level of the last object. `marked`: objects that contain themselves.
  const newState = (left, changes) => ({
    __proto__: null, left, depth: 2, most: 100, width: 80, hidden: false, proxies: false, characters: 10000, sorted: false,
    compact: 3, isUsual: true, indent: 0, reached: 0, open: list(), marked: list(), ...changes,
  });

  // --- texts and numbers -----------------------------------------------------------------------------------------

  const SHORT_CHARACTERS = 16;
  const ESCAPED = /[\x00-\x1f'\\\x7f-\x9f]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;
  const LETTERS = { __proto__: null, 8: 'b', 9: 't', 10: 'n', 12: 'f', 13: 'r', 92: '\\' };
  const hex = (code, digits) => apply(padStart, apply(textOfNumber, code, [16]), [digits, '0']);
  const isHigh = (code) => code >= 0xd800 && code < 0xdc00;
  const isLow = (code) => code >= 0xdc00 && code < 0xe000;
  const escape = (code, quote) => {
    if (LETTERS[code] !== undefined) return '\\' + LETTERS[code];
    if (code < 32 || (code > 126 && code < 160)) return '\\x' + apply(upper, hex(code, 2), []);
    if (isHigh(code) || isLow(code)) return '\\u' + hex(code, 4);
    return code === 39 && quote === "'" ? "\\'" : '';
  };
  const escaped = (string, quote) => {
    if (!matches(ESCAPED, string)) return string;
    let done = '', from = 0;
    for (let at = 0; at < string.length; at++) {
      const code = apply(charCodeAt, string, [at]);
      if (isHigh(code) && isLow(apply(charCodeAt, string, [at + 1]))) {
        at += 1;
        continue;
      }
      const instead = escape(code, quote);
      if (instead === '') continue;
      done += apply(slice, string, [from, at]) + instead;
      from = at + 1;
    }
    return done + apply(slice, string, [from]);
  };
  const quoted = (string) => {
    let quote = "'";
    if (holds(string, "'")) quote = !holds(string, '"') ? '"' : !holds(string, '`') && !holds(string, '${') ? '`' : quote;
    return quote + escaped(string, quote) + quote;
  };
  const more = (count, what) => '... ' + text(count) + ' more ' + what + (count > 1 ? 's' : '');
  const ofString = (string, state) => {
    const { characters } = state;
    const behind = string.length > characters ? more(string.length - characters, 'character') : '';
    string = apply(slice, string, [0, min(characters, max(state.left, SHORT_CHARACTERS))]);
    if (string.length <= SHORT_CHARACTERS || string.length <= state.width - state.indent - 4) return quoted(string) + behind;
    const lines = list();
    for (let at; (at = apply(indexOf, string, ['\n']) + 1) > 0 && at < string.length; string = apply(slice, string, [at])) {
      add(lines, quoted(apply(slice, string, [0, at])));
    }
    add(lines, quoted(string));
    return joined(lines, ' +\n' + blanks(state.indent + 2)) + behind;
  };
  const ofPrimitive = (value, state) => {
    switch (typeof value) {
      case 'string': return ofString(value, state);
      case 'number': return ofNumber(value);
      case 'bigint': return text(value) + 'n';
      default: return text(value);
    }
  };

  // Width of a text on a terminal (Unicode Standard Annex 11): 2 for wide characters, 0 for combining marks and controls.
  const PLAIN = /^[ -~]*$/;
  const WIDE = /^[\u1100-\u115f\u2329\u232a\u2e80-\u303e\u3041-\ua4cf\ua960-\ua97c\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff01-\uff60\uffe0-\uffe6\u{1f300}-\u{1f64f}\u{1f900}-\u{1f9ff}\u{20000}-\u{3fffd}]/u;
  const NONE = /^[\u0000-\u001f\u007f-\u009f\u0300-\u036f\u200b-\u200f\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f]/;
  const widthOf = (string) => {
    if (matches(PLAIN, string)) return string.length;
    let width = 0;
    for (let at = 0; at < string.length;) {
      const end = apply(codePointAt, string, [at]) > 0xffff ? at + 2 : at + 1;
      const character = apply(slice, string, [at, end]);
      width += matches(NONE, character) ? 0 : matches(WIDE, character) ? 2 : 1;
      at = end;
    }
    return width;
  };

  // --- classes and keys of an object -----------------------------------------------------------------------------

  // The names of the classes of the language, as a table.
  const BUILT_INS = { __proto__: null };
  const NAMES =
    'Object Function Array Number Boolean String Symbol BigInt Date Promise RegExp Proxy Map Set WeakMap WeakSet WeakRef ' +
    'FinalizationRegistry ArrayBuffer SharedArrayBuffer DataView Int8Array Uint8Array Uint8ClampedArray Int16Array ' +
    'Uint16Array Int32Array Uint32Array Float16Array Float32Array Float64Array BigInt64Array BigUint64Array Iterator ' +
    'Error AggregateError EvalError RangeError ReferenceError SyntaxError TypeError URIError';
  for (let names = apply(split, NAMES, [' ']), i = 0; i < names.length; i++) BUILT_INS[names[i]] = true;

  const MOST_PARENTS = 100;
  // Return the name of the class of an object; null if its prototype is null. If no class is found for another prototype,
  // the name describes that prototype.
  const makerOf = (value, levels) => {
    let holder = value;
    for (let i = 0; holder !== null && i < MOST_PARENTS; holder = getPrototypeOf(holder), i++) {
      if (holder === ObjectPrototype && holder !== value) return 'Object';
      if (holder === ArrayPrototype && holder !== value) return 'Array';
      const made = dataOf(holder, 'constructor');
      if (typeof made !== 'function') continue;
      const name = dataOf(made, 'name'), prototype = dataOf(made, 'prototype');
      const isClass = typeof prototype === 'function' || (typeof prototype === 'object' && prototype !== null);
      if (isClass && typeof name === 'string' && name !== '' && apply(isPrototypeOf, prototype, [value])) return name;
    }
    const above = getPrototypeOf(value);
    if (above === null) return null;
    if (levels < 0) return 'Object <Complex prototype>';
    const maker = makerOf(above, levels - 1);
    return 'Object <' + (maker ?? (keysOf(above).length === 0 ? NO_PROTOTYPE + ' {}' : NO_PROTOTYPE)) + '>';
  };
  const NO_PROTOTYPE = '[Object: null prototype]';
  const tagFor = (value, state) => {
    const tag = value[toStringTag];
    const isShown = typeof tag === 'string' && apply(state.hidden ? hasOwn : isEnumerable, value, [toStringTag]);
    return typeof tag === 'string' && !isShown ? tag : '';
  };
  const prefix = (maker, tag, fallback, size = '') => {
    const name = maker === null ? '[' + fallback + size + ': null prototype] ' : maker + size + ' ';
    return tag !== '' && tag !== (maker ?? fallback) ? name + '[' + tag + '] ' : name;
  };
  // Return the keys of the properties that are shown.
  const keysOf = (value, without, hidden = false) => {
    const keys = list();
    if (hidden) {
      const all = ownKeys(value);
      for (let i = 0; i < all.length; i++) if (without === undefined || !without(all[i])) add(keys, all[i]);
      return keys;
    }
    const names = objectKeys(value), symbols = ownSymbols(value);
    for (let i = 0; i < names.length; i++) if (without === undefined || !without(names[i])) add(keys, names[i]);
    for (let i = 0; i < symbols.length; i++) if (apply(isEnumerable, value, [symbols[i]])) add(keys, symbols[i]);
    return keys;
  };
  const INDEX = /^(?:0|[1-9]\d{0,9})$/;
  const isIndex = (key) => typeof key === 'string' && matches(INDEX, key);
  // A long list is shown without other properties, because the list of its keys would be as long.
  const LONG = 1000;
  const keysBesideIndexes = (value, length, { hidden }) => {
    if (length <= LONG) return keysOf(value, isIndex, hidden);
    return hidden && isArray(value) ? add(list(), 'length') : list();
  };

  // --- members ---------------------------------------------------------------------------------------------------

  const NAME = /^[a-zA-Z_][a-zA-Z_0-9]*$/;
  const inner = (value, state, level) => {
    state.indent += 2;
    const shown = shownOf(value, state, level);
    state.indent -= 2;
    return shown;
  };
  const shownNames = { __proto__: null };  // a cache: the objects in a list have the same keys
  const nameOf = (key, hidden) => {
    if (typeof key === 'symbol') return '[' + escaped(text(key), "'") + ']';
    if (key === '__proto__') return "['__proto__']";
    if (hidden) return '[' + escaped(key, "'") + ']';
    return shownNames[key] ??= matches(NAME, key) ? key : quoted(key);
  };
  const memberOf = (descriptor, state, level) => {
    if (has(descriptor, 'value')) return inner(descriptor.value, state, level);
    if (descriptor.get === undefined) return descriptor.set === undefined ? 'undefined' : '[Setter]';
    return descriptor.set === undefined ? '[Getter]' : '[Getter/Setter]';
  };
  const property = (value, key, state, level) => {
    const descriptor = getOwnPropertyDescriptor(value, key) ?? { __proto__: null, value: undefined, enumerable: true };
    const name = nameOf(key, !descriptor.enumerable);
    state.left -= name.length + 4;
    return name + ': ' + memberOf(descriptor, state, level);
  };
  const items = (count) => more(count, 'item');
  // Return the properties that an object inherits from its class, except methods. Node shows them with `showHidden`.
  const INHERITED_LEVELS = 3;
  const inherited = (value, state, level) => {
    const entries = list(), told = { __proto__: null, constructor: true };
    let holder = getPrototypeOf(value);
    for (let i = 0; holder !== null && i < INHERITED_LEVELS && state.left >= 0; holder = getPrototypeOf(holder), i++) {
      const made = dataOf(holder, 'constructor');
      if (typeof made === 'function' && BUILT_INS[dataOf(made, 'name')]) break;
      const keys = ownKeys(holder);
      for (let k = 0; k < keys.length; k++) {
        const key = keys[k];
        if (told[key] || has(value, key)) continue;
        told[key] = true;
        if (typeof dataOf(holder, key) !== 'function') add(entries, property(holder, key, state, level));
      }
    }
    return entries;
  };

  const HOLES_TRIED = 100;
  // Return the first index from `at` on that exists.
  const nextOf = (array, at, length) => {
    for (let i = 0; i < HOLES_TRIED; i++, at++) if (at >= length || has(array, at)) return at;
    const keys = ownKeys(array);  // starts with the indexes, in ascending order
    for (let i = 0; i < keys.length && isIndex(keys[i]); i++) if (+keys[i] >= at) return +keys[i];
    return length;
  };
  const ofArray = (array, length, state, level) => {
    const entries = list();
    let at = 0;
    while (at < length && entries.length < state.most && state.left >= 0) {
      const descriptor = getOwnPropertyDescriptor(array, at);
      if (descriptor !== undefined) {
        add(entries, memberOf(descriptor, state, level));
        at += 1;
      } else {
        const next = nextOf(array, at, length);
        add(entries, '<' + text(next - at) + ' empty item' + (next - at > 1 ? 's' : '') + '>');
        at = next;
      }
    }
    return at < length ? add(entries, items(length - at)) : entries;
  };
  const ofTyped = (array, length, state) => {
    const entries = list(), count = min(length, state.most);
    for (let at = 0; at < count; at++) add(entries, ofPrimitive(array[at], state));
    if (count < length) add(entries, items(length - count));
    if (!state.hidden) return entries;
    const bytes = apply(typedBytes, array, []), buffer = apply(typedBuffer, array, []);
    add(entries, '[BYTES_PER_ELEMENT]: ' + text(length > 0 ? bytes / length : array.BYTES_PER_ELEMENT));
    add(add(entries, '[length]: ' + text(length)), '[byteLength]: ' + text(bytes));
    add(entries, '[byteOffset]: ' + text(apply(typedOffset, array, [])));
    const size = text(apply(kindOf(buffer) === 'ArrayBuffer' ? bufferLength : sharedLength, buffer, []));
    return add(entries, '[buffer]: ' + prefix(makerOf(buffer, 0), '', 'ArrayBuffer') + '{ byteLength: ' + size + ' }');
  };
  const ofCollection = (steps, next, size, entry, state) => {
    const entries = list();
    let at = 0;
    for (let step; at < size && at < state.most && state.left >= 0 && !(step = apply(next, steps, [])).done; at++) {
      add(entries, entry(step.value));
    }
    return at < size ? add(entries, items(size - at)) : entries;
  };
  const ofMap = (map, size, state, level) =>
    ofCollection(apply(mapEntries, map, []), mapNext, size, (pair) => inner(pair[0], state, level) + ' => ' + inner(pair[1], state, level), state);
  const ofSet = (set, size, state, level) =>
    ofCollection(apply(setValues, set, []), setNext, size, (member) => inner(member, state, level), state);
  const ofBuffer = (buffer, size, state) => {
    if (isDetached !== undefined && attempt(isDetached, buffer)) return add(add(list(), '(detached)'), 'byteLength: 0');
    const bytes = new Bytes(buffer), count = min(size, state.most), parts = list();
    for (let i = 0; i < count; i++) add(parts, hex(bytes[i], 2));
    if (count < size) add(parts, more(size - count, 'byte'));
    return add(add(list(), '[Uint8Contents]: <' + joined(parts, ' ') + '>'), 'byteLength: ' + text(size));
  };
  const ofView = (view, size, state, level) =>
    add(add(add(list(), 'byteLength: ' + text(size)), 'byteOffset: ' + text(apply(viewOffset, view, []))),
      'buffer: ' + inner(apply(viewBuffer, view, []), state, level));
  const ofPromise = ({ state: how, value }, state, level) => {
    if (how === 'pending') return add(list(), '<pending>');
    return add(list(), (how === 'rejected' ? '<rejected> ' : '') + inner(value, state, level));
  };
  // Web classes have only accessors. These are the accessors that both engines have.
  const ACCESSORS = {
    __proto__: null,
    URL: ['href', 'origin', 'protocol', 'username', 'password', 'host', 'hostname', 'port', 'pathname', 'search', 'searchParams', 'hash'],
    Request: ['method', 'url', 'headers'],
    Response: ['status', 'statusText', 'headers', 'ok'],
  };
  const LISTS = { __proto__: null, Headers: true, URLSearchParams: true };
  const ofWeb = (value, kind, state, level) => {
    const entries = list(), names = ACCESSORS[kind];
    for (let i = 0; names !== undefined && i < names.length; i++) {
      let member;
      try {
        member = value[names[i]];  // may throw on QuickJS
      } catch {}
      add(entries, names[i] + ': ' + inner(member, state, level));
    }
    if (LISTS[kind]) {
      value.forEach((member, name) => {
        if (entries.length < state.most) add(entries, ofPrimitive(name, state) + ' => ' + ofPrimitive(member, state));
      });
    }
    return entries;
  };

  // --- functions and errors --------------------------------------------------------------------------------------

  const CLASS = /^class(?:\s*[{/]|\s+[^\s(])/;
  const FUNCTIONS = { __proto__: null, AsyncFunction: true, GeneratorFunction: true, AsyncGeneratorFunction: true };
  const nameOfFunction = (value) => {
    const name = dataOf(value, 'name');
    if (typeof name === 'function') return apply(slice, apply(textOfFunction, name, []), [0, LONG]);
    return typeof name === 'string' || typeof name === 'number' || typeof name === 'bigint' ? text(name) : '';
  };
  const ofFunction = (value, maker, tag) => {
    const name = nameOfFunction(value), label = tag !== '' && tag !== maker ? ' [' + tag + ']' : '';
    if (matches(CLASS, apply(slice, apply(textOfFunction, value, []), [0, LONG]))) {
      const parent = getPrototypeOf(value), above = parent === null ? '[null prototype]' : nameOfFunction(parent);
      const by = maker !== null && maker !== 'Function' ? ' [' + maker + ']' : '';
      return '[class ' + (name || '(anonymous)') + by + label + (above !== '' ? ' extends ' + above : '') + ']';
    }
    const type = FUNCTIONS[value[toStringTag]] ? value[toStringTag] : 'Function';
    const shown = '[' + type + (maker === null ? ' (null prototype)' : '') + (name === '' ? ' (anonymous)' : ': ' + name) + ']';
    return shown + (maker !== null && maker !== type ? ' ' + maker : '') + label;
  };

  const ENDS_AS_ERROR = /Error$/;
  // Return name, message and frames of an error. The name of its class is added if it differs from `name`.
  const ofError = (error, maker, tag, state) => {
    const frames = framesOf(error), { name, stack } = error;
    let head = stack && frames === '' ? text(stack) : attempt(textOfError, error) ?? '[error]';
    head = apply(slice, head, [0, max(state.left, 0) + 1]);
    const named = name === undefined || name === null ? 'Error' : text(name), rest = apply(slice, head, [named.length]);
    if ((maker === null || matches(ENDS_AS_ERROR, named)) && apply(indexOf, head, [named]) === 0 && (rest === '' || rest[0] === ':')) {
      const by = apply(slice, prefix(maker, tag, named), [0, -1]);
      if (by !== named) head = (holds(by, named) ? by : by + ' [' + named + ']') + rest;
    }
    return frames === '' ? '[' + head + ']' : head + frames;
  };
  const TOLD = { __proto__: null, name: true, message: true, stack: true };
  const keysOfError = (error, base, { hidden }) => {
    const keys = keysOf(error, (key) => TOLD[key] && (hidden || holds(base, text(dataOf(error, key)))), hidden);
    if (hidden) return keys;
    if (has(error, 'cause') && !apply(isEnumerable, error, ['cause'])) add(keys, 'cause');
    if (isArray(dataOf(error, 'errors')) && !apply(isEnumerable, error, ['errors'])) add(keys, 'errors');
    return keys;
  };
  const indented = (string, { indent }) =>
    (indent === 0 ? string : joined(setPrototypeOf(apply(split, string, ['\n']), null), '\n' + blanks(indent)));

  // --- objects ---------------------------------------------------------------------------------------------------

  // The shape of an object's text. `base` is the text before the members, or the whole text if there are none. `open` and
  // `close` enclose the members. `keys` are the properties to show. `entries` returns the members that are not properties.
  const part = (open, keys, entries) => ({ __proto__: null, base: '', open: open + '{', close: '}', keys, entries, isList: false });
  const listPart = (open, keys, entries) => ({ __proto__: null, base: '', open: open + '[', close: ']', keys, entries, isList: true });
  const basePart = (base, keys) => ({ __proto__: null, base, open: '{', close: '}', keys, entries: undefined, isList: false });
  const BOXES = { __proto__: null, Number: true, String: true, Boolean: true, Symbol: true, BigInt: true };
  // Return the shape of an object of the built-in class `kind`; undefined for other classes.
  const builtIn = (value, kind, maker, tag, state) => {
    const open = (size) => prefix(maker, tag, kind, size === undefined ? '' : '(' + text(size) + ')');
    const named = (shown) => (open() === kind + ' ' ? '' : open()) + shown;
    const keys = keysOf(value, kind === 'String' ? isIndex : undefined, state.hidden);
    let size;
    switch (kind) {
      case 'Map':
        size = apply(mapSize, value, []);
        return part(open(size), keys, size > 0 ? (level) => ofMap(value, size, state, level) : undefined);
      case 'Set':
        size = apply(setSize, value, []);
        return part(open(size), keys, size > 0 ? (level) => ofSet(value, size, state, level) : undefined);
      case 'Promise':
        return part(open(), keys, (level) => ofPromise(engine.promise(value), state, level));
      case 'WeakMap':
      case 'WeakSet':
        return part(open(), keys, () => add(list(), UNKNOWN));
      case 'ArrayBuffer':
      case 'SharedArrayBuffer':
        size = apply(kind === 'ArrayBuffer' ? bufferLength : sharedLength, value, []);
        return part(open(), keys, () => ofBuffer(value, size, state));
      case 'DataView':
        if ((size = attempt(viewLength, value)) === undefined) return undefined;
        return part(open(), keys, (level) => ofView(value, size, state, level));
      case 'Date':
        size = apply(dateTime, value, []);
        return basePart(named(size === size ? apply(dateText, value, []) : 'Invalid Date'), keys);
      case 'RegExp':
        return basePart(named(apply(textOfRegExp, maker === null ? new RegularExpression(value) : value, [])), keys);
    }
    if (BOXES[kind] === undefined) return undefined;
    const by = maker === kind ? '' : ' (' + (maker ?? 'null prototype') + ')';
    const shown = '[' + kind + by + ': ' + ofPrimitive(apply(valueOf[kind], value, []), state) + ']';
    return basePart(shown + (tag !== '' && tag !== maker ? ' [' + tag + ']' : ''), keys);
  };
  const UNKNOWN = '<items unknown>';
  const ITERATORS = { __proto__: null, 'Map Iterator': true, 'Set Iterator': true };
  const partOf = (value, maker, tag, state) => {
    const { hidden } = state;
    if (isArray(value)) {
      const length = dataOf(value, 'length');
      const open = maker === 'Array' && tag === '' ? '' : prefix(maker, tag, 'Array', '(' + text(length) + ')');
      return listPart(open, keysBesideIndexes(value, length, state), length > 0 ? (level) => ofArray(value, length, state, level) : undefined);
    }
    if (typeof value === 'function') return basePart(ofFunction(value, maker, tag), keysOf(value, undefined, hidden));
    const kind = kindOf(value), isObject = maker === 'Object';
    if (isObject && kind === 'Arguments') return part('[Arguments] ', keysOf(value, undefined, hidden), undefined);
    if (ITERATORS[kind]) {
      const lead = tag !== '' && tag !== kind ? '[' + tag + '] ' : '';
      return part(lead + '[' + kind + '] ', keysOf(value, undefined, hidden), () => add(list(), UNKNOWN));
    }
    const typed = kind === undefined ? apply(typedTag, value, []) : undefined;
    if (typed !== undefined) {
      const length = apply(typedLength, value, []), open = prefix(maker, tag, typed, '(' + text(length) + ')');
      return listPart(open, keysBesideIndexes(value, length, state), length > 0 || hidden ? () => ofTyped(value, length, state) : undefined);
    }
    if (!isObject) {
      if (isError(value) || apply(isPrototypeOf, ErrorPrototype, [value])) {
        const base = ofError(value, maker, tag, state);
        return basePart(indented(base, state), keysOfError(value, base, state));
      }
      const known = kind === undefined ? undefined : builtIn(value, kind, maker, tag, state);
      if (known !== undefined) return known;
      if (tag === maker && (ACCESSORS[tag] || LISTS[tag])) return part(tag + ' ', list(), (level) => ofWeb(value, tag, state, level));
    }
    const keys = keysOf(value, undefined, hidden);
    return part(isObject && tag === '' ? '' : prefix(maker, tag, ownName(value, maker, tag)), keys, undefined);
  };
  // Return the name of an object without a prototype: its own Symbol.toStringTag, if it has one.
  const ownName = (value, maker, tag) => {
    const own = maker === null ? dataOf(value, toStringTag) : undefined;
    return typeof own === 'string' && own !== '' && (tag === '' || tag === 'Module') ? own : 'Object';
  };

  // --- layout ----------------------------------------------------------------------------------------------------

  const GROUPED_FROM = 7, COLUMNS_OF_A_LEVEL = 4, MOST_COLUMNS = 15;
  // Arrange the entries of a list in columns. The number of columns makes the text look square, because a character is 2.5
  // times as high as it is wide.
  const inColumns = (entries, state, right) => {
    const rest = entries.length > state.most ? 1 : 0, count = entries.length - rest, widths = list();
    let total = 0, widest = 0;
    for (let i = 0; i < count; i++) {
      add(widths, widthOf(entries[i]));
      total += widths[i] + 2;
      widest = max(widest, widths[i]);
    }
    const cell = widest + 2;
    if (cell * 3 + state.indent >= state.width || (total / cell <= 5 && widest > 6)) return entries;
    const usual = max(cell - 3 - sqrt(cell - total / entries.length), 1);
    const columns = min(round(sqrt(2.5 * count / usual)), floor((state.width - state.indent) / cell), state.compact * COLUMNS_OF_A_LEVEL, MOST_COLUMNS);
    if (columns <= 1) return entries;
    const columnWidths = list();
    for (let column = 0; column < columns; column++) {
      let width = 0;
      for (let i = column; i < count; i += columns) width = max(width, widths[i]);
      add(columnWidths, width);
    }
    const lines = list();
    for (let first = 0; first < count; first += columns) {
      const last = min(first + columns, count) - 1;
      let line = '';
      for (let i = first; i <= last; i++) {
        const padding = blanks(columnWidths[i - first] - widths[i]), between = i < last ? ', ' : '';
        line += right ? padding + entries[i] + between : entries[i] + between + (i < last ? padding : '');
      }
      add(lines, line);
    }
    return rest ? add(lines, entries[count]) : lines;
  };
  const fits = (entries, { base, open }, state) => {
    let length = 2 * entries.length + open.length + state.indent + base.length + 10;
    for (let i = 0; i < entries.length && length <= state.width; i++) length += entries[i].length;
    return length <= state.width && !holds(base, '\n');
  };
  const together = (entries, shape, state, level, right) => {
    const { base, open, close } = shape, before = base === '' ? open : base + ' ' + open;
    const isGrouped = shape.isList && entries.length >= GROUPED_FROM && state.compact > 0;
    const lines = isGrouped ? inColumns(entries, state, right) : entries;
    if (state.reached - level < state.compact && lines === entries && fits(entries, shape, state)) {
      const line = joined(entries, ', ');
      if (!holds(line, '\n')) return before + ' ' + line + ' ' + close;
    }
    const end = '\n' + blanks(state.indent);
    return before + end + '  ' + joined(lines, ',' + end + '  ') + end + close;
  };
  const areNumbers = (value, count) => {
    for (let i = 0; i < count; i++) {
      const type = typeof (isArray(value) ? dataOf(value, i) : value[i]);
      if (type !== 'number' && type !== 'bigint') return false;
    }
    return true;
  };

  const ofObject = (value, state, level) => {
    const maker = makerOf(value, state.depth - level), tag = tagFor(value, state), shape = partOf(value, maker, tag, state);
    const { base, open, close, keys, entries: make } = shape;
    const isInner = level > state.depth;
    const more = state.hidden && !isInner ? inherited(value, state, level + 1) : NOTHING;
    if (make === undefined && keys.length === 0 && more.length === 0) return base === '' ? open + close : base;
    if (isInner) {
      if (base !== '' && kindOf(value) === 'RegExp') return base;
      const name = apply(slice, prefix(maker, tag, isArray(value) ? 'Array' : kindOf(value) ?? ownName(value, maker, tag)), [0, -1]);
      return maker === null ? name : '[' + name + ']';
    }
    add(state.open, value);
    state.reached = level;
    state.left -= base.length + open.length;
    const entries = make === undefined ? list() : make(level + 1), listed = entries.length;
    for (let i = 0; i < keys.length && state.left >= 0; i++) add(entries, property(value, keys[i], state, level + 1));
    for (let i = 0; i < more.length; i++) add(entries, more[i]);
    if (state.sorted) sortFrom(entries, shape.isList ? listed : 0);
    const isGrouped = shape.isList && entries.length >= GROUPED_FROM;
    const right = isGrouped && entries.length === listed && areNumbers(value, entries.length);
    state.open.length -= 1;
    const mark = markOf(value, state);
    if (mark > 0) shape.base = '<ref *' + text(mark) + '>' + (base === '' ? '' : ' ' + base);
    return together(entries, shape, state, level, right);
  };
  const NOTHING = list();
  const sortFrom = (entries, from) => {
    const rest = list();
    for (let i = from; i < entries.length; i++) add(rest, entries[i]);
    apply(sort, rest, []);
    for (let i = 0; i < rest.length; i++) entries[from + i] = rest[i];
  };
  // Format a plain object or list. `parts` is the result of engine.members: most members are texts already.
  const NO_LIST = part('', list(), undefined), A_LIST = listPart('', list(), undefined);
  const ofParts = (value, parts, state, level) => {
    const entries = parts[0], rest = parts[1], isList = parts[2], length = parts[4];
    if (entries.length === 0) return isList ? '[]' : '{}';
    if (level > state.depth) return isList ? '[Array]' : '[Object]';
    add(state.open, value);
    state.reached = level;
    state.left -= 1 + parts[5];
    for (let i = 0; i < rest.length; i += 3) {
      const name = isList ? '' : nameOf(rest[i + 1], false) + ': ';
      state.left -= name.length;
      entries[rest[i]] = name + inner(rest[i + 2], state, level + 1);
    }
    if (length > state.most && isList) entries[state.most] = items(length - state.most);
    state.open.length -= 1;
    const mark = markOf(value, state), shape = isList ? A_LIST : NO_LIST;
    const marked = mark === 0 ? shape : { ...shape, __proto__: null, base: '<ref *' + text(mark) + '>' };
    return together(entries, marked, state, level, isList && parts[3] && entries.length >= GROUPED_FROM);
  };
  // Format a plain object with the help of the engine, which is faster (plain.c). Return undefined if it cannot.
  // engine.line supports up to three levels, and only texts of one line.
  const LEVELS_OF_ENGINE = 2;
  const ofPlain = (value, state, level) => {
    if (engine.line === undefined || !state.isUsual) return undefined;
    if (state.depth <= LEVELS_OF_ENGINE && state.left > state.width) {
      const line = engine.line(value, state.depth - level, state.indent, state.width, state.open, state.open.length);
      if (line !== undefined) return line;
    }
    if (isOpen(value, state)) return undefined;
    const parts = engine.members(value, state.most);
    return parts !== undefined && parts[5] < state.left ? ofParts(value, parts, state, level) : undefined;
  };
  // Return the number of an object that contains itself; 0 for any other object.
  const markOf = (value, { marked }) => {
    for (let i = 0; i < marked.length; i++) if (marked[i] === value) return i + 1;
    return 0;
  };
  const isOpen = (value, { open }) => {
    for (let i = 0; i < open.length; i++) if (open[i] === value) return true;
    return false;
  };
  const PROXY = listPart('Proxy ', list(), undefined);
  const ofProxy = ({ target, handler }, state, level) => {
    if (level > state.depth) return 'Proxy [Array]';
    state.reached = level;
    return together(add(add(list(), inner(target, state, level + 1)), inner(handler, state, level + 1)), PROXY, state, level, false);
  };
  const shownOf = (value, state, level) => {
    let shown;
    if (typeof value !== 'function' && (typeof value !== 'object' || value === null)) {
      shown = ofPrimitive(value, state);
      state.left -= shown.length;
      return shown;
    }
    const { left, indent } = state, open = state.open.length;
    if (left < 0) {
      shown = '...';
    } else {
      try {
        const plain = ofPlain(value, state, level);
        const target = plain === undefined ? engine.target(value) : value;
        if (plain !== undefined) {
          shown = plain;
        } else if (target === null) {
          shown = '<Revoked Proxy>';
        } else if (state.proxies && target !== value) {
          shown = ofProxy(engine.proxy(value), state, level);
        } else if (isOpen(target, state)) {
          if (markOf(target, state) === 0) add(state.marked, target);
          shown = '[Circular *' + text(markOf(target, state)) + ']';
        } else {
          shown = ofObject(target, state, level);
        }
      } catch {
        state.indent = indent;
        state.open.length = open;
        shown = typeof value === 'function' ? '[function]' : '[object]';
      }
    }
    state.left = left - shown.length;
    return shown;
  };

  return { inspect: (value, state) => shownOf(value, state, 0), newState, widthOf, BUILT_INS };
});
