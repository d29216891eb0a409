// Square fields of numbers at another size, as OpenCV makes it of floats. `sized` of `compose.js` does halves and lines.

/** Of cubic convolution (Keys 1981), as OpenCV has it. */
const CUBIC = -0.75;

/**
 * Means over the places, and parts of places, that each new one covers (INTER_AREA).
 * @param {ArrayLike<number>} field [F, F, C]
 * @param {number} channels
 * @param {number} side F or less
 */
export function means(field, channels, side) {
  const from = Math.sqrt(field.length / channels);
  const shares = Array.from({ length: side }, (_, n) => {
    const [start, end] = [(n * from) / side, ((n + 1) * from) / side];
    const first = Math.floor(start + 1e-6);
    const last = Math.min(from, Math.ceil(end - 1e-6));
    const weights = Array.from({ length: last - first }, (_, k) =>
      ((Math.min(end, first + k + 1) - Math.max(start, first + k)) * side) / from);
    return { first, weights };
  });
  return resized(field, channels, shares);
}

/**
 * Cubic convolution between places; edges repeat (INTER_CUBIC).
 * @param {ArrayLike<number>} field [F, F, C]
 * @param {number} channels
 * @param {number} side F or more
 */
export function cubic(field, channels, side) {
  const from = Math.sqrt(field.length / channels);
  const [wide, taps] = [side * channels, 4];
  const [places, shares] = [new Int32Array(taps * side), new Float32Array(taps * side)];
  for (let n = 0; n < side; n++) {
    const place = ((n + 0.5) * from) / side - 0.5;
    const low = Math.floor(place);
    const x = place - low;
    const outer = (/** @type {number} */ far) => ((CUBIC * far - 5 * CUBIC) * far + 8 * CUBIC) * far - 4 * CUBIC;
    const inner = (/** @type {number} */ near) => ((CUBIC + 2) * near - (CUBIC + 3)) * near * near + 1;
    const [a, b, c] = [outer(x + 1), inner(x), inner(1 - x)];
    shares.set([a, b, c, 1 - a - b - c], taps * n);
    for (let tap = 0; tap < taps; tap++) places[taps * n + tap] = Math.max(0, Math.min(from - 1, low - 1 + tap));
  }
  // All four in one sum: a quarter of the time of one after the other.
  const along = new Float32Array(from * wide);
  for (let y = 0, to = 0; y < from; y++) {
    for (let n = 0; n < places.length; n += taps) {
      const row = y * from;
      let [p, q] = [(row + places[n]) * channels, (row + places[n + 1]) * channels];
      let [r, s] = [(row + places[n + 2]) * channels, (row + places[n + 3]) * channels];
      for (let c = 0; c < channels; c++) {
        along[to++] = shares[n] * field[p++] + shares[n + 1] * field[q++] + shares[n + 2] * field[r++] + shares[n + 3] * field[s++];
      }
    }
  }
  const made = new Float32Array(side * wide);
  for (let n = 0, to = 0; n < places.length; n += taps) {
    const [p, q, r, s] = [places[n] * wide, places[n + 1] * wide, places[n + 2] * wide, places[n + 3] * wide];
    const [a, b, c, d] = shares.subarray(n, n + taps);
    for (let k = 0; k < wide; k++) made[to++] = a * along[p + k] + b * along[q + k] + c * along[r + k] + d * along[s + k];
  }
  return made;
}

/**
 * Each new line and column the sum of some old ones; edges repeat.
 * @param {ArrayLike<number>} field
 * @param {number} channels
 * @param {{ first: number, weights: number[] }[]} sums
 */
function resized(field, channels, sums) {
  const from = Math.sqrt(field.length / channels);
  const side = sums.length;
  const [row, wide] = [from * channels, side * channels];
  const along = new Float32Array(from * wide);
  const made = new Float32Array(side * wide);
  for (let line = 0; line < side; line++) {
    const { first, weights } = sums[line];
    for (let n = 0; n < weights.length; n++) {
      const [weight, column] = [weights[n], Math.max(0, Math.min(from - 1, first + n)) * channels];
      for (let y = 0, at = column, to = line * channels; y < from; y++, at += row, to += wide) {
        for (let c = 0; c < channels; c++) along[to + c] += weight * field[at + c];
      }
    }
  }
  for (let line = 0; line < side; line++) {
    const { first, weights } = sums[line];
    for (let n = 0; n < weights.length; n++) {
      const [weight, at] = [weights[n], Math.max(0, Math.min(from - 1, first + n)) * wide];
      for (let k = 0, to = line * wide; k < wide; k++, to++) made[to] += weight * along[at + k];
    }
  }
  return made;
}
