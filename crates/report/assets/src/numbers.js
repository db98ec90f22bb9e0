// Numbers as they stand in the data, and as people read them.

/** The report's JSON holds "NaN" and "Infinity" as strings. */
export function number(value) {
  if (value === null || value === undefined) return null;
  return typeof value === "number" ? value : { NaN, Infinity, "-Infinity": -Infinity }[value] ?? NaN;
}

export function format(value, digits = 4) {
  if (value === null || value === undefined) return "";
  if (Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size >= 10) return String(value);
  const text = size === 0 ? "0" : size < 10 ? value.toFixed(digits) : size < 1000 ? value.toFixed(2) : value.toFixed(0);
  return text.replace("-", "−");
}

/** A number of things. */
export function count(n, one, many = `${one}s`) {
  return `${n} ${n === 1 ? one : many}`;
}

/** A name in at most so many letters: beginnings and ends tell names apart. */
export function shortened(name, letters) {
  if (name.length <= letters) return name;
  const kept = Math.max(4, letters - 1);
  return `${name.slice(0, Math.ceil(kept / 2))}…${name.slice(-Math.floor(kept / 2))}`;
}

export function pValue(p) {
  return p < 0.001 ? "< 0.001" : p.toFixed(3);
}

/** Quantile of sorted values, interpolated. */
export function quantile(sorted, q) {
  const at = (sorted.length - 1) * q;
  const low = Math.floor(at);
  return sorted[low] + (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]) * (at - low);
}

/** Five numbers of a box plot, whiskers at 1.5 interquartile ranges; null without values. */
export function box(values) {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  if (!sorted.length) return null;
  const [q1, median, q3] = [0.25, 0.5, 0.75].map((q) => quantile(sorted, q));
  const reach = 1.5 * (q3 - q1);
  return {
    q1, median, q3,
    low: sorted.find((v) => v >= q1 - reach),
    high: sorted.findLast((v) => v <= q3 + reach),
    mean: sorted.reduce((a, b) => a + b, 0) / sorted.length,
    n: sorted.length,
  };
}
