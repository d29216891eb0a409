// The video layer of a stream file, and what the camera saw: what of both belongs to the frame that is shown. As
// `receiver/layer_track.py`.

import { LayerDecoder } from "./layer_decoder.js";

/** @typedef {import("./gl_compose.js").Change} Change */
/** @typedef {import("./layer_mixer.js").LayerMixer} LayerMixer */
/** @typedef {import("./made.js").Made} Made */

/** @typedef {import("./pixels.js").Picture} Picture */

/**
 * A coded frame of the layer, or of the camera's whole picture; a whole one without data says that the speaker is shown again.
 * @typedef {{ timeUs: number, key: boolean, data: Uint8Array, whole?: boolean }} TimedLayer
 */

/** A frame so much later than the last is one that was jumped to. */
const JUMP_US = 2_000_000;
/** Of those from a key frame on, so many are given to the decoder at a time. */
const MOST_PENDING = 8;
/** A decoder that gives no picture for so long has none to give without the frames that follow. */
const WAIT_MS = 250;

/** The layer of one stream. Going on is cheap; after a jump it starts at the key frame before. */
export class LayerTrack {
  #frames;
  #mixer;
  #keys;
  #decoder;
  #next = 0;
  #showsCamera;
  /** @type {Picture | null} */
  #camera = null;
  #spoken = -1; // number of the last frame that is not the camera's
  /** @type {number | null} */
  #shownUs = null;

  /**
   * @param {readonly TimedLayer[]} frames of layer and camera in the order of time
   * @param {LayerMixer} mixer
   * @param {import("./layer_decoder.js").Codecs} [codecs]
   */
  constructor(frames, mixer, codecs) {
    this.#frames = frames;
    this.#mixer = mixer;
    this.#keys = [...frames.keys()].filter((number) => frames[number].key);
    this.#showsCamera = frames.some(({ whole }) => whole);
    this.#decoder = /** @type {LayerDecoder<number>} */ (
      new LayerDecoder((number, picture) => this.#took(number, picture), codecs));
  }

  /** Frames that a picture was compared with. */
  get used() {
    return this.#mixer.used;
  }

  /** Frames that could not be decoded. */
  get damaged() {
    return this.#decoder.refused;
  }

  /** The next frame does not follow the last one. */
  reset() {
    this.#shownUs = null;
  }

  /**
   * What the layer changes of the picture of this time. One call at a time.
   * @param {Made} made
   * @param {number} timeUs
   * @returns {Promise<Change | null>}
   */
  async mix(made, timeUs) {
    await this.#goTo(timeUs);
    return this.#mixer.mix(made, timeUs);
  }

  /**
   * What the camera saw, where that is shown at this time as it is; before `mix` of the same time. One call at a time.
   * @param {number} timeUs
   */
  async camera(timeUs) {
    if (!this.#showsCamera) return null;
    await this.#goTo(timeUs);
    return this.#camera;
  }

  /** @param {number} timeUs */
  async #goTo(timeUs) {
    const since = this.#shownUs === null ? -1 : timeUs - this.#shownUs;
    if (since < 0 || since > JUMP_US) this.#jump(timeUs);
    this.#shownUs = timeUs;
    const decoder = this.#decoder;
    const past = this.#frames.findIndex((frame, number) => number >= this.#next && frame.timeUs > timeUs);
    const end = past < 0 ? this.#frames.length : past;
    // A picture is compared with the newest one alone.
    const newest = this.#frames.findLastIndex(({ data }, number) => number < end && data.length > 0);
    for (; this.#next < end; this.#next++) {
      await decoder.settled(MOST_PENDING, WAIT_MS);
      const { key, data, whole = false } = this.#frames[this.#next];
      if (!whole || !data.length) [this.#camera, this.#spoken] = [null, this.#next];
      if (data.length) decoder.push(data, { key, about: this.#next, whole, wanted: this.#next === newest });
    }
    await decoder.settled(0, WAIT_MS);
  }

  /**
   * @param {number} number of a frame
   * @param {Picture} picture
   */
  #took(number, picture) {
    const { timeUs, whole = false } = this.#frames[number];
    if (!whole) this.#mixer.push(timeUs, picture);
    else if (number > this.#spoken) this.#camera = picture;
  }

  /** @param {number} timeUs */
  #jump(timeUs) {
    const key = this.#keys.findLast((number) => this.#frames[number].timeUs <= timeUs);
    this.#next = key ?? this.#keys[0] ?? this.#frames.length;
    this.#decoder.close();
    this.#mixer.reset();
    [this.#camera, this.#spoken] = [null, -1];
  }
}
