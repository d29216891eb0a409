// Packets to motion: the receiver's first stage. As `receiver/decode.py`.

import { BadPacket } from "./errors.js";
import { MotionDecoder } from "./motion_codec.js";

/** @typedef {import("./motion_packet.js").MotionPacket} MotionPacket */

/** A packet that cannot be decoded is counted, its reason kept, and nothing comes of it: what was shown stays. */
export class PacketDecoder {
  /** @param {import("./codebook.js").Codebook} codebook */
  constructor(codebook) {
    this.codec = new MotionDecoder(codebook);
    this.dropped = 0;
    /** @type {string | null} */
    this.lastProblem = null;
  }

  /** For a new stream, or after seeking. */
  reset() {
    this.codec.reset();
  }

  /**
   * The motion vectors of its frames; none where it cannot be decoded.
   * @param {MotionPacket} packet
   * @returns {Float32Array[]}
   */
  push(packet) {
    try {
      return this.codec.decode(packet);
    } catch (error) {
      if (!(error instanceof BadPacket)) throw error;
      this.dropped++;
      this.lastProblem = error.message;
      return [];
    }
  }
}
