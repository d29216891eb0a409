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

/** @typedef {import("./layer_track.js").TimedLayer} TimedLayer */

const KEY_EVERY_FRAMES = 50;
/** Frames of the layer that come before the first motion is shown: some tenths of a second of them. */
const MOST_EARLY = 16;

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
  /** Of the layer, from a key frame on, before any motion. @type {TimedLayer[]} */
  #early = [];
  /** What kind the layer's last frame in the file was. @type {boolean | null} */
  #layerWhole = null;
  #lastLayerUs = 0;
  /** Of the camera's last frame, while it is shown. @type {number | null} */
  #cameraUs = null;

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
    if (this.#startUs === null) {
      this.#startUs = timeUs;
      for (const frame of this.#early.splice(0)) this.addLayer(frame);
    }
    const since = Math.max(timeUs - this.#startUs, this.#lastUs);
    this.#lastUs = since;
    this.#codec.setQuality((100 * level) / (LEVELS - 1));
    this.#writer.addPacket(since, MotionPacket.carry(this.#codec.encode(vectors), since, spacingUs));
  }

  /**
   * A frame of the video layer or of the camera; the file has either from its first key frame on. One of the camera without
   * data: from the frame of this time on the speaker is shown.
   * @param {TimedLayer} frame
   */
  addLayer(frame) {
    const { timeUs, key, data, whole = false } = frame;
    if (!data.length) {
      this.#endCamera(timeUs);
      return;
    }
    if (this.#startUs === null) {
      // The stream begins with its first motion; what is decoded before is needed for what comes after.
      const follows = this.#early.length > 0 && this.#early.length < MOST_EARLY;
      if (key) this.#early = [frame];
      else this.#early = follows ? [...this.#early, frame] : [];
      return;
    }
    if (!key && whole !== this.#layerWhole) return; // what it refers to is not in the file
    // Readers decode in the order of times, and times are the other side's.
    this.#lastLayerUs = Math.max(timeUs - this.#startUs, this.#lastLayerUs);
    this.#layerWhole = whole;
    if (whole) {
      this.#cameraUs = this.#lastLayerUs;
      this.#writer.addCamera(this.#lastLayerUs, key, data);
    } else this.#writer.addLayer(this.#lastLayerUs, key, data);
  }

  /** @param {number} timeUs */
  #endCamera(timeUs) {
    if (this.#startUs === null || this.#cameraUs === null) return;
    this.#writer.addCamera(Math.max(timeUs - this.#startUs, this.#cameraUs), false, new Uint8Array());
    this.#cameraUs = null;
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
