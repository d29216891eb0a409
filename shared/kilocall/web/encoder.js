// The sender's last stage: motion in, packets out, some frames in each. As `sender/encoder.py`; what makes motion of a tracked
// face is `motion_extractor.js`.

import { MAX_FRAMES } from "./limits.js";
import { toVector } from "./motion.js";
import { MotionEncoder } from "./motion_codec.js";
import { MAX_SPACING_US, MotionPacket } from "./motion_packet.js";

/** @typedef {import("./motion.js").Motion} Motion */
/** @typedef {{ timeUs: number, vector: Float32Array }} Gathered */

/**
 * Motion of one speaker to motion packets; the bytes do not depend on how the frames arrive. With `redundantFrames` a packet
 * begins with up to so many frames of the packets before, as far as those are not known to have arrived.
 */
export class PacketEncoder {
  /**
   * @param {import("./codebook.js").Codebook} codebook
   * @param {object} [options]
   * @param {number} [options.fps]
   * @param {number} [options.quality]
   * @param {number} [options.framesPerPacket]
   * @param {number} [options.keyEveryS]
   * @param {"previous" | "acknowledged"} [options.reference]
   */
  constructor(codebook, { fps = 25, quality = 50, framesPerPacket = 3, keyEveryS = 2, reference = "previous" } = {}) {
    this.framesPerPacket = framesPerPacket;
    this.redundantFrames = 0;
    this.codec = new MotionEncoder(codebook, quality, { reference, keyInterval: Math.max(1, Math.round(keyEveryS * fps)) });
    /** From frame to frame, about; may be changed with the frame rate. */
    this.spacingUs = Math.round(1e6 / fps);
    /** @type {Gathered[]} */
    this.gathered = [];
    /** @type {Gathered[][]} by packet */
    this.before = [];
  }

  /**
   * A packet once `framesPerPacket` frames are gathered.
   * @param {Motion} motion
   * @param {number} captureUs
   * @returns {MotionPacket | null}
   */
  push(motion, captureUs) {
    this.gathered.push({ timeUs: captureUs, vector: toVector(motion) });
    return this.gathered.length >= this.framesPerPacket ? this.flush() : null;
  }

  /**
   * The frames gathered so far as one packet; null if there are none.
   * @returns {MotionPacket | null}
   */
  flush() {
    if (!this.gathered.length) return null;
    const frames = [...this.#repeated(), ...this.gathered];
    this.before.push(this.gathered);
    if (this.before.length > MAX_FRAMES) this.before.shift();
    this.gathered = [];
    const coded = this.codec.encode(frames.map(({ vector }) => vector));
    // A camera's frames do not come at the nominal rate; the packet says how far apart these were.
    const spans = frames.length - 1;
    const [first, last] = [frames[0].timeUs, frames[spans].timeUs];
    return MotionPacket.carry(coded, first, spans ? rounded((last - first) / spans) : this.spacingUs);
  }

  /** Frames of the packets before that belong into the next one. */
  #repeated() {
    const most = Math.min(this.redundantFrames, MAX_FRAMES - this.gathered.length);
    /** @type {Gathered[]} */
    const frames = [];
    if (most <= 0) return frames;
    const back = this.codec.packetsBack;
    const unknown = back === null ? this.before : this.before.slice(Math.max(0, this.before.length - back + 1));
    let nextUs = this.gathered[0].timeUs;
    for (const packet of unknown.toReversed()) {
      for (const one of packet.toReversed()) {
        // Behind a pause the mean spacing would put all at wrong times.
        if (frames.length === most || nextUs - one.timeUs > Math.min(3 * this.spacingUs, MAX_SPACING_US)) {
          return frames.reverse();
        }
        frames.push(one);
        nextUs = one.timeUs;
      }
    }
    return frames.reverse();
  }

  /** Another source picture from the next frame on; what is gathered belongs to the old one: `flush` first. */
  follow() {
    this.before = [];
  }

  /** For a new connection: sequence 0, a key packet next, nothing gathered. The quality stays. */
  restart() {
    [this.gathered, this.before] = [[], []];
    this.codec.reset();
  }
}

/**
 * To the nearest whole number, halves to the even one, as Python does.
 * @param {number} value
 */
function rounded(value) {
  const low = Math.floor(value);
  const part = value - low;
  return part > 0.5 || (part === 0.5 && low % 2) ? low + 1 : low;
}
