// Motion vectors to packet payloads and back. As `codec/motion_codec.py`, which says how motion is coded.

import {
  ACTIVITY_CLASSES, ESCAPE, KINDS, LARGEST, NEIGHBOUR_CLASSES, contextIndex, levelOfQuality, rescale,
} from "./codebook.js";
import { BadInput, BadPacket } from "./errors.js";
import { HISTORY, LEVELS, MAX_FRAMES, MAX_PAYLOAD_BYTES, SEQUENCES } from "./limits.js";
import { modulo } from "./motion_packet.js";
import { RangeDecoder, RangeEncoder, rawInterval } from "./range_coder.js";

/** @typedef {import("./codebook.js").Codebook} Codebook */
/** @typedef {import("./motion_packet.js").Coded} Coded */
/** @typedef {{ level: number, values: number[], activity: number[] }} FrameState what a packet's end leaves behind */

/** @typedef {import("./range_coder.js").Interval} Interval */

const INT16 = 32767;
export const STILL = 0.6;
export const THRIFT = 0.1;
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

/** Turns motion vectors into packet payloads. */
export class MotionEncoder {
  /**
   * @param {Codebook} codebook shared with the receiver
   * @param {number} [quality] 0..100; 50 codes with the codebook's base steps
   * @param {object} [options]
   * @param {"previous" | "acknowledged"} [options.reference] predict from the packet before (reliable links), or from the
   * newest one that `acknowledge` named; until then, key packets
   * @param {number | null} [options.keyInterval] frames after which the next packet is a key packet; null for never
   * @param {number} [options.thrift] squared steps of error that a saved bit may cost
   * @param {number} [options.still] a coefficient keeps its integer while within this many steps of it
   */
  constructor(codebook, quality = 50, { reference = "previous", keyInterval = null, thrift = THRIFT, still = STILL } = {}) {
    this.codebook = codebook;
    this.referenceMode = reference;
    this.keyInterval = keyInterval;
    this.thrift = thrift / 256; // prices are in 1/256 bit
    this.still = still;
    this.tables = tablesOf(codebook);
    this.costs = codebook.costs;
    this.level = levelOfQuality(quality);
    /** @type {Map<number, FrameState>} */
    this.held = new Map();
    this.nextSequence = 0;
    /** @type {number | null} */
    this.reference = null;
    this.framesSinceKey = 0;
  }

  /** How many packets back the next packet's reference will be; null: it will be a key packet. */
  get packetsBack() {
    const reference = this.#usableReference(this.nextSequence);
    return reference === null ? null : modulo(this.nextSequence - reference, SEQUENCES);
  }

  /** Back to the beginning: sequence 0, nothing held, a key packet next. The quality stays. */
  reset() {
    this.held.clear();
    [this.nextSequence, this.reference, this.framesSinceKey] = [0, null, 0];
  }

  /**
   * Changes the level from the next packet on; needs no key packet.
   * @param {number} quality
   */
  setQuality(quality) {
    this.level = levelOfQuality(quality);
  }

  /**
   * The receiver has decoded this packet. Unknown, old and repeated numbers change nothing.
   * @param {number} sequence
   */
  acknowledge(sequence) {
    if (this.referenceMode !== "acknowledged" || !this.held.has(sequence)) return;
    const ahead = modulo(sequence - (this.reference ?? sequence - 1), SEQUENCES);
    if (ahead === 0 || ahead >= SEQUENCES / 2) return;
    this.reference = sequence;
    for (const old of this.held.keys()) {
      if (old === sequence) break;
      this.held.delete(old);
    }
  }

  /**
   * Codes frames [n][D], n 1..8, as one packet. Raises BadInput for a wrong shape or unusable value.
   * @param {ArrayLike<number>[]} vectors
   * @returns {Coded}
   */
  encode(vectors) {
    const { codebook, level } = this;
    const scaled = this.#scaled(vectors);
    const sequence = this.nextSequence;
    const reference = this.#usableReference(sequence);
    const held = reference === null ? null : /** @type {FrameState} */ (this.held.get(reference));
    const kind = reference === null ? 0 : kindOf(modulo(sequence - reference, SEQUENCES), scaled.length);
    const start = new FrameStart(codebook, level, held, kind);
    const coder = new RangeEncoder();
    for (const frame of scaled) {
      this.#encodeFrame(frame, start, coder);
      start.kind = 1;
    }
    if (this.referenceMode === "previous") {
      this.held.clear();
      this.reference = sequence;
    }
    this.held.set(sequence, { level, values: start.values, activity: start.activity });
    for (const old of this.held.keys()) {
      if (this.held.size <= HISTORY) break;
      this.held.delete(old);
    }
    this.nextSequence = (sequence + 1) % SEQUENCES;
    this.framesSinceKey = scaled.length + (reference === null ? 0 : this.framesSinceKey);
    return { sequence, reference, level, frameCount: scaled.length, payload: coder.finish() };
  }

  /** @param {number} sequence */
  #usableReference(sequence) {
    const { reference, keyInterval } = this;
    if (reference === null || !this.held.has(reference)) return null;
    if (keyInterval !== null && (this.framesSinceKey) >= keyInterval) return null;
    return modulo(sequence - reference, SEQUENCES) < HISTORY ? reference : null;
  }

  /** @param {ArrayLike<number>[]} vectors */
  #scaled(vectors) {
    const { coefficients } = this.codebook;
    if (vectors.length < 1 || vectors.length > MAX_FRAMES || vectors.some(({ length }) => length !== coefficients)) {
      throw new BadInput(`motion is ${vectors.length} frames, allowed are 1 to ${MAX_FRAMES} of ${coefficients} numbers`);
    }
    const steps = this.codebook.steps(this.level);
    return vectors.map((vector) => Array.from(vector, (value, index) => {
      const scaled = Math.fround(value) / steps[index];
      if (Math.abs(scaled) <= INT16) return scaled;
      throw new BadInput(`motion coefficient ${index} is ${value}, largest is ${INT16} steps`);
    }));
  }

  /**
   * @param {number[]} frame
   * @param {FrameStart} start moves on to the frame
   * @param {RangeEncoder} coder
   */
  #encodeFrame(frame, start, coder) {
    const { values, activity, kind } = start;
    const { cumulative, shifts } = this.codebook;
    const tables = this.tables[kind];
    const still = kind ? this.still : 0.5;
    let neighbours = 0;
    frame.forEach((wanted, index) => {
      const table = tables[NEIGHBOUR_CLASS[neighbours]][ACTIVITY_CLASS[activity[index]]][index];
      const off = wanted - values[index];
      const residual = off >= -still && off <= still ? 0 : chosen(off, this.costs[table], shifts[table], this.thrift);
      encodeResidual(coder, residual, cumulative[table], shifts[table]);
      const size = Math.min(Math.abs(residual), LARGEST);
      values[index] += residual;
      neighbours = (3 * neighbours >> 2) + 4 * size;
      if (kind) activity[index] = (3 * activity[index] + 16 * size) >> 2;
    });
  }
}

/**
 * The residual with the least squared error plus price: the nearest, one nearer to zero, or zero.
 * @param {number} off
 * @param {number[]} costs
 * @param {number} shift
 * @param {number} thrift
 */
function chosen(off, costs, shift, thrift) {
  const nearest = Math.sign(off) * Math.floor(Math.abs(off) + 0.5);
  if (!nearest) return 0;
  let best = 0;
  let least = 0;
  for (const residual of [nearest, nearest - Math.sign(nearest), 0]) {
    const symbol = ((residual + (1 << shift >> 1)) >> shift) + LARGEST;
    const price = costs[symbol >= 0 && symbol < ESCAPE ? symbol : ESCAPE];
    const loss = (off - residual) ** 2 + thrift * price;
    if (residual === nearest || loss < least) [best, least] = [residual, loss];
  }
  return best;
}

/**
 * A residual by its symbol and raw low bits, or one beyond the symbols: escape, sign, length, digits.
 * @param {RangeEncoder} coder
 * @param {number} residual
 * @param {Int32Array} sums
 * @param {number} shift
 */
function encodeResidual(coder, residual, sums, shift) {
  const lifted = residual + (1 << shift >> 1);
  const high = lifted >> shift;
  const escaped = high < -LARGEST || high > LARGEST;
  const symbol = escaped ? ESCAPE : high + LARGEST;
  coder.encode([sums[symbol], sums[symbol + 1] - sums[symbol]]);
  if (escaped) {
    const beyond = Math.abs(high) - LARGEST; // 1..65535
    const digits = 31 - Math.clz32(beyond);
    coder.encode(rawInterval((high < 0 ? 16 : 0) | digits, 5));
    coder.encode(rawInterval(beyond - (1 << digits), digits));
  }
  if (escaped || shift) coder.encode(rawInterval(lifted & ((1 << shift) - 1), shift));
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
