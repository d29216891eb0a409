// Finds a face's points in a crop, by the four networks that a sender runs, and makes a source of one picture.
// As `CompactFamily.track` and `CompactFamily.source` of `model/compact/family.py`, for a picture alone.

import { loading } from "./engine.js";
import { NoFace } from "./errors.js";
import { rotationAngles, similarity, unpose } from "./geometry.js";
import { interior } from "./interior.js";
import { EYE_REGIONS, LANDMARKS, MOUTH_REGION, RIGID_WEIGHT } from "./landmarks.js";
import { reduced, rgb } from "./pixels.js";
import { FACE_INPUT, REGION_INPUT, cutRegion, faceRegion, refinedPoints, regions, toCrop } from "./regions.js";
import { expressionNumbers } from "./shape.js";

/** @typedef {import("./pixels.js").Picture} Picture */
/** @typedef {import("./renderer.js").Engine} Engine */
/** @typedef {import("./renderer.js").Session} Session */
/** @typedef {import("./shape.js").Source} Source */

export const FACE_NETWORKS = /** @type {const} */ (["face", "eye", "mouth", "implicit"]);

const IMPLICIT_INPUT = 64;
/** The point about which a head turns, in units of the mean shape: measured over 190 clips. */
const NECK = /** @type {const} */ ([0, 0.55, 1.43]);
/** Below this certainty a crop shows no face. */
export const FACE_CERTAINTY = 0.5;
/** The refinement makes whatever it sees more like a face; so much less counts the mean of both logits. */
const REFINEMENT_LOGIT = 1.25;
/**
 * So many frames take over what the second look of one before them changed, if points changed and have moved by less (crop
 * units; 3 pixels of 256).
 */
const LENT_WITHIN = 3 / 128;
const MOST_LENT = 3;

/**
 * Where a face's points are in a crop, in crop units (-1..1).
 * @typedef {object} Track
 * @property {Float32Array} points [K, 2]
 * @property {Float32Array} depth [K]
 * @property {Float32Array} implicit implicit keypoints, which do not follow the head [N, 2]
 * @property {number} certainty 0..1 that there is a face at all
 * @property {Float32Array} interior brightness between the lips [BANDS]
 * @property {number} changed by the second look, mean over the points
 * @property {Refinement | null} refinement its own, or what an earlier frame lent
 */

/**
 * What a second look changes: the face cut out upright and mirrored.
 * @typedef {object} Refinement
 * @property {Float32Array} change of points and depths [K, 3]
 * @property {number} logit of a face
 * @property {number} lent to so many frames after its own
 */

/** The landmark networks on one engine. */
export class FaceTracker {
  /**
   * @param {Engine} engine
   * @param {Record<typeof FACE_NETWORKS[number], Session>} sessions
   */
  constructor(engine, sessions) {
    this.engine = engine;
    this.sessions = sessions;
    /** Runs of the face network so far. */
    this.looks = 0;
  }

  /**
   * @param {Engine} engine
   * @param {Record<typeof FACE_NETWORKS[number], Uint8Array>} files
   */
  static async open(engine, files) {
    /** @type {Partial<Record<typeof FACE_NETWORKS[number], Session>>} */
    const sessions = {};
    for (const name of FACE_NETWORKS) {
      sessions[name] = await engine.InferenceSession.create(files[name], loading(files[name]));
    }
    return new FaceTracker(engine, /** @type {Record<typeof FACE_NETWORKS[number], Session>} */ (sessions));
  }

  /**
   * What the first network finds: points and depths [LANDMARKS, 3], and the logit of a face.
   * @param {Picture} picture [FACE_INPUT, FACE_INPUT]
   */
  async look(picture) {
    this.looks++;
    const { points, depth, face_logit: logit } = await this.sessions.face.run({ crop: this.#tensor([picture]) });
    const [flat, deep] = [points.data, depth.data].map((data) => /** @type {Float32Array} */ (data));
    const found = Float32Array.from({ length: 3 * LANDMARKS }, (_, n) =>
      n % 3 === 2 ? deep[(n - 2) / 3] : flat[2 * Math.floor(n / 3) + (n % 3)]);
    return { found, logit: Number(logit.data[0]) };
  }

  /**
   * @param {Picture} crop [S, S], of the size that the networks work at
   * @param {Track | null} [previous] of the frame before, which saves work
   * @returns {Promise<Track>}
   */
  async track(crop, previous = null) {
    const first = await this.look(reduced(crop, FACE_INPUT, FACE_INPUT));
    const refinement = lentTo(first.found, previous) ?? await this.#refine(crop, first.found);
    const { change, logit: sure } = refinement;
    const both = first.found.map((value, n) => value + change[n]);
    const points = flat(both);
    const matrices = regions(points);
    const close = matrices.map((matrix) => cutRegion(crop, matrix, REGION_INPUT));
    const eyes = await this.sessions.eye.run({ region: this.#tensor(close.slice(0, 2)) });
    const mouth = await this.sessions.mouth.run({ region: this.#tensor(close.slice(2)) });
    const seen = [...eyes.points.data, ...mouth.points.data].map(Number);
    let at = 0;
    [...EYE_REGIONS, MOUTH_REGION].forEach((region, n) => {
      for (const landmark of region) points.set(toCrop(matrices[n], seen[at++], seen[at++]), 2 * landmark);
    });
    const logit = (first.logit + sure) / 2 - REFINEMENT_LOGIT;
    const implicit = await this.sessions.implicit.run({ crop: this.#tensor([reduced(crop, IMPLICIT_INPUT, IMPLICIT_INPUT)]) });
    return {
      points,
      depth: Float32Array.from({ length: LANDMARKS }, (_, n) => both[3 * n + 2]),
      implicit: Float32Array.from(/** @type {Float32Array} */ (implicit.points.data)),
      certainty: 1 / (1 + Math.exp(-logit)),
      interior: interior(crop, points),
      changed: meanLength(change),
      refinement,
    };
  }

  /**
   * Again, upright, central and mirrored: the mean of both errs less.
   * @param {Picture} crop
   * @param {Float32Array} first points and depths that the first look found
   * @returns {Promise<Refinement>}
   */
  async #refine(crop, first) {
    const again = faceRegion(flat(first));
    const { found, logit } = await this.look(cutRegion(crop, again, FACE_INPUT));
    return { change: refinedPoints(first, found, again).map((value, n) => value - first[n]), logit, lent: 0 };
  }

  /** @param {Picture[]} pictures of one size */
  #tensor(pictures) {
    const { width, height } = pictures[0];
    const data = new Uint8Array(3 * width * height * pictures.length);
    pictures.forEach((picture, n) => data.set(rgb(picture), 3 * width * height * n));
    return new this.engine.Tensor("uint8", data, [pictures.length, height, width, 3]);
  }
}

/**
 * An earlier frame's refinement, if it changed little, has not been lent often and the face is still there.
 * @param {Float32Array} first
 * @param {Track | null} previous
 */
function lentTo(first, previous) {
  const lent = previous?.refinement ?? null;
  if (lent === null || previous === null || lent.lent >= MOST_LENT) return null;
  const moved = first.map((value, n) => value + lent.change[n] - previous.points[2 * Math.floor(n / 3) + (n % 3)]);
  return Math.max(meanLength(lent.change), meanLength(moved)) < LENT_WITHIN ? { ...lent, lent: lent.lent + 1 } : null;
}

/**
 * How long the first two numbers of every three are, in the mean.
 * @param {Float32Array} change [K, 3]
 */
function meanLength(change) {
  let sum = 0;
  for (let n = 0; n < change.length; n += 3) sum += Math.hypot(change[n], change[n + 1]);
  return (3 * sum) / change.length;
}

/** @param {Float32Array} found [K, 3] */
function flat(found) {
  return Float32Array.from({ length: (2 * found.length) / 3 }, (_, n) => found[3 * Math.floor(n / 2) + (n % 2)]);
}

/**
 * Canonical keypoints of the picture that `track` was found in. Raises NoFace if it shows none.
 * @param {Track} track
 * @param {import("./shape.js").ShapeModel} shapeModel
 * @param {number} expressions numbers of an expression
 * @returns {Source}
 */
export function sourceOf({ points, depth, implicit, certainty, interior }, shapeModel, expressions) {
  if (certainty < FACE_CERTAINTY) {
    throw new NoFace(`the source picture shows no face (certainty ${certainty.toFixed(2)}, at least ${FACE_CERTAINTY})`);
  }
  const seen = Float32Array.from({ length: 3 * LANDMARKS }, (_, n) =>
    n % 3 === 2 ? depth[(n - 2) / 3] : points[2 * Math.floor(n / 3) + (n % 3)]);
  const pose = similarity(seen, shapeModel.mean, RIGID_WEIGHT);
  return {
    pose: {
      rotation: rotationAngles(pose.rotation),
      translation: [pose.translation[0], pose.translation[1]],
      scale: pose.scale,
      expression: new Float32Array(expressions),
    },
    shape: unpose(seen, pose),
    implicit,
    interior,
    neck: [...NECK],
  };
}

/**
 * A source picture without a face, and what is seen in it. Every network that looks at one has run then.
 * @param {import("./lent_tracker.js").Tracker} faces
 * @param {import("./shape.js").ShapeModel} shapeModel
 * @param {number} size
 */
export async function nobody(faces, shapeModel, size) {
  /** @type {Picture} */
  const picture = { width: size, height: size, data: new Uint8ClampedArray(4 * size * size).fill(128) };
  const track = { ...await faces.track(picture), certainty: 1 };
  return { picture, track, source: sourceOf(track, shapeModel, expressionNumbers(shapeModel, track.implicit)) };
}
