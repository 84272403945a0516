const records = Array.from({ length: 20 }, (_, id) => ({ id, name: `record ${id}`, tags: ['a', 'b'], score: id * 1.5 }));
const copy = JSON.parse(JSON.stringify(records));
const result = copy
  .filter(({ score }) => score > 10)
  .map(({ id, name, ...rest }) => ({ ...rest, key: `${name.toUpperCase()}-${id}` }))
  .sort((a, b) => b.score - a.score)
  .reduce((all, { key, score }) => Object.assign(all, { [key]: score.toFixed(2) }), {});
