// Replaces ECMAScript functions for human languages for which the engine returns wrong values. The engine has no Intl, and
// ignores locales and options. These functions throw a TypeError instead. Evaluated once in the zygote, before builtins.js.
(() => {
  'use strict';
  const { apply, defineProperty, getPrototypeOf } = Reflect;

  const refuse = (name) => {
    throw new TypeError(`QuickJS has no Intl: ${name} takes no locale or options; use --engine deno`);
  };
  // Methods, like built-in functions, have no `prototype` and are not constructors.
  const replace = (owner, name, make, original = owner[name]) => {
    defineProperty(owner, name, { value: make(original, name)[name], writable: true, configurable: true, enumerable: false });
  };

  const plain = (original, name) => ({
    [name]() {
      if (arguments[0] !== undefined || arguments[1] !== undefined) refuse(name);
      return apply(original, this, []);
    },
  });
  for (const { prototype } of [Number, Array, getPrototypeOf(Int8Array)]) replace(prototype, 'toLocaleString', plain);
  replace(BigInt.prototype, 'toLocaleString', plain, BigInt.prototype.toString);  // the engine has no toLocaleString
  for (const name of ['toLocaleString', 'toLocaleDateString', 'toLocaleTimeString']) replace(Date.prototype, name, plain);

  replace(String.prototype, 'localeCompare', (original) => ({
    localeCompare(that) {
      if (arguments[1] !== undefined || arguments[2] !== undefined) refuse('localeCompare');
      return apply(original, this, [that]);
    },
  }));

  // Four languages have special case mappings (SpecialCasing.txt; for Greek, ICU). All others use the default mappings.
  const PLAIN_CASE = /^(?!az|el|lt|tr)[a-z]{2}(?:-[a-z]{4})?(?:-(?:[a-z]{2}|[0-9]{3}))?$/i;
  const { test } = RegExp.prototype;
  const cased = (original, name) => ({
    [name]() {
      const locale = arguments[0];
      const known = locale === undefined || (typeof locale === 'string' && apply(test, PLAIN_CASE, [locale]));
      if (!known) throw new TypeError(`QuickJS has no Intl: ${name} has no rules for this locale; use --engine deno`);
      return apply(original, this, []);
    },
  });
  for (const name of ['toLocaleUpperCase', 'toLocaleLowerCase']) replace(String.prototype, name, cased);
})();
