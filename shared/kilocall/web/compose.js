// What lies between and after the renderer's networks: moving features and picture into place, and the final mix.
//
//   out = copied + gate * share * (painted - copied)
//
// As `model/compact/compose.py`, positions rounded to 1/32 pixel as there. Features are moved here, on the processor; the
// picture is composed here only where the browser has no WebGL 2 (`gl_compose.js`).

/** Of the filter, in rows and in columns, that leaves no chequers; sixteenths. */
export const TAPS = [-1, 4, 10, 4, -1];
/** Cubic convolution halfway between two pixels, from the four around it (Keys 1981); sixteenths. */
const HALFWAY = [-1, 9, 9, -1];
const PLACES = 32;

/**
 * A field [F, F, C] at `side`: means where there are fewer places, else interpolated.
 * @param {Float32Array} field
 * @param {number} channels
 * @param {number} side half of F, or F or more
 */
export function sized(field, channels, side) {
  const from = Math.sqrt(field.length / channels);
  if (side === from) return field;
  const made = new Float32Array(side * side * channels);
  if (2 * side === from) {
    const row = from * channels;
    for (let y = 0, at = 0; y < side; y++) {
      for (let x = 0; x < side; x++) {
        const first = 2 * y * row + 2 * x * channels;
        for (let c = 0; c < channels; c++, at++) {
          const a = first + c;
          made[at] = (field[a] + field[a + channels] + field[a + row] + field[a + row + channels]) / 4;
        }
      }
    }
    return made;
  }
  const line = Array.from({ length: side }, (_, n) => {
    const place = Math.max(0, Math.min(from - 1, ((n + 0.5) * from) / side - 0.5));
    const low = Math.min(from - 2, Math.floor(place));
    return { low, share: place - low };
  });
  for (let y = 0, at = 0; y < side; y++) {
    const { low: top, share: down } = line[y];
    for (let x = 0; x < side; x++) {
      const { low: left, share: right } = line[x];
      const first = (top * from + left) * channels;
      const below = first + from * channels;
      for (let c = 0; c < channels; c++, at++) {
        const above = field[first + c] + (field[first + channels + c] - field[first + c]) * right;
        const under = field[below + c] + (field[below + channels + c] - field[below + c]) * right;
        made[at] = above + (under - above) * down;
      }
    }
  }
  return made;
}

/**
 * Features [S, S, C] fetched for a displacement [F, F, 2] in crop units, times how much is visible [F, F]; null: all. Edges
 * repeat. 3 ms for the three sizes of one frame.
 * @param {Float32Array} features
 * @param {number} channels
 * @param {Float32Array} displacement
 * @param {Float32Array | null} visible
 * @param {Float32Array} [moved] where they are put
 */
export function move(features, channels, displacement, visible, moved = new Float32Array(features.length)) {
  const side = Math.sqrt(features.length / channels);
  const flow = sized(displacement, 2, side);
  const shown = visible === null ? new Float32Array(side * side).fill(1) : sized(visible, 1, side);
  const last = side - 1;
  const row = side * channels;
  for (let y = 0, n = 0; y < side; y++) {
    for (let x = 0; x < side; x++, n++) {
      const u = Math.round((x + (flow[2 * n] * side) / 2) * PLACES);
      const v = Math.round((y + (flow[2 * n + 1] * side) / 2) * PLACES);
      const left = Math.floor(u / PLACES);
      const top = Math.floor(v / PLACES);
      const right = u / PLACES - left;
      const down = v / PLACES - top;
      const x0 = bounded(left, last) * channels;
      const x1 = bounded(left + 1, last) * channels;
      const y0 = bounded(top, last) * row;
      const y1 = bounded(top + 1, last) * row;
      // What the source picture does not show counts nothing.
      const share = shown[n];
      const a = (1 - right) * (1 - down) * share;
      const b = right * (1 - down) * share;
      const c = (1 - right) * down * share;
      const d = right * down * share;
      const to = n * channels;
      const p = y0 + x0;
      if (right === 0 && down === 0) {
        for (let k = 0; k < channels; k++) moved[to + k] = features[p + k] * share;
        continue;
      }
      const q = y0 + x1;
      const r = y1 + x0;
      const s = y1 + x1;
      for (let k = 0; k < channels; k++) {
        moved[to + k] = features[p + k] * a + features[q + k] * b + features[r + k] * c + features[s + k] * d;
      }
    }
  }
  return moved;
}

/**
 * @param {number} place
 * @param {number} last
 */
function bounded(place, last) {
  return place < 0 ? 0 : place > last ? last : place;
}

/** Steps that find where a place was before; the third moves it by less than a tenth of a pixel. */
const TRACE_STEPS = 2;

/**
 * How far from each place [F, F, 2] it lay at another moment, crop units, by the displacements of both: what shows the same
 * place of the source picture is the same, x0 + then(x0) = x + now(x).
 * @param {Float32Array} now [F, F, 2]
 * @param {Float32Array} then
 */
export function traced(now, then) {
  const side = Math.sqrt(now.length / 2);
  const made = now.map((value, n) => value - then[n]);
  for (let step = 0; step < TRACE_STEPS; step++) {
    for (let y = 0, n = 0; y < side; y++) {
      for (let x = 0; x < side; x++, n += 2) {
        const { low: [left, top], high: [right, below], share: [across, down] } =
          between(x + (made[n] * side) / 2, y + (made[n + 1] * side) / 2, side);
        for (let c = 0; c < 2; c++) {
          const [a, b] = [then[2 * (top * side + left) + c], then[2 * (top * side + right) + c]];
          const [p, q] = [then[2 * (below * side + left) + c], then[2 * (below * side + right) + c]];
          const above = a + (b - a) * across;
          made[n + c] = now[n + c] - (above + (p + (q - p) * across - above) * down);
        }
      }
    }
  }
  return made;
}

/**
 * The four places around one, to 1/32; edges repeat.
 * @param {number} x
 * @param {number} y
 * @param {number} side
 */
function between(x, y, side) {
  const [u, v] = [Math.round(x * PLACES), Math.round(y * PLACES)];
  const [left, top] = [Math.floor(u / PLACES), Math.floor(v / PLACES)];
  return {
    low: [bounded(left, side - 1), bounded(top, side - 1)],
    high: [bounded(left + 1, side - 1), bounded(top + 1, side - 1)],
    share: [u / PLACES - left, v / PLACES - top],
  };
}

/**
 * A picture [S, S, 4] with the cubic between every two pixels [2S, 2S, 4], pixel i at 2 i: taken linearly from that, a
 * moved picture stays nearly as sharp as it was.
 * @param {Uint8Array | Uint8ClampedArray} picture
 */
export function densely(picture) {
  const side = Math.sqrt(picture.length / 4);
  const tall = new Float32Array(2 * picture.length);
  const row = 4 * side;
  const [outer, inner] = HALFWAY.map((tap) => tap / 16);
  for (let y = 0; y < side; y++) {
    const [a, b, c, d] = [-1, 0, 1, 2].map((n) => bounded(y + n, side - 1) * row);
    for (let n = 0; n < row; n++) {
      tall[2 * y * row + n] = picture[b + n];
      tall[(2 * y + 1) * row + n] = inner * (picture[b + n] + picture[c + n]) + outer * (picture[a + n] + picture[d + n]);
    }
  }
  const made = new Uint8ClampedArray(4 * picture.length); // which rounds to even, as numpy does
  for (let y = 0, to = 0; y < 2 * side; y++) {
    for (let x = 0; x < side; x++, to += 8) {
      const b = y * row + 4 * x;
      const a = x > 0 ? b - 4 : b;
      const c = x < side - 1 ? b + 4 : b;
      const d = x < side - 2 ? b + 8 : c;
      for (let k = 0; k < 4; k++) {
        made[to + k] = tall[b + k];
        made[to + 4 + k] = inner * (tall[b + k] + tall[c + k]) + outer * (tall[a + k] + tall[d + k]);
      }
    }
  }
  return made;
}

/**
 * The picture [S, S, 4] of a dense one [2S, 2S, 4] for a displacement [F, F, 2] in crop units.
 * @param {Uint8ClampedArray} dense
 * @param {Float32Array} displacement
 */
export function copyAt(dense, displacement) {
  const wide = Math.sqrt(dense.length / 4);
  const side = wide / 2;
  const flow = sized(displacement, 2, side);
  const copied = new Uint8ClampedArray(4 * side * side);
  const last = wide - 1;
  for (let y = 0, n = 0; y < side; y++) {
    for (let x = 0; x < side; x++, n++) {
      const u = Math.round((2 * x + flow[2 * n] * side) * PLACES);
      const v = Math.round((2 * y + flow[2 * n + 1] * side) * PLACES);
      const left = u >> 5;
      const top = v >> 5;
      const [right, down] = [u & 31, v & 31];
      const [x0, x1] = [4 * bounded(left, last), 4 * bounded(left + 1, last)];
      const [y0, y1] = [4 * wide * bounded(top, last), 4 * wide * bounded(top + 1, last)];
      for (let c = 0; c < 4; c++) {
        const above = dense[y0 + x0 + c] * (PLACES - right) + dense[y0 + x1 + c] * right;
        const below = dense[y1 + x0 + c] * (PLACES - right) + dense[y1 + x1 + c] * right;
        copied[4 * n + c] = (above * (PLACES - down) + below * down + 512) >> 10;
      }
    }
  }
  return copied;
}

/**
 * [S / 2, S / 2, 16] with each 2x2 pixels as one, pixel first, as [S, S, 4]: a pixel shuffle.
 * @param {Uint8Array} pixels
 */
export function together(pixels) {
  const half = Math.sqrt(pixels.length / 16);
  const from = new Uint32Array(pixels.buffer, pixels.byteOffset, pixels.length / 4);
  const made = new Uint32Array(from.length);
  for (let y = 0, at = 0; y < half; y++) {
    for (let x = 0; x < half; x++) {
      const to = 4 * y * half + 2 * x;
      made[to] = from[at++];
      made[to + 1] = from[at++];
      made[to + 2 * half] = from[at++];
      made[to + 2 * half + 1] = from[at++];
    }
  }
  return new Uint8Array(made.buffer);
}

/**
 * What was painted, ready to be mixed with the copy: a picture [S, S, 4], and how far each pixel is painted [S, S].
 * @typedef {{ picture: Uint8ClampedArray, share: Float32Array }} Painted
 */

/**
 * Of the generator's picture [S / 2, S / 2, 16] and the gate [F, F].
 * @param {Uint8Array} pixels
 * @param {Float32Array} gate
 * @returns {Painted}
 */
export function paintedOf(pixels, gate) {
  const side = Math.sqrt(pixels.length / 4);
  const picture = smoothed(together(pixels), side);
  return { picture, share: sized(gate, 1, side).map((wide, n) => (wide * picture[4 * n + 3]) / 255) };
}

/**
 * Fetched from so far away [F, F, 2], crop units.
 * @param {Painted} painted
 * @param {Float32Array} trace
 * @returns {Painted}
 */
export function paintedAt({ picture, share }, trace) {
  const side = Math.sqrt(share.length);
  const way = sized(trace, 2, side);
  const made = { picture: new Uint8ClampedArray(picture.length), share: new Float32Array(share.length) };
  for (let y = 0, n = 0; y < side; y++) {
    for (let x = 0; x < side; x++, n++) {
      const { low: [left, top], high: [right, below], share: [across, down] } =
        between(x + (way[2 * n] * side) / 2, y + (way[2 * n + 1] * side) / 2, side);
      const [a, b, c, d] = [top * side + left, top * side + right, below * side + left, below * side + right];
      const weights = [(1 - across) * (1 - down), across * (1 - down), (1 - across) * down, across * down];
      made.share[n] = share[a] * weights[0] + share[b] * weights[1] + share[c] * weights[2] + share[d] * weights[3];
      for (let k = 0; k < 4; k++) {
        made.picture[4 * n + k] = picture[4 * a + k] * weights[0] + picture[4 * b + k] * weights[1]
          + picture[4 * c + k] * weights[2] + picture[4 * d + k] * weights[3];
      }
    }
  }
  return made;
}

/**
 * The picture [S, S, 4] of what was painted and a copy [S, S, 4].
 * @param {Painted} painted
 * @param {Uint8ClampedArray} copied
 */
export function paintedOver({ picture, share }, copied) {
  const made = new Uint8ClampedArray(copied.length);
  for (let n = 0; n < share.length; n++) {
    for (let c = 0; c < 3; c++) {
      made[4 * n + c] = copied[4 * n + c] + share[n] * (picture[4 * n + c] - copied[4 * n + c]);
    }
    made[4 * n + 3] = 255;
  }
  return made;
}

/**
 * @param {Uint8Array} picture [S, S, 4]
 * @param {number} side
 */
function smoothed(picture, side) {
  const row = 4 * side;
  const along = new Int16Array(picture.length);
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      const c = y * row + 4 * x;
      const b = x > 0 ? c - 4 : c;
      const a = x > 1 ? c - 8 : b;
      const d = x < side - 1 ? c + 4 : c;
      const e = x < side - 2 ? c + 8 : d;
      for (let k = 0; k < 4; k++) {
        along[c + k] = 10 * picture[c + k] + 4 * (picture[b + k] + picture[d + k]) - picture[a + k] - picture[e + k];
      }
    }
  }
  const made = new Uint8ClampedArray(picture.length);
  for (let y = 0; y < side; y++) {
    const [a, b, c, d, e] = TAPS.map((_, k) => row * bounded(y + k - 2, side - 1));
    for (let n = 0; n < row; n++) {
      const sum = 10 * along[c + n] + 4 * (along[b + n] + along[d + n]) - along[a + n] - along[e + n];
      made[y * row + n] = (sum + 128) >> 8;
    }
  }
  return made;
}

/**
 * The mean of each 2x2 pixels [S, S, 4] of a picture [2S, 2S, 4]: what the networks see of one of twice their size.
 * @param {Uint8Array | Uint8ClampedArray} picture
 */
export function halved(picture) {
  const wide = Math.sqrt(picture.length / 4);
  const made = new Uint8ClampedArray(picture.length / 4);
  for (let y = 0, at = 0; y < wide; y += 2) {
    for (let x = 0; x < wide; x += 2) {
      const first = 4 * (y * wide + x);
      for (let c = first; c < first + 4; c++, at++) {
        made[at] = (picture[c] + picture[c + 4] + picture[c + 4 * wide] + picture[c + 4 * wide + 4] + 2) >> 2;
      }
    }
  }
  return made;
}
