// Finds one face and follows it from frame to frame. As `sender/face_locator.py`, without OpenCV's cascades: what finds a face
// is `FaceSearch`, a few looks a frame, and what checks on it is the landmark network's own certainty.

import { boxFromLandmarks } from "./crop_place.js";
import { FaceSearch } from "./face_finder.js";
import { FACE_CERTAINTY } from "./face_tracker.js";

/** @typedef {import("./pixels.js").Picture} Picture */
/** @typedef {import("./crop_place.js").CropPlace} CropPlace */
/** @typedef {import("./crop_place.js").FaceBox} FaceBox */
/** @typedef {import("./face_tracker.js").FaceTracker} FaceTracker */
/** @typedef {import("./face_tracker.js").Track} Track */

/** Weak landmark frames before the face is looked for again. */
const WEAK_FRAMES = 5;
/** Mean difference of two thumbnails, of green, that means a new scene. */
const CUT_LEVEL = 24;
const THUMBNAIL = 32;

/** Tells when a picture has nothing to do with the one before. */
export class SceneCut {
  constructor() {
    /** @type {Float32Array | null} */
    this.last = null;
  }

  /** @param {Picture} picture */
  look(picture) {
    const small = thumbnail(picture);
    const { last } = this;
    this.last = small;
    if (last === null) return false;
    return small.reduce((sum, value, n) => sum + Math.abs(value - last[n]), 0) / small.length > CUT_LEVEL;
  }
}

/**
 * Means of green over the picture's parts, two rows and columns in each.
 * @param {Picture} picture
 */
function thumbnail({ width, height, data }) {
  const means = new Float32Array(THUMBNAIL * THUMBNAIL);
  for (let y = 0; y < 2 * THUMBNAIL; y++) {
    const row = width * Math.floor(((y + 0.5) * height) / (2 * THUMBNAIL));
    for (let x = 0; x < 2 * THUMBNAIL; x++) {
      const at = row + Math.floor(((x + 0.5) * width) / (2 * THUMBNAIL));
      means[(y >> 1) * THUMBNAIL + (x >> 1)] += data[4 * at + 1] / 4;
    }
  }
  return means;
}

/** Follows one face. The largest one is taken and kept, even when another one grows larger. */
export class FaceLocator {
  /**
   * @param {FaceTracker} tracker
   * @param {number} size that the networks work at
   */
  constructor(tracker, size) {
    this.tracker = tracker;
    this.faces = new FaceSearch(tracker, size);
    /** @type {FaceBox | null} */
    this.box = null;
    /** @type {Track | null} of this frame, where it was tracked */
    this.track = null;
    /** @type {Track | null} of the last frame that was tracked */
    this.lastTrack = null;
    this.weak = 0;
  }

  /** Forgets what belongs to one frame only. */
  nextFrame() {
    this.track = null;
  }

  get certainty() {
    return this.track?.certainty ?? 0;
  }

  get found() {
    return this.box !== null && this.weak < WEAK_FRAMES;
  }

  /**
   * Looks for a face on; true when `box` is now another place than before.
   * @param {Picture} picture
   */
  async search(picture) {
    const before = this.box;
    const found = await this.faces.look(picture);
    if (found === null) return false;
    this.box = found;
    this.weak = 0;
    return before === null || overlap(before, found) <= 0.2;
  }

  /**
   * Landmarks of `crop`, and from them the box.
   * @param {Picture} crop
   * @param {CropPlace} place
   */
  async follow(crop, place) {
    const track = await this.tracker.track(crop, this.lastTrack);
    // A collapsed or exploded set of points is no face, whatever its certainty says; also where one is not a number.
    const box = boxFromLandmarks(track.points, 2, place);
    const spread = (2 * Math.max(box.width, box.height)) / place.side;
    if (!(spread > 0.3 && spread < 3)) track.certainty = 0;
    this.track = this.lastTrack = track;
    if (track.certainty < FACE_CERTAINTY) {
      this.weak++;
      return;
    }
    this.weak = 0;
    this.box = box;
  }

  /**
   * To be called once a frame after `follow`; true when the face turned out to be elsewhere.
   * @param {Picture} picture
   */
  async check(picture) {
    if (this.box === null || this.weak < WEAK_FRAMES) return false;
    this.box = null;
    this.faces.restart();
    return this.search(picture);
  }
}

/**
 * Intersection over union of two boxes.
 * @param {FaceBox} a
 * @param {FaceBox} b
 */
function overlap(a, b) {
  const across = Math.min(a.x0 + a.width, b.x0 + b.width) - Math.max(a.x0, b.x0);
  const down = Math.min(a.y0 + a.height, b.y0 + b.height) - Math.max(a.y0, b.y0);
  if (across <= 0 || down <= 0) return 0;
  const shared = across * down;
  return shared / (a.width * a.height + b.width * b.height - shared);
}
