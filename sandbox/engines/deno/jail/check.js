// Checks whether a source is a program: a body or a module, in JavaScript or TypeScript. If it is not, reports the position
// and the reason. Also creates the code that is run. No code of a program is executed here: it is only parsed and linked.
//
// runner.js evaluates this file only if there is something to check, because it would make each start 5 % slower.
//
// check(source, language, keep) -> { module, typed, code, stripped }. `typed`: the code is TypeScript. `stripped`: the code
// is the source without its types. check throws if the source is not a program.
// told(error) -> { form, message, place } of an error that check threw for the program; null for any other error.
((runners) => {
  'use strict';
  const {
    apply, defineProperty, exec, test, slice, split, trimStart, endsWith, lastIndexOf, textOf, say, AsyncFunction, Deno,
    makeProcess, load, urls, reworded, atLeast,
  } = runners;

  // A module that starts with this import is parsed and linked, but not run: imports are evaluated in order, and this first
  // one throws. A body that parses between all three pairs of brackets cannot close any of them. CHECKS in wrapper.py has
  // the proof. It also holds for TypeScript, because the tokens that may follow a method and an expression are disjoint.
  const STOP = 'import "data:text/javascript,throw null";';
  const BRACKETS = [
    ['export default (async function (prompt, env) {"use strict";\n', '\n})'],
    ['export default ({async program(prompt, env) {"use strict";\n', '\n}})'],
    ['export default (class {async program(prompt, env) {\n', '\n}})'],
  ];
  // Not closed, so that an error at the end of a body has a position in the body.
  const LOOSE = 'async function loose(prompt, env) {"use strict";\n';
  const refusal = async (source, language) => {
    try {
      await load(STOP + source, language);
    } catch (error) {
      return error === null ? null : error;
    }
    return null;
  };
  class Unparsed {
    constructor(error, form, message) {
      this.error = error;
      this.form = form;
      this.message = message;
    }
  }
  class Placed {
    constructor(message, source, end, above = 0) {
      const lines = apply(split, apply(slice, source, [0, end]), ['\n']);
      this.message = message;
      this.parser = 'v8';
      this.line = lines.length + above;
      this.column = lines[lines.length - 1].length + 1;
    }
  }
  const braceAt = (source, end) => new Unparsed(new Placed("Unexpected token '}'", source, end, 1), 'B');
  // The function is declared and not called. If its text ends before the source ends, the source closes the bracket there.
  const closed = (source) => {
    for (const after of ['', '\n}']) {
      try {
        const end = apply(textOf, new Function('return loose; ' + LOOSE + source + after)(), []).length - 1;
        if (end < LOOSE.length + source.length) return braceAt(source, end - LOOSE.length);
      } catch {}
    }
    return null;
  };
  const before = (error, source) => {
    const found = placeIn(error);
    if (found === null) return source.length;
    const lines = apply(split, source, ['\n']);
    let at = found.column - 1;
    for (let line = 0; line < found.line - 2 && line < lines.length; line++) at += lines[line].length + 1;
    return at;
  };
  // Messages of V8 about promptlog's own brackets do not help the author.
  const OURS = /^Unexpected token '[})]'$|^Single function literal required$/;
  const scriptsError = async (source, error) => {
    const brace = closed(source);
    if (brace !== null) return brace;
    const where = await refusal('export default ' + LOOSE + source, 'j');
    const message = say(error.message);
    return new Unparsed(where ?? error, 'B', apply(test, OURS, [message]) ? undefined : message);
  };
  const bodysError = async (source, error) => {
    // If swc accepts the text and V8 refuses it, V8's position is in the program.
    if (placeIn(error)?.parser === 'v8') return new Unparsed(error, 'B');
    const where = await refusal('export default ' + LOOSE + source, 't');
    if (where !== null) {
      const late = before(where, source) >= source.length && before(error, source) < source.length;
      return new Unparsed(late ? error : where, 'B');
    }
    // The body closes the bracket: before a token that cannot follow a method, or with its last brace.
    const method = await refusal(BRACKETS[2][0] + source, 't');
    const brace = apply(lastIndexOf, source, ['}', before(method, source)]);
    return brace < 0 ? new Unparsed(error, 'B') : braceAt(source, brace);
  };
  // An export at the start of a line is preferred. Elsewhere, `export` may be in a string or a comment.
  const EXPORT_FIRST = /^([ \t]*)export\b/m;
  const EXPORT = /()\bexport(?:\s*[{*=]|\s+[a-z])/;
  const NO_DEFAULT =
    'a module needs a default export: a function (prompt, env) => value, or an object with fetch(request, env)';
  // The provisional message (`atLeast`), in case swc overflows the stack: its parser has no limit of nesting.
  const TOO_DEEP = 'it is nested too deeply, or Deno has failed to parse it';
  // V8 requires a single function here. So it refuses a body that closes the bracket.
  const compile = (source) => new AsyncFunction('prompt', 'env', '"use strict";\n' + source + '\n');
  // If a program uses only type annotations of TypeScript, Deno's type stripper replaces them with spaces. All positions stay
  // the same, and the stored program then starts as fast as JavaScript. The function is in node:module, which takes 15 ms to
  // load. That is too long for a single run, so only `submit` does it. It needs the global Deno, which exists only during
  // the check, while no code of the program runs.
  //
  // The parsers of Deno and V8 may differ for syntax that is more than types. So a text that may contain such syntax is not
  // stripped.
  //
  // Spaces in place of a whole statement or member may join the line before it with the line after it. So after each removal
  // at the start of a line, there must be a semicolon (from the stripper), or a token that cannot continue the line before.
  // Then automatic semicolon insertion (ECMA-262 12.10) ends the line before. Otherwise the text is not stripped.
  const MORE_THAN_TYPES =
    /\b(?:enum|namespace|module)[ \t]+[\w$"']|^[ \t]*@[\w(]|\bimport\b|\bfrom[ \t]*["']|\bexport[ \t]*=|\b(?:public|private|protected|readonly|override|declare|abstract)[ \t]*[\r\n\u2028\u2029]/m;
  const SPACE = /\s/;
  const LINE_END = /[\r\n\u2028\u2029]/;
  const BEGINS_ANEW = /^(?:\s|\/\/[^\r\n\u2028\u2029]*|\/\*[^]*?\*\/)*(?:[\w$"'@{}#]|$)/;
  const GOES_ON = /(?:^|[^\w$.])(?:get|set|static|accessor|async)\s*$/;  // continues on the next line
  const meansTheSame = (source, blank) => {
    for (let at = 0; at < source.length; at++) {
      if (source[at] === blank[at]) continue;
      const start = at;
      let end = at;
      for (; at < source.length && (source[at] !== blank[at] || apply(test, SPACE, [source[at]])); at++) {
        if (blank[at] !== ';' && !apply(test, SPACE, [blank[at]])) return false;  // the stripper moved a bracket
        if (source[at] !== blank[at]) end = at + 1;
      }
      let before = start - 1;
      while (source[before] === ' ' || source[before] === '\t') before -= 1;
      const opens = before < 0 || apply(test, LINE_END, [source[before]]) || (source[before] === '/' && source[before - 1] === '*');
      if (blank[start] === ';') continue;
      if (!opens) {
        if (apply(test, LINE_END, [apply(slice, source, [start, end])])) return false;  // the removal contains a line end
        continue;
      }
      if (!apply(test, BEGINS_ANEW, [apply(slice, blank, [at])])) return false;
      if (apply(test, GOES_ON, [apply(slice, source, [start > 16 ? start - 16 : 0, start])])) return false;
    }
    return true;
  };
  const AROUND = [LOOSE, '\n}'];
  const withoutTypes = async (source) => {
    if (apply(test, MORE_THAN_TYPES, [source])) return null;
    defineProperty(globalThis, 'Deno', { __proto__: null, value: Deno, configurable: true });
    try {
      const { stripTypeScriptTypes } = makeProcess().getBuiltinModule('node:module');
      const strip = (text) => {
        const blank = stripTypeScriptTypes(text);
        return blank.length === text.length && meansTheSame(text, blank) ? blank : null;
      };
      const [before, after] = AROUND;
      try {
        const whole = strip(before + source + after);
        if (whole === null) return null;
        const body = apply(slice, whole, [before.length, -after.length]);
        compile(body);
        if (whole === before + body + after) return { module: false, typed: false, code: body, stripped: true };
      } catch {}
      const module = strip(source);
      if (module === null || !apply(test, /default/, [source])) return null;
      return await refusal(module, 'j') === null ? { module: true, typed: false, code: module, stripped: true } : null;
    } catch {
      return null;
    } finally {
      delete globalThis.Deno;
    }
  };
  // The same as in check.c. In JavaScript, three backticks are an empty template and the start of another.
  const FENCED = 'the program is in a Markdown fence: leave out the lines that begin with ``` or ~~~';
  const FENCE_FIRST = /^[ \t\r\v\f\n]*```/, FENCE = /^[ \t\v\f]*(?:```|~~~[a-zA-Z]*[ \t]*$)/m;
  const fenced = (source) => {
    const fence = apply(exec, FENCE, [source]);
    if (fence === null) return null;
    const end = fence.index + fence[0].length - apply(trimStart, fence[0], []).length;
    return new Unparsed(new Placed(FENCED, source, end, 1), 'B');
  };
  const check = async (source, language, keep) => {
    if (apply(test, FENCE_FIRST, [source])) throw fenced(source);
    try {
      return await checkUnfenced(source, language, keep);
    } catch (error) {
      throw error instanceof Unparsed ? fenced(source) ?? error : error;
    }
  };
  const checkUnfenced = async (source, language, keep) => {
    const script = language === 'j';
    let error = null, first = true;
    if (!script) {
      atLeast(TOO_DEEP);
      const kept = keep ? await withoutTypes(source) : null;
      if (kept !== null) return kept;
    }
    if (script) {
      try {
        compile(source);
      } catch (thrown) {
        error = thrown;
        if (!(error instanceof SyntaxError)) throw new Unparsed('it is nested too deeply', 'B');
      }
    } else {
      error = await refusal(BRACKETS[0][0] + source + BRACKETS[0][1], 't');
      first = error !== null;
      for (const [before, after] of [BRACKETS[1], BRACKETS[2]]) error ??= await refusal(before + source + after, 't');
    }
    if (error === null) return { module: false, typed: !script, code: source, stripped: false };
    const opening = apply(exec, EXPORT_FIRST, [source]), module = opening ?? apply(exec, EXPORT, [source]);
    // A source that V8 cannot parse may overflow the stack of swc.
    const says = say(error.message), ofModule = opening !== null || apply(test, /'export'|import statement/, [says]);
    if (script) atLeast((module !== null && ofModule) || apply(test, OURS, [says]) ? TOO_DEEP : reworded('SyntaxError', says));
    if (module !== null) {
      const other = await refusal(source, language);
      if (other !== null) {
        // There is no error before the export, so the source is not a body.
        if (ofModule) throw new Unparsed(other, 'M');
      } else if (apply(test, /default/, [source])) {
        return { module: true, typed: !script, code: source, stripped: false };
      } else {
        const end = STOP.length + module.index + module[1].length;
        throw new Unparsed(new Placed(NO_DEFAULT, STOP + source, end), 'M');
      }
    }
    if (script) throw await scriptsError(source, error);
    throw first ? await bodysError(source, error) : new Unparsed(error, 'B');
  };

  // Return the position of a syntax error. V8 and swc write it after the message, but only for modules. For a body, the line
  // of its bracket is included. A source cannot contain the URL that it is loaded from, because that is random.
  const placeIn = (error) => {
    const whole = say(error?.message ?? error);
    for (let i = 0; i < urls.length; i++) {
      const end = apply(lastIndexOf, whole, [urls[i] + ':']);
      const head = apply(slice, whole, [0, end]);
      const parser = apply(endsWith, head, ['\n    at ']) ? 'swc' : 'v8';
      const place = apply(exec, /^:(\d+):(\d+)(?=\s|$)/, [apply(slice, whole, [end + urls[i].length])]);
      if (end < 0 || place === null || !apply(endsWith, head, [' at '])) continue;
      const text = apply(slice, head, [0, parser === 'swc' ? -8 : -4]);
      const message = apply(exec, /^(?:SyntaxError: )?([^\n]*)/, [text])[1];
      return { message, parser, line: +place[1], column: +place[2] };
    }
    return null;
  };
  const placed = (error, form) => {
    const found = error instanceof Placed ? error : placeIn(error);
    if (found === null) return [say(error?.message ?? error), ''];
    // STOP is at the start of the first line of a module. The first line of a body is its bracket.
    const column = form === 'M' && found.line === 1 ? found.column - STOP.length : found.column;
    // V8 and swc count columns in different ways (stack.py).
    return [found.message, `    at ${found.parser}:${found.line}:${column}`];
  };

  const told = (thrown) => {
    if (!(thrown instanceof Unparsed)) return null;
    const { error, form, message } = thrown;
    const [found, place] = placed(error, form);
    return { form, message: reworded('SyntaxError', message ?? found), place };
  };
  return { check, told };
})
//# sourceURL=file:///app/check.js
