class Shape {
  #name;
  static made = 0;
  constructor(name) {
    this.#name = name;
    Shape.made += 1;
  }
  get name() {
    return this.#name;
  }
  area() {
    return 0;
  }
  toString() {
    return `${this.name}: ${this.area()}`;
  }
}
class Square extends Shape {
  constructor(side) {
    super('square');
    this.side = side;
  }
  area() {
    return this.side ** 2;
  }
}
function* numbers(count) {
  for (let i = 1; i <= count; i++) yield i;
}
const later = async (value) => {
  await null;
  return value * 2;
};
const areas = [...numbers(4)].map((side) => String(new Square(side)));
const doubled = await Promise.all([1, 2, 3].map(later));
const settled = await Promise.allSettled([later(1), Promise.reject(new Error('no'))]);
return { areas, doubled, settled: settled.map(({ status }) => status), made: Shape.made };
