// Decides when the crop moves, and how: it stands still, glides when it must, jumps at a cut. As `sender/reframe.py`.

import { asPlace, asVector, holds, idealPlace } from "./crop_place.js";

/** @typedef {import("./crop_place.js").CropPlace} CropPlace */
/** @typedef {import("./crop_place.js").FaceBox} FaceBox */
/** @typedef {import("./crop_place.js").PlaceVector} PlaceVector */

const EDGE_MARGIN = 0.02;
/** 1/s; critically damped: 95 % of the way after 0.6 s. */
const GLIDE_RATE = 8;
/** Crop sides a second. */
const MAX_SPEED = 1.5;
/** Frames that must agree before the crop leaves its place. */
const PATIENCE = 3;
/** Crop sides between two looks: a cut, not a walk. */
const JUMP = 0.5;

/** Boxes in, places out; knows no pictures. */
export class ReframePolicy {
  /** @param {import("./crop_place.js").Size} frame */
  constructor(frame) {
    this.frame = frame;
    /** @type {PlaceVector | null} */
    this.at = null;
    /** @type {PlaceVector} */
    this.velocity = [0, 0, 0];
    /** @type {PlaceVector} */
    this.target = [0, 0, 0];
    this.moving = false;
    this.strikes = 0;
  }

  /** Where to cut now; null before the first box. */
  get place() {
    return this.at === null ? null : asPlace(this.at);
  }

  /**
   * Jumps to `box`: the first one, or another scene.
   * @param {FaceBox} box
   */
  restart(box) {
    this.at = asVector(idealPlace(box, this.frame));
    this.velocity = [0, 0, 0];
    [this.moving, this.strikes] = [false, 0];
    return asPlace(this.at);
  }

  /**
   * Place for the next frame, given the box of this one and the time since the one before.
   * @param {FaceBox} box
   * @param {number} elapsedS
   */
  step(box, elapsedS) {
    if (this.at === null) return this.restart(box);
    const here = this.at;
    const ideal = asVector(idealPlace(box, this.frame));
    const side = Math.exp(here[2]);
    if (Math.max(Math.abs(ideal[0] - here[0]), Math.abs(ideal[1] - here[1])) / side > JUMP) return this.restart(box);
    const outside = this.#outside(box);
    if (!this.moving) {
      this.strikes = holds(asPlace(here), box, this.frame) ? 0 : this.strikes + 1;
      if (this.strikes < PATIENCE && !outside) return asPlace(here);
      [this.moving, this.strikes, this.target] = [true, 0, ideal];
    }
    this.at = this.#kept(this.#glided(here, ideal, Math.min(Math.max(elapsedS, 0), 0.5)), box);
    return asPlace(this.at);
  }

  /** @param {FaceBox} box */
  #outside(box) {
    const { x0, y0, side } = asPlace(/** @type {PlaceVector} */ (this.at));
    const margin = EDGE_MARGIN * side;
    return box.x0 < x0 + margin || box.y0 < y0 + margin
      || box.x0 + box.width > x0 + side - margin || box.y0 + box.height > y0 + side - margin;
  }

  /**
   * One exact step of a critically damped spring towards the target.
   * @param {PlaceVector} here
   * @param {PlaceVector} ideal
   * @param {number} elapsedS
   * @returns {PlaceVector}
   */
  #glided(here, ideal, elapsedS) {
    const side = Math.exp(here[2]);
    const unit = [side, side, 1];
    const most = (/** @type {number[]} */ values) => Math.max(...values.map((value, n) => Math.abs(value) / unit[n]));
    // The target has a dead zone too, or the jitter of the box would be followed while gliding.
    if (most(ideal.map((value, n) => value - this.target[n])) > 0.04) this.target = ideal;
    const { target } = this;
    const away = here.map((value, n) => value - target[n]);
    const pull = away.map((value, n) => this.velocity[n] + GLIDE_RATE * value);
    const decay = Math.exp(-GLIDE_RATE * elapsedS);
    const move = here.map((value, n) => target[n] + (away[n] + pull[n] * elapsedS) * decay - value);
    const velocity = this.velocity.map((value, n) => (value - GLIDE_RATE * pull[n] * elapsedS) * decay);
    const longest = Math.hypot(move[0] / side, move[1] / side);
    if (longest > MAX_SPEED * elapsedS) {
      const shorten = (MAX_SPEED * elapsedS) / longest;
      for (const axis of [0, 1]) {
        move[axis] *= shorten;
        velocity[axis] *= shorten;
      }
    }
    this.velocity = /** @type {PlaceVector} */ (velocity);
    const at = /** @type {PlaceVector} */ (here.map((value, n) => value + move[n]));
    if (most(at.map((value, n) => value - target[n])) < 0.004 && most(velocity) < 0.05) {
      this.moving = false;
      this.velocity = [0, 0, 0];
    }
    return at;
  }

  /**
   * The last resort for a face that outruns the glide: the crop takes it along.
   * @param {PlaceVector} at
   * @param {FaceBox} box
   * @returns {PlaceVector}
   */
  #kept([x, y, logSide], box) {
    const size = Math.max(logSide, Math.log(Math.max(box.width, box.height)));
    const half = Math.exp(size) / 2;
    const within = (/** @type {number} */ middle, /** @type {number} */ start, /** @type {number} */ length) =>
      Math.min(Math.max(middle, start + length - half), start + half);
    return [within(x, box.x0, box.width), within(y, box.y0, box.height), size];
  }
}
