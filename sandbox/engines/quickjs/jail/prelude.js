// The last script that the zygote evaluates before a program. It gives each run its own random numbers and clocks. Its
// value is the function that runs a program, which context.c calls. The kernel enforces the limits, and the zygote reports
// how a run ended.
(() => {
  'use strict';
  const { apply, defineProperty } = Reflect;
  const { parse } = JSON;
  const then = Promise.prototype.then;
  const clock = globalThis.performance.now.bind(globalThis.performance);
  const wallClock = Date.now;
  const { __promptlog_log: log, __promptlog_web: web, __promptlog_engine: engine } = globalThis;
  for (const name of ['__promptlog_log', '__promptlog_web', '__promptlog_engine']) delete globalThis[name];
  const console = makeConsole(log, clock, engine, inspecting, formatting);
  console.prepare();
  const { follow, start, call } = contract(console, web, engine.size);

  // --- random numbers and clocks: without this, every run would inherit the same ones from the zygote ------

  let a = 0, b = 0, c = 0, counter = 1;
  const next = () => {  // the generator sfc32
    const sum = (a + b + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (c << 21) | (c >>> 11);
    c = (c + sum) | 0;
    return sum >>> 0;
  };
  defineProperty(Math, 'random', {
    value: { random() { return ((next() >>> 5) * 67108864 + (next() >>> 6)) / 9007199254740992; } }.random,
    writable: true, configurable: true, enumerable: false,
  });

  let origin = 0;
  const performance = { now() { return clock() - origin; }, timeOrigin: 0 };
  defineProperty(globalThis, 'performance', {
    value: performance, writable: true, configurable: true, enumerable: false,
  });

  // `body` is the function of the program. If it is undefined, the program is the module with the name `program`.
  return (body, prompt, env, resultUnits, logUnits, x, y, z) => {
    start(resultUnits, logUnits);
    a = x;
    b = y;
    c = z;
    for (let i = 0; i < 12; i++) next();
    origin = clock();
    performance.timeOrigin = wallClock();
    env = env === '{}' ? {} : parse(env);
    if (body !== undefined) return follow(body(prompt, env));
    return follow(apply(then, import('program'), [(namespace) => call(namespace, prompt, env)]));
  };
})();
