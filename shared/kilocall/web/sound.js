// Speech in a stream file: some packets of Opus (RFC 6716) in a row. As `proto/sound.py`.
//
//   time u40 | skip u16 | for each packet: length LEB128, one packet of Opus

import { unsigned } from "./bytes.js";
import { BadInput } from "./errors.js";

export const SAMPLE_RATE = 48000;
export const MAX_OPUS_BYTES = 1275;
export const MAX_SOUND_PACKETS = 64;
const TIME_BYTES = 5;
const START = TIME_BYTES + 2;

/** Mono speech from `timeUs` after the stream's start on. */
export class SoundPackets {
  /**
   * @param {number} timeUs of the first sample that counts
   * @param {number} skip samples that the first packet begins with and that do not count
   * @param {Uint8Array[]} packets
   */
  constructor(timeUs, skip, packets) {
    this.timeUs = timeUs;
    this.skip = skip;
    this.packets = packets;
    if (packets.length < 1) throw new BadInput(`sound record has no packets, allowed are 1 to ${MAX_SOUND_PACKETS}`);
    for (const { length } of packets) {
      if (length < 1 || length > MAX_OPUS_BYTES) {
        throw new BadInput(`sound packet is ${length} bytes, allowed are 1 to ${MAX_OPUS_BYTES}`);
      }
    }
  }

  /**
   * Raises BadInput for bytes that are none.
   * @param {Uint8Array} body
   */
  static parse(body) {
    if (body.length < START) {
      throw new BadInput(`sound record is ${body.length} bytes, its time and skip need ${START}`);
    }
    /** @type {Uint8Array[]} */
    const packets = [];
    let place = START;
    while (place < body.length && packets.length < MAX_SOUND_PACKETS) {
      let length = body[place++];
      if (length > 127) {
        if (place === body.length) throw new BadInput("sound record is cut inside a length");
        length = length & 127 | body[place++] << 7;
      }
      if (place + length > body.length) {
        throw new BadInput(`sound packet of ${length} bytes is cut after ${body.length - place}`);
      }
      packets.push(body.subarray(place, place + length));
      place += length;
    }
    if (place < body.length) throw new BadInput(`sound record has more than ${MAX_SOUND_PACKETS} packets`);
    return new SoundPackets(unsigned(body.subarray(0, TIME_BYTES)), unsigned(body.subarray(TIME_BYTES, START)), packets);
  }
}
