// Where mouth and eyes are in a picture: what motion says of them is newer than what a video layer shows. As `speaking_parts`
// of `model/compact/fusion.py`.

import { LEFT_EYE, OUTER_LIPS, RIGHT_EYE } from "./landmarks.js";
import { means } from "./resize.js";

const FIELD = 64;
/** How much finer than the field masks are drawn. */
const FINER = 4;
/** Lips and lids with so much of the crop around them belong to the parts that speak. */
const AROUND = 3 / 256;
const PARTS = [[OUTER_LIPS], [RIGHT_EYE, LEFT_EYE]];

/** @typedef {[x: number, y: number]} Point */

/**
 * How much of each place is of the mouth, and of the eyes [F, F, 2], 0..1.
 * @param {Float32Array} points landmarks [K, 2], crop units
 */
export function speakingParts(points) {
  const side = FIELD * FINER;
  const around = Math.round(AROUND * side);
  const parts = PARTS.map((regions) => {
    const mask = new Uint8Array(side * side);
    for (const region of regions) {
      const placed = region.map((n) => /** @type {Point} */ ([points[2 * n], points[2 * n + 1]].map((value) => ((value + 1) * side) / 2)));
      fill(mask, side, hull(placed).map(([x, y]) => [Math.round(x), Math.round(y)]));
    }
    return means(blurred(dilated(mask, side, around), side, around / 2), 1, FIELD).map((value) => Math.round(value) / 255);
  });
  return Float32Array.from({ length: 2 * FIELD * FIELD }, (_, n) => parts[n % 2][n >> 1]);
}

/**
 * The corners of the convex hull, one after the other (Andrew's monotone chain).
 * @param {Point[]} points
 */
function hull(points) {
  const sorted = points.toSorted((a, b) => a[0] - b[0] || a[1] - b[1]);
  const half = (/** @type {Point[]} */ inOrder) => {
    /** @type {Point[]} */
    const kept = [];
    for (const point of inOrder) {
      while (kept.length > 1 && turn(kept[kept.length - 2], kept[kept.length - 1], point) <= 0) kept.pop();
      kept.push(point);
    }
    return kept.slice(0, -1);
  };
  return [...half(sorted), ...half(sorted.toReversed())];
}

/**
 * @param {Point} a
 * @param {Point} b
 * @param {Point} c
 */
function turn(a, b, c) {
  return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
}

/**
 * A convex polygon with its outline.
 * @param {Uint8Array} mask [S, S]
 * @param {number} side
 * @param {number[][]} corners whole pixels
 */
function fill(mask, side, corners) {
  const rows = corners.map(([, y]) => y);
  for (let y = Math.max(0, Math.min(...rows)); y <= Math.min(side - 1, Math.max(...rows)); y++) {
    let [left, right] = [Infinity, -Infinity];
    corners.forEach(([x0, y0], n) => {
      const [x1, y1] = corners[(n + 1) % corners.length];
      const [top, bottom] = [Math.min(y0, y1), Math.max(y0, y1)];
      if (y < top || y > bottom) return;
      const across = (/** @type {number} */ at) =>
        x0 + ((x1 - x0) * (Math.max(top, Math.min(bottom, at)) - y0)) / (y1 - y0);
      // An edge that is flatter than a diagonal has several pixels in a row.
      if (top === bottom) [left, right] = [Math.min(left, x0, x1), Math.max(right, x0, x1)];
      else if (Math.abs(x1 - x0) > bottom - top) {
        const [one, other] = [across(y - 0.5), across(y + 0.5)];
        left = Math.min(left, Math.ceil(Math.min(one, other)));
        right = Math.max(right, Math.floor(Math.max(one, other)));
      } else [left, right] = [Math.min(left, Math.round(across(y))), Math.max(right, Math.round(across(y)))];
    });
    mask.fill(255, y * side + Math.max(0, left), y * side + Math.min(side - 1, right) + 1);
  }
}

/**
 * Grown by a disc.
 * @param {Uint8Array} mask
 * @param {number} side
 * @param {number} radius
 */
function dilated(mask, side, radius) {
  const made = new Uint8Array(mask.length);
  const reach = Array.from({ length: 2 * radius + 1 }, (_, n) => Math.round(Math.sqrt(radius ** 2 - (n - radius) ** 2)));
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      if (!mask[y * side + x]) continue;
      reach.forEach((wide, n) => {
        const row = y + n - radius;
        if (row < 0 || row >= side) return;
        made.fill(255, row * side + Math.max(0, x - wide), row * side + Math.min(side - 1, x + wide) + 1);
      });
    }
  }
  return made;
}

/**
 * @param {Uint8Array} mask
 * @param {number} side
 * @param {number} deviation of the Gaussian, pixels
 */
function blurred(mask, side, deviation) {
  const radius = Math.round(6 * deviation + 1) >> 1;
  const bell = Array.from({ length: 2 * radius + 1 }, (_, n) => Math.exp(-((n - radius) ** 2) / (2 * deviation ** 2)));
  const sum = bell.reduce((all, one) => all + one);
  const mirrored = (/** @type {number} */ at) => (at < 0 ? -at : at >= side ? 2 * side - 2 - at : at);
  let values = Float32Array.from(mask);
  for (const [step, line] of [[1, side], [side, 1]]) {
    const made = new Float32Array(values.length);
    for (let a = 0; a < side; a++) {
      for (let b = 0; b < side; b++) {
        let all = 0;
        for (let n = 0; n < bell.length; n++) all += bell[n] * values[a * line + mirrored(b + n - radius) * step];
        made[a * line + b * step] = all / sum;
      }
    }
    values = made;
  }
  return values.map(Math.round);
}
