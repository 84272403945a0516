// Corrects String.prototype.normalize, which loses a character in this engine. Evaluated once in the zygote, before
// builtins.js.
(() => {
  'use strict';
  const { apply, defineProperty } = Reflect;
  const { includes, normalize: original, split } = String.prototype;

  // The engine wrongly composes U+11A7 with the Hangul syllable before it, and loses U+11A7. In Unicode no character composes
  // with it. So the parts of the text between these characters are normalized separately.
  const NO_FINAL = '\u11a7';
  // Methods, like built-in functions, have no `prototype` and are not constructors.
  const { normalize } = {
    normalize() {
      if (this === undefined || this === null) return apply(original, this, []);
      const text = `${this}`, form = arguments[0] === undefined ? 'NFC' : `${arguments[0]}`;
      if (!apply(includes, text, [NO_FINAL])) return apply(original, text, [form]);
      const parts = apply(split, text, [NO_FINAL]);
      let done = apply(original, parts[0], [form]);
      for (let at = 1; at < parts.length; at += 1) done += NO_FINAL + apply(original, parts[at], [form]);
      return done;
    },
  };
  defineProperty(String.prototype, 'normalize', { value: normalize, writable: true, configurable: true, enumerable: false });
})();
