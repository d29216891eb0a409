// What coded motion costs on the wire, headers included; `proto/wire_cost.py` says how that was measured.

import { HEADER_BYTES } from "./motion_packet.js";

const MESSAGE_OVERHEAD_BYTES = 85;

/**
 * Bits a second of IPv4 packets from sender to receiver.
 * @param {number} bitsPerFrame on average
 * @param {number} fps
 * @param {number} framesPerPacket
 */
export function forwardBps(bitsPerFrame, fps, framesPerPacket) {
  const payload = bitsPerFrame * framesPerPacket / 8;
  // Sizes vary from packet to packet, so that padding costs its mean of 1.5 bytes.
  const forward = HEADER_BYTES + payload + 1.5 + MESSAGE_OVERHEAD_BYTES;
  return 8 * forward * (fps / framesPerPacket);
}
