// Motion fields that a network made for one frame, moved on for the next few: a sender needs the receiver's at every frame,
// a receiver moves its picture by it. As `model/compact/held_field.py`.

import { LANDMARKS } from "./landmarks.js";

/** @typedef {import("./renderer.js").Session} Session */
/** @typedef {import("./renderer.js").Tensor} Tensor */

/** Places of the motion field along a side. */
export const FIELD = 64;
/**
 * A field is held for so many frames beside its own, while the face's points are no further from where they were then (mean,
 * crop units; 8 pixels of 256).
 */
const MOST_HELD = 6;
const HELD_WITHIN = 8 / 128;
const PLACES = FIELD * FIELD;

/** What a keypoint's mask weighs, and the head's turn less none. @typedef {{ shift: Float32Array, turn: number[] }} Terms */

/** The motion field that the network made for some driving keypoints, and what becomes of it when they move. */
export class FieldFor {
  /**
   * @param {Record<string, Tensor>} made the network's `displacement` and `masks`
   * @param {Float32Array} sourcePoints x_s [K, 2]
   * @param {Float32Array} points driving keypoints x_d [K, 2] that it was made for
   * @param {Float32Array} jacobian
   */
  constructor(made, sourcePoints, points, jacobian) {
    this.sourcePoints = sourcePoints;
    this.points = points;
    this.displacement = /** @type {Float32Array} */ (made.displacement.data);
    this.masks = /** @type {Float32Array} */ (made.masks.data);
    this.count = sourcePoints.length / 2;
    this.terms = this.#termsOf(points, jacobian);
    this.byHead = new Float32Array(PLACES);
    for (let place = 0; place < PLACES; place++) {
      const mask = place * (this.count + 1);
      let sum = 0;
      for (let k = 0; k < LANDMARKS; k++) sum += this.masks[mask + k];
      this.byHead[place] = sum;
    }
  }

  /** How far each place goes with each implicit keypoint [N][F, F]. */
  follows() {
    return Array.from({ length: this.count - LANDMARKS }, (_, n) =>
      Float32Array.from({ length: PLACES }, (_, place) => this.masks[place * (this.count + 1) + LANDMARKS + n]));
  }

  /**
   * Displacement [F, F, 2] for keypoints near those that it was made for.
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
   * How far the face's points are from where they were; the mean, crop units.
   * @param {Float32Array} points
   */
  moved(points) {
    let sum = 0;
    for (let n = 0; n < 2 * LANDMARKS; n += 2) sum += Math.hypot(points[n] - this.points[n], points[n + 1] - this.points[n + 1]);
    return sum / LANDMARKS;
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
}

/** The receiver's motion field of one source picture as the sender follows it. */
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
    this.sourcePoints = sourcePoints;
    this.still = { motion_cue: cue, x_s: floats(sourcePoints, [1, sourcePoints.length / 2, 2]) };
    /** How often the network ran. */
    this.made = 0;
    /** @type {FieldFor | null} */
    this.field = null;
    this.age = 0;
    /** How far each place goes with each implicit keypoint [N][F, F]. @type {Float32Array[]} */
    this.follows = [];
  }

  /** The next frame has a field of its own. */
  reset() {
    this.field = null;
  }

  /**
   * The next frame: one that the field cannot be held over has another made.
   * @param {Float32Array} points driving keypoints [K, 2]
   * @param {Float32Array} jacobian
   */
  async expect(points, jacobian) {
    this.age++;
    if (this.field !== null && this.age <= MOST_HELD && this.field.moved(points) <= HELD_WITHIN) return;
    const made = await this.network.run({
      ...this.still, x_d: this.floats(points, [1, points.length / 2, 2]), jacobian: this.floats(jacobian, [1, 2, 2]),
    }, ["displacement", "masks"]);
    this.made++;
    this.field = new FieldFor(made, this.sourcePoints, points, jacobian);
    this.follows = this.field.follows();
    this.age = 0;
  }

  /**
   * Displacement [F, F, 2] for keypoints near those of the frame.
   * @param {Float32Array} points
   * @param {Float32Array} jacobian
   */
  at(points, jacobian) {
    if (this.field === null) throw new Error("no frame was expected yet");
    return this.field.at(points, jacobian);
  }
}
