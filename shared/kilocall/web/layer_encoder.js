// Crops, or the camera's whole pictures, to frames of the video layer, by the browser's own AV1 encoder (WebCodecs). As
// `sender/layer_encoder.py`, but that frames come later than the pictures that they are made of, and that the encoder chooses
// the quantiser at every rate.

import { BadPacket } from "./errors.js";
import { MAX_LAYER_BYTES, fragmentBytes } from "./layer_frame.js";
import { checkedUnit, isKey, withoutDelimiter } from "./obu.js";
import { EvenSteps } from "./pace.js";
import { reduced } from "./pixels.js";
import { paused } from "./timing.js";
import { yuv } from "./yuv.js";

/** @typedef {import("./pixels.js").Picture} Picture */

/**
 * What a browser encodes with; a test gives its own.
 * @typedef {{ VideoEncoder: typeof VideoEncoder, VideoFrame: typeof VideoFrame }} Codecs
 */

/**
 * What a rate is spent on.
 * @typedef {object} LayerSetting
 * @property {number} kbps what is used at most, in the mean
 * @property {number} side of the square that is coded; a picture of another shape has at most as many pixels
 * @property {number} fps
 */

/** A coded frame of the layer. @typedef {{ timeUs: number, key: boolean, data: Uint8Array }} CodedLayer */

/** Whether frames may come later and better; how much later is the browser's choice. @typedef {"quality" | "realtime"} LatencyMode */

/** A picture, or what makes it; null: it is not worth coding. @typedef {Picture | (() => Picture | null)} ToCode */

/**
 * By rate. Chromium's encoder takes a third more than SVT-AV1 for the same picture, and no less than some 90 bytes for a frame of
 * 128x128: so at the same rate there are fewer frames here, and smaller ones.
 * @type {readonly LayerSetting[]}
 */
export const LADDER = [
  { kbps: 1.5, side: 64, fps: 3.125 },
  { kbps: 3, side: 96, fps: 5 },
  { kbps: 6, side: 128, fps: 6.25 },
  { kbps: 12, side: 160, fps: 12.5 },
  { kbps: 24, side: 256, fps: 12.5 },
];
/**
 * The same for the camera's whole picture, which is looked at as it is.
 * @type {readonly LayerSetting[]}
 */
export const CAMERA_LADDER = [
  { kbps: 1.5, side: 96, fps: 1 },
  { kbps: 3, side: 128, fps: 2 },
  { kbps: 6, side: 176, fps: 2.5 },
  { kbps: 12, side: 216, fps: 5 },
  { kbps: 24, side: 256, fps: 6.25 },
];
/** Wider or taller ones are squeezed. */
const MOST_STRETCHED = 4;
const LEAST_SIDE = 16;
/** How much of the rate may be saved up: about what a key frame takes. */
const SAVED_S = 2;
/** Pictures whose frames have not come; with so many the encoder is late, and the next one is left out. */
const MOST_PENDING = 2;
/** An encoder leaves a picture out where its rate asks for it, and does not say so. */
const FORGOTTEN_US = 1_000_000;
/** A frame that is too large for a message's pieces: the next ones are so much coarser. */
const COARSER = 0.6;
/** An encoder that fails so often is none. */
const MOST_FAILURES = 3;
/** A frame that takes longer than this is waited for in vain: 4 ms are usual. */
const TRIED_MS = 1000;
/** Profile 0, level 2.0, 8 bits. In hardware few encode pictures as small as these, and none at these rates. */
const CODEC = { codec: "av01.0.00M.08", hardwareAcceleration: /** @type {const} */ ("prefer-software") };
/** What `yuv` makes, and every receiver takes. */
const COLOURS = { primaries: "smpte170m", transfer: "smpte170m", matrix: "smpte170m", fullRange: false };

/**
 * How this browser encodes the layer; null: it does not. In `quality` Chromium's frames are a quarter of a decibel better and
 * take as long; Firefox' come once the whole clip is known. So one picture is tried.
 * @param {Codecs} [codecs]
 * @returns {Promise<LatencyMode | null>}
 */
export async function layerEncoding(codecs = globalThis) {
  if (codecs.VideoEncoder === undefined || codecs.VideoFrame === undefined) return null;
  const setting = LADDER[0];
  try {
    const config = configOf(setting.side, setting.side, 1000 * setting.kbps, setting.fps, "realtime");
    if (!(await codecs.VideoEncoder.isConfigSupported(config)).supported) return null;
  } catch {
    return null;
  }
  let came = false;
  const encoder = new LayerEncoder(setting, () => { came = true; }, { codecs, mode: "quality" });
  encoder.push({ width: setting.side, height: setting.side, data: new Uint8ClampedArray(4 * setting.side ** 2).fill(128) }, 0);
  await encoder.settled(TRIED_MS);
  encoder.close();
  return came ? "quality" : "realtime";
}

/**
 * The richest setting that fits into a rate; null where none does.
 * @param {number} kbps
 * @param {readonly LayerSetting[]} ladder
 */
export function settingFor(kbps, ladder = LADDER) {
  return ladder.findLast((setting) => setting.kbps <= kbps) ?? null;
}

/** Takes every picture and codes some. Times in microseconds of one clock. */
export class LayerEncoder {
  #output;
  #mostBytes;
  #whole;
  #mode;
  #codecs;
  #steps = new EvenSteps();
  #bitrate;
  /** @type {[number, number]} */
  #size;
  /** @type {VideoEncoder | null} */
  #encoder = null;
  #keyWanted = false;
  /** @type {number | null} */
  #lastUs = null;
  #savedBits;
  #failures = 0;
  /** Times of the pictures whose frames have not come. @type {number[]} */
  #pending = [];
  /** @type {(() => void)[]} */
  #waiting = [];

  /**
   * @param {LayerSetting} setting
   * @param {(coded: CodedLayer) => void} output
   * @param {{ mostBytes?: number, whole?: boolean, mode?: LatencyMode, codecs?: Codecs }} [options] `mostBytes` of a frame can be
   * sent; `whole`: pictures are the camera's whole ones
   */
  constructor(setting, output, { mostBytes = MAX_LAYER_BYTES, whole = false, mode = "realtime", codecs = globalThis } = {}) {
    this.setting = setting;
    this.#output = output;
    this.#mostBytes = mostBytes;
    this.#whole = whole;
    this.#mode = mode;
    this.#codecs = codecs;
    this.#size = [setting.side, setting.side];
    this.#bitrate = Math.round(1000 * setting.kbps - 8 * setting.fps * fragmentBytes(0));
    this.#savedBits = 1000 * setting.kbps * SAVED_S;
  }

  /** The next frame can be decoded without any other. */
  wantKey() {
    this.#keyWanted = true;
  }

  /** Whether the next frame is to be such a one. */
  get keyWanted() {
    return this.#keyWanted;
  }

  /** Whether this browser's encoder is of no use. */
  get failed() {
    return this.#failures >= MOST_FAILURES;
  }

  /**
   * Its frame is told later, or never: where it is not the picture's turn, it is not worth it, the rate has been used up or the
   * encoder is late.
   * @param {ToCode} picture
   * @param {number} timeUs
   */
  push(picture, timeUs) {
    this.#save(timeUs);
    this.#pending = this.#pending.filter((pendingUs) => timeUs - pendingUs < FORGOTTEN_US);
    if (this.failed || this.#savedBits < 0 || this.#pending.length >= MOST_PENDING) return;
    if (!this.#steps.take(timeUs, this.setting.fps)) return;
    const whole = typeof picture === "function" ? picture() : picture;
    if (whole === null) return;
    try {
      this.#encode(whole, timeUs);
    } catch {
      this.#fail(); // whatever a browser's encoder has against it
    }
  }

  /**
   * Once every frame has come, or after so long.
   * @param {number} ms
   */
  async settled(ms) {
    if (this.#pending.length) await paused(ms, (wake) => this.#waiting.push(wake));
  }

  /** Nothing is told any more. */
  close() {
    const encoder = this.#encoder;
    this.#encoder = null;
    this.#pending = [];
    if (encoder !== null && encoder.state !== "closed") encoder.close();
    this.#changed();
  }

  /**
   * @param {Picture} picture
   * @param {number} timeUs
   */
  #encode(picture, timeUs) {
    const size = fittedSize(picture.width, picture.height, this.setting.side);
    if (size.join() !== this.#size.join()) {
      // One of another shape than before begins a new run of frames.
      this.#size = size;
      this.close();
    }
    const [width, height] = size;
    const small = picture.width === width && picture.height === height ? picture : reduced(picture, width, height);
    this.#encoder ??= this.#opened();
    const frame = new this.#codecs.VideoFrame(yuv(small), {
      format: "I420", codedWidth: width, codedHeight: height, timestamp: timeUs,
      colorSpace: /** @type {VideoColorSpaceInit} */ (COLOURS),
    });
    this.#pending.push(timeUs);
    this.#encoder.encode(frame, { keyFrame: this.#keyWanted });
    frame.close();
    this.#keyWanted = false;
  }

  #opened() {
    const encoder = new this.#codecs.VideoEncoder({
      output: (chunk) => {
        if (encoder === this.#encoder) this.#took(chunk);
      },
      error: () => {
        if (encoder === this.#encoder) this.#fail();
      },
    });
    const [width, height] = this.#size;
    encoder.configure(configOf(width, height, this.#bitrate, this.setting.fps, this.#mode));
    return encoder;
  }

  /** @param {EncodedVideoChunk} chunk */
  #took(chunk) {
    const timeUs = chunk.timestamp;
    const data = new Uint8Array(chunk.byteLength);
    chunk.copyTo(data);
    const unit = withoutDelimiter(data);
    this.#pending = this.#pending.filter((pendingUs) => pendingUs > timeUs);
    try {
      checkedUnit(unit, { key: chunk.type === "key", whole: this.#whole });
    } catch (error) {
      if (!(error instanceof BadPacket)) throw error;
      this.#fail(); // nobody would take it
      return;
    }
    this.#failures = 0;
    this.#savedBits -= 8 * fragmentBytes(unit.length);
    if (unit.length > this.#mostBytes) {
      // Too large for a message's pieces, as noise is: nobody gets it, so nothing may refer to it.
      this.#bitrate = Math.round(COARSER * this.#bitrate);
      this.close();
      return;
    }
    this.#output({ timeUs, key: isKey(unit), data: unit });
    this.#changed();
  }

  /** The encoder is of no use any more; the next picture gets another one. */
  #fail() {
    this.#failures++;
    this.close();
  }

  /** @param {number} timeUs */
  #save(timeUs) {
    const sinceUs = this.#lastUs === null ? 0 : Math.max(0, timeUs - this.#lastUs);
    this.#lastUs = timeUs;
    const rate = 1000 * this.setting.kbps;
    this.#savedBits = Math.min(rate * SAVED_S, this.#savedBits + (rate * sinceUs) / 1e6);
  }

  #changed() {
    if (this.#pending.length) return;
    for (const done of this.#waiting.splice(0)) done();
  }
}

/**
 * A constant rate would be spent on the camera's noise where nothing moves.
 * @param {number} width
 * @param {number} height
 * @param {number} bitrate
 * @param {number} framerate
 * @param {LatencyMode} latencyMode
 * @returns {VideoEncoderConfig}
 */
function configOf(width, height, bitrate, framerate, latencyMode) {
  return { ...CODEC, width, height, bitrate, framerate, latencyMode, bitrateMode: "variable" };
}

/**
 * Width and height, even, of a picture of this shape with at most `side` x `side` pixels.
 * @param {number} width
 * @param {number} height
 * @param {number} side
 * @returns {[number, number]}
 */
export function fittedSize(width, height, side) {
  if (width === height) return [side, side];
  const shape = Math.min(MOST_STRETCHED, Math.max(1 / MOST_STRETCHED, width / height));
  const even = (/** @type {number} */ length) => 2 * Math.max(LEAST_SIDE / 2, Math.floor(length / 2));
  return [even(side * Math.sqrt(shape)), even(side / Math.sqrt(shape))];
}
