// Cuts a steady square of the face out of each frame. As the live part of `sender/face_crop.py`.

import { cut, holds, middle } from "./crop_place.js";
import { FaceLocator, SceneCut } from "./face_locator.js";
import { ReframePolicy } from "./reframe.js";

/** @typedef {import("./pixels.js").Picture} Picture */
/** @typedef {import("./crop_place.js").CropPlace} CropPlace */
/** @typedef {import("./face_tracker.js").Track} Track */

/**
 * What the cropper makes of one frame.
 * @typedef {object} FaceCrop
 * @property {Picture} crop as large as the networks want it
 * @property {CropPlace} place exactly what was cut
 * @property {boolean} found whether there is a face at `place`
 * @property {Track | null} track of this frame
 */

/** Frames in, face crops out, one at a time; knows only the past. Before the first face the crop is the frame's middle. */
export class FaceCropper {
  /**
   * @param {import("./face_tracker.js").FaceTracker} tracker
   * @param {number} size
   */
  constructor(tracker, size) {
    this.tracker = tracker;
    this.size = size;
    this.locator = new FaceLocator(tracker, size);
    this.sceneCut = new SceneCut();
    /** @type {ReframePolicy | null} */
    this.policy = null;
    /** @type {number | null} */
    this.lastUs = null;
  }

  /** Forgets the face; the next frame starts anew. */
  reset() {
    this.locator = new FaceLocator(this.tracker, this.size);
    this.sceneCut = new SceneCut();
    this.policy = this.lastUs = null;
  }

  /**
   * The face of a frame. Frames must come in the order of their times.
   * @param {Picture} frame
   * @param {number} captureUs
   * @returns {Promise<FaceCrop>}
   */
  async crop(frame, captureUs) {
    const { width, height } = frame;
    if (this.policy !== null && (this.policy.frame.width !== width || this.policy.frame.height !== height)) this.reset();
    const policy = this.policy ??= new ReframePolicy({ width, height });
    const { locator } = this;
    locator.nextFrame();
    const newScene = this.sceneCut.look(frame);
    if (locator.box === null || newScene) {
      const lost = locator.box === null;
      if (newScene) locator.faces.restart();
      const moved = await locator.search(frame);
      if (locator.box !== null && (moved || lost)) await this.#settle(frame, policy);
    }
    let taken = cut(frame, policy.place ?? middle(frame), this.size);
    if (locator.box !== null) {
      await locator.follow(taken.crop, taken.place);
      if (await locator.check(frame)) {
        await this.#settle(frame, policy);
        taken = cut(frame, policy.place ?? middle(frame), this.size);
        await locator.follow(taken.crop, taken.place);
      }
    } else if (policy.place !== null) {
      // Whoever was hidden mostly comes back to the same place; this look is cheap and finds them at once.
      await locator.follow(taken.crop, taken.place);
      if (locator.box === null) locator.nextFrame();
    }
    const { found, track, box } = locator;
    if (box !== null && found) policy.step(box, this.lastUs === null ? 0 : (captureUs - this.lastUs) / 1e6);
    this.lastUs = captureUs;
    return { ...taken, found, track };
  }

  /**
   * Takes up a newly found face. One that comes back to where it was keeps its place.
   * @param {Picture} frame
   * @param {ReframePolicy} policy
   */
  async #settle(frame, policy) {
    const { locator } = this;
    const { box } = locator;
    if (box === null) return;
    if (policy.place !== null && holds(policy.place, box, policy.frame)) return;
    const { crop, place } = cut(frame, policy.restart(box), this.size);
    await locator.follow(crop, place);
    policy.restart(locator.box ?? box);
  }
}
