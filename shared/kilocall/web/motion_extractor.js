// Motion extraction: tracked faces to steady motion against one source picture. As `sender/motion.py`.

import { POSE_NUMBERS, fromVector, toVector, transfer } from "./motion.js";
import { MotionFit, motionOf } from "./motion_fit.js";
import { SpeakerCheck } from "./speaker_check.js";

/** @typedef {import("./motion.js").Motion} Motion */
/** @typedef {import("./shape.js").Source} Source */
/** @typedef {import("./face_tracker.js").Track} Track */
/** @typedef {import("./keypoint_aligner.js").KeypointAligner} KeypointAligner */

// One Euro (Casiez et al. 2012): cut-off in Hz at rest, and how fast it opens with speed.
const POSE_CUTOFF_HZ = 3;
const EXPRESSION_CUTOFF_HZ = 6;
const POSE_OPENING = 25;
const EXPRESSION_OPENING = 12;
const SPEED_CUTOFF_HZ = 4;
const LONGEST_GAP_S = 0.5;

/** Low-pass filter of a motion's vector whose cut-off opens with its speed: steady at rest, no lag in motion. */
export class OneEuroFilter {
  constructor() {
    /** @type {Float64Array | null} */
    this.value = null;
    this.speed = new Float64Array(0);
    this.timeUs = 0;
  }

  reset() {
    this.value = null;
    this.timeUs = 0;
  }

  /**
   * @param {Float32Array} vector
   * @param {number} timeUs
   */
  next(vector, timeUs) {
    const elapsed = (timeUs - this.timeUs) / 1e6;
    this.timeUs = timeUs;
    const { value, speed } = this;
    if (value === null || !(elapsed > 0 && elapsed < LONGEST_GAP_S)) {
      this.value = Float64Array.from(vector);
      this.speed = new Float64Array(vector.length);
      return vector;
    }
    const keep = share(SPEED_CUTOFF_HZ, elapsed);
    for (let n = 0; n < vector.length; n++) {
      const change = vector[n] - value[n];
      speed[n] += keep * (change / elapsed - speed[n]);
      const pose = n < POSE_NUMBERS;
      const cutoff = (pose ? POSE_CUTOFF_HZ : EXPRESSION_CUTOFF_HZ) + (pose ? POSE_OPENING : EXPRESSION_OPENING) * Math.abs(speed[n]);
      value[n] += share(cutoff, elapsed) * change;
    }
    return Float32Array.from(value);
  }
}

/**
 * Share of the new value that a first-order low-pass takes.
 * @param {number} cutoffHz
 * @param {number} elapsedS
 */
function share(cutoffHz, elapsedS) {
  const turn = 2 * Math.PI * cutoffHz * elapsedS;
  return turn / (turn + 1);
}

/**
 * Follows one speaker: tracked crop in, motion out. The state is the last fit and the filter's.
 *
 * With `target`, the picture of somebody else, the speaker is followed against `source` and what changes is applied to the
 * other picture (relative motion). Nobody else than the speaker moves a picture of the speaker: frames that may show another
 * person hold the motion before them, and when that lasts the source picture rests.
 */
export class MotionExtractor {
  /**
   * @param {import("./shape.js").ShapeModel} shapeModel
   * @param {Source} source
   * @param {KeypointAligner | null} aligner null: implicit keypoints stay where the detector has them, and whose face it is
   * cannot be told
   * @param {Source | null} [target]
   */
  constructor(shapeModel, source, aligner, target = null) {
    this.source = source;
    this.target = target;
    this.fit = new MotionFit(source.shape, shapeModel);
    this.aligner = aligner;
    this.filter = new OneEuroFilter();
    this.check = new SpeakerCheck();
    /** @type {Motion | null} */
    this.previous = null;
    /** @type {Motion | null} */
    this.given = null;
  }

  /** The next frame starts anew: after a cut or another speaker. */
  reset() {
    this.previous = this.given = null;
    this.aligner?.reset();
    this.filter.reset();
  }

  /** Whom the last frames show. */
  get speaker() {
    return this.check.speaker;
  }

  /** That of the picture that is shown: nothing moves. */
  get rest() {
    return (this.target ?? this.source).pose;
  }

  /**
   * @param {Track} track
   * @param {import("./align.js").Look | null} look of the crop, for the aligner
   * @param {number} timeUs
   * @returns {Promise<Motion>}
   */
  async fromTrack(track, look, timeUs) {
    let fitted = motionOf(this.fit, track, this.source, this.previous);
    this.previous = fitted;
    if (this.aligner !== null && look !== null) {
      const { motion, likeness } = await this.aligner.align(fitted, track, look);
      fitted = motion;
      const speaker = this.check.look(likeness, timeUs);
      if (speaker !== "same") return speaker === "another" ? this.rest : this.given ?? this.rest;
    }
    const motion = fromVector(this.filter.next(toVector(fitted), timeUs));
    this.given = this.target === null ? motion : transfer(motion, this.source.pose, this.target.pose);
    return this.given;
  }
}
