// `faces.json`: where the face is in each of a stream's pictures, found by `kilocall export-page` beforehand, so that the
// page loads the networks that find faces for other pictures alone.

import { BadInput } from "./errors.js";
import { LANDMARKS } from "./landmarks.js";

/** @typedef {import("./reference_pictures.js").ReferencePicture} ReferencePicture */
/** @typedef {import("./motion.js").Motion} Motion */

/**
 * @typedef {object} Faces
 * @property {string} title
 * @property {string} family
 * @property {string} weightsHash
 * @property {number} size side that the networks work at, pixels
 * @property {{ number: number, reference: Omit<ReferencePicture, "keypoints"> }[]} pictures the source picture is number 0, the
 * further ones follow as the stream has them; those that cannot be used are left out
 */

/**
 * Raises BadInput for anything else than what `export-page` writes.
 * @param {any} found
 * @returns {Faces}
 */
export function readFaces(found) {
  if (found?.format !== 1) throw new BadInput(`faces.json has format ${found?.format}, this page reads 1`);
  return {
    title: String(found.title),
    family: String(found.family),
    weightsHash: String(found.weights_hash),
    size: Number(found.size),
    pictures: found.pictures.map((/** @type {any} */ one) => {
      const pose = readMotion(one.pose);
      const source = {
        pose,
        shape: floats(one.shape, 3 * LANDMARKS),
        implicit: floats(one.implicit),
        interior: floats(one.interior, 3),
        neck: /** @type {import("./motion.js").Point} */ ([...floats(one.neck, 3)]),
      };
      return { number: Number(one.number), reference: { source, motion: readMotion(one.motion) } };
    }),
  };
}

/**
 * @param {any} found
 * @returns {Motion}
 */
function readMotion(found) {
  const [yaw, pitch, roll, x, y, scale] = floats(found?.pose, 6, Float64Array);
  return { rotation: [yaw, pitch, roll], translation: [x, y], scale, expression: floats(found.expression) };
}

/**
 * @template {Float32Array | Float64Array} [T=Float32Array]
 * @param {unknown} found
 * @param {number} [count]
 * @param {{ from: (values: number[]) => any }} [kind]
 * @returns {T}
 */
function floats(found, count, kind = Float32Array) {
  if (!Array.isArray(found) || !found.every(Number.isFinite) || found.length !== (count ?? found.length)) {
    throw new BadInput(`faces.json holds something else than ${count ?? "some"} numbers`);
  }
  return kind.from(found);
}
