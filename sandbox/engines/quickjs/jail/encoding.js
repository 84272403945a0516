// TextEncoder, TextDecoder (only UTF-8), atob and btoa (https://encoding.spec.whatwg.org,
// https://infra.spec.whatwg.org/#forgiving-base64). Evaluated once in the zygote, after webidl.js.

// utf8.encode(text) returns bytes. utf8.decode(bytes) returns a text without a byte order mark, with U+FFFD for invalid
// bytes. hooks.c implements both. Other scripts also use `utf8`.
const utf8 = (({ encode, decode }) => ({
  encode: (text) => encode(text.toWellFormed()),
  decode,
}))(globalThis.__promptlog_utf8);
delete globalThis.__promptlog_utf8;

(() => {
  'use strict';
  const { atob: fromBase64, btoa: toBase64, DOMException } = globalThis;
  const { dictionary, publish, requireArguments } = webIdl;
  const { encode } = utf8;

  const { getOwnPropertyDescriptor, getPrototypeOf } = Reflect;
  const { get: tagOf } = getOwnPropertyDescriptor(getPrototypeOf(Uint8Array).prototype, Symbol.toStringTag);
  const typedArrayName = (value) => Reflect.apply(tagOf, value, []);

  class TextEncoder {
    get encoding() { return 'utf-8'; }
    encode(input = '') { return encode(`${input}`); }
    encodeInto(source, destination) {
      requireArguments(arguments, 2, 'TextEncoder.encodeInto');
      const text = `${source}`;
      if (typedArrayName(destination) !== 'Uint8Array') throw new TypeError('TextEncoder.encodeInto: a Uint8Array is required');
      let read = 0, written = 0;
      while (read < text.length) {
        const point = text.codePointAt(read);
        const size = point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
        if (written + size > destination.length) break;
        written += size;
        read += point < 0x10000 ? 1 : 2;
      }
      destination.set(encode(text.slice(0, read)));
      return { read, written };
    }
  }

  const UTF_8 = /^[\t\n\f\r ]*(?:unicode-1-1-utf-8|unicode(?:11|20)utf8|utf-?8|x-unicode20utf8)[\t\n\f\r ]*$/i;
  const same = (some, others) => some.length === others.length && some.every((byte, at) => byte === others[at]);
  const marked = (bytes) => bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf;
  // Return the number of bytes at the end that start an incomplete character.
  const MIN_SECOND_BYTE = { __proto__: null, 0xe0: 0xa0, 0xf0: 0x90 }, MAX_SECOND_BYTE = { __proto__: null, 0xed: 0x9f, 0xf4: 0x8f };
  const incompleteTail = (bytes) => {
    for (let back = 1; back <= 3 && back <= bytes.length; back++) {
      const [lead, second = 0x80] = bytes.subarray(bytes.length - back);
      if (lead < 0x80) break;
      if (lead < 0xc0) continue;
      const size = lead < 0xc2 || lead > 0xf4 ? 0 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
      const begins = second >= (MIN_SECOND_BYTE[lead] ?? 0x80) && second <= (MAX_SECOND_BYTE[lead] ?? 0xbf);
      return back < size && (back === 1 || begins) ? back : 0;
    }
    return 0;
  };
  const bytesOf = (input) => {
    if (ArrayBuffer.isView(input)) return new Uint8Array(input.buffer, input.byteOffset, input.byteLength);
    if (Object.prototype.toString.call(input) in BUFFERS) return new Uint8Array(input);
    throw new TypeError('an ArrayBuffer or a view of one is required');
  };
  const BUFFERS = { __proto__: null, '[object ArrayBuffer]': true, '[object SharedArrayBuffer]': true };

  class TextDecoder {
    #fatal;
    #ignoreBOM;
    #begun = false;  // whether a stream has had a character, after which a byte order mark is a normal character
    #rest = new Uint8Array(0);  // the start of an incomplete character of a stream

    constructor(label = 'utf-8', options = {}) {
      if (!UTF_8.test(label)) throw new RangeError(`TextDecoder supports only utf-8, not '${label}'`);
      const { fatal, ignoreBOM } = dictionary(options, 'TextDecoder');
      this.#fatal = Boolean(fatal);
      this.#ignoreBOM = Boolean(ignoreBOM);
    }

    get encoding() { return 'utf-8'; }
    get fatal() { return this.#fatal; }
    get ignoreBOM() { return this.#ignoreBOM; }

    decode(input, options = {}) {
      const more = input === undefined ? new Uint8Array(0) : bytesOf(input);
      let bytes = more;
      if (this.#rest.length) {
        bytes = new Uint8Array(this.#rest.length + more.length);
        bytes.set(this.#rest);
        bytes.set(more, this.#rest.length);
      }
      const begun = this.#begun, stream = Boolean(dictionary(options, 'TextDecoder.decode').stream);
      const end = bytes.length - (stream ? incompleteTail(bytes) : 0);
      this.#rest = bytes.slice(end);
      this.#begun = stream && (begun || end > 0);
      bytes = bytes.subarray(0, end);
      const text = (marked(bytes) && (begun || this.#ignoreBOM) ? '\ufeff' : '') + utf8.decode(bytes);
      if (this.#fatal && text.includes('\ufffd')) {
        const own = marked(bytes) && text[0] !== '\ufeff' ? bytes.subarray(3) : bytes;
        if (!same(encode(text), own)) throw new TypeError('the data is not valid UTF-8');
      }
      return text;
    }
  }

  const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
  const refuse = (message) => {
    const error = new DOMException(message, 'InvalidCharacterError');
    Reflect.defineProperty(error, 'stack', { value: `${error}\n${error.stack.trimEnd()}`, writable: true, configurable: true });
    throw error;
  };
  const functions = {
    atob(data) {
      requireArguments(arguments, 1, 'atob');
      let text = `${data}`.replace(/[\t\n\f\r ]+/g, '');
      if (text.length % 4 === 0) text = text.replace(/==?$/, '');
      const over = text.length % 4;
      if (over === 1 || !/^[A-Za-z0-9+/]*$/.test(text)) refuse('atob: the text is not valid base64');
      if (over) {
        // Clear the bits after the last byte, because the engine's atob requires zeros there.
        const last = ALPHABET.indexOf(text[text.length - 1]) & (over === 2 ? 0x30 : 0x3c);
        text = text.slice(0, -1) + ALPHABET[last];
      }
      return fromBase64(text);
    },
    btoa(data) {
      requireArguments(arguments, 1, 'btoa');
      const text = `${data}`;
      if (/[^\0-\xff]/.test(text)) refuse('btoa: the text contains a character above U+00FF');
      return toBase64(text);
    },
  };
  publish({ TextEncoder, TextDecoder, ...functions });
})();
