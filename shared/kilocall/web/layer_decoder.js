// Frames of the video layer to small pictures, by the browser's own AV1 decoder (WebCodecs). As `receiver/layer_decoder.py`,
// but that pictures come later than what they are made of, in the same order.

import { BadInput, BadPacket } from "./errors.js";
import { MOST_SIDE, checkedUnit } from "./obu.js";
import { paused } from "./timing.js";
import { rgba } from "./yuv.js";

/** @typedef {import("./pixels.js").Picture} Picture */

/**
 * What a browser decodes with; a test gives its own.
 * @typedef {{ VideoDecoder: typeof VideoDecoder, EncodedVideoChunk: typeof EncodedVideoChunk }} Codecs
 */

const LEAST_SIDE = 16;
/** Profile 0, level 2.0, 8 bits: more than a layer of 256x256 needs. */
const CONFIG = { codec: "av01.0.00M.08", optimizeForLatency: true };
/** Frames that wait for their pictures; a decoder that has not given any of so many gives none any more. */
const MOST_PENDING = 16;

/** Whether this browser decodes the layer, where it is asked for. */
export async function layerIsSupported() {
  if (!("VideoDecoder" in globalThis)) return false;
  try {
    return (await VideoDecoder.isConfigSupported(CONFIG)).supported === true;
  } catch {
    return false;
  }
}

/**
 * Decodes frame after frame. After one that is missing nothing is decoded until the next key frame: what refers to a picture
 * that is not held would show something else.
 * @template About
 */
export class LayerDecoder {
  #output;
  #codecs;
  /** @type {VideoDecoder | null} */
  #decoder = null;
  /** @type {Map<number, { about: About, wanted: boolean, whole: boolean }>} by number, in their order */
  #pending = new Map();
  #number = 0;
  #whole = false; // the frame before
  /** Pictures are copied one after the other. */
  #copying = Promise.resolve();
  /** @type {(() => void)[]} */
  #waiting = [];

  /**
   * @param {(about: About, picture: Picture) => void} output told of each picture [L, L, 4], or [H, W, 4] of a camera's whole
   * one, and what it was pushed with
   * @param {Codecs} [codecs]
   */
  constructor(output, codecs = globalThis) {
    this.#output = output;
    this.#codecs = codecs;
    /** Frames that could not be decoded. */
    this.refused = 0;
    this.needsKey = true;
  }

  /** Frames whose pictures have not come yet. */
  get pending() {
    return this.#pending.size;
  }

  /** A frame is missing. */
  lost() {
    this.needsKey = true;
  }

  /**
   * Its picture is told later, or never: while a key frame is waited for, or where it cannot be decoded.
   * @param {Uint8Array} data
   * @param {{ key: boolean, about: About, whole?: boolean, wanted?: boolean }} frame what is not `wanted` is decoded, and its
   * picture not told; `whole`: it is the camera's whole picture, of any shape
   */
  push(data, { key, about, whole = false, wanted = true }) {
    if (this.#pending.size >= MOST_PENDING) this.#fail();
    if (key) this.needsKey = false;
    else if (whole !== this.#whole) this.lost(); // what the camera saw must not get into a face, nor a face into what it sees
    this.#whole = whole;
    if (this.needsKey) return;
    try {
      const unit = checkedUnit(data, { key, whole });
      const timestamp = this.#number++;
      this.#pending.set(timestamp, { about, wanted, whole });
      this.#decoder ??= this.#opened();
      this.#decoder.decode(new this.#codecs.EncodedVideoChunk({ type: key ? "key" : "delta", timestamp, data: unit }));
    } catch (error) {
      // Whatever a browser's decoder has against it: the next key frame gets another one.
      if (error instanceof BadPacket) {
        this.refused++;
        this.lost();
      } else this.#fail();
    }
  }

  /**
   * Once no more frames than these are pending, or nothing has come for so long.
   * @param {number} most
   * @param {number} ms
   */
  async settled(most, ms) {
    while (this.#pending.size > most) {
      const before = this.#pending.size;
      await paused(ms, (wake) => this.#waiting.push(wake));
      if (this.#pending.size >= before) return;
    }
  }

  /** Nothing is told any more. */
  close() {
    const decoder = this.#decoder;
    this.#decoder = null;
    this.#pending.clear();
    this.needsKey = true;
    if (decoder !== null && decoder.state !== "closed") decoder.close();
    this.#changed();
  }

  #opened() {
    const decoder = new this.#codecs.VideoDecoder({
      output: (frame) => this.#took(decoder, frame),
      error: () => {
        if (decoder === this.#decoder) this.#fail();
      },
    });
    decoder.configure(CONFIG);
    return decoder;
  }

  /** The decoder is of no use any more. */
  #fail() {
    this.refused++;
    this.close();
  }

  /**
   * @param {VideoDecoder} decoder
   * @param {VideoFrame} frame
   */
  #took(decoder, frame) {
    const one = this.#pending.get(frame.timestamp);
    if (decoder !== this.#decoder || one === undefined) {
      frame.close();
      return;
    }
    const { width, height } = sizeOf(frame);
    const square = width === height;
    const fits = (one.whole || square) && Math.min(width, height) >= LEAST_SIDE && width * height <= MOST_SIDE * MOST_SIDE;
    // Frames come in their order: those before it have had no picture.
    const skipped = [...this.#pending.keys()].filter((number) => number < frame.timestamp);
    for (const number of skipped) this.#pending.delete(number);
    if (skipped.length || !fits) {
      this.refused++;
      this.lost();
    }
    const copied = one.wanted && fits ? pictureOf(frame).catch(() => null) : Promise.resolve(null);
    this.#copying = this.#copying.then(async () => {
      const picture = await copied;
      frame.close();
      if (this.#pending.get(frame.timestamp) !== one) return; // closed meanwhile
      this.#pending.delete(frame.timestamp);
      if (picture !== null) this.#output(one.about, picture);
      this.#changed();
    });
  }

  #changed() {
    for (const done of this.#waiting.splice(0)) done();
  }
}

/**
 * The pixels of a decoded frame [L, L, 4].
 * @param {VideoFrame} frame
 * @returns {Promise<Picture>}
 */
async function pictureOf(frame) {
  const { width, height } = sizeOf(frame);
  if (frame.format === "I420" || frame.format === "NV12") {
    const data = new Uint8Array(frame.allocationSize());
    const layout = await frame.copyTo(data);
    return { width, height, data: rgba(data, layout, width, height) };
  }
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (context === null) throw new BadInput("this browser lets a page read no pictures");
  context.drawImage(frame, 0, 0, width, height);
  return { width, height, data: context.getImageData(0, 0, width, height).data };
}

/**
 * What is copied of a frame, whatever size it asks to be shown at.
 * @param {VideoFrame} frame
 */
function sizeOf({ visibleRect }) {
  return { width: visibleRect?.width ?? 0, height: visibleRect?.height ?? 0 };
}
