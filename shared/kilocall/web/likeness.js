// How alike the faces of a frame and of the source picture are: whether they may be one person. As `model/compact/likeness.py`,
// which says what it was measured on.

import { product, rotationMatrix, transposed } from "./geometry.js";
import { OVAL_POINTS } from "./landmarks.js";
import { reduced } from "./pixels.js";

/** @typedef {import("./pixels.js").Picture} Picture */
/** @typedef {import("./motion.js").Motion} Motion */

/** Likeness of faces that most likely are of two people. */
export const ANOTHER = 0.65;
/** Beyond this many degrees between both heads one half of the face is another. */
export const MOST_TURNED = 35;
const FAR_COLOUR = 3;
const COLOUR = 0.2;
/** Places of the mask's edge that belong to hair and background. */
const EDGE = 2;
const LEAST_PLACES = 30;

/**
 * The face within its outline [side, side], for points [K, 2] in crop units.
 * @param {Float32Array} points
 * @param {number} side
 */
export function faceMask(points, side) {
  const outline = hull(OVAL_POINTS.map((n) => [0, 1].map((axis) => Math.round(((points[2 * n + axis] + 1) * side) / 2))));
  const filled = new Uint8Array(side * side);
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) filled[y * side + x] = Number(outline.every(([ax, ay], n) => {
      const [bx, by] = outline[(n + 1) % outline.length];
      // OpenCV draws the edges, too: half a place is within.
      return (bx - ax) * (y - ay) - (by - ay) * (x - ax) >= -Math.max(Math.abs(bx - ax), Math.abs(by - ay)) / 2;
    }));
  }
  return filled.map((_, n) => {
    const [x, y] = [n % side, Math.floor(n / side)];
    for (let v = Math.max(0, y - EDGE); v <= Math.min(side - 1, y + EDGE); v++) {
      for (let u = Math.max(0, x - EDGE); u <= Math.min(side - 1, x + EDGE); u++) if (!filled[v * side + u]) return 0;
    }
    return 1;
  });
}

/**
 * Corners of the convex hull in turn, so that what is inside lies to their right hand in the picture (Andrew 1979).
 * @param {number[][]} points
 */
function hull(points) {
  const sorted = points.toSorted(([ax, ay], [bx, by]) => ax - bx || ay - by);
  const half = (/** @type {number[][]} */ of) => {
    /** @type {number[][]} */
    const kept = [];
    for (const [x, y] of of) {
      for (; kept.length > 1; kept.pop()) {
        const [[ax, ay], [bx, by]] = kept.slice(-2);
        if ((bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0) break;
      }
      kept.push([x, y]);
    }
    return kept.slice(0, -1);
  };
  return [...half(sorted), ...half(sorted.toReversed())];
}

/**
 * Mean a and b of CIELAB within the mask [S, S]; zero where that is empty.
 * @param {Picture} crop
 * @param {Uint8Array} mask
 */
export function faceColour(crop, mask) {
  const side = Math.sqrt(mask.length);
  const { data } = reduced(crop, side, side);
  let [a, b, count] = [0, 0, 0];
  for (let n = 0; n < mask.length; n++) {
    if (!mask[n]) continue;
    const [red, green, blue] = [LINEAR[data[4 * n]], LINEAR[data[4 * n + 1]], LINEAR[data[4 * n + 2]]];
    const x = root((0.412453 * red + 0.35758 * green + 0.180423 * blue) / 0.950456);
    const y = root(0.212671 * red + 0.71516 * green + 0.072169 * blue);
    const z = root((0.019334 * red + 0.119193 * green + 0.950227 * blue) / 1.088754);
    a += 500 * (x - y);
    b += 200 * (y - z);
    count++;
  }
  return count ? [a / count, b / count] : [0, 0];
}

/** What an sRGB value of 0 to 255 is in light. */
const LINEAR = Float64Array.from({ length: 256 }, (_, n) =>
  (n <= 10 ? n / 255 / 12.92 : ((n / 255 + 0.055) / 1.055) ** 2.4));

/** @param {number} t */
function root(t) {
  return t > 0.008856 ? Math.cbrt(t) : 7.787 * t + 16 / 116;
}

/**
 * Degrees between two heads.
 * @param {Motion} motion
 * @param {Motion} other
 */
export function turnedApart(motion, other) {
  const turn = product(rotationMatrix(motion.rotation), transposed(rotationMatrix(other.rotation)));
  return (Math.acos(Math.min(1, Math.max(-1, (turn[0] + turn[4] + turn[8] - 1) / 2))) * 180) / Math.PI;
}

/**
 * 1 for the same face, below ANOTHER most likely somebody else's; null where too little of it is seen.
 * @param {Float32Array} copy grey levels [S, S]
 * @param {Uint8Array} look grey levels [S, S]
 * @param {Uint8Array} mask
 * @param {number} coloursApart how far one `faceColour` lies from the other
 */
export function likeness(copy, look, mask, coloursApart) {
  let [count, one, other] = [0, 0, 0];
  for (let n = 0; n < mask.length; n++) {
    if (!mask[n]) continue;
    count++;
    one += copy[n];
    other += look[n];
  }
  if (count < LEAST_PLACES) return null;
  let [both, ones, others] = [0, 0, 0];
  for (let n = 0; n < mask.length; n++) {
    if (!mask[n]) continue;
    const [a, b] = [copy[n] - one / count, look[n] - other / count];
    both += a * b;
    ones += a * a;
    others += b * b;
  }
  const correlation = both / Math.max(1e-6, Math.sqrt(ones * others));
  return correlation - COLOUR * Math.min(1, coloursApart / FAR_COLOUR);
}
