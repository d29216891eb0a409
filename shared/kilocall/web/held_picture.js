// Pictures that the networks made for one frame, moved on for the next few: what a slow processor shows in between. As
// `model/compact/held_picture.py`; what was painted stays where pictures are composed.

import { traced } from "./compose.js";
import { INNER_LIPS, LANDMARKS, LEFT_EYE, LEFT_IRIS, OUTER_LIPS, RIGHT_EYE, RIGHT_IRIS } from "./landmarks.js";

/** @typedef {import("./held_field.js").FieldFor} FieldFor */
/** @typedef {import("./made.js").Paint} Paint */

/** What was painted falls apart where it is moved further than so many times as far as hardly shows. */
const MOST_FURTHER = 3;
const MOST_HELD = 7;
const HELD_WITHIN = 4 / 128;
const PARTS_WITHIN = 1.6 / 128;
const PARTS = [[...OUTER_LIPS, ...INNER_LIPS], [...RIGHT_EYE, ...LEFT_EYE, RIGHT_IRIS, LEFT_IRIS]];

/** A picture of one source, as the networks made it. */
export class HeldPicture {
  /**
   * @param {FieldFor} field
   * @param {Paint} paint
   * @param {Float32Array} visible [F, F] as the network gave it with the field
   */
  constructor(field, paint, visible) {
    this.field = field;
    this.paint = paint;
    this.visible = visible;
    this.age = 0;
  }

  /**
   * Whether the next frame can be this picture moved on; its keypoints may be so many times as far from this one's, over so
   * many times fewer frames; three times at most.
   * @param {Float32Array} points driving keypoints [K, 2]
   * @param {number} further
   */
  reaches(points, further) {
    const times = Math.min(further, MOST_FURTHER);
    this.age++;
    if (this.age > Math.ceil(MOST_HELD / times) || this.field.moved(points) > HELD_WITHIN * times) return false;
    const moved = Float32Array.from({ length: 2 * LANDMARKS }, (_, n) => points[n] - this.field.points[n]);
    let [x, y] = [0, 0];
    for (let n = 0; n < moved.length; n += 2) [x, y] = [x + moved[n] / LANDMARKS, y + moved[n + 1] / LANDMARKS];
    return PARTS.every((part) => {
      const sum = part.reduce((all, k) => all + Math.hypot(moved[2 * k] - x, moved[2 * k + 1] - y), 0);
      return sum / part.length <= PARTS_WITHIN * times;
    });
  }

  /**
   * The displacement [F, F, 2] for other driving keypoints, and how far from each place [F, F, 2] lies what was painted of it
   * then; crop units.
   * @param {Float32Array} points
   * @param {Float32Array} jacobian
   */
  movedOn(points, jacobian) {
    const displacement = this.field.at(points, jacobian);
    return { displacement, trace: traced(displacement, this.field.displacement) };
  }
}
