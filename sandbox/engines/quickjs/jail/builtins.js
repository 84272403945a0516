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

// The engine looks for cycles of garbage once there is half as much again as when it last did, and then writes to every
// object there is. So let it do so now, while there is much: a run may take 3 MiB before it is looked at again.
(() => {
  const much = 'x'.repeat(2 ** 21);
  return [much.length];
})();
