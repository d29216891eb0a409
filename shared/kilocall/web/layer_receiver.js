// The video layer of a live call: fragments in, pictures in the order in which they were coded, and what is missing. As
// `receiver/layer_receiver.py`.

import { LayerDecoder } from "./layer_decoder.js";
import { LAYER_NUMBERS, LayerAssembly } from "./layer_frame.js";
import { TIMES_MS, modulo } from "./motion_packet.js";

/** @typedef {import("./layer_frame.js").LayerFragment} LayerFragment */
/** @typedef {import("./layer_frame.js").LayerFrame} LayerFrame */

/**
 * A frame of the layer, as it came and as it looks.
 * @typedef {{ timeUs: number, key: boolean, data: Uint8Array, picture: import("./pixels.js").Picture, whole: boolean }} DecodedLayer
 * `whole`: it is the camera's whole picture
 */

/**
 * Frames are kept while one before them may still come: messages overtake each other. So many of them, or as many more as lie
 * within two messages of three frames at 25 a second.
 */
const LEAST_AHEAD = 2;
const AHEAD_MS = 240;
const MOST_AHEAD = 16;
/** A key frame is asked for no more often: each takes the rate of a second. */
const KEY_EVERY_US = 1_000_000;

/** Of one connection. */
export class LayerReceiver {
  #assembly = new LayerAssembly();
  #decoder;
  /** @type {Map<number, LayerFrame>} */
  #ahead = new Map();
  /** @type {number | null} */
  #expected = null;
  /** @type {number | null} */
  #askedUs = null;
  #heard = false;

  /**
   * @param {(frame: DecodedLayer) => void} output
   * @param {import("./layer_decoder.js").Codecs} [codecs]
   */
  constructor(output, codecs) {
    this.frames = 0;
    /** Times that a frame was missing. */
    this.lostFrames = 0;
    /** @type {number | null} number of the frame decoded last */
    this.newest = null;
    this.#decoder = /** @type {LayerDecoder<Omit<DecodedLayer, "picture"> & { number: number }>} */ (
      new LayerDecoder(({ number, ...frame }, picture) => {
        this.frames++;
        this.newest = number;
        output({ ...frame, picture });
      }, codecs));
  }

  /** Frames and fragments that made no sense. */
  get refused() {
    return this.#assembly.refused + this.#decoder.refused;
  }

  /**
   * What can be decoded now is told when it is.
   * @param {LayerFragment} fragment
   * @param {number} nearUs a time of about then
   */
  push(fragment, nearUs) {
    this.#heard = true;
    const frame = this.#assembly.add(fragment);
    if (frame === null) return;
    if (frame.key) this.#skipTo(frame.number);
    if (this.#expected === null || !follows(frame.number, this.#expected)) return;
    this.#ahead.set(frame.number, frame);
    if (!this.#ahead.has(this.#expected) && this.#waitedForLong(frame)) {
      // What is missing will not come any more, and nothing behind it can be decoded.
      this.lostFrames++;
      this.#decoder.lost();
      this.#ahead.clear();
      this.#expected = null;
    }
    while (this.#expected !== null) {
      const next = this.#ahead.get(this.#expected);
      if (next === undefined) break;
      this.#ahead.delete(this.#expected);
      this.#expected = (this.#expected + 1) % LAYER_NUMBERS;
      const { number, key, data, whole } = next;
      this.#decoder.push(data, { key, whole, about: { number, key, data, whole, timeUs: next.timeUs(nearUs) } });
    }
  }

  /**
   * Whether to ask for a key frame at this time; not at once, for the first one may be on its way.
   * @param {number} nowUs
   */
  asksForKey(nowUs) {
    if (!this.#heard || !(this.#decoder.needsKey || this.#expected === null)) return false;
    this.#askedUs ??= nowUs;
    if (nowUs - this.#askedUs < KEY_EVERY_US) return false;
    this.#askedUs = nowUs;
    return true;
  }

  /** Nothing is told any more. */
  close() {
    this.#decoder.close();
  }

  /** @param {LayerFrame} newest */
  #waitedForLong(newest) {
    const { size } = this.#ahead;
    const sinceMs = Math.max(...[...this.#ahead.values()].map(({ timeMs }) => modulo(newest.timeMs - timeMs, TIMES_MS)));
    return size > MOST_AHEAD || (size > LEAST_AHEAD && sinceMs >= AHEAD_MS);
  }

  /**
   * Nothing before a key frame is needed.
   * @param {number} number
   */
  #skipTo(number) {
    for (const other of [...this.#ahead.keys()]) if (!follows(other, number)) this.#ahead.delete(other);
    this.#expected = number;
  }
}

/**
 * Whether `number` is `other` or one after it, modulo 256.
 * @param {number} number
 * @param {number} other
 */
function follows(number, other) {
  return modulo(number - other, LAYER_NUMBERS) < LAYER_NUMBERS / 2;
}
