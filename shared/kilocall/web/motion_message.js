// What one message of the data channel `motion` holds: a motion packet, and behind it fragments of the layer.
//
// A message without fragments is the motion packet, byte for byte. As `proto/motion_message.py`.

import { joined } from "./bytes.js";
import { BadPacket } from "./errors.js";
import { LayerFragment, MAX_FRAGMENTS } from "./layer_frame.js";
import { MAX_PAYLOAD_BYTES } from "./limits.js";
import { HEADER_BYTES, MotionPacket } from "./motion_packet.js";

/**
 * Most bytes of a message with fragments: what SCTP sends as one DATA chunk. A longer one would be cut in two IP packets, and
 * be lost with either, its motion too.
 */
export const MAX_LAYERED_BYTES = 1100;

/** Bytes of an extension value's body by its first byte, where that is fixed, and otherwise of its length. */
const FIXED_BODIES = new Map([[0xd4, 1], [0xd5, 2], [0xd6, 4], [0xd7, 8], [0xd8, 16]]);
const LENGTH_BYTES = new Map([[0xc7, 1], [0xc8, 2], [0xc9, 4]]);

export class MotionMessage {
  /**
   * Raises BadPacket for too many fragments or bytes.
   * @param {MotionPacket} packet
   * @param {readonly LayerFragment[]} [fragments] at most MAX_FRAGMENTS, of one or more layer frames
   */
  constructor(packet, fragments = []) {
    this.packet = packet;
    this.fragments = fragments;
    if (!fragments.length) return;
    if (fragments.length > MAX_FRAGMENTS) {
      throw new BadPacket(`motion message has ${fragments.length} layer fragments, most is ${MAX_FRAGMENTS}`);
    }
    checkSize(this.bytes().length);
  }

  /** What goes on the wire; `parse` is its inverse. */
  bytes() {
    return joined([this.packet.bytes(), ...this.fragments.map((fragment) => fragment.bytes())]);
  }

  /**
   * Reads one message that fills `data` exactly. Raises BadPacket with the reason.
   * @param {Uint8Array} data
   */
  static parse(data) {
    const most = HEADER_BYTES + 2 + MAX_PAYLOAD_BYTES;
    if (data.length > most) throw new BadPacket(`motion message is ${data.length} bytes, most is ${most}`);
    const end = packetEnd(data);
    if (end < data.length) checkSize(data.length);
    return new MotionMessage(MotionPacket.parse(data.subarray(0, end)), LayerFragment.parseRun(data.subarray(end)));
  }
}

/**
 * Where the extension value ends that `data` begins with; the end of `data` where it is none or cut.
 * @param {Uint8Array} data
 */
function packetEnd(data) {
  const fixed = FIXED_BODIES.get(data[0]);
  if (fixed !== undefined) return Math.min(2 + fixed, data.length);
  const size = LENGTH_BYTES.get(data[0]);
  if (size === undefined || data.length < 1 + size) return data.length;
  const length = data.subarray(1, 1 + size).reduce((value, byte) => value * 256 + byte, 0);
  return Math.min(2 + size + length, data.length);
}

/** @param {number} size */
function checkSize(size) {
  if (size > MAX_LAYERED_BYTES) {
    throw new BadPacket(`motion message with layer fragments is ${size} bytes, most is ${MAX_LAYERED_BYTES}`);
  }
}
