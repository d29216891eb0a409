// Aligns the implicit keypoints so that the receiver's copy of the source picture lies on what the camera sees. As
// `model/compact/align.py`: one Gauss-Newton step a frame, on grey levels at the places of the motion field.

import { solve } from "./geometry.js";
import { FIELD, HeldField } from "./held_field.js";
import { LANDMARKS } from "./landmarks.js";
import { MOST_TURNED, faceColour, faceMask, likeness, turnedApart } from "./likeness.js";
import { INTERIOR_BASIS, sourceKeypoints } from "./shape.js";

/** @typedef {import("./pixels.js").Picture} Picture */
/** @typedef {import("./motion.js").Motion} Motion */
/** @typedef {import("./shape.js").Source} Source */
/** @typedef {import("./shape.js").ShapeModel} ShapeModel */

/** Side of the grey source picture that copies are fetched from, twice the motion field's. */
const LOOK = 2 * FIELD;
const BLUR = 1;
const ROBUST = 12;
const MOST_GAIN = 2;
const DAMPING = 250;
const BELIEVED = 0.5;
const FORGET = 0.03;
const MOST_STEP = 4 / 128;
const MOST_APART = 20 / 128;
/** Parts of a pixel that places are rounded to, as OpenCV does. */
const PLACES = 32;
/** Shares of red, green and blue in a grey level, of 2^15 (BT.601). */
const GREY = [9798, 19235, 3735];

const WEIGHTS = gaussian();

function gaussian() {
  const reach = 4 * BLUR;
  const weights = Array.from({ length: 2 * reach + 1 }, (_, n) => Math.exp(-((n - reach) ** 2) / (2 * BLUR ** 2)));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / total);
}

/**
 * What is compared of a frame.
 * @typedef {object} Look
 * @property {Uint8Array} grey at the places of the motion field [F, F]
 * @property {Uint8Array} mask of the face there
 * @property {number[]} colour of the face, see `faceColour`
 */

/**
 * @param {Picture} crop [S, S]
 * @param {Float32Array} points landmarks [K, 2]
 * @returns {Look}
 */
export function lookAt(crop, points) {
  const mask = faceMask(points, FIELD);
  return { grey: greyOf(crop), mask, colour: faceColour(crop, mask) };
}

/**
 * A frame's crop [S, S] in grey levels at the places of the motion field [F, F].
 * @param {Picture} crop
 */
export function greyOf(crop) {
  const smooth = smoothed(crop);
  const made = new Uint8Array(FIELD * FIELD);
  for (let y = 0; y < FIELD; y++) {
    for (let x = 0; x < FIELD; x++) {
      const at = 2 * y * LOOK + 2 * x;
      made[y * FIELD + x] = Math.round((smooth[at] + smooth[at + 1] + smooth[at + LOOK] + smooth[at + LOOK + 1]) / 4);
    }
  }
  return made;
}

/** How far one speaker's implicit keypoints are from where the detector has them, frame after frame. */
export class Alignment {
  /** @param {Picture} picture [S, S]: the source */
  constructor(picture) {
    const grey = smoothed(picture);
    const at = (/** @type {Float32Array} */ of, /** @type {number} */ x, /** @type {number} */ y) =>
      of[Math.max(0, Math.min(LOOK - 1, y)) * LOOK + Math.max(0, Math.min(LOOK - 1, x))];
    // A frame is seen as means of 2x2 pixels, so the copy is fetched from such means; they lie between the pixels.
    const means = Float32Array.from(grey, (_, n) => {
      const [x, y] = [n % LOOK, Math.floor(n / LOOK)];
      return (at(grey, x - 1, y - 1) + at(grey, x, y - 1) + at(grey, x - 1, y) + at(grey, x, y)) / 4;
    });
    /** Grey, its slope to the right and its slope downwards [LOOK, LOOK, 3]. */
    this.source = new Float32Array(3 * LOOK * LOOK);
    for (let n = 0; n < means.length; n++) {
      const [x, y] = [n % LOOK, Math.floor(n / LOOK)];
      // Sobel's; borders are mirrored without the outermost pixel.
      const seen = (/** @type {number} */ right, /** @type {number} */ down) => at(means, mirrored(x + right), mirrored(y + down));
      const across = (/** @type {number} */ down) => seen(1, down) - seen(-1, down);
      const along = (/** @type {number} */ right) => seen(right, 1) - seen(right, -1);
      this.source.set([means[n], (across(-1) + 2 * across(0) + across(1)) / 8, (along(-1) + 2 * along(0) + along(1)) / 8], 3 * n);
    }
    /** [N, 2], crop units. @type {Float32Array | null} */
    this.moved = null;
    /** @type {Float32Array | null} */
    this.detected = null;
  }

  /** The next frame starts where the detector has the points. */
  reset() {
    this.moved = this.detected = null;
  }

  /**
   * The next frame, whose points the detector has at `detected` [N, 2].
   * @param {Float32Array} detected
   */
  expect(detected) {
    const before = this.detected;
    if (this.moved !== null && before !== null) {
      this.moved = this.moved.map((by, n) =>
        bounded((by - (1 - BELIEVED) * (detected[n] - before[n])) * (1 - FORGET), MOST_APART));
    }
    this.detected = detected;
  }

  /**
   * Driving keypoints [K, 2], the implicit ones as far moved as so far.
   * @param {Float32Array} points
   */
  apply(points) {
    const { moved } = this;
    if (moved === null) return points;
    return points.map((value, n) => (n < 2 * LANDMARKS ? value : value + moved[n - 2 * LANDMARKS]));
  }

  /**
   * Returns the copy before the step, grey [F, F].
   * @param {Uint8Array} look of the frame
   * @param {Float32Array} displacement the field's [F, F, 2], with the points as moved so far
   * @param {Float32Array[]} follows how far each place goes with each point [N][F, F]
   */
  step(look, displacement, follows) {
    const count = follows.length;
    const before = this.moved ?? new Float32Array(2 * count);
    const places = FIELD * FIELD;
    const copy = new Float32Array(places);
    const right = new Float32Array(places);
    const down = new Float32Array(places);
    this.#fetch(displacement, copy, right, down);
    const [seen, copied] = [spread(look), spread(copy)];
    // A camera that gets brighter has moved nothing: the frame is seen in the light of the copy.
    const gain = Math.max(1 / MOST_GAIN, Math.min(MOST_GAIN, copied.deviation / Math.max(1, seen.deviation)));
    const size = 2 * count;
    const slopes = new Float64Array(size);
    const normal = new Float64Array(size * size);
    const step = new Float64Array(size);
    for (let place = 0; place < places; place++) {
      const apart = (look[place] - seen.mean) * gain + copied.mean - copy[place];
      const weight = 1 / (1 + (apart / ROBUST) ** 2);
      for (let n = 0; n < count; n++) {
        slopes[n] = follows[n][place] * right[place];
        slopes[count + n] = follows[n][place] * down[place];
      }
      for (let a = 0; a < size; a++) {
        const weighted = slopes[a] * weight;
        step[a] += weighted * apart;
        for (let b = 0; b <= a; b++) normal[a * size + b] += weighted * slopes[b];
      }
    }
    for (let a = 0; a < size; a++) normal[a * (size + 1)] += DAMPING;
    solve(normal, step);
    this.moved = before.map((by, n) => {
      const own = step[(n % 2) * count + Math.floor(n / 2)] * (-2 / LOOK);
      return bounded(by + bounded(own, MOST_STEP), MOST_APART);
    });
    return copy;
  }

  /**
   * The source where a displacement fetches it from.
   * @param {Float32Array} displacement
   * @param {Float32Array} copy
   * @param {Float32Array} right
   * @param {Float32Array} down
   */
  #fetch(displacement, copy, right, down) {
    const { source } = this;
    const within = (/** @type {number} */ place) => Math.max(0, Math.min(LOOK - 1, place));
    for (let place = 0; place < copy.length; place++) {
      // Crop units are half a picture wide.
      const x = Math.round((2 * (place % FIELD) + 1 + displacement[2 * place] * FIELD) * PLACES);
      const y = Math.round((2 * Math.floor(place / FIELD) + 1 + displacement[2 * place + 1] * FIELD) * PLACES);
      const [u, v] = [Math.floor(x / PLACES), Math.floor(y / PLACES)];
      const [along, under] = [x / PLACES - u, y / PLACES - v];
      const [above, below] = [LOOK * within(v), LOOK * within(v + 1)];
      const [left, next] = [within(u), within(u + 1)];
      const [p, q, r, s] = [above + left, above + next, below + left, below + next];
      const [a, b, c, d] = [(1 - along) * (1 - under), along * (1 - under), (1 - along) * under, along * under];
      const value = (/** @type {number} */ n) =>
        a * source[3 * p + n] + b * source[3 * q + n] + c * source[3 * r + n] + d * source[3 * s + n];
      copy[place] = value(0);
      right[place] = value(1);
      down[place] = value(2);
    }
  }
}

/** Aligns frames of one speaker with one source picture; runs the receiver's motion field. */
export class CompactAligner {
  /**
   * @param {HeldField} field
   * @param {ShapeModel} shapeModel
   * @param {Source} source
   * @param {Picture} picture its pixels
   */
  constructor(field, shapeModel, source, picture) {
    this.field = field;
    this.shapeModel = shapeModel;
    this.source = source;
    this.alignment = new Alignment(picture);
    const seen = sourceKeypoints(source).subarray(0, 2 * LANDMARKS);
    this.colour = faceColour(picture, faceMask(seen, FIELD));
  }

  /**
   * @param {import("./renderer.js").FieldNetworks} networks
   * @param {ShapeModel} shapeModel
   * @param {Source} source
   * @param {Picture} picture
   */
  static async open(networks, shapeModel, source, picture) {
    const { motion_cue: cue } = await networks.appearanceOf(picture.data);
    const floats = (/** @type {Float32Array} */ data, /** @type {number[]} */ shape) => networks.floats(data, shape);
    const field = new HeldField(networks.field, floats, cue, sourceKeypoints(source));
    return new CompactAligner(field, shapeModel, source, picture);
  }

  reset() {
    this.alignment.reset();
    this.field.reset();
  }

  /**
   * A frame's motion, better placed; what was found is where the next frame starts.
   * @param {Motion} motion
   * @param {{ implicit: Float32Array }} track
   * @param {Look} look
   * @returns {Promise<{ motion: Motion, likeness: number | null }>}
   */
  async align(motion, { implicit }, look) {
    const { alignment, field } = this;
    alignment.expect(implicit);
    const { points, jacobian } = this.shapeModel.driving(this.source, motion);
    const driven = alignment.apply(points);
    await field.expect(driven, jacobian);
    const copy = alignment.step(look.grey, field.at(driven, jacobian), field.follows);
    return { motion: this.#moved(motion), likeness: this.#likeness(copy, motion, look) };
  }

  /**
   * @param {Float32Array} copy
   * @param {Motion} motion
   * @param {Look} look
   */
  #likeness(copy, motion, { grey, mask, colour }) {
    if (turnedApart(motion, this.source.pose) > MOST_TURNED) return null;
    return likeness(copy, grey, mask, Math.hypot(colour[0] - this.colour[0], colour[1] - this.colour[1]));
  }

  /** @param {Motion} motion */
  #moved(motion) {
    const { moved } = this.alignment;
    if (moved === null) return motion;
    const expression = motion.expression.slice();
    const first = expression.length - INTERIOR_BASIS.length - moved.length;
    moved.forEach((by, n) => { expression[first + n] += by; });
    return { ...motion, expression };
  }
}

/**
 * Grey and blurred [LOOK, LOOK].
 * @param {Picture} picture [2 LOOK, 2 LOOK]
 */
function smoothed(picture) {
  const { width, height, data } = picture;
  const grey = new Uint8ClampedArray(width * height);
  for (let n = 0; n < grey.length; n++) {
    grey[n] = (GREY[0] * data[4 * n] + GREY[1] * data[4 * n + 1] + GREY[2] * data[4 * n + 2] + 0x4000) >> 15;
  }
  const small = new Float32Array(LOOK * LOOK);
  if (width === 2 * LOOK && height === 2 * LOOK) {
    for (let y = 0, at = 0; y < LOOK; y++) {
      for (let x = 0; x < LOOK; x++, at++) {
        const first = 2 * y * width + 2 * x;
        small[at] = (grey[first] + grey[first + 1] + grey[first + width] + grey[first + width + 1] + 2) >> 2;
      }
    }
  } else {
    throw new RangeError(`a picture to be aligned is ${width}x${height}, wanted is ${2 * LOOK}x${2 * LOOK}`);
  }
  const along = new Float32Array(small.length);
  const made = new Float32Array(small.length);
  const reach = WEIGHTS.length >> 1;
  for (let n = 0; n < WEIGHTS.length; n++) {
    const weight = WEIGHTS[n];
    for (let x = 0; x < LOOK; x++) {
      const from = mirrored(x + n - reach);
      for (let row = 0; row < small.length; row += LOOK) along[row + x] += weight * small[row + from];
    }
  }
  for (let y = 0; y < LOOK; y++) {
    for (let n = 0; n < WEIGHTS.length; n++) {
      const weight = WEIGHTS[n];
      const from = LOOK * mirrored(y + n - reach);
      for (let x = 0; x < LOOK; x++) made[y * LOOK + x] += weight * along[from + x];
    }
  }
  return made;
}

/**
 * A place within LOOK; beyond its borders it goes back, the outermost not twice.
 * @param {number} place
 */
function mirrored(place) {
  return place < 0 ? -place : place >= LOOK ? 2 * LOOK - 2 - place : place;
}

/** @param {ArrayLike<number>} values */
function spread(values) {
  let [sum, squares] = [0, 0];
  for (let n = 0; n < values.length; n++) {
    sum += values[n];
    squares += values[n] * values[n];
  }
  const mean = sum / values.length;
  return { mean, deviation: Math.sqrt(Math.max(0, squares / values.length - mean * mean)) };
}

/**
 * @param {number} value
 * @param {number} most
 */
function bounded(value, most) {
  return Math.max(-most, Math.min(most, value));
}
