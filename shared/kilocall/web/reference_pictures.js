// Several pictures of one speaker: on which one a frame is shown, by its motion alone. As `model/reference_pictures.py`.

import { EYES, LANDMARKS, LID_PAIRS, LIP_PAIRS, meanOpening, meanPoint } from "./landmarks.js";
import { transfer } from "./motion.js";

/** @typedef {import("./motion.js").Motion} Motion */
/** @typedef {import("./shape.js").Source} Source */

const NEARER = 0.8;
const GAZE = Math.sqrt(8);
const OPENINGS = Math.sqrt(2);
export const FADE_FRAMES = 2;

/**
 * A picture of the speaker, and where its face is as seen from the source picture.
 * @typedef {object} ReferencePicture
 * @property {Source} source
 * @property {Motion} motion of the picture itself, against the source picture
 * @property {Float32Array} keypoints the source picture's points as they lie in this picture [K + N, 2]
 */

/** @typedef {{ picture: number, before: number | null, share: number }} Choice see `Chooser` */

/**
 * What `motion`, told against the source picture, is on a reference.
 * @param {Motion} motion
 * @param {ReferencePicture} reference
 * @returns {Motion}
 */
export function retargetTo(motion, reference) {
  const moved = transfer(motion, reference.motion, reference.source.pose);
  return { ...moved, expression: motion.expression.map((value, n) => value - reference.motion.expression[n]) };
}

/**
 * How far the face of points [K + N, 2] lies from others, root mean square in crop units.
 * @param {Float32Array} points
 * @param {Float32Array} other
 */
export function distance(points, other) {
  const mine = features(points);
  return Math.sqrt(features(other).reduce((sum, value, n) => sum + (value - mine[n]) ** 2, 0));
}

/**
 * Points as numbers whose squared differences add up: landmarks, implicit points, gaze and openings.
 * @param {Float32Array} points
 */
function features(points) {
  const implicit = points.length / 2 - LANDMARKS;
  const each = [...points].map((value, n) => value / Math.sqrt(n < 2 * LANDMARKS ? LANDMARKS : implicit));
  const gaze = EYES.flatMap(([iris, eye]) =>
    meanPoint(points, eye).map((middle, axis) => (GAZE * (points[2 * iris + axis] - middle)) / Math.SQRT2));
  const half = LID_PAIRS.length / 2;
  const openings = [LID_PAIRS.slice(0, half), LID_PAIRS.slice(half), LIP_PAIRS].map((pairs) =>
    (OPENINGS * meanOpening(points, pairs)) / Math.sqrt(3));
  return [...each, ...gaze, ...openings];
}

/** Chooses frame after frame; the answers depend on nothing but the distances given since the start or a reset. */
export class Chooser {
  constructor({ nearer = NEARER, fadeFrames = FADE_FRAMES } = {}) {
    this.nearer = nearer;
    this.fadeFrames = fadeFrames;
    this.shown = -1;
    /** @type {number | null} */
    this.before = null;
    this.step = 0;
  }

  /** The next frame is shown on the nearest picture, without a fade: after seeking, or a pause. */
  reset() {
    [this.shown, this.before, this.step] = [-1, null, 0];
  }

  /**
   * The picture that the next frame is shown on, and the one before while it is still seen; `share` is how much of the new
   * one is.
   * @param {number[]} distances
   * @returns {Choice}
   */
  choose(distances) {
    const nearest = distances.indexOf(Math.min(...distances));
    if (this.shown < 0 || this.shown >= distances.length) {
      [this.shown, this.before] = [nearest, null];
      return this.#alone();
    }
    if (this.before !== null) {
      // Nothing changes within a fade: no more than two pictures are ever made of one frame.
      this.step++;
      if (this.step <= this.fadeFrames) return this.#faded();
      this.before = null;
    }
    if (distances[nearest] < this.nearer * distances[this.shown]) {
      const before = this.shown;
      this.shown = nearest;
      if (this.fadeFrames) {
        [this.before, this.step] = [before, 1];
        return this.#faded();
      }
    }
    return this.#alone();
  }

  #alone() {
    return { picture: this.shown, before: null, share: 1 };
  }

  #faded() {
    return { picture: this.shown, before: this.before, share: this.step / (this.fadeFrames + 1) };
  }
}
