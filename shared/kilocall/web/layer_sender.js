// The video layer of a call: what of it goes with which message of motion. As `sender/layer_sender.py`, but that frames come
// some time after their pictures.

import { wireTimeMs } from "./motion_packet.js";
import { CAMERA_LADDER, LADDER, LayerEncoder, settingFor } from "./layer_encoder.js";
import { LAYER_NUMBERS, LayerFrame, MAX_FRAGMENTS, fragmentBytes } from "./layer_frame.js";
import { MAX_LAYERED_BYTES, MotionMessage } from "./motion_message.js";

/** @typedef {import("./layer_encoder.js").Codecs} Codecs */
/** @typedef {import("./layer_encoder.js").LatencyMode} LatencyMode */
/** @typedef {import("./layer_encoder.js").ToCode} ToCode */
/** @typedef {import("./layer_frame.js").LayerFragment} LayerFragment */
/** @typedef {import("./motion_packet.js").MotionPacket} MotionPacket */

/** Data of a fragment; four of them make the largest key frames that the ladder gives. */
const FRAGMENT_BYTES = 900;
/** Fragments that wait for a message. More of them means that no motion is sent, and they would come too late. */
const MOST_WAITING = 12;
/** While so many wait, as where messages are rare and a key frame is on its way, no further frame is coded. */
const MOST_BEHIND = 5;
/** A frame so small is carried again by the next message on a link that loses: it costs less than a new key frame. */
const SMALL_BYTES = 200;

export class LayerSender {
  /** How this browser encodes a layer; null: it does not, or is not known to. @type {LatencyMode | null} */
  #mode = null;
  #codecs;
  #plannedBps = 0;
  #cameraBps = 0;
  #askedBps = 0;
  #allowed = true;
  #whole = false;
  /** @type {LayerEncoder | null} */
  #encoder = null;
  /** @type {LayerFragment[]} */
  #waiting = [];
  /** @type {readonly LayerFragment[]} */
  #sentLast = [];
  #number = 0;

  /** @param {Codecs} [codecs] */
  constructor(codecs = globalThis) {
    this.#codecs = codecs;
    this.frames = this.keyFrames = this.bytesSent = 0;
  }

  /**
   * This browser encodes a layer so; null: it does not.
   * @param {LatencyMode | null} mode
   */
  encode(mode) {
    this.#mode = mode;
    this.#set();
  }

  /** Whether it does, as far as is known. */
  get possible() {
    return this.#mode !== null;
  }

  /** What is sent now; null: nothing. */
  get setting() {
    return this.#encoder === null ? null : this.#encoder.setting;
  }

  /** A new connection: nothing is sent before the other side has said that it takes a layer. */
  begin() {
    this.#askedBps = 0;
    this.#set();
  }

  /**
   * So much may be spent, and so much while the camera's whole picture is shown.
   * @param {number} plannedBps
   * @param {number} cameraBps
   */
  follow(plannedBps, cameraBps) {
    this.#plannedBps = plannedBps;
    this.#cameraBps = cameraBps;
    this.#set();
  }

  /** Whether this browser, the other side and the plan can show the camera's whole picture. */
  get mayShowCamera() {
    return this.#mode !== null && settingFor(Math.min(this.#cameraBps, this.#askedBps) / 1000, CAMERA_LADDER) !== null;
  }

  /** Whether the layer may show who speaks. */
  get allowed() {
    return this.#allowed;
  }

  /**
   * From now on the camera's whole picture is pushed, or crops again.
   * @param {boolean} whole
   */
  showCamera(whole) {
    this.#whole = whole;
    this.#set();
  }

  /**
   * The other side takes so much, or misses a frame.
   * @param {{ wantedBps: number, keyNeeded: boolean }} report
   */
  asked({ wantedBps, keyNeeded }) {
    this.#askedBps = wantedBps;
    this.#set();
    if (keyNeeded) this.#encoder?.wantKey();
  }

  /**
   * Not while somebody else's picture is moved in this side's place: the layer would show who moves it.
   * @param {boolean} allowed
   */
  allow(allowed) {
    this.#allowed = allowed;
    this.#set();
  }

  /** Whether something is to go with a message. */
  get waits() {
    return this.#waiting.length > 0;
  }

  /** Whether the other side waits for a frame that can be decoded without any other. */
  get keyWanted() {
    return this.#encoder !== null && this.#encoder.keyWanted;
  }

  /**
   * A picture, with whose motion it goes.
   * @param {ToCode} picture
   * @param {number} captureUs
   */
  push(picture, captureUs) {
    const encoder = this.#encoder;
    if (encoder === null || (this.#waiting.length > MOST_BEHIND && !encoder.keyWanted)) return;
    encoder.push(picture, captureUs);
    if (encoder.failed) this.#mode = null;
  }

  /**
   * Once the frame of what was pushed has come, or after so long.
   * @param {number} ms
   */
  async settled(ms) {
    await this.#encoder?.settled(ms);
  }

  /**
   * What goes with a message that has so many bytes left; `again`: the small frames of the last one too.
   * @param {number} room
   * @param {boolean} again
   */
  take(room, again) {
    /** @type {LayerFragment[]} */
    const taken = [];
    while (this.#waiting.length && taken.length < MAX_FRAGMENTS && sizeOf(this.#waiting[0]) <= room) {
      const one = /** @type {LayerFragment} */ (this.#waiting.shift());
      taken.push(one);
      room -= sizeOf(one);
    }
    const repeated = this.#sentLast.filter((one) => again && one.index === 0 && one.last && one.data.length <= SMALL_BYTES);
    this.#sentLast = [...taken];
    for (const fragment of repeated) {
      if (sizeOf(fragment) <= room && taken.length < MAX_FRAGMENTS) {
        taken.unshift(fragment);
        room -= sizeOf(fragment);
      }
    }
    this.bytesSent += taken.reduce((sum, one) => sum + sizeOf(one), 0);
    return taken;
  }

  /**
   * The packet's message with what of the layer fits behind it; `again` as for `take`.
   * @param {MotionPacket} packet
   * @param {boolean} again
   */
  behind(packet, again) {
    return new MotionMessage(packet, this.take(MAX_LAYERED_BYTES - packet.bytes().length, again));
  }

  #set() {
    const ladder = this.#whole ? CAMERA_LADDER : LADDER;
    const plannedBps = this.#whole ? this.#cameraBps : this.#allowed ? this.#plannedBps : 0;
    const mode = this.#mode;
    const setting = mode === null ? null : settingFor(Math.min(plannedBps, this.#askedBps) / 1000, ladder);
    if (setting === this.setting) return;
    this.#drop();
    this.#encoder?.close();
    this.#encoder = setting === null || mode === null ? null : new LayerEncoder(setting, (coded) => this.#coded(coded),
      { mostBytes: MAX_FRAGMENTS * FRAGMENT_BYTES, whole: this.#whole, mode, codecs: this.#codecs });
  }

  /** @param {import("./layer_encoder.js").CodedLayer} coded */
  #coded({ timeUs, key, data }) {
    this.#number = (this.#number + 1) % LAYER_NUMBERS;
    const frame = new LayerFrame({ number: this.#number, timeMs: wireTimeMs(timeUs), key, data, whole: this.#whole });
    if (key) this.#waiting = []; // nobody needs what was before it
    this.#waiting.push(...frame.fragments(FRAGMENT_BYTES));
    this.frames++;
    this.keyFrames += Number(key);
    if (this.#waiting.length > MOST_WAITING) {
      this.#drop();
      this.#encoder?.wantKey();
    }
  }

  #drop() {
    this.#waiting = [];
    this.#sentLast = [];
  }
}

/** @param {LayerFragment} fragment in a message, bytes */
function sizeOf({ data }) {
  return fragmentBytes(data.length);
}
