// The editor: CodeMirror if it is installed, otherwise a plain text field. Both have the same methods.

export async function makeEditor(host, field, { onChange, onRun }) {
  try {
    return await rich(host, field, onChange, onRun);
  } catch (error) {
    console.info("promptlog: using the plain editor, because CodeMirror can't be loaded:", error.message);
    host.hidden = true;
    return plain(field, onChange, onRun);
  }
}

function plain(field, onChange, onRun) {
  field.addEventListener("input", onChange);
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      onRun();
    }
  });
  return {
    get text() { return field.value; },
    set text(value) { field.value = value; },
    language() {},
    mark(line, column) {
      const lines = field.value.split("\n");
      const at = lines.slice(0, line - 1).reduce((sum, text) => sum + text.length + 1, 0) + Math.max(0, column - 1);
      field.setSelectionRange(at, at); // this does not scroll the field
    },
    clearMarks() {},
    focus() { field.focus(); },
  };
}

async function rich(host, field, onChange, onRun) {
  const from = (name) => import(`./editor/${name}.js`);
  const [view, state, commands, language, javascript, lint, highlight] = await Promise.all([
    from("codemirror-view"), from("codemirror-state"), from("codemirror-commands"), from("codemirror-language"),
    from("codemirror-lang-javascript"), from("codemirror-lint"), from("lezer-highlight"),
  ]);
  const { EditorView } = view;
  const { tags } = highlight;
  const styles = language.HighlightStyle.define([
    { tag: [tags.keyword, tags.bool, tags.null, tags.self], color: "var(--code-keyword)" },
    { tag: [tags.string, tags.special(tags.string), tags.regexp], color: "var(--code-string)" },
    { tag: tags.number, color: "var(--code-number)" },
    { tag: tags.comment, color: "var(--code-comment)", fontStyle: "italic" },
    { tag: [tags.function(tags.variableName), tags.function(tags.propertyName), tags.typeName, tags.className], color: "var(--code-name)" },
  ]);
  const theme = EditorView.theme({
    "&": { flex: "1", minWidth: "0", fontSize: "14px", backgroundColor: "var(--surface)", color: "var(--ink)" },
    "&.cm-focused": { outline: "2px solid var(--accent)", outlineOffset: "-2px" },
    ".cm-scroller": { fontFamily: "var(--mono)", lineHeight: "1.6" },
    ".cm-content": { padding: "10px 0", caretColor: "var(--ink)" },
    ".cm-cursor": { borderLeftColor: "var(--ink)", borderLeftWidth: "2px" },
    ".cm-gutters": { backgroundColor: "var(--sunken)", color: "var(--muted)", border: "0", borderRight: "1px solid var(--line)" },
    ".cm-activeLine, .cm-activeLineGutter": { backgroundColor: "color-mix(in srgb, var(--accent-soft) 45%, transparent)" },
    "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": { backgroundColor: "var(--selection)" },
    ".cm-tooltip": { backgroundColor: "var(--surface)", color: "var(--ink)", border: "1px solid var(--line)" },
    ".cm-failed-line": { backgroundColor: "var(--bad-soft)" },
  });
  const failedLine = state.StateEffect.define();
  const failedLines = state.StateField.define({
    create: () => view.Decoration.none,
    update(marks, transaction) {
      if (transaction.docChanged) return view.Decoration.none;
      for (const effect of transaction.effects) {
        if (effect.is(failedLine)) {
          marks = effect.value === null ? view.Decoration.none
            : view.Decoration.set([view.Decoration.line({ class: "cm-failed-line" }).range(effect.value)]);
        }
      }
      return marks;
    },
    provide: (field) => EditorView.decorations.from(field),
  });
  const spoken = new state.Compartment();
  field.hidden = true;
  // In a shadow root, CodeMirror uses adopted style sheets, which the page's Content-Security-Policy allows.
  const root = host.attachShadow({ mode: "open" });
  const editor = new EditorView({
    parent: root,
    root,
    state: state.EditorState.create({
      doc: field.value,
      extensions: [
        view.lineNumbers(), view.highlightActiveLine(), view.highlightActiveLineGutter(), view.drawSelection(),
        view.highlightSpecialChars(), commands.history(), language.bracketMatching(), language.indentOnInput(),
        language.syntaxHighlighting(styles), lint.lintGutter(), failedLines, theme,
        spoken.of(javascript.javascript()),
        state.EditorState.tabSize.of(2),
        EditorView.lineWrapping,
        EditorView.contentAttributes.of({ "aria-label": "Program", "aria-describedby": "editor-help", spellcheck: "false" }),
        view.keymap.of([
          { key: "Mod-Enter", preventDefault: true, run: () => { onRun(); return true; } },
          ...commands.defaultKeymap, ...commands.historyKeymap, commands.indentWithTab,
        ]),
        EditorView.domEventHandlers({ beforeinput: typeOverSelection }),
        EditorView.updateListener.of((update) => { if (update.docChanged) onChange(); }),
      ],
    }),
  });
  return {
    get text() { return editor.state.doc.toString(); },
    set text(value) { editor.dispatch({ changes: { from: 0, to: editor.state.doc.length, insert: value } }); },
    language(name) { editor.dispatch({ effects: spoken.reconfigure(javascript.javascript({ typescript: name === "typescript" })) }); },
    mark(line, column, message) {
      const { doc } = editor.state;
      if (line < 1 || line > doc.lines) return;
      const at = doc.line(line);
      const from = Math.min(at.to, at.from + Math.max(0, column - 1));
      const to = Math.min(at.to, from + 1);
      editor.dispatch(lint.setDiagnostics(editor.state, [{ from, to, severity: "error", message }]));
      editor.dispatch({ effects: failedLine.of(at.from) });
    },
    clearMarks() {
      editor.dispatch(lint.setDiagnostics(editor.state, []));
      editor.dispatch({ effects: failedLine.of(null) });
    },
    focus() { editor.focus(); },
  };
}

// If a text replaces a selection, Chromium copies the style of the selection into a style attribute. The page's
// Content-Security-Policy forbids and reports this attribute. So the editor replaces the selection itself.
function typeOverSelection(event, view) {
  const { state } = view;
  if (event.inputType !== "insertText" || event.data === null || event.isComposing) return false;
  if (state.selection.ranges.every((range) => range.empty)) return false;
  event.preventDefault();
  view.dispatch(state.replaceSelection(event.data), { userEvent: "input.type", scrollIntoView: true });
  return true;
}
