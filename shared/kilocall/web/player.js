// Plays a stream on its own clock: which frame is due, and who makes it. As `receiver/playback.py`: a slow computer
// costs frames and never time.

import { BadPacket } from "./errors.js";
import { MotionDecoder } from "./motion_codec.js";
import { TimedPacket } from "./stream_file.js";

/** @typedef {import("./codebook.js").Codebook} Codebook */
/** @typedef {import("./stream_file.js").StreamReader} StreamReader */
/** @typedef {{ timeUs: number, vector: Float32Array }} TimedMotion */

/** Motion is decoded and not shown up to this far; a jump over more starts at a key packet. */
const SKIM_US = 2_000_000;

/** A stream's motion, from any time on. */
export class ReplayStream {
  /**
   * @param {StreamReader} reader
   * @param {Codebook} codebook
   */
  constructor(reader, codebook) {
    this.reader = reader;
    this.decoder = new MotionDecoder(codebook);
    /** Packets that could not be decoded. */
    this.dropped = 0;
  }

  /**
   * From the key packet at or before `fromUs` on; a new call ends the one before.
   * @param {number} fromUs
   * @returns {Generator<TimedMotion>}
   */
  *motions(fromUs = 0) {
    this.decoder.reset();
    for (const record of this.reader.records(this.reader.seek(fromUs)?.offset)) {
      if (!(record instanceof TimedPacket)) continue;
      const vectors = this.#decoded(record);
      const times = record.frameTimesUs(this.reader.header.fps);
      for (const [n, vector] of vectors.entries()) yield { timeUs: times[n], vector };
    }
  }

  /** @param {TimedPacket} record */
  #decoded({ packet }) {
    try {
      return this.decoder.decode(packet);
    } catch (error) {
      if (!(error instanceof BadPacket)) throw error;
      this.dropped++;
      return [];
    }
  }
}

/** Where in the stream the viewer is. All times in microseconds; the clock is given with every call. */
export class Playhead {
  /** @param {number} durationUs */
  constructor(durationUs) {
    this.durationUs = durationUs;
    this.playing = false;
    this.loop = false;
    this.speed = 1;
    this.fromUs = 0;
    this.sinceUs = 0;
  }

  /**
   * Stream time, from 0 to the end.
   * @param {number} nowUs
   */
  position(nowUs) {
    const ahead = this.playing ? Math.round((nowUs - this.sinceUs) * this.speed) : 0;
    return Math.min(this.fromUs + ahead, this.durationUs);
  }

  /**
   * From the beginning if it stands at the end.
   * @param {number} nowUs
   */
  play(nowUs) {
    const start = this.position(nowUs);
    this.fromUs = start >= this.durationUs ? 0 : start;
    this.sinceUs = nowUs;
    this.playing = true;
  }

  /** @param {number} nowUs */
  pause(nowUs) {
    this.fromUs = this.position(nowUs);
    this.playing = false;
  }

  /**
   * @param {number} timeUs
   * @param {number} nowUs
   */
  seek(timeUs, nowUs) {
    this.fromUs = Math.max(0, Math.min(timeUs, this.durationUs));
    this.sinceUs = nowUs;
  }

  /**
   * @param {number} speed times real time
   * @param {number} nowUs
   */
  setSpeed(speed, nowUs) {
    this.seek(this.position(nowUs), nowUs);
    this.speed = speed;
  }

  /**
   * At the end: begins again when it loops, otherwise stops. Whether it did either.
   * @param {number} nowUs
   */
  turnAtEnd(nowUs) {
    if (!this.playing || this.position(nowUs) < this.durationUs) return false;
    if (this.loop) this.seek(0, nowUs);
    else this.pause(nowUs);
    return true;
  }
}

/** The frame that is on screen at a stream time. Going on is cheap; going back starts at a key packet. */
export class FrameCursor {
  /** @param {ReplayStream} replay */
  constructor(replay) {
    this.replay = replay;
    this.keys = replay.reader.index.map((entry) => entry.timeUs);
    /** @type {Iterator<TimedMotion> | null} */
    this.ahead = null;
    /** @type {TimedMotion | null} */
    this.current = null;
    /** @type {TimedMotion | null} */
    this.next = null;
    /** Counts the times that frames were left out by a jump. */
    this.jumps = 0;
  }

  /**
   * @param {number} timeUs
   * @returns {TimedMotion | null}
   */
  at(timeUs) {
    if (this.ahead === null || this.current === null || this.#mustJump(this.current.timeUs, timeUs)) {
      this.ahead = this.replay.motions(timeUs);
      this.jumps++;
      this.current = this.#taken();
      this.next = this.#taken();
    }
    while (this.next !== null && this.next.timeUs <= timeUs) {
      this.current = this.next;
      this.next = this.#taken();
    }
    return this.current;
  }

  #taken() {
    const { done, value } = /** @type {Iterator<TimedMotion>} */ (this.ahead).next();
    return done ? null : value;
  }

  /**
   * @param {number} fromUs
   * @param {number} toUs
   */
  #mustJump(fromUs, toUs) {
    // Before the very first frame there is nothing to go back to.
    if (toUs < fromUs) return this.keys.length > 0 && fromUs > this.keys[0];
    if (toUs - fromUs <= SKIM_US) return false;
    return this.#keysBefore(toUs) > this.#keysBefore(fromUs);
  }

  /** @param {number} timeUs */
  #keysBefore(timeUs) {
    return this.keys.filter((key) => key <= timeUs).length;
  }
}

/**
 * Time of every packet, with its payload bits a frame and its number of frames.
 * @param {StreamReader} reader
 */
export function bitsByTime(reader) {
  return Array.from(reader.packets(), ({ timeUs, packet: { payload, frameCount } }) =>
    ({ timeUs, bits: (8 * payload.length) / frameCount, frames: frameCount }));
}
