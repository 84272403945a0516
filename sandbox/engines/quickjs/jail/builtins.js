// What scripts.c begins with when it looks at every built-in object: the global object, and what no property of it leads to.
[globalThis, [].values(), new Map().values(), function* () {}, async () => 0];
