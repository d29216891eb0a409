// Packet payloads to motion vectors. As the decoder of `codec/motion_codec.py`, which says how motion is coded.

import { ACTIVITY_CLASSES, ESCAPE, KINDS, LARGEST, NEIGHBOUR_CLASSES, contextIndex, rescale } from "./codebook.js";
import { BadPacket } from "./errors.js";
import { HISTORY, LEVELS, MAX_FRAMES, MAX_PAYLOAD_BYTES, SEQUENCES } from "./limits.js";
import { modulo } from "./motion_packet.js";
import { RangeDecoder } from "./range_coder.js";

/** @typedef {import("./codebook.js").Codebook} Codebook */
/** @typedef {import("./motion_packet.js").Coded} Coded */
/** @typedef {{ level: number, values: number[], activity: number[] }} FrameState what a packet's end leaves behind */

const INT16 = 32767;
const ACTIVITY_AFTER_KEY = 6;

// Activity is a running mean of 16 * |residual| over about four frames, so at most 16 * LARGEST.
export const ACTIVITY_CLASS = classes([1, 2, 4, 8, 14, 24, 40]);
// Neighbours: a decaying sum of 4 * |residual| over about four coefficients.
export const NEIGHBOUR_CLASS = classes([1, 4, 9, 16, 28]);

/**
 * Class of each integer up to 16 * LARGEST: how many edges it has reached.
 * @param {number[]} edges
 */
function classes(edges) {
  return Uint8Array.from({ length: 16 * LARGEST + 1 }, (_, value) => edges.filter((edge) => value >= edge).length);
}

/**
 * Distance class of the first frame of a predicted packet: 1 to KINDS - 1.
 * @param {number} packetsBack
 * @param {number} frameCount
 */
export function kindOf(packetsBack, frameCount) {
  const distance = (packetsBack - 1) * frameCount + 1;
  return distance === 1 ? 1 : distance === 2 ? 2 : distance <= 4 ? 3 : distance <= 8 ? 4 : KINDS - 1;
}

/** What the next frame is predicted from. */
class FrameStart {
  /**
   * @param {Codebook} codebook
   * @param {number} level
   * @param {FrameState | null} held
   * @param {number} kind
   */
  constructor(codebook, level, held, kind) {
    this.kind = kind;
    if (held === null) {
      this.values = codebook.meanAt(level);
      this.activity = new Array(codebook.coefficients).fill(ACTIVITY_AFTER_KEY);
      return;
    }
    const bounded = (/** @type {number} */ value) => Math.max(-INT16, Math.min(INT16, value));
    const { level: from, values } = held;
    this.values = values.map((value) => (from === level ? value : bounded(rescale(value, from, level))));
    this.activity = [...held.activity];
  }
}

/** Turns packets into motion vectors. Remembers the last HISTORY packets it decoded. */
export class MotionDecoder {
  /** @param {Codebook} codebook */
  constructor(codebook) {
    this.codebook = codebook;
    this.tables = tablesOf(codebook);
    /** @type {Map<number, FrameState>} */
    this.held = new Map();
  }

  /** Forgets every packet: for a new sender, or after seeking. */
  reset() {
    this.held.clear();
  }

  /**
   * The frames [n][D] of a packet. Raises BadPacket with the reason; then it leaves no trace.
   * @param {Coded} packet
   * @returns {Float32Array[]}
   */
  decode(packet) {
    const { sequence, reference, level, frameCount, payload } = packet;
    check("level", level, 0, LEVELS - 1);
    check("number of frames", frameCount, 1, MAX_FRAMES);
    check("sequence", sequence, 0, SEQUENCES - 1);
    check("payload's size", payload.length, 0, MAX_PAYLOAD_BYTES);
    /** @type {FrameState | null} */
    let held = null;
    let kind = 0;
    if (reference !== null) {
      const back = modulo(sequence - reference, SEQUENCES);
      check("reference's distance", back, 1, HISTORY - 1);
      held = this.held.get(reference) ?? null;
      if (held === null) {
        throw new BadPacket(`motion packet ${sequence} refers to packet ${reference}, which is not held`);
      }
      kind = kindOf(back, frameCount);
    }
    const start = new FrameStart(this.codebook, level, held, kind);
    const coder = new RangeDecoder(payload);
    const frames = [];
    for (let n = 0; n < frameCount; n++) {
      this.#decodeFrame(coder, start);
      frames.push([...start.values]);
      start.kind = 1;
    }
    coder.checkEnd();
    this.held.delete(sequence);
    this.held.set(sequence, { level, values: start.values, activity: start.activity });
    for (const old of this.held.keys()) {
      if (this.held.size <= HISTORY) break;
      this.held.delete(old);
    }
    const steps = this.codebook.steps(level);
    return frames.map((frame) => steps.map((step, index) => step * frame[index]));
  }

  /**
   * @param {RangeDecoder} coder
   * @param {FrameStart} start
   */
  #decodeFrame(coder, start) {
    const { values, activity, kind } = start;
    const { cumulative, shifts } = this.codebook;
    const tables = this.tables[kind];
    let neighbours = 0;
    for (let index = 0; index < values.length; index++) {
      const table = tables[NEIGHBOUR_CLASS[neighbours]][ACTIVITY_CLASS[activity[index]]][index];
      let residual = coder.decode(cumulative[table]) - LARGEST;
      if (shifts[table] || residual === ESCAPE - LARGEST) residual = decodeWide(coder, residual, shifts[table]);
      let size = 0;
      if (residual) {
        const value = (values[index] += residual);
        if (Math.abs(value) > INT16) {
          throw new BadPacket(`motion coefficient ${index} is ${value} steps, largest is ${INT16}`);
        }
        size = Math.min(Math.abs(residual), LARGEST);
      }
      neighbours = (3 * neighbours >> 2) + 4 * size;
      if (kind) activity[index] = (3 * activity[index] + 16 * size) >> 2;
    }
  }
}

/**
 * The codebook's maps: [kind][neighbour class][activity class][coefficient] -> table.
 * @param {Codebook} codebook
 */
function tablesOf({ tableOf, coefficients }) {
  const row = (/** @type {number} */ context) => tableOf.subarray(context * coefficients, (context + 1) * coefficients);
  return Array.from({ length: KINDS }, (_, kind) =>
    Array.from({ length: NEIGHBOUR_CLASSES }, (_, neighbour) =>
      Array.from({ length: ACTIVITY_CLASSES }, (_, activity) => row(contextIndex(kind, activity, neighbour)))));
}

/**
 * A residual of a table with raw low bits, or one beyond the symbols: escape, sign, length, digits.
 * @param {RangeDecoder} coder
 * @param {number} high the symbol already read, minus LARGEST
 * @param {number} shift
 */
function decodeWide(coder, high, shift) {
  if (high === ESCAPE - LARGEST) {
    const head = coder.decodeRaw(5);
    const digits = head & 15;
    const beyond = (1 << digits) + coder.decodeRaw(digits) + LARGEST;
    high = head >> 4 ? -beyond : beyond;
  }
  return high * 2 ** shift + coder.decodeRaw(shift) - (1 << shift >> 1);
}

/**
 * @param {string} name
 * @param {number} value
 * @param {number} least
 * @param {number} most
 */
function check(name, value, least, most) {
  if (value >= least && value <= most) return;
  throw new BadPacket(`motion packet ${name} is ${value}, allowed is ${least} to ${most}`);
}
