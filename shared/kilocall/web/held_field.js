// The receiver's motion field as the sender follows it: made by the network for some frames, moved on for the others. As
// `model/compact/held_field.py`.

import { LANDMARKS } from "./landmarks.js";

/** @typedef {import("./renderer.js").Session} Session */
/** @typedef {import("./renderer.js").Tensor} Tensor */

/** Places of the motion field along a side. */
export const FIELD = 64;
/**
 * A field is held for so many frames beside its own, while the face's points are no further from where they were then (mean,
 * crop units; 4 pixels of 256).
 */
const MOST_HELD = 2;
const HELD_WITHIN = 4 / 128;
const PLACES = FIELD * FIELD;

/** What a keypoint's mask weighs, and the head's turn less none. @typedef {{ shift: Float32Array, turn: number[] }} Terms */

/** The motion field of one source picture, made for a frame and moved on for the next few. */
export class HeldField {
  /**
   * @param {Session} network that gives `displacement` and `masks`
   * @param {(data: Float32Array, shape: number[]) => Tensor} floats
   * @param {Tensor} cue the appearance network's
   * @param {Float32Array} sourcePoints x_s [K, 2]
   */
  constructor(network, floats, cue, sourcePoints) {
    this.network = network;
    this.floats = floats;
    this.count = sourcePoints.length / 2;
    this.sourcePoints = sourcePoints;
    this.still = { motion_cue: cue, x_s: floats(sourcePoints, [1, this.count, 2]) };
    /** How often the network ran. */
    this.made = 0;
    this.age = MOST_HELD + 1;
    /** How far each place goes with each implicit keypoint [N][F, F]. @type {Float32Array[]} */
    this.follows = [];
    /** @type {Float32Array} */
    this.displacement = new Float32Array(2 * PLACES);
    /** @type {Float32Array} */
    this.masks = new Float32Array(0);
    this.byHead = new Float32Array(PLACES);
    /** @type {Float32Array} */
    this.points = new Float32Array(0);
    /** @type {Terms} */
    this.terms = { shift: new Float32Array(0), turn: [] };
  }

  /** The next frame has a field of its own. */
  reset() {
    this.age = MOST_HELD + 1;
  }

  /**
   * The next frame: one that the field cannot be held over has another made.
   * @param {Float32Array} points driving keypoints [K, 2]
   * @param {Float32Array} jacobian
   */
  async expect(points, jacobian) {
    this.age++;
    if (this.age > MOST_HELD || this.#moved(points) > HELD_WITHIN) await this.#make(points, jacobian);
  }

  /**
   * Displacement [F, F, 2] for keypoints near those of the frame.
   * @param {Float32Array} points
   * @param {Float32Array} jacobian
   */
  at(points, jacobian) {
    const { shift, turn } = this.#termsOf(points, jacobian);
    const apart = shift.map((value, n) => value - this.terms.shift[n]);
    const [a, b, c, d] = turn.map((value, n) => value - this.terms.turn[n]);
    const made = Float32Array.from(this.displacement);
    if (apart.every((value) => value === 0) && !(a || b || c || d)) return made;
    const { count, masks, byHead } = this;
    for (let place = 0; place < PLACES; place++) {
      const mask = place * (count + 1);
      let x = 0;
      let y = 0;
      for (let k = 0; k < count; k++) {
        const share = masks[mask + k];
        x += share * apart[2 * k];
        y += share * apart[2 * k + 1];
      }
      const right = ((place % FIELD) + 0.5) * (2 / FIELD) - 1;
      const down = (Math.floor(place / FIELD) + 0.5) * (2 / FIELD) - 1;
      made[2 * place] += x + byHead[place] * (a * right + b * down);
      made[2 * place + 1] += y + byHead[place] * (c * right + d * down);
    }
    return made;
  }

  /**
   * What the masks weigh: of every keypoint [K, 2], and of the head's turn [2, 2].
   * @param {Float32Array} points
   * @param {Float32Array} jacobian
   * @returns {Terms}
   */
  #termsOf(points, jacobian) {
    const turn = [jacobian[0] - 1, jacobian[1], jacobian[2], jacobian[3] - 1];
    const shift = this.sourcePoints.map((from, n) => {
      const head = n < 2 * LANDMARKS;
      const [x, y, row] = [points[n - (n % 2)], points[n - (n % 2) + 1], 2 * (n % 2)];
      return from - points[n] - (head ? x * turn[row] + y * turn[row + 1] : 0);
    });
    return { shift, turn };
  }

  /**
   * How far the face's points are from where they were when the field was made; the mean, crop units.
   * @param {Float32Array} points
   */
  #moved(points) {
    let sum = 0;
    for (let n = 0; n < 2 * LANDMARKS; n += 2) sum += Math.hypot(points[n] - this.points[n], points[n + 1] - this.points[n + 1]);
    return sum / LANDMARKS;
  }

  /**
   * @param {Float32Array} points
   * @param {Float32Array} jacobian
   */
  async #make(points, jacobian) {
    const { count } = this;
    const made = await this.network.run({
      ...this.still, x_d: this.floats(points, [1, count, 2]), jacobian: this.floats(jacobian, [1, 2, 2]),
    }, ["displacement", "masks"]);
    this.made++;
    this.displacement = /** @type {Float32Array} */ (made.displacement.data);
    const masks = this.masks = /** @type {Float32Array} */ (made.masks.data);
    this.follows = Array.from({ length: count - LANDMARKS }, () => new Float32Array(PLACES));
    for (let place = 0; place < PLACES; place++) {
      const mask = place * (count + 1);
      let sum = 0;
      for (let k = 0; k < LANDMARKS; k++) sum += masks[mask + k];
      this.byHead[place] = sum;
      this.follows.forEach((follow, n) => { follow[place] = masks[mask + LANDMARKS + n]; });
    }
    [this.age, this.points, this.terms] = [0, points, this.#termsOf(points, jacobian)];
  }
}
