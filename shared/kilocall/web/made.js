// A picture that motion made, and how: what a frame of the video layer is compared with, and moved by. As `Made` and `Placement`
// of `model/family.py`. The picture that is shown lies on the graphics processor; here it is made once more, at the networks'
// size, and only where it is asked for.

import { copyAt, move, paintedAt, paintedOf, paintedOver } from "./compose.js";

/** @typedef {import("./compose.js").Painted} Painted */

/** What the generator painted of one picture; others are moved on from it. */
export class Paint {
  /** @type {Painted | null} */
  #ready = null;

  /**
   * @param {Uint8Array} pixels [S / 2, S / 2, 16]
   * @param {Float32Array} gate [F, F]
   */
  constructor(pixels, gate) {
    this.pixels = pixels;
    this.gate = gate;
  }

  get ready() {
    this.#ready ??= paintedOf(this.pixels, this.gate);
    return this.#ready;
  }
}

/**
 * What all pictures moved from one have in common.
 * @typedef {object} Origin
 * @property {Uint8ClampedArray} dense [2S, 2S, 4], see `densely`
 * @property {Float32Array} speaking [F, F, 2], see `speakingParts`
 */

export class Made {
  /** Of the picture that it was moved from, where the speaker has several. */
  number = 0;
  #origin;
  #paint;
  #trace;
  #visible;
  /** @type {Painted | null} */
  #painted = null;

  /**
   * @param {() => Origin} origin
   * @param {Float32Array} displacement [F, F, 2] crop units: from each place to where it lies in the source picture
   * @param {{ paint: Paint, visible: Float32Array, trace: Float32Array | null }} how with how far from each place lay, in the
   * picture that this one is moved on from, what was painted and visible of it; null: it is that one
   */
  constructor(origin, displacement, { paint, visible, trace }) {
    this.displacement = displacement;
    this.#origin = origin;
    this.#paint = paint;
    this.#visible = visible;
    this.#trace = trace;
  }

  /** The picture [S, S, 4]. */
  picture() {
    return paintedOver(this.#here(), copyAt(this.#origin().dense, this.displacement));
  }

  /** How much of each pixel was not copied from the source picture [S, S], 0..1. */
  painted() {
    return this.#here().share;
  }

  /** How much of each place the source picture shows [F, F], 0..1. */
  visible() {
    return this.#trace === null ? this.#visible : move(this.#visible, 1, this.#trace, null);
  }

  /** How much of each place is of the mouth, and of the eyes [F, F, 2], 0..1. */
  speaking() {
    return move(this.#origin().speaking, 2, this.displacement, null);
  }

  #here() {
    this.#painted ??= this.#trace === null ? this.#paint.ready : paintedAt(this.#paint.ready, this.#trace);
    return this.#painted;
  }
}
