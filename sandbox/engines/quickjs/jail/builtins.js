// Evaluated once in the zygote, behind the prelude. The engine makes most of its functions when they are first looked
// at. A run that does so writes to pages that it shares with the zygote until then, and each of these is copied: so
// all are looked at here.
(() => {
  'use strict';
  const seen = new Set();
  const look = (value) => {
    if ((typeof value !== 'object' && typeof value !== 'function') || value === null || seen.has(value)) return;
    seen.add(value);
    for (const key of Reflect.ownKeys(value)) {
      const property = Reflect.getOwnPropertyDescriptor(value, key);
      look(property.value);
      look(property.get);
      look(property.set);
    }
    look(Reflect.getPrototypeOf(value));
  };
  for (const root of [globalThis, [].values(), new Map().values(), function* () {}, async () => 0]) look(root);
})();
