// What is seen between the lips: how bright it is above, in the middle and below. As `model/interior.py`.

import { CHEEKS, LIP_PAIRS, meanOpening } from "./landmarks.js";
import { colourAt } from "./pixels.js";

/** Numbers of what is seen between the lips. */
export const BANDS = 3;
/** Brightness of red, green and blue (BT.601). */
const LUMA = [0.299, 0.587, 0.114];
/** Where between upper and lower lip the bands lie; nearer to a lip, landmarks a pixel off would take its colour. */
const BAND_CENTRES = [0.25, 0.5, 0.75];
/** Lips less far apart, in pixels of a 256x256 crop, show nothing between them; from the second number on all counts. */
const SEEN_FROM_PX = 1.5;
const SEEN_WHOLLY_PX = 5.5;
/** The lips' pairs, and the middles between them. */
const ACROSS = [[0], [0, 1], [1], [1, 2], [2]].map((pairs) => pairs.map((pair) => LIP_PAIRS[pair]));

/**
 * Brightness [BANDS] of what lies between the lips of points [LANDMARKS, 2], from the upper one down, less the cheeks', of 1
 * for white, times how open the mouth is.
 * @param {import("./pixels.js").Picture} picture the square crop
 * @param {Float32Array} points
 */
export function interior(picture, points) {
  const apart = meanOpening(points, LIP_PAIRS) * 128;
  const open = Math.max(0, Math.min(1, (apart - SEEN_FROM_PX) / (SEEN_WHOLLY_PX - SEEN_FROM_PX)));
  if (open === 0) return new Float32Array(BANDS);
  const bands = BAND_CENTRES.map((share) => mean(ACROSS.map((pairs) => light(picture, [0, 1].map((axis) =>
    mean(pairs.map(([upper, lower]) => points[2 * upper + axis] * (1 - share) + points[2 * lower + axis] * share)))))));
  const cheeks = mean(CHEEKS.map((n) => light(picture, [points[2 * n], points[2 * n + 1]])));
  return Float32Array.from(bands, (band) => (band - cheeks) * open);
}

/**
 * Brightness of 0 to 1 at a place in crop coordinates.
 * @param {import("./pixels.js").Picture} picture
 * @param {number[]} place
 */
function light(picture, place) {
  const [x, y] = place.map((at) => ((at + 1) * picture.width - 1) / 2);
  const colour = colourAt(picture, x, y);
  return LUMA.reduce((sum, weight, c) => sum + weight * colour[c], 0) / 255;
}

/** @param {number[]} values */
function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
