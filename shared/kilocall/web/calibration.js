// Advice on how to sit before the source picture is taken: where the face should be, and what to change. As
// `sender/calibration.py`.

import { FACE_HEIGHT, FACE_WIDTH, FACE_X, FACE_Y, boxFromLandmarks } from "./crop_place.js";
import { LEFT_EYE, RIGHT_EYE } from "./landmarks.js";
import { openness, sharpness } from "./source_picture.js";

/** @typedef {import("./pixels.js").Picture} Picture */
/** @typedef {import("./crop_place.js").CropPlace} CropPlace */
/** @typedef {[left: number, top: number, right: number, bottom: number]} Box in 0..1 of the frame */
/** @typedef {{ width: number, height: number }} Size */

/**
 * What was found in a frame.
 * @typedef {object} Face
 * @property {Float32Array} points [K, 2] in [-1, 1] over the crop
 * @property {CropPlace} place
 * @property {readonly number[]} rotation yaw, pitch and roll, radians
 * @property {Picture} crop
 */

/**
 * What the page draws; coordinates 0..1 of the own preview, which shows the whole frame.
 * @typedef {object} Overlay
 * @property {"overlay"} type
 * @property {boolean} face
 * @property {number} faces
 * @property {Box | null} box
 * @property {number[][]} points
 * @property {Box} ideal_box
 * @property {number[][]} ideal_points
 * @property {string} advice
 * @property {boolean} good
 * @property {boolean} eyes_open
 * @property {boolean} sharp
 */

/** The crop follows the face, so that place and size need not be exact: beyond these the crop leaves the frame. */
const [CLOSER, BACK] = [0.55, 1.3];
const [ASIDE, UP_DOWN] = [0.16, 0.14];
/** A head reaches past the box of its landmarks by so much of the box: hair above, an ear at each side, the neck below. */
const [HAIR, EAR, NECK] = [0.25, 0.08, 0.02];
const CUT_OFF = "your head is cut off by the picture: ";
/** Radians that count as looking straight ahead; half a profile is about 0.7. */
const [YAW, PITCH, ROLL] = [0.13, 0.16, 0.14];
const OPEN_EYES = 0.16;
const SHARP = 25;
/** A face that moves by less than this share of its size between two looks holds still. */
const STILL = 0.012;

/** Looks at one frame after the other. */
export class Calibration {
  #ideal;
  #aspect;
  /** @type {number[] | null} */
  #last = null;

  /**
   * @param {ArrayLike<number>} meanFace the frontal face that is asked for [K, D]
   * @param {number} numbers D: 2 or 3 for each point
   */
  constructor(meanFace, numbers) {
    const flat = Array.from({ length: meanFace.length / numbers }, (_, n) => [meanFace[numbers * n], meanFace[numbers * n + 1]]);
    const low = [0, 1].map((axis) => Math.min(...flat.map((point) => point[axis])));
    const span = [0, 1].map((axis) => Math.max(...flat.map((point) => point[axis])) - low[axis]);
    this.#ideal = flat.map((point) => point.map((value, axis) => (value - low[axis]) / Math.max(span[axis], 1e-9)));
    this.#aspect = span[0] / Math.max(span[1], 1e-9);
  }

  /**
   * @param {Face | null} face null: there is none in the frame
   * @param {Size} frame
   * @returns {Overlay}
   */
  look(face, frame) {
    const ideal = this.idealBox(frame);
    const common = { type: /** @type {const} */ ("overlay"), ideal_box: ideal, ideal_points: inBox(this.#ideal, ideal) };
    if (face === null) {
      this.#last = null;
      return {
        ...common, face: false, faces: 0, box: null, points: [], advice: "no face: look into the camera", good: false,
        eyes_open: false, sharp: false,
      };
    }
    const { points, place } = face;
    const found = boxFromLandmarks(points, 2, place);
    const box = /** @type {Box} */ ([
      found.x0 / frame.width, found.y0 / frame.height,
      (found.x0 + found.width) / frame.width, (found.y0 + found.height) / frame.height,
    ]);
    const eyesOpen = Math.min(openness(points, LEFT_EYE), openness(points, RIGHT_EYE)) > OPEN_EYES;
    const sharp = sharpness(face.crop) > SHARP;
    const advice = this.#advice(box, ideal, frame, face, eyesOpen, sharp);
    const scale = place.side / 2;
    const placed = Array.from({ length: points.length / 2 }, (_, n) => [
      rounded(((points[2 * n] + 1) * scale + place.x0) / frame.width),
      rounded(((points[2 * n + 1] + 1) * scale + place.y0) / frame.height),
    ]);
    return { ...common, face: true, faces: 1, box, points: placed, advice, good: advice === "good", eyes_open: eyesOpen, sharp };
  }

  /**
   * Where the face should be, as the training crops had it, in the middle of the frame.
   * @param {Size} frame
   * @returns {Box}
   */
  idealBox({ width, height }) {
    const side = Math.min(width, height);
    const tall = FACE_HEIGHT * side;
    const wide = Math.min(this.#aspect * tall, FACE_WIDTH * side * 1.2);
    const left = (width - side) / 2 + FACE_X * side - wide / 2;
    const top = (height - side) / 2 + FACE_Y * side - tall / 2;
    return [left / width, top / height, (left + wide) / width, (top + tall) / height];
  }

  /**
   * The one thing to change first. The preview is mirrored as a mirror is: left is the person's left.
   * @param {Box} box
   * @param {Box} ideal
   * @param {Size} frame
   * @param {Face} face
   * @param {boolean} eyesOpen
   * @param {boolean} sharp
   */
  #advice(box, ideal, { width, height }, { rotation: [yaw, pitch, roll] }, eyesOpen, sharp) {
    const side = Math.min(width, height);
    const size = Math.max((box[3] - box[1]) * height, ((box[2] - box[0]) * width) / this.#aspect);
    const wanted = (ideal[3] - ideal[1]) * height;
    const x = (((box[0] + box[2] - ideal[0] - ideal[2]) / 2) * width) / side;
    const y = (((box[1] + box[3] - ideal[1] - ideal[3]) / 2) * height) / side;
    const moved = this.#moved([x, y, size / side]);
    if (size < CLOSER * wanted) return "move closer";
    const cut = cutOff(box);
    if (cut) return CUT_OFF + (size > BACK * wanted ? "move back" : cut);
    if (size > BACK * wanted) return "move back";
    // Pixels to the right are the person's left.
    if (Math.abs(x) > ASIDE) return x > 0 ? "move right" : "move left";
    if (Math.abs(y) > UP_DOWN) return y > 0 ? "move up" : "move down";
    if (Math.abs(yaw) > YAW) return yaw > 0 ? "turn right" : "turn left";
    if (Math.abs(pitch) > PITCH) return pitch > 0 ? "look up" : "look down";
    if (Math.abs(roll) > ROLL) return "hold your head upright";
    if (!eyesOpen) return "open your eyes";
    if (moved > STILL) return "hold still";
    return sharp ? "good" : "more light, or clean the camera";
  }

  /** @param {number[]} now */
  #moved(now) {
    const last = this.#last;
    this.#last = now;
    return last === null ? Infinity : Math.hypot(...now.map((value, n) => value - last[n]));
  }
}

/**
 * What to do so that the whole head is in the frame; nothing when it is.
 * @param {Box} box
 */
function cutOff([x0, y0, x1, y1]) {
  const [wide, tall] = [x1 - x0, y1 - y0];
  // The preview is mirrored: at the left edge of the pixels is the person's right.
  const cures = [
    y0 < HAIR * tall && "move down", y1 > 1 - NECK * tall && "move up", x0 < EAR * wide && "move left",
    x1 > 1 - EAR * wide && "move right",
  ].filter(Boolean);
  return cures.length > 1 ? "move back" : cures[0] || "";
}

/**
 * @param {number[][]} points 0..1
 * @param {Box} box
 */
function inBox(points, [x0, y0, x1, y1]) {
  return points.map(([x, y]) => [rounded(x * (x1 - x0) + x0), rounded(y * (y1 - y0) + y0)]);
}

/** @param {number} value */
function rounded(value) {
  return Math.round(value * 1e4) / 1e4;
}
