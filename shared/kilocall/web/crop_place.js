// Where a square is cut out of a picture, and the cutting itself; the proportions are those of the training pictures.
// As `sender/crop_place.py`: places and boxes are in pixels, with 0 at the outer edge of the first pixel.

import { interpolatedAndHalved, part, reduced, warped } from "./pixels.js";

/** @typedef {import("./pixels.js").Picture} Picture */
/** @typedef {{ x0: number, y0: number, side: number }} CropPlace a square; may reach past the border */
/** @typedef {{ x0: number, y0: number, width: number, height: number }} FaceBox around the landmarks */

// The landmark box within the crop, median over 190 training clips.
export const [FACE_X, FACE_Y] = [0.498, 0.533];
export const [FACE_WIDTH, FACE_HEIGHT] = [0.458, 0.543];
// Training crops lay inside their frames. To do the same, a crop shifts and shrinks, by no more than this.
const [FIT_SHIFT, FIT_SHRINK] = [0.1, 0.8];
const LEAST_SIDE = 16;
/** Within a training clip the face strays from its median place by so much of the crop's side, and is so much smaller and larger. */
const [STRAY_X, STRAY_Y] = [0.13, 0.1];
const [STRAY_SMALLER, STRAY_LARGER] = [0.82, 1.2];

// Of the edge's colours: how far from it (sides of the crop) they are how much blurred (standard deviation).
const BLURS = [[0.02, 0.02], [0.1, 0.1], [0.35, 0.4]];
const EDGE_ROWS = 3;

/**
 * Where a training crop would lie around `box`.
 * @param {FaceBox} box
 * @param {Size} frame
 * @returns {CropPlace}
 */
export function idealPlace(box, { width, height }) {
  let side = Math.max(box.width / FACE_WIDTH, box.height / FACE_HEIGHT, LEAST_SIDE);
  const limit = Math.min(width, height);
  if (side > limit) side = Math.max(limit, side * FIT_SHRINK);
  return {
    x0: fitted(box.x0 + box.width / 2 - FACE_X * side, side, width),
    y0: fitted(box.y0 + box.height / 2 - FACE_Y * side, side, height),
    side,
  };
}

/**
 * `start` moved so that start..start+side lies in 0..length, by at most FIT_SHIFT sides.
 * @param {number} start
 * @param {number} side
 * @param {number} length
 */
function fitted(start, side, length) {
  const wanted = side > length ? (length - side) / 2 : Math.min(Math.max(start, 0), length - side);
  return start + Math.min(Math.max(wanted - start, -FIT_SHIFT * side), FIT_SHIFT * side);
}

/**
 * Centre x and y and the logarithm of the side: what places are averaged and moved in.
 * @param {CropPlace} place
 * @returns {PlaceVector}
 */
export function asVector({ x0, y0, side }) {
  return [x0 + side / 2, y0 + side / 2, Math.log(side)];
}

/** @typedef {[number, number, number]} PlaceVector */

/**
 * The reverse of `asVector`.
 * @param {PlaceVector} vector
 * @returns {CropPlace}
 */
export function asPlace([x, y, logSide]) {
  const side = Math.exp(logSide);
  return { x0: x - side / 2, y0: y - side / 2, side };
}

/** @typedef {{ width: number, height: number }} Size of a frame */

/**
 * Whether the crop at `place` need not move for `box`.
 * @param {CropPlace} place
 * @param {FaceBox} box
 * @param {Size} frame
 */
export function holds(place, box, frame) {
  const here = asVector(place);
  const [x, y, size] = asVector(idealPlace(box, frame)).map((value, n) => value - here[n]);
  return Math.abs(x) <= STRAY_X * place.side && Math.abs(y) <= STRAY_Y * place.side
    && size > Math.log(STRAY_SMALLER) && size < Math.log(STRAY_LARGER);
}

/**
 * The largest square in the middle of a frame.
 * @param {Size} frame
 * @returns {CropPlace}
 */
export function middle({ width, height }) {
  const side = Math.min(width, height);
  return { x0: (width - side) / 2, y0: (height - side) / 2, side };
}

/**
 * Bounding box in the picture of points [K, step] in -1..1 over the crop at `place`.
 * @param {Float32Array} points
 * @param {number} step numbers of a point, of which the first two count
 * @param {CropPlace} place
 * @returns {FaceBox}
 */
export function boxFromLandmarks(points, step, { x0, y0, side }) {
  const range = (/** @type {0 | 1} */ axis) => {
    let [low, high] = [Infinity, -Infinity];
    for (let n = axis; n < points.length; n += step) {
      low = Math.min(low, points[n]);
      high = Math.max(high, points[n]);
    }
    return [low, high];
  };
  const [[left, right], [top, bottom]] = [range(0), range(1)];
  return {
    x0: x0 + ((left + 1) * side) / 2,
    y0: y0 + ((top + 1) * side) / 2,
    width: ((right - left) * side) / 2,
    height: ((bottom - top) * side) / 2,
  };
}

/**
 * The crop [size, size] at a place; past the border colours of the edge fade out.
 *
 * From `size` pixels up the place is rounded to whole pixels and reduced without aliasing; smaller ones are enlarged.
 * `place` is what was really cut.
 * @param {Picture} picture
 * @param {CropPlace} place
 * @param {number} size
 * @returns {{ crop: Picture, place: CropPlace }}
 */
export function cut(picture, place, size) {
  if (place.side < size) {
    const step = place.side / size;
    const matrix = [step, 0, place.x0 + step / 2 - 0.5, 0, step, place.y0 + step / 2 - 0.5];
    return { crop: faded(warped(picture, matrix, size), missing(place, picture)), place };
  }
  const [x0, y0, side] = [place.x0, place.y0, place.side].map(Math.round);
  const whole = { x0, y0, side };
  return { crop: faded(smaller(part(picture, x0, y0, side, side), size), missing(whole, picture)), place: whole };
}

/**
 * A square of at least `size` pixels a side at that size: averaged where it is a multiple of the size; else interpolated to
 * twice the size (or four times, ...) and halved.
 * @param {Picture} square
 * @param {number} size
 */
function smaller(square, size) {
  if (square.width % size === 0) return reduced(square, size, size);
  let times = 2;
  while (2 * times * size < square.width) times *= 2;
  return interpolatedAndHalved(square, size, times);
}

/**
 * What of a crop lies past the borders: above, below, to the left, to the right, in sides.
 * @param {CropPlace} place
 * @param {Picture} picture
 */
function missing({ x0, y0, side }, { width, height }) {
  return [-y0, y0 + side - height, -x0, x0 + side - width].map((beyond) => Math.max(0, beyond / side));
}

/**
 * A crop whose missing sides are filled with the colours at their edge, the further the more blurred.
 * @param {Picture} crop
 * @param {number[]} sides
 * @returns {Picture}
 */
function faded(crop, sides) {
  const { width: size, data } = crop;
  const last = size - 1;
  // Every side is filled as if it were the top one: where its row v and column u lie in the crop.
  const turned = [
    (/** @type {number} */ v, /** @type {number} */ u) => v * size + u,
    (/** @type {number} */ v, /** @type {number} */ u) => (last - v) * size + u,
    (/** @type {number} */ v, /** @type {number} */ u) => u * size + v,
    (/** @type {number} */ v, /** @type {number} */ u) => u * size + last - v,
  ];
  sides.forEach((share, number) => {
    const rows = Math.ceil(share * size);
    if (!(rows > 0 && rows < size)) return;
    const at = turned[number];
    const deep = Math.min(EDGE_ROWS, size - rows);
    const edge = new Float32Array(4 * size);
    for (let u = 0; u < size; u++) {
      for (let v = rows; v < rows + deep; v++) for (let c = 0; c < 4; c++) edge[4 * u + c] += data[4 * at(v, u) + c] / deep;
    }
    const wide = BLURS.map(([, blur]) => blurred(edge, blur * size));
    for (let v = 0; v < rows; v++) {
      const distance = (rows - v) / size;
      let fill = edge;
      let within = 0;
      BLURS.forEach(([reach], n) => {
        const part = Math.min(1, Math.max(0, (distance - within) / (reach - within)));
        if (part > 0) fill = fill.map((value, k) => value + part * (wide[n][k] - value));
        within = reach;
      });
      for (let u = 0; u < size; u++) for (let c = 0; c < 4; c++) data[4 * at(v, u) + c] = fill[4 * u + c];
    }
  });
  return crop;
}

/**
 * A row of pixels, its ends repeated, after a Gaussian filter.
 * @param {Float32Array} row [S, 4]
 * @param {number} deviation pixels
 */
function blurred(row, deviation) {
  const reach = Math.round(8 * deviation + 1) >> 1; // four deviations each way, as OpenCV does for floats
  const weights = Array.from({ length: 2 * reach + 1 }, (_, n) => Math.exp(-((n - reach) ** 2) / (2 * deviation ** 2)));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const last = row.length / 4 - 1;
  return row.map((_, place) => {
    const [u, c] = [place >> 2, place & 3];
    let sum = 0;
    for (let n = 0; n < weights.length; n++) sum += weights[n] * row[4 * Math.max(0, Math.min(last, u + n - reach)) + c];
    return sum / total;
  });
}
