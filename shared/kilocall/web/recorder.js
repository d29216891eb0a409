// Records what is received as a stream file that the browser saves. As `call/recording.py`, without the speech, whose packets
// a browser keeps to itself.

import { CropPlace } from "./control.js";
import { LEVELS, MOST_PICTURES } from "./limits.js";
import { MotionEncoder } from "./motion_codec.js";
import { MotionPacket } from "./motion_packet.js";
import { StreamHeader } from "./stream_file.js";
import { StreamWriter } from "./stream_writer.js";

/** @typedef {import("./codebook.js").Codebook} Codebook */
/** @typedef {import("./control.js").Hello} Hello */
/** @typedef {import("./control.js").SourcePicture} SourcePicture */

const KEY_EVERY_FRAMES = 50;

/**
 * What a packet adds to what was shown before, as decoded, when the first of it is shown.
 * @typedef {object} Played
 * @property {number} timeUs
 * @property {number} level
 * @property {number} spacingUs
 * @property {Float32Array[]} vectors
 */

/** The motion is coded anew, exactly, because the received packets refer to others that were sent before. */
export class Recorder {
  #codec;
  #writer;
  /** @type {Set<string>} */
  #further = new Set();
  /** @type {number | null} */
  #startUs = null;
  #lastUs = 0;
  /** Time of the layer frame written last; null: none that another could refer to. @type {number | null} */
  #layerUs = null;

  /**
   * @param {Codebook} codebook
   * @param {Hello} hello this side's: both have the same networks
   * @param {SourcePicture} picture that is moved
   * @param {Iterable<SourcePicture>} further of the same speaker, held when the recording begins
   */
  constructor(codebook, hello, picture, further) {
    const size = hello.pictureSize;
    // Integers decoded from the call are met exactly by an encoder that neither rounds nor saves.
    this.#codec = new MotionEncoder(codebook, 50, { keyInterval: KEY_EVERY_FRAMES, thrift: 0, still: 0.5 });
    this.#writer = new StreamWriter(new StreamHeader({
      family: hello.family, weightsHash: hello.weightsHash, codebookHash: hello.codebookHash,
      fps: { numerator: 25, denominator: 1 }, pictureSize: size, frameWidth: size, frameHeight: size, quality: 50,
      tool: "kilocall in a browser", frameCount: null, durationUs: null,
    }));
    this.#writer.addPicture(picture);
    for (const one of further) this.addPicture(one);
    this.#writer.addPlace(new CropPlace(0, 0, 0, size, size, size));
  }

  get frames() {
    return this.#writer.frames;
  }

  /** @param {Played} played */
  addMotion({ timeUs, level, spacingUs, vectors }) {
    this.#startUs ??= timeUs;
    const since = Math.max(timeUs - this.#startUs, this.#lastUs);
    this.#lastUs = since;
    this.#codec.setQuality((100 * level) / (LEVELS - 1));
    this.#writer.addPacket(since, MotionPacket.carry(this.#codec.encode(vectors), since, spacingUs));
  }

  /** @param {import("./layer_track.js").TimedLayer} frame of the video layer; the file has it from the first key frame on */
  addLayer({ timeUs, key, data }) {
    // The stream begins with its first picture, and what refers to a frame before it cannot be decoded.
    if (this.#startUs === null || timeUs < this.#startUs || !(key || this.#layerUs !== null)) return;
    if (timeUs < (this.#layerUs ?? 0)) return; // the other side's clock
    this.#layerUs = timeUs;
    this.#writer.addLayer(timeUs - this.#startUs, key, data);
  }

  /** @param {SourcePicture} picture a further one of the same speaker, once in the file */
  addPicture(picture) {
    // A reader takes no more; those that came first have been shown for longest.
    if (this.#further.has(picture.pictureHash) || this.#further.size >= MOST_PICTURES - 1) return;
    this.#further.add(picture.pictureHash);
    this.#writer.addReference(picture);
  }

  /** The file. */
  end() {
    return this.#writer.end();
  }
}
