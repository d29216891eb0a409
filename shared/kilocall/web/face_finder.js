// Finds the largest face of any picture, with the landmark network alone: it says of whatever it is shown whether that is a
// face, and where. It tells one that lies up to a fifth of its crop beside the middle, and that is between half and one and
// a half times as large as a face should be in a crop; so a coarse search is enough, and what it finds is cut out again.
//
// As `face_of_picture` of `sender/clip.py`, which searches with OpenCV's cascades.

import { boxFromLandmarks, cut, idealPlace } from "./crop_place.js";
import { NoFace } from "./errors.js";
import { FACE_CERTAINTY } from "./face_tracker.js";
import { interpolated, part, reduced } from "./pixels.js";
import { FACE_INPUT } from "./regions.js";

/** @typedef {import("./pixels.js").Picture} Picture */
/** @typedef {import("./crop_place.js").CropPlace} CropPlace */
/** @typedef {import("./crop_place.js").FaceBox} FaceBox */
/** @typedef {import("./face_tracker.js").FaceTracker} FaceTracker */

/** The side of the smallest crops that are looked at, in longer sides of the picture. */
const SMALLEST = 0.2;
/** And in pixels: smaller faces have nothing to show. */
const SMALLEST_PX = 48;
/** From one size to the next at most, and from one place to the next in sides. */
const RATIO = 2;
const STEP = 0.4;
/** A place is looked at again from this logit on. */
const WORTH_A_LOOK = -1;
/** Of each size, so many of the best places. */
const MOST_PLACES = 6;
/**
 * A face's crop is no smaller and no larger, in longer sides of the picture: Python's search finds no smaller faces either, and
 * points that lie further apart are not a face's.
 */
const [LEAST, MOST] = [0.13, 2];
/** A crop has settled that moves by less than this, in sides; it is cut at most so often. */
const SETTLED = 0.01;
const MOST_CUTS = 5;
/**
 * What has settled is a face from this certainty on, if its second look agrees with the first within so much, mean over the
 * points (10 pixels of 256). Of 75 crops of 15 people none is less certain than 0.99, and one is changed by more. Logos and
 * diagrams that come so far fall short of one or the other.
 */
const SURE = 0.98;
const AGREES = 10 / 128;
/** A crop is kept at twice the size where the picture has so many of its pixels each way. */
const DETAIL_FROM = 1.25;

/**
 * Where the largest face's crop lies; null where there is no face.
 * @param {FaceTracker} tracker
 * @param {Picture} picture
 * @param {number} size that the networks work at
 * @returns {Promise<CropPlace | null>}
 */
export async function findFace(tracker, picture, size) {
  for (const side of sides(picture)) {
    /** @type {CropPlace[]} */
    const found = [];
    for (const box of await search(tracker, picture, side)) {
      const settled = await settle(tracker, picture, box, size);
      if (settled !== null) found.push(settled.place);
    }
    // Larger faces are seen in larger crops: there is no need to go on.
    if (found.length) return found.reduce((best, one) => (one.side > best.side ? one : best));
  }
  return null;
}

/** So many runs of the network for one frame: on a slow computer a third of a second. */
const LOOKS_A_FRAME = 8;

/** The same for frames that follow one another: a few looks at each, so that none has to wait until the search has ended. */
export class FaceSearch {
  /**
   * @param {FaceTracker} tracker
   * @param {number} size that the networks work at
   */
  constructor(tracker, size) {
    this.tracker = tracker;
    this.size = size;
    this.next = 0;
  }

  /** The next frame is looked at from the largest crops on. */
  restart() {
    this.next = 0;
  }

  /**
   * The box of the largest face among the places that this frame is looked at; null where there is none.
   * @param {Picture} picture
   * @returns {Promise<FaceBox | null>}
   */
  async look(picture) {
    const { tracker, size } = this;
    const all = sides(picture).map((side) => new Scan(picture, side));
    const places = all.flatMap((scan) => scan.places.map((place) => ({ scan, place })));
    if (this.next >= places.length) this.next = 0;
    /** @type {Sight[]} */
    const seen = [];
    let last = places[this.next].scan;
    for (const { scan, place } of places.slice(this.next, this.next + LOOKS_A_FRAME)) {
      // Larger faces are seen in larger crops: smaller ones only where those show nothing.
      if (seen.length && scan !== last) break;
      const sight = await scan.look(tracker, place);
      if (sight.logit >= WORTH_A_LOOK) seen.push(sight);
      last = scan;
      this.next++;
    }
    /** @type {FaceBox | null} */
    let best = null;
    for (const box of apart(seen).slice(0, 2)) {
      const found = await settle(tracker, picture, box, size);
      if (found !== null && (best === null || found.box.width > best.width)) best = found.box;
    }
    if (best !== null) this.next = 0;
    return best;
  }
}

/** @param {Picture} picture */
function sides({ width, height }) {
  const [largest, least] = [Math.min(width, height), Math.max(SMALLEST * Math.max(width, height), SMALLEST_PX)];
  const steps = Math.max(0, Math.ceil(Math.log(largest / least) / Math.log(RATIO)));
  return Array.from({ length: steps + 1 }, (_, n) => largest * (least / largest) ** (n / Math.max(1, steps)));
}

/** @typedef {{ box: FaceBox, logit: number }} Sight */

/** Crops of one size all over a picture. */
class Scan {
  /**
   * @param {Picture} picture
   * @param {number} side
   */
  constructor(picture, side) {
    this.picture = picture;
    // What is smaller than the network's input stays as it is.
    const scale = Math.min(1, FACE_INPUT / side);
    this.width = Math.max(1, Math.round(picture.width * scale));
    this.height = Math.max(1, Math.round(picture.height * scale));
    this.wide = Math.round(side * scale);
    this.places = starts(this.height, this.wide).flatMap((top) =>
      starts(this.width, this.wide).map((left) => ({ left, top })));
    /** @type {Picture | null} */
    this.small = null;
  }

  /**
   * @param {FaceTracker} tracker
   * @param {{ left: number, top: number }} place
   * @returns {Promise<Sight>}
   */
  async look(tracker, { left, top }) {
    const { picture, width, height, wide } = this;
    this.small ??= reduced(picture, width, height);
    const { found, logit } = await tracker.look(enlarged(part(this.small, left, top, wide, wide)));
    const [x, y] = [picture.width / width, picture.height / height];
    const place = { x0: left * x, y0: top * y, side: wide * Math.sqrt(x * y) };
    return { box: boxFromLandmarks(found, 3, place), logit };
  }
}

/**
 * Boxes of what may be a face, the surest first, from crops of one size all over the picture.
 * @param {FaceTracker} tracker
 * @param {Picture} picture
 * @param {number} side
 */
async function search(tracker, picture, side) {
  const scan = new Scan(picture, side);
  /** @type {Sight[]} */
  const seen = [];
  for (const place of scan.places) {
    const sight = await scan.look(tracker, place);
    if (sight.logit >= WORTH_A_LOOK) seen.push(sight);
  }
  return apart(seen).slice(0, MOST_PLACES);
}

/**
 * Boxes of different faces, the surest first.
 * @param {Sight[]} seen
 */
function apart(seen) {
  /** @type {FaceBox[]} */
  const kept = [];
  for (const { box } of seen.toSorted((a, b) => b.logit - a.logit)) {
    if (!kept.some((other) => covers(other, box))) kept.push(box);
  }
  return kept;
}

/**
 * Starts of as few crops as cover a length with no more than STEP between them.
 * @param {number} length
 * @param {number} side
 */
function starts(length, side) {
  if (length <= side) return [Math.floor((length - side) / 2)];
  const steps = Math.ceil((length - side) / (STEP * side));
  return Array.from({ length: steps + 1 }, (_, n) => Math.round(((length - side) * n) / steps));
}

/** @param {Picture} picture */
function enlarged(picture) {
  return picture.width === FACE_INPUT ? picture : interpolated(picture, FACE_INPUT, FACE_INPUT);
}

/**
 * Whether two boxes are of one face.
 * @param {FaceBox} one
 * @param {FaceBox} other
 */
function covers(one, other) {
  const [x, y] = [other.x0 + other.width / 2, other.y0 + other.height / 2];
  return x >= one.x0 && x <= one.x0 + one.width && y >= one.y0 && y <= one.y0 + one.height;
}

/**
 * Cut and tracked until the crop stays where it is; null where that shows no face.
 * @param {FaceTracker} tracker
 * @param {Picture} picture
 * @param {FaceBox} box
 * @param {number} size
 * @returns {Promise<{ place: CropPlace, box: FaceBox } | null>}
 */
async function settle(tracker, picture, box, size) {
  const longer = Math.max(picture.width, picture.height);
  let place = idealPlace(box, picture);
  for (let n = 0; n < MOST_CUTS; n++) {
    // Said so that what is not a number is refused, too.
    if (!(place.side >= LEAST * longer && place.side <= MOST * longer)) return null;
    const taken = cut(picture, place, size);
    const { points, certainty, changed } = await tracker.track(taken.crop);
    if (certainty < FACE_CERTAINTY) return null;
    const before = place;
    const seen = boxFromLandmarks(points, 2, taken.place);
    place = idealPlace(seen, picture);
    const moved = [place.x0 - before.x0, place.y0 - before.y0, place.side - before.side].map((by) => Math.abs(by) / before.side);
    if (Math.max(...moved) < SETTLED) return certainty >= SURE && changed <= AGREES ? { place, box: seen } : null;
  }
  // A face comes to rest; what wanders on is something else.
  return null;
}

/**
 * The largest face of a picture as a crop of the networks' `size`, and at twice that where the picture has the pixels for
 * it. Raises NoFace if there is none.
 * @param {FaceTracker} tracker
 * @param {Picture} picture
 * @param {number} size
 * @returns {Promise<{ small: Picture, detail: Picture | null }>}
 */
export async function faceOfPicture(tracker, picture, size) {
  if (picture.width === picture.height && (picture.width === size || picture.width === 2 * size)) {
    // It looks like a crop already.
    const detail = picture.width === size ? null : picture;
    const small = detail === null ? picture : reduced(picture, size, size);
    if ((await tracker.track(small)).certainty > FACE_CERTAINTY) return { small, detail };
  }
  const place = await findFace(tracker, picture, size);
  if (place === null) throw new NoFace("the picture shows no face that looks at the camera and is large enough");
  if (place.side < DETAIL_FROM * size) return { small: cut(picture, place, size).crop, detail: null };
  const detail = cut(picture, place, 2 * size).crop;
  return { small: reduced(detail, size, size), detail };
}
