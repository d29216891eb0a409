// The video layer of a stream file: what of it belongs to the frame that is shown. As `receiver/layer_track.py`.

import { LayerDecoder } from "./layer_decoder.js";

/** @typedef {import("./gl_compose.js").Change} Change */
/** @typedef {import("./layer_mixer.js").LayerMixer} LayerMixer */
/** @typedef {import("./made.js").Made} Made */

/** A coded frame of the layer. @typedef {{ timeUs: number, key: boolean, data: Uint8Array }} TimedLayer */

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
  /** @type {number | null} */
  #shownUs = null;

  /**
   * @param {readonly TimedLayer[]} frames in the order of time
   * @param {LayerMixer} mixer
   * @param {import("./layer_decoder.js").Codecs} [codecs]
   */
  constructor(frames, mixer, codecs) {
    this.#frames = frames;
    this.#mixer = mixer;
    this.#keys = [...frames.keys()].filter((number) => frames[number].key);
    this.#decoder = /** @type {LayerDecoder<number>} */ (
      new LayerDecoder((timeUs, picture) => mixer.push(timeUs, picture), codecs));
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
    const since = this.#shownUs === null ? -1 : timeUs - this.#shownUs;
    if (since < 0 || since > JUMP_US) this.#jump(timeUs);
    this.#shownUs = timeUs;
    const decoder = this.#decoder;
    while (this.#next < this.#frames.length && this.#frames[this.#next].timeUs <= timeUs) {
      await decoder.settled(MOST_PENDING, WAIT_MS);
      const { key, data, timeUs: about } = this.#frames[this.#next++];
      // A picture is compared with the newest one alone.
      const last = this.#next === this.#frames.length || this.#frames[this.#next].timeUs > timeUs;
      decoder.push(data, { key, about, wanted: last });
    }
    await decoder.settled(0, WAIT_MS);
    return this.#mixer.mix(made, timeUs);
  }

  /** @param {number} timeUs */
  #jump(timeUs) {
    const key = this.#keys.findLast((number) => this.#frames[number].timeUs <= timeUs);
    this.#next = key ?? this.#keys[0] ?? this.#frames.length;
    this.#decoder.close();
    this.#mixer.reset();
  }
}
