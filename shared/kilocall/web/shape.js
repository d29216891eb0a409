// From a motion to what the networks are asked for: where the face's points go, and what is seen between the lips.
// As `model/shape.py`, `model/compact/overstate.py` and the functions of `model/compact/family.py`.

import { BadInput } from "./errors.js";
import { product, rotationMatrix, similarity, transposed, unpose } from "./geometry.js";
import { EYES, LANDMARKS, RIGID_WEIGHT, meanPoint } from "./landmarks.js";
import { place } from "./motion.js";
import { loadTensors } from "./safetensors.js";

/** @typedef {import("./motion.js").Motion} Motion */

/** What is sent of a change of what is seen between the lips. */
export const INTERIOR_BASIS = [[1, 1, 1].map((n) => n / Math.sqrt(3)), [1, 0, -1].map((n) => n / Math.sqrt(2))];

const LID_OPENINGS = 2;
const LIP_OPENING = 2;
/** An overstated iris stays this near to the middle of its eye, in widths of the eye between its corners. */
const MAX_GAZE = 0.28;

/**
 * One picture of the speaker and what every frame is expressed against (the canonical keypoints).
 * @typedef {object} Source
 * @property {Motion} pose of the picture itself; its expression is zero by definition
 * @property {Float32Array} shape canonical keypoints [K, 3], head-fixed, with the picture's own expression
 * @property {Float32Array} implicit the implicit keypoints [N, 2]
 * @property {Float32Array} interior brightness between the lips [BANDS]
 * @property {import("./motion.js").Point} neck what the head turns about, head-fixed
 */

/** The expression basis, and by how much lids, lips and irises are overstated to the renderer. */
export class ShapeModel {
  /**
   * @param {Float32Array} mean face [K, 3], head-fixed
   * @param {Float32Array} basis [E, K, 3] expression deltas in head-fixed units
   * @param {{ lids: number, lips: number, gaze: number }} gains
   * @param {Float32Array} deviation of the expression's numbers [E]
   */
  constructor(mean, basis, gains, deviation) {
    this.mean = mean;
    this.basis = basis;
    this.gains = gains;
    this.deviation = deviation;
    this.expressions = basis.length / (3 * LANDMARKS);
  }

  /**
   * Reads a family's shape file. Raises BadInput with the reason.
   * @param {Uint8Array} file
   */
  static fromBytes(file) {
    const arrays = loadTensors(file);
    const [mean, basis, deviation] = ["mean", "basis", "deviation"].map((name) => arrays.get(name));
    if (!(basis?.data instanceof Float32Array) || basis.shape.slice(1).join() !== `${LANDMARKS},3`) {
      throw new BadInput(`shape file has no basis of ${LANDMARKS} points`);
    }
    if (!(mean?.data instanceof Float32Array) || mean.shape.join() !== `${LANDMARKS},3`) {
      throw new BadInput(`shape file has no mean of ${LANDMARKS} points`);
    }
    if (!(deviation?.data instanceof Float32Array) || deviation.data.length !== basis.shape[0]) {
      throw new BadInput(`shape file has no deviation of ${basis.shape[0]} numbers`);
    }
    const gain = (/** @type {string} */ name) => arrays.get(name)?.data[0] ?? 1;
    const gains = { lids: gain("lid_gain"), lips: gain("lip_gain"), gaze: gain("gaze_gain") };
    return new ShapeModel(mean.data, basis.data, gains, deviation.data);
  }

  /**
   * x_d [K + N, 2]: the source's points where `motion` puts them (face-vid2vid eq. 1 and 2).
   * @param {Source} source
   * @param {Motion} motion
   */
  keypoints(source, motion) {
    const moved = Float64Array.from(source.shape);
    for (let e = 0; e < this.expressions; e++) {
      const strength = motion.expression[e];
      if (strength) for (let n = 0; n < moved.length; n++) moved[n] += strength * this.basis[e * moved.length + n];
    }
    const implicit = source.implicit.map((value, n) => value + motion.expression[this.expressions + n]);
    const points = new Float32Array(2 * LANDMARKS + implicit.length);
    points.set(place(moved, motion));
    points.set(implicit, 2 * LANDMARKS);
    return points;
  }

  /**
   * What the networks get with every frame: x_d [K + N, 2], the jacobian [2, 2] and what is seen between the lips [BANDS].
   * @param {Source} source
   * @param {Motion} motion
   */
  driving(source, motion) {
    const { lids, lips } = this.gains;
    const expression = motion.expression.slice();
    for (let n = 0; n < LID_OPENINGS; n++) expression[n] *= lids;
    expression[LIP_OPENING] *= lips;
    const still = { ...motion, expression: new Float32Array(expression.length) };
    const points = this.#further(this.keypoints(source, { ...motion, expression }), () => this.keypoints(source, still));
    const change = motion.expression.subarray(-INTERIOR_BASIS.length);
    const interior = source.interior.map((value, band) =>
      value + INTERIOR_BASIS.reduce((sum, row, n) => sum + change[n] * row[band], 0));
    return { points, jacobian: jacobian(source.pose, motion), interior };
  }

  /**
   * Points with irises further from where they lie at rest: in the same pose, but without expression.
   * @param {Float32Array} moved
   * @param {() => Float32Array} rest
   */
  #further(moved, rest) {
    const { gaze } = this.gains;
    if (gaze === 1) return moved;
    const atRest = rest();
    const result = moved.slice();
    for (const [iris, eye] of EYES) {
      const middle = meanPoint(moved, eye);
      const still = meanPoint(atRest, eye);
      const asked = middle.map((value, axis) => moved[2 * iris + axis] - value);
      const further = asked.map((value, axis) => value + (gaze - 1) * (value - (atRest[2 * iris + axis] - still[axis])));
      const [left, right] = [eye[0], eye[4]];
      const width = Math.hypot(moved[2 * left] - moved[2 * right], moved[2 * left + 1] - moved[2 * right + 1]);
      const reach = Math.max(MAX_GAZE * width, Math.hypot(...asked));
      const share = Math.min(1, reach / Math.max(Math.hypot(...further), 1e-6));
      for (const axis of [0, 1]) result[2 * iris + axis] = middle[axis] + further[axis] * share;
    }
    return result;
  }
}

/**
 * How many numbers an expression has: the basis', where implicit keypoints move, and what is seen between the lips.
 * @param {ShapeModel} shapeModel
 * @param {Float32Array} implicit [N, 2]
 */
export function expressionNumbers({ expressions }, implicit) {
  return expressions + implicit.length + INTERIOR_BASIS.length;
}

/** Shapes that differ by less are one person's. */
export const SAME_PERSON = 0.04;

/**
 * Root-mean-square distance of two head-fixed shapes [K, 3] over the points that expressions leave alone. Depth is left out:
 * one picture shows it poorly.
 * @param {Float32Array} a
 * @param {Float32Array} b
 */
export function shapeDistance(a, b) {
  const fitted = unpose(b, similarity(b, a, RIGID_WEIGHT));
  let [sum, total] = [0, 0];
  RIGID_WEIGHT.forEach((weight, k) => {
    sum += weight * ((fitted[3 * k] - a[3 * k]) ** 2 + (fitted[3 * k + 1] - a[3 * k + 1]) ** 2);
    total += weight;
  });
  return Math.sqrt(sum / total);
}

/**
 * x_s [K + N, 2].
 * @param {Source} source
 */
export function sourceKeypoints(source) {
  const points = new Float32Array(2 * LANDMARKS + source.implicit.length);
  points.set(place(source.shape, source.pose));
  points.set(source.implicit, 2 * LANDMARKS);
  return points;
}

/**
 * J [2, 2] = (s_s / s_d) (R_s R_d^T)[:2, :2]: how a small patch of the driving frame lies in the source.
 * @param {Motion} source
 * @param {Motion} driving
 */
export function jacobian(source, driving) {
  const turn = product(rotationMatrix(source.rotation), transposed(rotationMatrix(driving.rotation)));
  return Float32Array.from([0, 1, 3, 4], (n) => (turn[n] * source.scale) / driving.scale);
}
