// The `console` object of a program, on both engines. It writes lines of text, which inspect.js formats as Node's console
// does, up to a limit in bytes. It is evaluated before the program and keeps the original built-in functions.
//
// A program can get every function in this file with CallSite.getFunction. So this file decides nothing except log lines,
// which the program could write anyway. The daemon counts the lines again.
//
// makeConsole(log, now, engine, inspecting, formatting) -> { write(level, values), show(value, most), framesOf(error),
// begin(bytes), prepare() }. It also defines the global `console`.
//
// log(level, text) sends a line and returns its size in bytes. now() returns milliseconds.
// engine.target(value) returns the target of a proxy (null if the proxy was revoked) or the value itself.
// engine.proxy(value) returns { target, handler } of a proxy.
// engine.promise(value) returns { state, value } of a promise, or undefined.
// engine.kindOf(value) returns the name of an object's built-in class, as Object.prototype.toString does, but whatever
// its prototype and its Symbol.toStringTag are. QuickJS has engine.classOf(value) instead, a number.
// engine.line and engine.members format plain objects (plain.c). Only QuickJS has them.
// inspecting and formatting are the functions of inspect.js and format.js.
const makeConsole = ((globalThis) => ((log, now, engine, inspecting, formatting) => {
  'use strict';
  const { apply, defineProperty, getOwnPropertyDescriptor, getPrototypeOf, ownKeys } = Reflect;
  const text = String;
  const {
    indexOf, lastIndexOf, slice, startsWith, split, trimEnd, repeat, padStart, charCodeAt, codePointAt, toUpperCase, toWellFormed,
  } = String.prototype;
  const { max, min, floor, round, sqrt, trunc } = Math;
  const { toFixed } = Number.prototype;
  const { exec } = RegExp.prototype;
  const MadeError = Error, { isError, prototype: ErrorPrototype } = Error;
  const textOfError = ErrorPrototype.toString;
  const tagOf = Object.prototype.toString;
  const getter = (object, name) => getOwnPropertyDescriptor(object, name)?.get;
  const TypedArrayPrototype = getPrototypeOf(Uint8Array.prototype);
  const mapSteps = new Map().entries(), setSteps = new Set().values();

  // Return the frames of an error, without its name and message. A message may contain lines that look like frames.
  const framesOf = (error) => {
    const { stack } = error;
    if (typeof stack !== 'string') return '';
    if (apply(startsWith, stack, ['    at '])) return '\n' + apply(trimEnd, stack, []);
    const header = isError(error) ? apply(textOfError, error, []) : '';
    const from = apply(indexOf, stack, ['\n    at ', apply(startsWith, stack, [header]) ? header.length : 0]);
    return from < 0 ? '' : apply(trimEnd, apply(slice, stack, [from]), []);
  };

  // Whether a text ends with a frame. The daemon parses a frame up to the end of its line, so a line feed must follow.
  const FRAME = /^ +at /;
  const endsWithFrame = (string) => {
    const at = apply(lastIndexOf, string, ['\n']);
    return at >= 0 && apply(exec, FRAME, [apply(slice, string, [at + 1])]) !== null;
  };

  // Return the built-in class of an object; undefined for plain objects, arrays, functions, errors and typed arrays.
  const kinds = { __proto__: null };
  if (engine.classOf !== undefined) {
    const samples = [
      new Map(), new Set(), new WeakMap(), new WeakSet(), Promise.resolve(), new Date(0), /x/, new ArrayBuffer(0),
      new SharedArrayBuffer(0), new DataView(new ArrayBuffer(0)), new Map().entries(), new Set().values(),
      (function () { return arguments; })(), Object(0), Object(''), Object(true), Object(Symbol()), Object(0n),
    ];
    for (const sample of samples) kinds[engine.classOf(sample)] = apply(slice, apply(tagOf, sample, []), [8, -1]);
  }
  const kindOf = engine.kindOf ?? ((value) => kinds[engine.classOf(value)]);

  const ofNumber = (number) => (number === 0 && 1 / number < 0 ? '-0' : text(number));
  const kept = {
    apply, ownKeys, getOwnPropertyDescriptor, getPrototypeOf, isError, text, engine, kindOf, framesOf, ofNumber, endsWithFrame,
    isArray: Array.isArray, number: Number, parseFloat: globalThis.parseFloat, parseInt: globalThis.parseInt,
    stringify: JSON.stringify, join: Array.prototype.join, sort: Array.prototype.sort,
    slice, indexOf, split, repeat, padStart, charCodeAt, codePointAt, upper: toUpperCase,
    exec, setPrototypeOf: Object.setPrototypeOf, objectKeys: Object.keys, ownSymbols: Object.getOwnPropertySymbols,
    hasOwn: Object.prototype.hasOwnProperty, isEnumerable: Object.prototype.propertyIsEnumerable,
    isPrototypeOf: Object.prototype.isPrototypeOf, toStringTag: Symbol.toStringTag, toPrimitive: Symbol.toPrimitive,
    ObjectPrototype: Object.prototype, ArrayPrototype: Array.prototype, ErrorPrototype, textOfError,
    textOfFunction: Function.prototype.toString, textOfRegExp: RegExp.prototype.toString,
    RegularExpression: RegExp, textOfNumber: Number.prototype.toString,
    valueOf: {
      __proto__: null, Number: Number.prototype.valueOf, String: String.prototype.valueOf, Boolean: Boolean.prototype.valueOf,
      Symbol: Symbol.prototype.valueOf, BigInt: BigInt.prototype.valueOf,
    },
    mapEntries: Map.prototype.entries, mapNext: mapSteps.next, mapSize: getter(Map.prototype, 'size'),
    setValues: Set.prototype.values, setNext: setSteps.next, setSize: getter(Set.prototype, 'size'),
    typedTag: getter(TypedArrayPrototype, Symbol.toStringTag), typedLength: getter(TypedArrayPrototype, 'length'),
    typedBytes: getter(TypedArrayPrototype, 'byteLength'), typedOffset: getter(TypedArrayPrototype, 'byteOffset'),
    typedBuffer: getter(TypedArrayPrototype, 'buffer'), isDetached: getter(ArrayBuffer.prototype, 'detached'),
    bufferLength: getter(ArrayBuffer.prototype, 'byteLength'), sharedLength: getter(SharedArrayBuffer.prototype, 'byteLength'),
    viewBuffer: getter(DataView.prototype, 'buffer'), viewLength: getter(DataView.prototype, 'byteLength'),
    viewOffset: getter(DataView.prototype, 'byteOffset'), dateTime: Date.prototype.getTime, dateText: Date.prototype.toISOString,
    Bytes: Uint8Array, floor, max, min, round, sqrt,
  };
  let made;
  const prepare = () => {
    if (made === undefined) {
      const inspector = inspecting(kept);
      const { format, dir, table } = formatting(kept, inspector);
      made = { __proto__: null, inspect: inspector.inspect, newState: inspector.newState, format, dir, table };
    }
    return made;
  };

  // --- the limit of lines ------------------------------------------------------------------------------------

  // The daemon counts the bytes of each line that it stores, plus LINE_BYTES. A line can be longer here, because the daemon
  // has not yet mapped its frames to the program. So this file is less strict: it stops after twice the limit, and accepts
  // at most three times the limit (frames.py, console.py).
  const LINE_BYTES = 16;
  let limit = 0, sent = 0, linesLeft = 0, isCut = false;
  const begin = (bytes) => {
    limit = bytes;
    linesLeft = floor(bytes / LINE_BYTES) + 1;
  };
  const room = () => floor(max(3 * limit - sent, 0) / 3) + 1;
  const isFull = () => sent >= 2 * limit || linesLeft <= 0;

  // --- the text of a call --------------------------------------------------------------------------------------

  const cut = (string, length) => apply(toWellFormed, apply(slice, string, [0, length]), []);
  const show = (value, most) => {
    if (typeof value === 'string') return cut(value, most);
    const { inspect, newState } = prepare();
    return cut(inspect(value, newState(most)), most);
  };
  const ofPrimitive = (value) =>
    typeof value === 'number' ? ofNumber(value) : typeof value === 'bigint' ? text(value) + 'n' : text(value);
  // Whether all values are primitives, and the first has no `%`. Such a line needs neither inspect.js nor format.js, which
  // take time to prepare on Deno.
  const isSimple = (values) => {
    for (let i = 0; i < values.length; i++) {
      const type = typeof values[i];
      if (type === 'function' || (type === 'object' && values[i] !== null)) return false;
    }
    return values.length < 2 || typeof values[0] !== 'string' || apply(indexOf, values[0], ['%']) < 0;
  };
  const lineOf = (values, most) => {
    if (!isSimple(values)) return prepare().format(values, most);
    let line = '', shown = '';
    for (let i = 0; i < values.length && line.length <= most; i++) {
      if (i > 0) line += endsWithFrame(shown) ? '\n' : ' ';
      shown = ofPrimitive(values[i]);
      line += shown;
    }
    return line;
  };
  const INDENTED_GROUPS = 500;
  let indent = '', groups = 0;
  const setGroups = (count) => {
    groups = count;
    indent = apply(repeat, '  ', [min(count, INDENTED_GROUPS)]);
  };
  const indented = (string, most) => {
    let done = indent;
    for (let at; (at = apply(indexOf, string, ['\n'])) >= 0 && done.length <= most; string = apply(slice, string, [at + 1])) {
      done += apply(slice, string, [0, at + 1]) + indent;
    }
    return done + string;
  };
  const writeLine = (level, make) => {
    const line = isFull() ? '' : make(room());  // this may run code of the program, which may write lines
    if (isFull()) {
      if (!isCut) log(level, '');  // the daemon sets logs_truncated, and drops the line
      isCut = true;
      return;
    }
    const most = room();
    sent += log(level, cut(indent === '' ? line : indented(line, most), most));
    linesLeft -= 1;
  };
  const write = (level, values) => writeLine(level, (most) => lineOf(values, most));

  // --- the object ------------------------------------------------------------------------------------------------

  const console = {};
  const levels = { debug: 0, log: 1, info: 2, warn: 3, error: 4, dirxml: 1 };
  for (const name of Object.keys(levels)) {
    const level = levels[name];
    console[name] = { [name](...values) { write(level, values); } }[name];
  }
  console.trace = function trace(...values) {
    const frames = framesOf(new MadeError());
    writeLine(0, (most) => {
      const line = lineOf(values, most);
      return 'Trace' + (line === '' ? '' : ': ' + line) + frames;
    });
  };
  console.dir = function dir(value, options) {
    writeLine(1, (most) => prepare().dir(value, options, most));
  };
  console.table = function table(data, columns) {
    writeLine(1, (most) => prepare().table(data, columns, most) ?? lineOf([data], most));
  };
  // Insert a value before the others. This calls no iterator and no setter of the program.
  const behind = (first, values) => {
    const all = [first];
    for (let i = 0; i < values.length; i++) defineProperty(all, i + 1, { __proto__: null, value: values[i], writable: true });
    return all;
  };
  console.assert = function assert(condition, ...values) {
    if (condition) return;
    if (typeof values[0] === 'string') values[0] = 'Assertion failed: ' + values[0];
    write(4, typeof values[0] === 'string' ? values : behind('Assertion failed', values));
  };
  console.group = function group(...values) {
    if (values.length) write(1, values);
    setGroups(groups + 1);
  };
  console.groupCollapsed = { groupCollapsed(...values) { apply(console.group, undefined, values); } }.groupCollapsed;
  console.groupEnd = function groupEnd() {
    setGroups(max(groups - 1, 0));
  };
  console.clear = function clear() {
    setGroups(0);
  };
  const label = (value) => (value === undefined ? 'default' : text(value));
  // Return a time as Node does: 1.234ms, 1.234s, or 1:02.345 (m:ss.mmm).
  const ofTime = (ms) => {
    if (ms < 1000) return text(trunc(ms * 1000) / 1000) + 'ms';
    const seconds = apply(toFixed, ms % 60000 / 1000, [3]);
    return ms < 60000 ? seconds + 's' : text(floor(ms / 60000)) + ':' + apply(padStart, seconds, [6, '0']) + ' (m:ss.mmm)';
  };
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
    if (!(key in began)) return;
    const time = ofTime(now() - began[key]), hasFormat = values.length > 0 && apply(indexOf, key, ['%']) >= 0;
    write(2, hasFormat ? behind('%s: %s', behind(key, behind(time, values))) : behind(key + ': ' + time, values));
  };
  console.timeEnd = function timeEnd(name) {
    console.timeLog(name);
    delete began[label(name)];
  };
  defineProperty(globalThis, 'console', { value: console, writable: true, configurable: true, enumerable: false });

  defineProperty(console, Symbol.toStringTag, { value: 'console', configurable: true });

  return { write, show, framesOf, begin, prepare };
}))(globalThis);
