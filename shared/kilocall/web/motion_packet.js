// The motion packet: a few frames of coded motion, as one msgpack extension value.
//
//   C7 length 01 | sequence u16 | time u16 | level 4, frames - 1 3, back 6, spacing 11 bits | payload
//
// `proto/wire.md` has an example. As `proto/motion_packet.py`.

import { same } from "./bytes.js";
import { BadPacket, KilocallError } from "./errors.js";
import { HISTORY, LEVELS, MAX_FRAMES, MAX_PAYLOAD_BYTES, PROTOCOL_VERSION, SEQUENCES } from "./limits.js";
import { Extension, packExtension, unpack } from "./msgpack.js";

export const SPACING_UNIT_US = 100;
export const MAX_SPACING_US = 2047 * SPACING_UNIT_US;
/** Packet times count milliseconds modulo this, 65.5 s. */
export const TIMES_MS = 1 << 16;

const FIXED_BYTES = 7;
/** Bytes of a packet beside its payload, for the usual payload of 10 to 248 bytes. */
export const HEADER_BYTES = 3 + FIXED_BYTES;

/**
 * Coded frames as the codec reads them; a MotionPacket has all of it, too.
 * @typedef {object} Coded
 * @property {number} sequence
 * @property {number | null} reference
 * @property {number} level
 * @property {number} frameCount
 * @property {Uint8Array} payload
 */

export class MotionPacket {
  /**
   * Raises BadPacket when a field is out of its range.
   * @param {object} fields
   * @param {number} fields.sequence 0..65535; counts packets and wraps
   * @param {number} fields.timeMs time of the first frame on the sender's clock, milliseconds modulo 65536
   * @param {number} fields.spacingUs from frame to frame, a multiple of 100 up to 204700; 0 only for one frame
   * @param {number} fields.frameCount 1..8
   * @param {number | null} fields.reference packet that the first frame is predicted from, 1..63 back; null: key
   * @param {number} fields.level 0..8
   * @param {Uint8Array} fields.payload range-coded motion
   */
  constructor({ sequence, timeMs, spacingUs, frameCount, reference, level, payload }) {
    this.sequence = sequence;
    this.timeMs = timeMs;
    this.spacingUs = spacingUs;
    this.frameCount = frameCount;
    this.reference = reference;
    this.level = level;
    this.payload = payload;
    check("sequence", sequence, 0, SEQUENCES - 1);
    check("timeMs", timeMs, 0, TIMES_MS - 1);
    check("frameCount", frameCount, 1, MAX_FRAMES);
    check("level", level, 0, LEVELS - 1);
    check("spacingUs", spacingUs, frameCount === 1 ? 0 : SPACING_UNIT_US, MAX_SPACING_US);
    if (spacingUs % SPACING_UNIT_US) {
      throw new BadPacket(`motion packet spacingUs is ${spacingUs}, not a multiple of ${SPACING_UNIT_US}`);
    }
    if (reference !== null) {
      check("reference", reference, 0, SEQUENCES - 1);
      check("reference's distance", this.back, 1, HISTORY - 1);
    }
    if (payload.length > MAX_PAYLOAD_BYTES) {
      throw new BadPacket(`motion packet payload is ${payload.length} bytes, most is ${MAX_PAYLOAD_BYTES}`);
    }
  }

  /**
   * A packet for coded frames, the first captured at `timeUs`; times are rounded to fit.
   * @param {Coded} coded
   * @param {number} timeUs
   * @param {number} spacingUs
   */
  static carry({ sequence, reference, level, frameCount, payload }, timeUs, spacingUs) {
    const units = Math.floor((spacingUs + SPACING_UNIT_US / 2) / SPACING_UNIT_US);
    const fitting = Math.max(1, Math.min(units, MAX_SPACING_US / SPACING_UNIT_US)) * SPACING_UNIT_US;
    return new MotionPacket({
      sequence, reference, level, frameCount, payload,
      timeMs: wireTimeMs(timeUs),
      spacingUs: frameCount === 1 ? 0 : fitting,
    });
  }

  /** Whether the packet can be decoded without any other. */
  get isKey() {
    return this.reference === null;
  }

  /** How many packets back the reference is; 0 for a key packet. */
  get back() {
    return this.reference === null ? 0 : modulo(this.sequence - this.reference, SEQUENCES);
  }

  /**
   * Time of the first frame in full: the moment nearest to `nearUs` that ends in `timeMs`.
   * @param {number} nearUs
   */
  timeUs(nearUs) {
    return timeInFullUs(this.timeMs, nearUs);
  }

  /**
   * Times of all frames in full, see `timeUs`.
   * @param {number} nearUs
   */
  frameTimesUs(nearUs) {
    const first = this.timeUs(nearUs);
    return Array.from({ length: this.frameCount }, (_, index) => first + index * this.spacingUs);
  }

  /** What goes on the wire; `parse` is its inverse. */
  bytes() {
    const body = new Uint8Array(FIXED_BYTES + this.payload.length);
    const view = new DataView(body.buffer);
    const low = this.back << 11 | this.spacingUs / SPACING_UNIT_US;
    const bits = this.level << 20 | (this.frameCount - 1) << 17 | low;
    view.setUint16(0, this.sequence);
    view.setUint16(2, this.timeMs);
    view.setUint8(4, bits >> 16);
    view.setUint16(5, bits & 0xffff);
    body.set(this.payload, FIXED_BYTES);
    return packExtension(PROTOCOL_VERSION, body);
  }

  /**
   * Reads one packet that fills `data` exactly. Raises BadPacket with the reason.
   * @param {Uint8Array} data
   */
  static parse(data) {
    const most = HEADER_BYTES + 2 + MAX_PAYLOAD_BYTES;
    if (data.length > most) throw new BadPacket(`motion packet is ${data.length} bytes, most is ${most}`);
    const value = unpacked(data, most);
    if (!(value instanceof Extension)) throw new BadPacket("motion packet is not a msgpack extension value");
    if (value.code !== PROTOCOL_VERSION) {
      const reads = `this side reads ${PROTOCOL_VERSION}`;
      throw new BadPacket(`motion packet has protocol version ${value.code}, ${reads}`);
    }
    const body = value.data;
    if (body.length < FIXED_BYTES) {
      throw new BadPacket(`motion packet body is ${body.length} bytes, its header needs ${FIXED_BYTES}`);
    }
    const view = new DataView(body.buffer, body.byteOffset, body.length);
    const sequence = view.getUint16(0);
    const bits = view.getUint8(4) << 16 | view.getUint16(5);
    const back = bits >> 11 & 63;
    const packet = new MotionPacket({
      sequence,
      timeMs: view.getUint16(2),
      spacingUs: (bits & 2047) * SPACING_UNIT_US,
      frameCount: (bits >> 17 & 7) + 1,
      reference: back ? modulo(sequence - back, SEQUENCES) : null,
      level: bits >> 20,
      payload: body.subarray(FIXED_BYTES),
    });
    if (!same(packet.bytes(), data)) throw new BadPacket("motion packet states its length in more bytes than it needs");
    return packet;
  }
}

/**
 * @param {Uint8Array} data
 * @param {number} most
 */
function unpacked(data, most) {
  try {
    return unpack(data, { mostArray: 0, mostExtension: most });
  } catch (error) {
    if (!(error instanceof KilocallError)) throw error;
    throw new BadPacket(`motion packet of ${data.length} bytes is not one msgpack value: ${error.message}`);
  }
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

/**
 * A capture time as a packet has it: rounded to milliseconds, modulo TIMES_MS.
 * @param {number} timeUs
 */
export function wireTimeMs(timeUs) {
  return modulo(Math.floor((timeUs + 500) / 1000), TIMES_MS);
}

/**
 * The moment nearest to `nearUs` that ends in `timeMs`.
 * @param {number} timeMs milliseconds modulo 65536
 * @param {number} nearUs
 */
export function timeInFullUs(timeMs, nearUs) {
  const nearMs = Math.floor(nearUs / 1000);
  const ahead = modulo(timeMs - nearMs + TIMES_MS / 2, TIMES_MS) - TIMES_MS / 2;
  return (nearMs + ahead) * 1000;
}

/**
 * The rest of a division that is never negative.
 * @param {number} value
 * @param {number} by
 */
export function modulo(value, by) {
  return ((value % by) + by) % by;
}
