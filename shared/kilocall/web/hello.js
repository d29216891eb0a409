// What a Hello says of the networks that this side has. As `model/hello.py` and `CompactFamily.weights_hash`.

import { sha256 } from "./bytes.js";
import { Codebook } from "./codebook.js";
import { Hello } from "./control.js";
import { file } from "./engine.js";
import { BadInput } from "./errors.js";

/**
 * What both sides must share; with a rate they are the fields of `Hello` of `proto/control.py`.
 * @typedef {object} FamilyHello
 * @property {string} family
 * @property {string} weightsHash
 * @property {string} codebookHash
 * @property {number} pictureSize
 */

/**
 * @param {Uint8Array} manifest the family's `manifest.json`
 * @param {import("./codebook.js").Codebook} codebook
 * @returns {FamilyHello}
 */
export function familyHello(manifest, codebook) {
  const { family, size, files } = JSON.parse(new TextDecoder().decode(manifest));
  if (typeof family !== "string" || !Number.isInteger(size) || typeof files !== "object" || files === null) {
    throw new BadInput("manifest.json names no family, size and files");
  }
  // As Python's json writes it, in the order of the names.
  const listed = Object.keys(files).sort().map((name) => `${JSON.stringify(name)}: ${JSON.stringify(files[name])}`);
  const weightsHash = sha256(new TextEncoder().encode(`{${listed.join(", ")}}`));
  return { family, weightsHash, codebookHash: codebook.hash, pictureSize: size };
}

/** The family whose files lie beside these modules, and its codebook. */
export async function ownFamily() {
  const [manifest, tables] = await Promise.all([file("networks/manifest.json"), file("networks/codebook.safetensors")]);
  const codebook = Codebook.fromBytes(tables);
  return { family: familyHello(manifest, codebook), codebook };
}

/**
 * A side's Hello, with the frames a second that it has at most.
 * @param {FamilyHello} family
 * @param {number} fps
 */
export function helloOf({ family, weightsHash, codebookHash, pictureSize }, fps) {
  return new Hello(family, weightsHash, codebookHash, Math.round(1000 * fps), 1000, pictureSize);
}
