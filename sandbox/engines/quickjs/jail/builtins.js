// The start of the search for all built-in objects (scripts.c): the global object, and objects that no property leads to.
[globalThis, [].values(), new Map().values(), function* () {}, async () => 0];
