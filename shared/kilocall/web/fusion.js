// Made picture and video layer as one: the layer says what is there, the made picture how it looks in detail. As
// `model/compact/fusion.py`. A small network compares the two at the moment at which the layer was taken; what it finds, a
// correction of colours and a gain of the made picture's detail, is moved with the face to each frame that is shown after:
//
//   out = made + offset + (gain - 1) * (made - low(made))
//
// where `low` is the picture at half its side.

import { halved, move, sized, traced } from "./compose.js";
import { loading } from "./engine.js";
import { cubic, means } from "./resize.js";

/** @typedef {import("./gl_compose.js").Change} Change */
/** @typedef {import("./made.js").Made} Made */
/** @typedef {import("./pixels.js").Picture} Picture */
/** @typedef {import("./renderer.js").Engine} Engine */
/**
 * `inStep`: there is a layer frame for each picture that is shown; `slow`: this computer shows few.
 * @typedef {{ inStep?: boolean, slow?: boolean }} Pace
 */

/** Of the pictures that are fused, and of what the network sees. */
export const SIDE = 256;
export const WORK_SIDE = 128;
/** Channels that the network sees. */
export const FEATURES = 14;
/** Side of a block over which a difference counts as coarse, in places of WORK_SIDE. */
const COARSE = 4;
const LUMA = [0.299, 0.587, 0.114];
/** What an offset of one level of 255 is stored as, and a gain of one. */
export const LEVEL = 16;
export const ONE = 4096;
const FIELD = 64;
/**
 * Grey levels by which layer and made picture differ around mouth or eyes, over a ninth of the crop's width, where nothing lies
 * before them, and where something does.
 */
const [UNCOVERED, COVERED] = [12, 24];
const COVER_SIDE = 27;
const LIGHT_SIDE = 8;
/** The detail of narrower ones is left out by a slow computer: it takes 8 ms of 23, and brings 2 of VMAF at 3 kbit/s. */
const WORTH_ITS_TIME = 192;
/**
 * A layer of the full side that is never late says so much of lips and lids; any says so much of what is painted of a mouth, most
 * of it between the lips: what the source picture did not show there, teeth or the dark, is guessed.
 */
const SAYS_OF_PARTS = 0.7;
/** A mouth counts as painted where so much of it is. */
const PAINTED = 0.5;
/**
 * Corrections that differ by fewer grey levels, over so many places each way, differ by what the layer's coder made of the same:
 * each counts so much of what the next one says. Those twice as far apart do not.
 */
const ALIKE = 4;
const ALIKE_SIDE = 5;
const ALIKE_SHARE = 0.5;
/** Of a change that is none of these, the first picture shows so much. */
const AT_FIRST = 0.85;

/**
 * Half of a correction is left at a place that has moved so far since, crop units: things turn as they move, and less and less of
 * it fits.
 */
export const FAR = (16 * 2) / SIDE;

/** What a layer frame changes of the picture that was made for its moment. */
export class Correction {
  /**
   * @param {Float32Array} changes [C, C, 4]: offsets of red, green and blue in sixteenths of a level, and the gain of detail in
   * 4096ths; C is 128, or 256 where the layer has detail of its own
   * @param {Made} made of that moment
   */
  constructor(changes, made) {
    this.changes = changes;
    this.displacement = made.displacement;
    this.number = made.number;
  }

  /**
   * For another moment's picture: each place changes what it was a part of.
   * @param {Made} made
   * @param {number} strength below one: less
   * @returns {Change}
   */
  for(made, strength) {
    // Moved from another picture, where places were is not known.
    const here = made.displacement === this.displacement || made.number !== this.number;
    return { changes: this.changes, way: here ? null : traced(made.displacement, this.displacement), strength };
  }

  /**
   * What is shown of it in the first picture and from then on, where `before` was shown until `made`, the picture that it was made
   * for: a change from one picture to the next is seen as flicker.
   * @param {Correction} before
   * @param {Made} made
   * @returns {[Correction, Correction]}
   */
  after(before, made) {
    const { changes } = this;
    if (made.number !== before.number || changes.length !== before.changes.length) return [this, this];
    const { way } = before.for(made, 1);
    const old = way === null ? before.changes : carried(before.changes, way);
    const apart = new Float32Array(changes.length / 4);
    for (let n = 0, at = 0; n < apart.length; n++, at += 4) {
      apart[n] = Math.abs(changes[at] - old[at]) + Math.abs(changes[at + 1] - old[at + 1]) + Math.abs(changes[at + 2] - old[at + 2]);
    }
    const around = blurred(apart, Math.sqrt(apart.length), (ALIKE_SIDE - 1) / 2);
    const [first, then] = [new Float32Array(changes.length), new Float32Array(changes.length)];
    for (let n = 0; n < changes.length; n++) {
      const share = ALIKE_SHARE * Math.min(1, Math.max(0, 2 - around[n >> 2] / (3 * LEVEL * ALIKE)));
      then[n] = changes[n] + share * (old[n] - changes[n]);
      first[n] = old[n] + AT_FIRST * (then[n] - old[n]);
    }
    return [new Correction(first, made), new Correction(then, made)];
  }
}

/** Compares made pictures with layer frames. */
export class Fusion {
  /**
   * @param {Engine} engine
   * @param {import("./renderer.js").Session} network
   */
  constructor(engine, network) {
    this.engine = engine;
    this.network = network;
  }

  /**
   * @param {Engine} engine
   * @param {Uint8Array} file
   */
  static async open(engine, file) {
    return new Fusion(engine, await engine.InferenceSession.create(file, loading(file)));
  }

  /**
   * For a layer frame of the moment for which `made` was made.
   * @param {Made} made
   * @param {Picture} layer
   * @param {Pace} [pace]
   */
  async correction(made, layer, pace = {}) {
    const compared = comparison(made, layer, pace);
    const features = new this.engine.Tensor("float32", compared.features, [1, WORK_SIDE, WORK_SIDE, FEATURES]);
    const { changes } = await this.network.run({ features });
    return new Correction(changesOf(/** @type {Float32Array} */ (changes.data), compared), made);
  }
}

/**
 * What the network sees of both, and what is made of its answer.
 * @param {Made} made
 * @param {Picture} layer
 * @param {Pace} [pace]
 */
export function comparison(made, layer, { inStep = false, slow = false } = {}) {
  const side = layer.width;
  const picture = made.picture();
  const large = side === SIDE ? layer.data : enlarged(layer.data);
  const [ours, theirs] = [halved(picture), halved(large)];
  const difference = new Float32Array(3 * WORK_SIDE * WORK_SIDE);
  for (let n = 0, from = 0; n < difference.length; n += 3, from += 4) {
    for (let c = 0; c < 3; c++) difference[n + c] = (theirs[from + c] - ours[from + c]) / 255;
  }
  const coarse = sized(means(difference, 3, WORK_SIDE / COARSE), 3, WORK_SIDE);
  const [own, other] = [energy(picture), energy(large)];
  const painted = sized(made.painted(), 1, WORK_SIDE);
  const visible = sized(made.visible(), 1, WORK_SIDE);
  const size = Math.log2(side / SIDE);
  const features = new Float32Array(FEATURES * WORK_SIDE * WORK_SIDE);
  for (let n = 0, at = 0; n < WORK_SIDE * WORK_SIDE; n++, at += FEATURES) {
    for (let c = 0; c < 3; c++) {
      features[at + c] = ours[4 * n + c] / 255 - 0.5;
      features[at + 3 + c] = 4 * coarse[3 * n + c];
      features[at + 6 + c] = 8 * (difference[3 * n + c] - coarse[3 * n + c]);
    }
    features[at + 9] = 10 * own[n];
    features[at + 10] = 10 * other[n];
    features[at + 11] = painted[n];
    features[at + 12] = visible[n];
    features[at + 13] = size;
  }
  const allTold = inStep && side >= SIDE;
  const speaking = allTold ? made.speaking() : lessPainted(made.speaking(), painted);
  const kept = sized(keptParts(speaking, coarse), 1, WORK_SIDE);
  if (allTold) kept.forEach((value, n) => { kept[n] = value * (1 - SAYS_OF_PARTS); });
  const detailed = side > WORK_SIDE && !(slow && side < WORTH_ITS_TIME);
  return { features, coarse, difference, large, kept, detailed };
}

/**
 * @param {Float32Array} said the network's answer [F, F, 7]
 * @param {ReturnType<typeof comparison>} compared
 */
export function changesOf(said, { coarse, difference, large, kept, detailed }) {
  const [ofCoarse, ofFine, more, gainAt, detailAt, count] = [0, 1, 2, 5, 6, 7];
  const wide = sized(said, count, WORK_SIDE);
  const offset = new Float32Array(3 * WORK_SIDE * WORK_SIDE);
  for (let n = 0; n < WORK_SIDE * WORK_SIDE; n++) {
    const at = count * n;
    for (let c = 0, to = 3 * n; c < 3; c++, to++) {
      offset[to] = wide[at + ofCoarse] * coarse[to] + wide[at + ofFine] * (difference[to] - coarse[to]) + wide[at + more + c];
    }
  }
  // What of an offset is light and colour, and no shape.
  const light = cubic(means(offset, 3, LIGHT_SIDE), 3, WORK_SIDE);
  /** @type {Float32Array} */
  let changes = new Float32Array(4 * WORK_SIDE * WORK_SIDE);
  for (let n = 0; n < WORK_SIDE * WORK_SIDE; n++) {
    const own = kept[n];
    for (let c = 0; c < 3; c++) changes[4 * n + c] = 255 * LEVEL * (offset[3 * n + c] + own * (light[3 * n + c] - offset[3 * n + c]));
    const gain = wide[count * n + gainAt];
    changes[4 * n + 3] = ONE * (gain + own * (1 - gain));
  }
  if (detailed) {
    changes = sized(changes, 4, SIDE);
    const share = sized(kept.map((own, n) => wide[count * n + detailAt] * (1 - own)), 1, SIDE);
    const low = sized(Float32Array.from(halved(large)), 4, SIDE);
    for (let n = 0; n < SIDE * SIDE; n++) {
      for (let c = 4 * n; c < 4 * n + 3; c++) changes[c] += LEVEL * share[n] * (large[c] - Math.round(low[c]));
    }
  }
  return changes;
}

/**
 * What is left of changes [C, C, 4] that are fetched from so far away [F, F, 2].
 * @param {Float32Array} changes
 * @param {Float32Array} way
 */
export function carried(changes, way) {
  const left = move(changes, 4, way, null);
  const side = Math.sqrt(changes.length / 4);
  const far = sized(way, 2, side);
  for (let n = 0, at = 0; n < far.length; n += 2, at += 4) {
    const share = 1 / (1 + (far[n] ** 2 + far[n + 1] ** 2) / FAR ** 2);
    for (let c = at; c < at + 3; c++) left[c] *= share;
    left[at + 3] = ONE + share * (left[at + 3] - ONE);
  }
  return left;
}

/**
 * A picture [S, S, 4] changed, where no graphics processor does it. S is 256.
 * @param {Uint8ClampedArray} picture
 * @param {Change} change
 */
export function changed(picture, { changes, way, strength }) {
  const side = Math.sqrt(picture.length / 4);
  const here = sized(way === null ? changes : carried(changes, way), 4, side);
  const low = sized(Float32Array.from(halved(picture)), 4, side);
  const made = new Uint8ClampedArray(picture.length);
  for (let n = 0; n < picture.length; n += 4) {
    const gain = (strength / ONE) * here[n + 3] + 1 - strength;
    for (let c = n; c < n + 3; c++) {
      const coarse = Math.round(low[c]);
      const blended = Math.max(0, Math.min(255, Math.round(coarse + gain * (picture[c] - coarse))));
      made[c] = blended + (strength / LEVEL) * here[c];
    }
    made[n + 3] = 255;
  }
  return made;
}

/**
 * A layer's picture [L, L, 4] at SIDE.
 * @param {Uint8Array | Uint8ClampedArray} picture
 */
function enlarged(picture) {
  return new Uint8ClampedArray(cubic(picture, 4, SIDE));
}

/**
 * `speaking` with less of a mouth where the picture is painted.
 * @param {Float32Array} speaking [F, F, 2]
 * @param {Float32Array} painted [W, W]
 */
function lessPainted(speaking, painted) {
  const less = Float32Array.from(speaking);
  means(painted, 1, FIELD).forEach((value, n) => {
    less[2 * n] *= 1 - SAYS_OF_PARTS * Math.min(1, value / PAINTED);
  });
  return less;
}

/**
 * Where the made picture says what is there, whatever the layer says [F, F]: lips, lids and irises, which motion has 25 times a
 * second. Not where something lies before them: then the two differ all around as well.
 * @param {Float32Array} speaking [F, F, 2]
 * @param {Float32Array} coarse [W, W, 3]
 */
function keptParts(speaking, coarse) {
  const amount = new Float32Array(WORK_SIDE * WORK_SIDE);
  for (let n = 0; n < amount.length; n++) {
    amount[n] = (Math.abs(coarse[3 * n]) + Math.abs(coarse[3 * n + 1]) + Math.abs(coarse[3 * n + 2])) / 3;
  }
  const apart = sized(blurred(means(amount, 1, COVER_SIDE), COVER_SIDE, 1), 1, FIELD);
  const kept = new Float32Array(FIELD * FIELD);
  for (const part of [0, 1]) {
    let [sum, all] = [0, 0];
    for (let n = 0; n < kept.length; n++) {
      sum += speaking[2 * n + part] * apart[n];
      all += speaking[2 * n + part];
    }
    const level = (255 * sum) / Math.max(1e-3, all);
    const share = Math.min(1, Math.max(0, (COVERED - level) / (COVERED - UNCOVERED)));
    for (let n = 0; n < kept.length; n++) kept[n] = Math.min(1, kept[n] + share * speaking[2 * n + part]);
  }
  return kept;
}

/**
 * The mean of each place and so many of those around it each way; beyond its borders it is mirrored.
 * @param {Float32Array} field [S, S]
 * @param {number} side
 * @param {number} around
 */
function blurred(field, side, around) {
  return lines(lines(field, side, around), side, around);
}

/**
 * The mean of each place and those beside it in its row, with rows and columns changed over.
 * @param {Float32Array} field [S, S]
 * @param {number} side
 * @param {number} beside so many each way
 */
function lines(field, side, beside) {
  const means = new Float32Array(field.length);
  const row = new Float32Array(side + 2 * beside);
  const count = 2 * beside + 1;
  for (let y = 0; y < side; y++) {
    row.set(field.subarray(side * y, side * (y + 1)), beside);
    for (let n = 1; n <= beside; n++) {
      row[beside - n] = row[beside + n];
      row[beside + side - 1 + n] = row[beside + side - 1 - n];
    }
    for (let x = 0; x < side; x++) {
      let sum = 0;
      for (let n = x; n < x + count; n++) sum += row[n];
      means[side * x + y] = sum / count;
    }
  }
  return means;
}

/**
 * Mean amount of luma that half the side does not hold [W, W], 0..1.
 * @param {Uint8Array | Uint8ClampedArray} picture [256, 256, 4]
 */
function energy(picture) {
  const luma = new Float32Array(SIDE * SIDE);
  for (let n = 0, from = 0; n < luma.length; n++, from += 4) {
    luma[n] = Math.round(LUMA[0] * picture[from] + LUMA[1] * picture[from + 1] + LUMA[2] * picture[from + 2]);
  }
  const low = sized(sized(luma, 1, WORK_SIDE), 1, SIDE);
  for (let n = 0; n < luma.length; n++) luma[n] = Math.abs(luma[n] - low[n]) / 255;
  return sized(luma, 1, WORK_SIDE);
}
