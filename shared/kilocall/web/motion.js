// What is sent for a frame: where the head is and how the face moves; and what a viewer may change of it.
// As `model/motion.py` and the functions of `model/family.py`.

import { product, rotationAngles, rotationMatrix, transposed } from "./geometry.js";

/** Yaw, pitch, roll (radians), translation x, y (crop units), natural log of the scale. */
export const POSE_NUMBERS = 6;

/**
 * Head pose and expression of one frame. A keypoint is `scale * (R (canonical + expression delta))_xy + translation`.
 * @typedef {object} Motion
 * @property {import("./geometry.js").Angles} rotation
 * @property {[number, number]} translation crop units: the crop spans -1..1
 * @property {number} scale
 * @property {Float32Array} expression
 */

/** @typedef {[number, number, number]} Point */

/**
 * @param {Float32Array} vector [6 + E]: what the codec quantises
 * @returns {Motion}
 */
export function fromVector(vector) {
  const [yaw, pitch, roll, x, y, logScale] = vector;
  // A decoded scale is bounded by the quantiser's range; exp of a hostile value must still be finite.
  const scale = Math.exp(Math.max(-5, Math.min(3, logScale)));
  return { rotation: [yaw, pitch, roll], translation: [x, y], scale, expression: vector.slice(POSE_NUMBERS) };
}

/**
 * The inverse of `fromVector`.
 * @param {Motion} motion
 */
export function toVector({ rotation, translation, scale, expression }) {
  const vector = new Float32Array(POSE_NUMBERS + expression.length);
  vector.set([...rotation, ...translation, Math.log(scale)]);
  vector.set(expression, POSE_NUMBERS);
  return vector;
}

/**
 * Head-fixed points [K, 3] seen in the crop [K, 2]: s (R x)_xy + t.
 * @param {ArrayLike<number>} shape
 * @param {Motion} motion
 */
export function place(shape, { rotation, translation, scale }) {
  const r = rotationMatrix(rotation);
  const seen = new Float32Array((shape.length / 3) * 2);
  for (let k = 0; k < shape.length / 3; k++) {
    const [x, y, z] = [shape[3 * k], shape[3 * k + 1], shape[3 * k + 2]];
    seen[2 * k] = (r[0] * x + r[1] * y + r[2] * z) * scale + translation[0];
    seen[2 * k + 1] = (r[3] * x + r[4] * y + r[5] * z) * scale + translation[1];
  }
  return seen;
}

/**
 * The same movement on another picture: the change since `fromPose`, applied to `toPose` (relative motion).
 * @param {Motion} motion
 * @param {Motion} fromPose
 * @param {Motion} toPose
 * @returns {Motion}
 */
export function transfer(motion, fromPose, toPose) {
  const turn = product(rotationMatrix(motion.rotation), transposed(rotationMatrix(fromPose.rotation)));
  const size = toPose.scale / fromPose.scale;
  const shifted = (/** @type {0 | 1} */ axis) =>
    toPose.translation[axis] + (motion.translation[axis] - fromPose.translation[axis]) * size;
  return {
    rotation: rotationAngles(product(turn, rotationMatrix(toPose.rotation))),
    translation: [shifted(0), shifted(1)],
    scale: (toPose.scale * motion.scale) / fromPose.scale,
    expression: motion.expression,
  };
}

/**
 * The head turned further by yaw, pitch, roll in radians, seen from where the camera is (free view). The point `neck` of
 * the head stays where it is, as when somebody turns: the face moves sideways as well.
 * @param {Motion} motion
 * @param {import("./geometry.js").Angles} angles
 * @param {Point} neck
 * @returns {Motion}
 */
export function turnHead(motion, angles, neck) {
  const before = rotationMatrix(motion.rotation);
  const turned = product(rotationMatrix(angles), before);
  const shift = (/** @type {0 | 1} */ axis) =>
    motion.scale * [0, 1, 2].reduce((sum, n) => sum + (before[3 * axis + n] - turned[3 * axis + n]) * neck[n], 0);
  return {
    rotation: rotationAngles(turned),
    translation: [motion.translation[0] + shift(0), motion.translation[1] + shift(1)],
    scale: motion.scale,
    expression: motion.expression,
  };
}
