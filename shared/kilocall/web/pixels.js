// Pictures as typed arrays: reduced, enlarged, and cut out of one another as OpenCV does it, within a grey level.

/**
 * RGBA, row by row; edges repeat beyond its borders.
 * @typedef {object} Picture
 * @property {number} width
 * @property {number} height
 * @property {Uint8Array | Uint8ClampedArray} data
 */

/** @typedef {number[]} Affine [2, 3] row by row */

/** Parts of a pixel that places are rounded to when pictures are turned. */
const PLACES = 32;
/** And what their sums are computed in. */
const FINE = 1024;
/** Of the rows that were interpolated last: memory asked for anew at each frame takes as long as what is done with it. */
let sums = new Float32Array(0);

/**
 * Means over the pixels, and parts of pixels, that each new one covers (OpenCV's INTER_AREA).
 * @param {Picture} picture
 * @param {number} width no more than the picture's
 * @param {number} height no more than the picture's
 * @returns {Picture}
 */
export function reduced(picture, width, height) {
  const { data } = picture;
  const times = picture.width / width;
  if ((times === 2 || times === 4) && picture.height === times * height) return inBlocks(picture, width, height, times);
  const across = shares(picture.width, width);
  const down = shares(picture.height, height);
  const along = new Float32Array(4 * width * picture.height);
  for (let y = 0; y < picture.height; y++) {
    for (let x = 0; x < width; x++) {
      const { first, weights } = across[x];
      const to = 4 * (y * width + x);
      for (let n = 0, from = 4 * (y * picture.width + first); n < weights.length; n++, from += 4) {
        const weight = weights[n];
        along[to] += weight * data[from];
        along[to + 1] += weight * data[from + 1];
        along[to + 2] += weight * data[from + 2];
        along[to + 3] += weight * data[from + 3];
      }
    }
  }
  const row = 4 * width;
  const sums = new Float32Array(row);
  const made = new Uint8ClampedArray(row * height); // which rounds halves to even
  for (let y = 0; y < height; y++) {
    const { first, weights } = down[y];
    sums.fill(0);
    for (let n = 0; n < weights.length; n++) {
      for (let x = 0, from = (first + n) * row; x < row; x++, from++) sums[x] += weights[n] * along[from];
    }
    made.set(sums, y * row);
  }
  return { width, height, data: made };
}

/**
 * Means of blocks of two or four pixels a side: the same, in a third of the time.
 * @param {Picture} picture
 * @param {number} width
 * @param {number} height
 * @param {number} times
 * @returns {Picture}
 */
function inBlocks({ width: wide, data }, width, height, times) {
  const made = new Uint8ClampedArray(4 * width * height); // which rounds halves to even
  // Means of four pixels are rounded up at a half, there as here.
  const up = times === 2 ? 1 / 8 : 0;
  const share = 1 / times ** 2;
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += 4) {
      let [red, green, blue, alpha] = [0, 0, 0, 0];
      for (let row = 0, first = 4 * times * (y * wide + x); row < times; row++, first += 4 * wide) {
        for (let at = first; at < first + 4 * times; at += 4) {
          red += data[at];
          green += data[at + 1];
          blue += data[at + 2];
          alpha += data[at + 3];
        }
      }
      made[to] = red * share + up;
      made[to + 1] = green * share + up;
      made[to + 2] = blue * share + up;
      made[to + 3] = alpha * share + up;
    }
  }
  return { width, height, data: made };
}

/**
 * For each new place the first old one that it covers, and how much each is of its mean.
 * @param {number} from
 * @param {number} to
 */
function shares(from, to) {
  const step = from / to;
  return Array.from({ length: to }, (_, n) => {
    const [start, end] = [n * step, (n + 1) * step];
    const first = Math.floor(start + 1e-6);
    const last = Math.min(from, Math.ceil(end - 1e-6));
    const weights = Array.from({ length: last - first }, (_, k) =>
      (Math.min(end, first + k + 1) - Math.max(start, first + k)) / step);
    return { first, weights };
  });
}

/**
 * Interpolated between pixels (OpenCV's INTER_LINEAR).
 * @param {Picture} picture
 * @param {number} width
 * @param {number} height
 * @returns {Picture}
 */
export function interpolated(picture, width, height) {
  const line = (/** @type {number} */ from, /** @type {number} */ to) => Array.from({ length: to }, (_, n) => {
    const place = Math.max(0, Math.min(from - 1, ((n + 0.5) * from) / to - 0.5));
    const low = Math.min(Math.max(0, from - 2), Math.floor(place));
    return { low, high: Math.min(from - 1, low + 1), share: place - low };
  });
  const across = line(picture.width, width);
  const made = new Uint8ClampedArray(4 * width * height);
  const { data } = picture;
  line(picture.height, height).forEach(({ low, high, share: down }, y) => {
    const [above, below] = [low, high].map((n) => 4 * n * picture.width);
    for (let x = 0, to = 4 * y * width; x < width; x++) {
      const { low: left, high: right, share } = across[x];
      for (let c = 0; c < 4; c++, to++) {
        const upper = data[above + 4 * left + c] * (1 - share) + data[above + 4 * right + c] * share;
        const lower = data[below + 4 * left + c] * (1 - share) + data[below + 4 * right + c] * share;
        made[to] = upper + (lower - upper) * down;
      }
    }
  });
  return { width, height, data: made };
}

/**
 * Interpolated to a multiple of the size, a power of two, and halved until it has it: what is twice as large as wanted, or
 * more, is seen whole. Sums are rounded once, at the end.
 * @param {Picture} picture
 * @param {number} size of the square made
 * @param {number} times the power of two
 * @returns {Picture}
 */
export function interpolatedAndHalved({ width, height, data }, size, times) {
  const { first, weights, count } = taps(width, size, times);
  const down = taps(height, size, times);
  if (sums.length < 3 * size * height) sums = new Float32Array(3 * size * height);
  const along = sums;
  for (let y = 0, to = 0; y < height; y++) {
    const row = 4 * y * width;
    for (let x = 0, tap = 0; x < size; x++, to += 3) {
      let red = 0;
      let green = 0;
      let blue = 0;
      let at = row + 4 * first[x];
      for (const end = tap + count; tap < end; tap++, at += 4) {
        const weight = weights[tap];
        red += weight * data[at];
        green += weight * data[at + 1];
        blue += weight * data[at + 2];
      }
      along[to] = red;
      along[to + 1] = green;
      along[to + 2] = blue;
    }
  }
  const made = new Uint8ClampedArray(4 * size * size);
  const wide = 3 * size;
  const line = new Float32Array(wide);
  for (let y = 0, to = 0; y < size; y++) {
    line.fill(0);
    for (let n = 0; n < down.count; n++) {
      const weight = down.weights[y * down.count + n];
      if (weight === 0) continue;
      const row = wide * (down.first[y] + n);
      for (let x = 0; x < wide; x++) line[x] += weight * along[row + x];
    }
    for (let x = 0; x < wide; x += 3, to += 4) {
      made[to] = line[x];
      made[to + 1] = line[x + 1];
      made[to + 2] = line[x + 2];
      made[to + 3] = 255;
    }
  }
  return { width: size, height: size, data: made };
}

/**
 * For each new place the first old one that counts, and how much it and those behind it do.
 * @param {number} from
 * @param {number} to
 * @param {number} times
 */
function taps(from, to, times) {
  const count = Math.min(from, Math.ceil(from / to) + 2);
  const first = new Int32Array(to);
  const weights = new Float32Array(to * count);
  for (let n = 0; n < to; n++) {
    for (let k = 0; k < times; k++) {
      const place = Math.max(0, Math.min(from - 1, ((n * times + k + 0.5) * from) / (to * times) - 0.5));
      const low = Math.min(Math.max(0, from - 2), Math.floor(place));
      if (k === 0) first[n] = Math.min(low, from - count);
      const at = n * count + low - first[n];
      weights[at] += (1 - (place - low)) / times;
      if (place > low) weights[at + 1] += (place - low) / times;
    }
  }
  return { first, weights, count };
}

/**
 * A square [side, side] whose pixel (u, v) is the picture's at `matrix` (u, v, 1) (OpenCV's warpAffine, inverse map).
 * @param {Picture} picture
 * @param {Affine} matrix
 * @param {number} side
 * @returns {Picture}
 */
export function warped(picture, [a, b, left, c, d, top], side) {
  const data = new Uint8ClampedArray(4 * side * side);
  // Rounded where OpenCV rounds: the networks' answers change by half a pixel for a grey level here and there.
  const fixed = (/** @type {number} */ value) => Math.round(value * FINE);
  const down = FINE / PLACES;
  for (let v = 0, to = 0; v < side; v++) {
    const [x, y] = [fixed(b * v + left), fixed(d * v + top)].map((at) => at + down / 2);
    for (let u = 0; u < side; u++, to += 4) {
      read(picture, Math.floor((x + fixed(a * u)) / down), Math.floor((y + fixed(c * u)) / down), data, to);
    }
  }
  return { width: side, height: side, data };
}

/**
 * The colour at a place, pixel indices (OpenCV's remap).
 * @param {Picture} picture
 * @param {number} x
 * @param {number} y
 */
export function colourAt(picture, x, y) {
  const colour = new Uint8ClampedArray(4);
  read(picture, Math.round(x * PLACES), Math.round(y * PLACES), colour, 0);
  return colour;
}

/**
 * Puts the colour at a place, in PLACES of a pixel, at `to`.
 * @param {Picture} picture
 * @param {number} across
 * @param {number} down
 * @param {Uint8ClampedArray} into
 * @param {number} to
 */
function read({ width, height, data }, across, down, into, to) {
  const [u, v] = [Math.floor(across / PLACES), Math.floor(down / PLACES)];
  const [right, under] = [across - u * PLACES, down - v * PLACES];
  const x0 = 4 * within(u, width);
  const x1 = 4 * within(u + 1, width);
  const y0 = 4 * width * within(v, height);
  const y1 = 4 * width * within(v + 1, height);
  for (let c = 0; c < 4; c++) {
    const above = data[y0 + x0 + c] * (PLACES - right) + data[y0 + x1 + c] * right;
    const below = data[y1 + x0 + c] * (PLACES - right) + data[y1 + x1 + c] * right;
    into[to + c] = (above * (PLACES - under) + below * under + PLACES * PLACES / 2) >> 10;
  }
}

/**
 * A rectangle of the picture; what lies beyond its borders repeats the edge.
 * @param {Picture} picture
 * @param {number} left whole numbers, also negative ones
 * @param {number} top
 * @param {number} width
 * @param {number} height
 * @returns {Picture}
 */
export function part(picture, left, top, width, height) {
  const from = new Uint32Array(picture.data.buffer, picture.data.byteOffset, picture.width * picture.height);
  const made = new Uint32Array(width * height);
  for (let y = 0, to = 0; y < height; y++) {
    const row = within(top + y, picture.height) * picture.width;
    for (let x = 0; x < width; x++) made[to++] = from[row + within(left + x, picture.width)];
  }
  return { width, height, data: new Uint8ClampedArray(made.buffer) };
}

/**
 * Red, green and blue alone, as networks want them.
 * @param {Picture} picture
 */
export function rgb({ data }) {
  const made = new Uint8Array((3 * data.length) / 4);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    made[to++] = data[from];
    made[to++] = data[from + 1];
    made[to++] = data[from + 2];
  }
  return made;
}

/**
 * @param {number} place
 * @param {number} length
 */
function within(place, length) {
  return place < 0 ? 0 : place >= length ? length - 1 : place;
}
