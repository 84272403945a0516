// Format strings (%s and others) and tables of the console, as in Node. Evaluated together with inspect.js, with the same
// built-in functions.
//
// formatting(kept, inspector) -> { format(values, most), dir(value, depth, most), table(data, columns, most) }. Each
// returns a text. If the whole text is longer than `most`, the result is longer than `most` and may be incomplete.
const formatting = ((kept, inspector) => {
  'use strict';
  const { inspect, newState, widthOf, BUILT_INS } = inspector;
  const {
    apply, isArray, join, slice, indexOf, repeat, text, number, parseInt, parseFloat, stringify, objectKeys, hasOwn, getPrototypeOf,
    getOwnPropertyDescriptor, toPrimitive, textOfError, mapEntries, mapNext, mapSize, setValues, setNext, setSize, engine,
    ofNumber, endsWithFrame, max, min, setPrototypeOf,
  } = kept;

  // --- format specifiers ---------------------------------------------------------------------------------------

  const safely = (convert, value) => {
    try {
      return typeof value === 'symbol' ? NaN : convert(value);
    } catch {
      return NaN;
    }
  };
  const ofNumeric = (convert, value) => (typeof value === 'bigint' ? text(value) + 'n' : ofNumber(safely(convert, value)));
  // Whether an object has a method of the program's that converts it to a string.
  const MOST_PARENTS = 100;
  const hasOwnText = (value) => {
    const key = typeof value.toString === 'function' ? 'toString' : undefined;
    const other = typeof value[toPrimitive] === 'function' ? toPrimitive : undefined;
    if (key === undefined && other === undefined) return false;
    let holder = value;
    for (let i = 0; holder !== null && i < MOST_PARENTS; holder = getPrototypeOf(holder), i++) {
      const isHolder = (key !== undefined && apply(hasOwn, holder, [key])) || (other !== undefined && apply(hasOwn, holder, [other]));
      if (!isHolder) continue;
      const made = holder === value ? undefined : getOwnPropertyDescriptor(holder, 'constructor')?.value;
      return typeof made !== 'function' || BUILT_INS[made.name] !== true;
    }
    return false;
  };
  const ofText = (value, left) => {
    if (typeof value === 'bigint') return text(value) + 'n';
    if (typeof value === 'number') return ofNumber(value);
    try {
      if (typeof value !== 'object' || value === null || hasOwnText(engine.target(value) ?? value)) return text(value);
    } catch {
      return '[object]';
    }
    return inspect(value, newState(left, { depth: 0 }));
  };
  // The engines' messages for a cycle: "Converting circular structure to JSON" and "circular reference".
  const ofJson = (value) => {
    try {
      return text(stringify(value));
    } catch (error) {
      try {
        const told = apply(textOfError, error, []);
        return apply(indexOf, told, ['circular']) < 0 ? '[' + told + ']' : '[Circular]';
      } catch {
        return '[object]';
      }
    }
  };
  const OBJECT_LEVELS = 4;
  const ALL = { __proto__: null, depth: OBJECT_LEVELS, hidden: true, proxies: true, isUsual: false };
  const placed = (how, value, left) => {
    switch (how) {
      case 's': return ofText(value, left);
      case 'd': return ofNumeric(number, value);
      case 'i': return ofNumeric(parseInt, value);
      case 'f': return ofNumber(safely(parseFloat, value));
      case 'j': return ofJson(value);
      case 'o': return inspect(value, newState(left, ALL));
      case 'O': return inspect(value, newState(left));
      default: return '';  // %c: CSS, ignored
    }
  };
  const format = (values, most) => {
    const pattern = values[0];
    let line = '', used = 0, last = '';
    if (values.length > 1 && typeof pattern === 'string') {
      let from = 0;
      used = 1;
      for (let at; (at = apply(indexOf, pattern, ['%', from])) >= 0 && line.length <= most; from = at + 2) {
        const how = pattern[at + 1] ?? '';
        if (at > from) {
          line += (endsWithFrame(last) ? '\n' : '') + apply(slice, pattern, [from, at]);
          last = '';
        }
        if (how !== '' && used < values.length && apply(indexOf, 'sdifjoOc', [how]) >= 0) {
          last = placed(how, values[used], most - line.length);
          line += last;
          used += 1;
        } else {
          line += how === '%' ? '%' : '%' + how;
        }
      }
      if (from < pattern.length) {
        line += (endsWithFrame(last) ? '\n' : '') + apply(slice, pattern, [from]);
        last = '';
      }
    }
    for (; used < values.length && line.length <= most; used++) {
      if (used > 0) line += endsWithFrame(last) ? '\n' : ' ';
      const value = values[used];
      last = typeof value === 'string' ? value : inspect(value, newState(most - line.length));
      line += last;
    }
    return line;
  };
  // console.dir with the options of util.inspect that the console knows. `null` means no limit.
  const MOST_LEVELS = 100;
  const limit = (value, usual) => {
    const count = value === null ? Infinity : value === undefined ? usual : safely(number, value);
    return count === count ? count : usual;
  };
  const dir = (value, options, most) => {
    if (typeof options !== 'object' || options === null) return inspect(value, newState(most));
    const { depth, showHidden, showProxy, maxArrayLength, maxStringLength, breakLength, compact, sorted } = options;
    const isCompact = compact === undefined || compact === true;
    const changes = {
      __proto__: null, depth: min(limit(depth, 2), MOST_LEVELS), hidden: !!showHidden, proxies: !!showProxy, sorted: !!sorted,
      most: max(limit(maxArrayLength, 100), 0), characters: max(limit(maxStringLength, 10000), 0), width: limit(breakLength, 80),
      compact: isCompact ? 3 : limit(compact || 0, 3),
    };
    changes.isUsual = !changes.hidden && !changes.proxies && !changes.sorted && changes.most === 100 &&
      changes.characters === 10000 && changes.width === 80 && changes.compact === 3;
    return inspect(value, newState(most, changes));
  };

  // --- tables --------------------------------------------------------------------------------------------------

  const list = () => setPrototypeOf([], null);
  const add = (items, item) => {
    items[items.length] = item;
    return items;
  };
  const isObject = (value) => typeof value === 'object' && value !== null;
  const CELL_MEMBERS = 3, CELL_KEYS = 2, CELL_CHARACTERS = 3;  // the last: width of an empty cell with its border
  const cellOf = (value, left) => {
    const isLarge = isObject(value) && !isArray(value) && objectKeys(value).length > CELL_KEYS;
    return inspect(value, newState(left, { depth: isLarge ? -1 : 0, most: CELL_MEMBERS, width: Infinity }));
  };
  // Draw a table. A column is { head, cells }, where cells are indexed by row.
  const drawn = (columns, rows, most) => {
    const widths = list(), lines = list();
    let length = 0;
    for (let i = 0; i < columns.length; i++) {
      let width = widthOf(columns[i].head);
      for (let row = 0; row < rows; row++) width = max(width, widthOf(columns[i].cells[row] ?? ''));
      add(widths, width);
    }
    const addLine = (left, fill, between, right, cell) => {
      let line = left;
      for (let i = 0; i < widths.length; i++) {
        const shown = cell(i);
        line += (i > 0 ? between : '') + fill + shown + apply(repeat, fill, [widths[i] - widthOf(shown)]) + fill;
      }
      add(lines, line + right);
      length += line.length;
    };
    addLine('\u250c', '\u2500', '\u252c', '\u2510', () => '');
    addLine('\u2502', ' ', '\u2502', '\u2502', (i) => columns[i].head);
    addLine('\u251c', '\u2500', '\u253c', '\u2524', () => '');
    for (let row = 0; row < rows && length <= most; row++) {
      addLine('\u2502', ' ', '\u2502', '\u2502', (i) => columns[i].cells[row] ?? '');
    }
    addLine('\u2514', '\u2500', '\u2534', '\u2518', () => '');
    return apply(join, lines, ['\n']);
  };
  const attempt = (method, value) => {
    try {
      return apply(method, value, []);
    } catch {
      return undefined;
    }
  };
  const newColumn = (head) => ({ __proto__: null, head, cells: { __proto__: null } });
  // The table of a Map or a Set.
  const ofCollection = (data, isMap, most) => {
    const index = newColumn('(iteration index)'), keys = newColumn('Key'), members = newColumn('Values');
    const steps = apply(isMap ? mapEntries : setValues, data, []), next = isMap ? mapNext : setNext;
    let left = most, rows = 0;
    for (let step; left >= 0 && !(step = apply(next, steps, [])).done; rows++) {
      index.cells[rows] = text(rows);
      if (isMap) keys.cells[rows] = cellOf(step.value[0], left);
      members.cells[rows] = cellOf(isMap ? step.value[1] : step.value, left);
      left -= (keys.cells[rows] ?? '').length + members.cells[rows].length + CELL_CHARACTERS;
    }
    const columns = add(list(), index);
    if (isMap) add(columns, keys);
    return drawn(add(columns, members), rows, most);
  };
  const ofRows = (data, names, most) => {
    const index = newColumn('(index)'), values = newColumn('Values'), columns = add(list(), index), byName = { __proto__: null };
    let left = most, rows = 0, heads = 0, hasValues = false;
    const addCell = (name, row) => {
      if (byName[name] === undefined) {
        byName[name] = newColumn(name);
        heads += 1;
      }
      if (!apply(hasOwn, row, [name])) return;
      const cell = cellOf(row[name], left);
      byName[name].cells[rows] = cell;
      left -= cell.length;
    };
    const addRow = (name, row) => {
      index.cells[rows] = name;
      left -= name.length;
      if (isObject(row) || typeof row === 'function') {
        const own = names ?? objectKeys(row);
        for (let i = 0; i < own.length && left >= 0; i++) addCell(text(own[i]), row);
      } else {
        values.cells[rows] = cellOf(row, left);
        left -= values.cells[rows].length;
        hasValues = true;
      }
      rows += 1;
      return left >= 0 && rows * (heads + 1) * CELL_CHARACTERS <= most;
    };
    if (isArray(data)) {
      for (let i = 0; i < data.length && i <= most; i++) if (apply(hasOwn, data, [i]) && !addRow(text(i), data[i])) break;
    } else {
      const own = objectKeys(data);
      for (let i = 0; i < own.length; i++) if (!addRow(own[i], data[own[i]])) break;
    }
    const sorted = objectKeys(byName);  // as in Node: those that are numbers come first
    for (let i = 0; i < sorted.length; i++) add(columns, byName[sorted[i]]);
    return drawn(hasValues ? add(columns, values) : columns, rows, most);
  };
  // Returns undefined for a value without rows.
  const table = (data, names, most) => {
    if (!isObject(data)) return undefined;
    if (attempt(mapSize, data) !== undefined) return ofCollection(data, true, most);
    if (attempt(setSize, data) !== undefined) return ofCollection(data, false, most);
    return ofRows(data, isArray(names) ? names : undefined, most);
  };

  return { format, dir, table };
});
