// Where the refinement of a face and the close-ups of eyes and mouth are cut from a crop, given its landmarks.
// As `model/compact/regions.py`: a region is a square that turns with the head.

import { LEFT_EYE, MIRROR, OUTER_LIPS, RIGHT_EYE, meanPoint } from "./landmarks.js";
import { warped } from "./pixels.js";

/** @typedef {import("./pixels.js").Affine} Affine */

/** Side of the whole crop as the first network sees it, and of a close-up, in pixels. */
export const FACE_INPUT = 128;
export const REGION_INPUT = 64;

// Half sides in units of the distance between the eyes' centres, measured so that brows and open mouths fit.
const EYE_REACH = 0.52;
const MOUTH_REACH = 0.78;
const FACE_REACH = 2.4;
// A profile view brings the eyes together; the face's height then says how large the head is.
const PROFILE_RATIO = 0.75;
// Looks that differ by this many pixels of a 256x256 crop are no longer two measurements of one face.
const LOOKS_APART_PX = 3;

/**
 * Matrices of right eye, left eye (mirrored) and mouth for landmarks [LANDMARKS, 2] in crop coordinates.
 * @param {Float32Array} points
 */
export function regions(points) {
  const { right, left, mouth, unit, across, down } = head(points);
  const eye = unit * EYE_REACH;
  const lifted = (/** @type {number[]} */ [x, y]) => [x - 0.12 * unit * down[0], y - 0.12 * unit * down[1]];
  return [
    square(across, down, eye, lifted(right)),
    square(across.map((n) => -n), down, eye, lifted(left)),
    square(across, down, unit * MOUTH_REACH, mouth),
  ];
}

/**
 * Matrix of the refinement's cut for landmarks [LANDMARKS, 2]: the face upright, central, mirrored.
 * @param {Float32Array} points
 */
export function faceRegion(points) {
  const { right, left, mouth, unit, across, down } = head(points);
  const middle = [0, 1].map((axis) => (right[axis] + left[axis] + mouth[axis]) / 3);
  return square(across.map((n) => -n), down, unit * FACE_REACH, middle);
}

/**
 * Points and depths [LANDMARKS, 3] of the whole crop and of `faceRegion` `matrix` as one, in crop coordinates.
 *
 * The mean where they agree, the refinement where the first was far out: it sees the face upright and in the middle.
 * @param {Float32Array} first
 * @param {Float32Array} second
 * @param {Affine} matrix
 */
export function refinedPoints(first, second, matrix) {
  const reach = Math.hypot(matrix[1], matrix[4]);
  const again = new Float32Array(first.length);
  MIRROR.forEach((from, n) => {
    const [x, y] = toCrop(matrix, second[3 * from], second[3 * from + 1]);
    again.set([x, y, second[3 * from + 2] * reach], 3 * n);
  });
  const off = MIRROR.reduce((sum, _, n) =>
    sum + Math.hypot(first[3 * n] - again[3 * n], first[3 * n + 1] - again[3 * n + 1]), 0) / MIRROR.length;
  const weight = 0.5 / (1 + ((off * 128) / LOOKS_APART_PX) ** 4);
  return first.map((value, n) => weight * value + (1 - weight) * again[n]);
}

/**
 * Middles of right eye, left eye and mouth, the head's size, and its axes to the right and down.
 * @param {Float32Array} points
 */
function head(points) {
  const [right, left, mouth] = [RIGHT_EYE, LEFT_EYE, OUTER_LIPS].map((of) => meanPoint(points, of));
  const between = [0, 1].map((axis) => left[axis] - right[axis]);
  const height = [0, 1].map((axis) => mouth[axis] - (left[axis] + right[axis]) / 2);
  const unit = Math.max(Math.hypot(...between), PROFILE_RATIO * Math.hypot(...height), 1e-3);
  // The axis between the eyes tells the roll; when they nearly coincide the line to the mouth does.
  const along = [between[0] + height[1], between[1] - height[0]];
  const length = Math.max(Math.hypot(...along), 1e-6);
  const across = along.map((n) => n / length);
  return { right, left, mouth, unit, across, down: [-across[1], across[0]] };
}

/**
 * @param {number[]} across
 * @param {number[]} down
 * @param {number} reach
 * @param {number[]} middle
 * @returns {Affine}
 */
function square(across, down, reach, middle) {
  return [across[0] * reach, down[0] * reach, middle[0], across[1] * reach, down[1] * reach, middle[1]];
}

/**
 * A region's point in crop coordinates.
 * @param {Affine} matrix
 * @param {number} x
 * @param {number} y
 */
export function toCrop([a, b, left, c, d, top], x, y) {
  return [a * x + b * y + left, c * x + d * y + top];
}

/**
 * The region [side, side] of a square crop.
 * @param {import("./pixels.js").Picture} picture
 * @param {Affine} matrix
 * @param {number} side
 */
export function cutRegion(picture, matrix, side) {
  const step = picture.width / side;
  // index = ((coordinate + 1) * size - 1) / 2 on both sides
  const [left, top] = toCrop(matrix, 1 / side - 1, 1 / side - 1).map((at) => ((at + 1) * picture.width - 1) / 2);
  const [a, b, , c, d] = matrix.map((value) => value * step);
  return warped(picture, [a, b, left, c, d, top], side);
}
