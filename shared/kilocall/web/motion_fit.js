// From landmarks to motion: the pose and expression that best explain what was seen, given whose face it is.
// As `model/compact/motion_fit.py`, and `CompactFamily.motion`.

import { product, rotationAngles, rotationMatrix, similarity, solve } from "./geometry.js";
import { IMPORTANCE, LANDMARKS, RIGID_WEIGHT } from "./landmarks.js";
import { INTERIOR_BASIS } from "./shape.js";

/** @typedef {import("./motion.js").Motion} Motion */
/** @typedef {import("./shape.js").Source} Source */
/** @typedef {import("./face_tracker.js").Track} Track */

/** What the landmark networks err by on unseen people, crop units; the depth head only says which way a head is turned. */
const POINT_NOISE = 1.5 / 128;
const DEPTH_NOISE = 10 / 128;
/** Expressions are differences of two frames, so they vary more than a clip does around its mean. */
const PRIOR_WIDTH = 1.6;
const ROUNDS = 4;
const ENOUGH = 1e-5;
const POSE = 6;

/** Fits one person's frames. */
export class MotionFit {
  /**
   * @param {Float32Array} shape head-fixed, of the source picture [K, 3]
   * @param {import("./shape.js").ShapeModel} model
   */
  constructor(shape, model) {
    this.shape = shape;
    this.basis = model.basis;
    this.expressions = model.expressions;
    this.prior = Float64Array.from(model.deviation, (deviation) => 1 / (PRIOR_WIDTH * deviation) ** 2);
    this.weight = Float64Array.from({ length: 3 * LANDMARKS }, (_, n) =>
      Math.sqrt(IMPORTANCE[Math.floor(n / 3)]) / (n % 3 === 2 ? DEPTH_NOISE : POINT_NOISE));
  }

  /**
   * Motion, expression [E], of landmarks [K, 2] with depths [K].
   * @param {Float32Array} points
   * @param {Float32Array} depth
   * @param {Motion | null} start
   * @returns {Motion}
   */
  fit(points, depth, start) {
    const { shape, basis, expressions, prior, weight } = this;
    const numbers = shape.length;
    const unknowns = POSE + expressions;
    let { r, x, y, s, e } = start === null ? this.#rigid(points, depth) : {
      r: rotationMatrix(start.rotation).map(Math.fround),
      x: start.translation[0], y: start.translation[1], s: start.scale,
      e: Float64Array.from(start.expression.subarray(0, expressions)),
    };
    const middle = depth.reduce((sum, value) => sum + value, 0) / LANDMARKS;
    const q = new Float64Array(numbers);
    const residual = new Float64Array(numbers);
    const slopes = new Float64Array(unknowns * numbers);
    for (let round = 0; round < ROUNDS; round++) {
      const moved = Float64Array.from(shape);
      for (let n = 0; n < expressions; n++) {
        if (e[n]) for (let k = 0; k < numbers; k++) moved[k] += e[n] * basis[n * numbers + k];
      }
      turned(moved, 0, r, 1, q, 0);
      const depthMiddle = meanDepth(q, 0, numbers);
      for (let k = 0; k < numbers; k += 3) {
        residual[k] = points[(2 * k) / 3] - s * q[k] - x;
        residual[k + 1] = points[(2 * k) / 3 + 1] - s * q[k + 1] - y;
        residual[k + 2] = depth[k / 3] - middle - s * (q[k + 2] - depthMiddle);
        // About x, y and z: omega x q; then to the right, downwards, and larger.
        slopes.set([0, -s * q[k + 2], s * q[k + 1]], k);
        slopes.set([s * q[k + 2], 0, -s * q[k]], numbers + k);
        slopes.set([-s * q[k + 1], s * q[k], 0], 2 * numbers + k);
        slopes.set([1, 0, 0], 3 * numbers + k);
        slopes.set([0, 1, 0], 4 * numbers + k);
        slopes.set([s * q[k], s * q[k + 1], s * q[k + 2]], 5 * numbers + k);
      }
      for (let n = 0; n < expressions; n++) turned(basis, n * numbers, r, s, slopes, (POSE + n) * numbers);
      for (let n = 0; n < unknowns; n++) {
        const first = n * numbers;
        const mean = meanDepth(slopes, first, numbers);
        for (let k = 0; k < numbers; k++) {
          const at = first + k;
          slopes[at] = (k % 3 === 2 ? slopes[at] - mean : slopes[at]) * weight[k];
        }
      }
      const normal = new Float64Array(unknowns * unknowns);
      const step = new Float64Array(unknowns);
      for (let a = 0; a < unknowns; a++) {
        for (let b = 0; b <= a; b++) {
          let sum = 0;
          for (let k = 0; k < numbers; k++) sum += slopes[a * numbers + k] * slopes[b * numbers + k];
          normal[a * unknowns + b] = normal[b * unknowns + a] = sum;
        }
        for (let k = 0; k < numbers; k++) step[a] += slopes[a * numbers + k] * residual[k] * weight[k];
      }
      for (let n = 0; n < expressions; n++) {
        normal[(POSE + n) * (unknowns + 1)] += prior[n];
        step[POSE + n] -= prior[n] * e[n];
      }
      solve(normal, step);
      r = product(rotationBy(step), r);
      [x, y, s] = [x + step[3], y + step[4], s * Math.exp(Math.max(-0.5, Math.min(0.5, step[5])))];
      e = e.map((value, n) => value + step[POSE + n]);
      if (step.every((by) => Math.abs(by) < ENOUGH)) break;
    }
    return { rotation: rotationAngles(r), translation: [x, y], scale: s, expression: Float32Array.from(e) };
  }

  /**
   * Where a fit begins that has nothing to begin with.
   * @param {Float32Array} points
   * @param {Float32Array} depth
   */
  #rigid(points, depth) {
    const seen = Float32Array.from(this.shape, (_, n) =>
      n % 3 === 2 ? depth[(n - 2) / 3] : points[2 * Math.floor(n / 3) + (n % 3)]);
    const { rotation, translation: [x, y], scale } = similarity(seen, this.shape, RIGID_WEIGHT);
    return { r: rotation, x, y, s: scale, e: new Float64Array(this.expressions) };
  }
}

/**
 * What of a tracked face moved against a source; `previous` is where the fit starts.
 * @param {MotionFit} fit of the source
 * @param {Track} track
 * @param {Source} source
 * @param {Motion | null} previous
 * @returns {Motion}
 */
export function motionOf(fit, track, source, previous) {
  const fitted = fit.fit(track.points, track.depth, previous);
  const implicit = track.implicit.map((value, n) => value - source.implicit[n]);
  const bands = track.interior.map((value, band) => value - source.interior[band]);
  const betweenLips = INTERIOR_BASIS.map((row) => row.reduce((sum, value, band) => sum + value * bands[band], 0));
  return { ...fitted, expression: Float32Array.from([...fitted.expression, ...implicit, ...betweenLips]) };
}

/**
 * scale R times each point [K, 3].
 * @param {ArrayLike<number>} points
 * @param {number} from
 * @param {import("./geometry.js").Matrix} r
 * @param {number} scale
 * @param {Float64Array} into
 * @param {number} to
 */
function turned(points, from, r, scale, into, to) {
  const [a, b, c, d, e, f, g, h, i] = r.map((value) => value * scale);
  for (let k = 0; k < 3 * LANDMARKS; k += 3) {
    const [x, y, z] = [points[from + k], points[from + k + 1], points[from + k + 2]];
    into[to + k] = a * x + b * y + c * z;
    into[to + k + 1] = d * x + e * y + f * z;
    into[to + k + 2] = g * x + h * y + i * z;
  }
}

/**
 * @param {Float64Array} points
 * @param {number} first
 * @param {number} numbers
 */
function meanDepth(points, first, numbers) {
  let sum = 0;
  for (let k = 2; k < numbers; k += 3) sum += points[first + k];
  return (3 * sum) / numbers;
}

/**
 * Rodrigues' formula, for the turn by the vector of the first three numbers.
 * @param {Float64Array} omega
 * @returns {import("./geometry.js").Matrix}
 */
function rotationBy(omega) {
  const angle = Math.hypot(omega[0], omega[1], omega[2]);
  if (angle < 1e-9) return [1, 0, 0, 0, 1, 0, 0, 0, 1];
  const [x, y, z] = [omega[0] / angle, omega[1] / angle, omega[2] / angle];
  const cross = [0, -z, y, z, 0, -x, -y, x, 0];
  const again = product(cross, cross);
  return cross.map((value, n) =>
    (n % 4 === 0 ? 1 : 0) + Math.sin(angle) * value + (1 - Math.cos(angle)) * again[n]);
}
