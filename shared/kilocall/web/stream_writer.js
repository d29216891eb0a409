// Stream files (.kcs) as they are written, in memory. As `StreamWriter` of `proto/stream_file.py`, without sound.

import { crc32, fromHex, joined } from "./bytes.js";
import { BadInput } from "./errors.js";
import { TimedLayerFrame } from "./layer_frame.js";
import { MOST_PICTURES } from "./limits.js";
import { Double, pack } from "./msgpack.js";
import {
  CAMERA, END, FILE_VERSION, HEADER, INDEX, LAYER, MAGIC, MOTION, PICTURE, PLACE, REFERENCE, TimedPacket, rounded,
} from "./stream_file.js";

/** @typedef {import("./control.js").SourcePicture} SourcePicture */
/** @typedef {import("./motion_packet.js").MotionPacket} MotionPacket */
/** @typedef {import("./stream_file.js").StreamHeader} StreamHeader */

const MOST_INDEX_ENTRIES = 4096;

export class StreamWriter {
  #parts;
  #offset;
  #fps;
  #spacingUs;
  #pictures = 0;
  #lastUs = 0;
  #lastLayerUs = { [LAYER]: 0, [CAMERA]: 0 };
  #endUs = 0;
  /** @type {[timeUs: number, offset: number, frame: number][]} */
  #index = [];

  /** @param {StreamHeader} header */
  constructor(header) {
    this.frames = 0;
    this.#fps = header.fps;
    this.#spacingUs = rounded(1_000_000 * header.fps.denominator, header.fps.numerator);
    this.#parts = [MAGIC, Uint8Array.of(FILE_VERSION >> 8, FILE_VERSION & 255)];
    this.#offset = MAGIC.length + 2;
    this.#put(HEADER, pack([
      header.family, fromHex(header.weightsHash), fromHex(header.codebookHash), header.fps.numerator, header.fps.denominator,
      header.pictureSize, header.frameWidth, header.frameHeight, new Double(header.quality), header.tool, header.frameCount,
      header.durationUs,
    ]));
  }

  /** @param {SourcePicture} picture for the packets that follow */
  addPicture(picture) {
    this.#put(PICTURE, picture.bytes());
    this.#pictures = 1;
  }

  /** @param {SourcePicture} picture a further one of the same speaker; raises BadInput for one too many */
  addReference(picture) {
    if (!(this.#pictures >= 1 && this.#pictures < MOST_PICTURES)) {
      throw new BadInput(`stream holds ${this.#pictures} pictures; a further one needs 1 to ${MOST_PICTURES - 1}`);
    }
    this.#put(REFERENCE, picture.bytes());
    this.#pictures++;
  }

  /** @param {import("./control.js").CropPlace} place where the square lies from now on */
  addPlace(place) {
    this.#put(PLACE, place.bytes());
  }

  /**
   * A motion packet whose first frame is `timeUs` after the stream's start. Times must not go back.
   * @param {number} timeUs
   * @param {MotionPacket} packet
   */
  addPacket(timeUs, packet) {
    if (timeUs < this.#lastUs) throw new BadInput(`packet time is ${timeUs} us, least is ${this.#lastUs}`);
    this.#lastUs = timeUs;
    if (packet.isKey) {
      this.#index.push([timeUs, this.#offset, this.frames]);
      // Seeking gets coarser, memory stays bounded.
      if (this.#index.length > MOST_INDEX_ENTRIES) this.#index = this.#index.filter((_, n) => n % 2 === 0);
    }
    const time = new DataView(new ArrayBuffer(8));
    time.setBigUint64(0, BigInt(timeUs));
    this.#put(MOTION, joined([new Uint8Array(time.buffer, 3), packet.bytes()]));
    this.frames += packet.frameCount;
    const last = new TimedPacket(timeUs, packet).frameTimesUs(this.#fps).at(-1) ?? timeUs;
    this.#endUs = Math.max(this.#endUs, last + this.#spacingUs);
  }

  /**
   * A frame of the video layer, captured `timeUs` after the stream's start. Times must not go back.
   * @param {number} timeUs
   * @param {boolean} key
   * @param {Uint8Array} data
   */
  addLayer(timeUs, key, data) {
    this.#putLayer(LAYER, new TimedLayerFrame(timeUs, key, data));
  }

  /**
   * The camera's whole picture, shown in place of the speaker from `timeUs` on; nothing where the speaker is shown again.
   * Times of pictures must not go back.
   * @param {number} timeUs
   * @param {boolean} key
   * @param {Uint8Array} data
   */
  addCamera(timeUs, key, data) {
    this.#putLayer(CAMERA, new TimedLayerFrame(timeUs, key, data, true));
  }

  /**
   * @param {LAYER | CAMERA} kind
   * @param {TimedLayerFrame} frame
   */
  #putLayer(kind, frame) {
    const leastUs = this.#lastLayerUs[kind];
    if (frame.timeUs < leastUs) throw new BadInput(`layer frame time is ${frame.timeUs} us, least is ${leastUs}`);
    this.#put(kind, frame.bytes());
    if (frame.data.length) this.#lastLayerUs[kind] = frame.timeUs;
  }

  /** The whole file, with index and footer. */
  end() {
    const footer = new DataView(new ArrayBuffer(12));
    footer.setBigUint64(0, BigInt(this.#offset));
    footer.setUint32(8, crc32(new Uint8Array(footer.buffer, 0, 8)));
    this.#put(INDEX, pack([this.frames, this.#endUs, this.#index]));
    return joined([...this.#parts, new Uint8Array(footer.buffer), END]);
  }

  /**
   * @param {number} kind
   * @param {Uint8Array} body
   */
  #put(kind, body) {
    const length = [];
    for (let rest = body.length; rest || !length.length; rest = Math.floor(rest / 128)) {
      length.push((rest % 128) | (rest >= 128 ? 128 : 0));
    }
    const record = joined([Uint8Array.of(kind, ...length), body]);
    const sum = new DataView(new ArrayBuffer(4));
    sum.setUint32(0, crc32(record));
    this.#parts.push(record, new Uint8Array(sum.buffer));
    this.#offset += record.length + 4;
  }
}
