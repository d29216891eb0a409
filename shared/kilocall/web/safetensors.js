// The safetensors file: a JSON header that says where each array lies, then the arrays.

import { BadInput } from "./errors.js";

/** @typedef {Float32Array | Int32Array | Uint8Array} Numbers */
/** @typedef {{ shape: number[], data: Numbers }} Tensor */

const KINDS = { F32: Float32Array, I32: Int32Array, U8: Uint8Array };

/**
 * The arrays by name. Raises BadInput with the reason.
 * @param {Uint8Array} file
 * @returns {Map<string, Tensor>}
 */
export function loadTensors(file) {
  if (file.length < 8) throw new BadInput(`safetensors file is ${file.length} bytes, its header needs 8`);
  const view = new DataView(file.buffer, file.byteOffset, file.length);
  const length = Number(view.getBigUint64(0, true));
  if (length > file.length - 8) throw new BadInput(`safetensors header is ${length} bytes, the file ${file.length}`);
  const body = file.subarray(8 + length);
  const found = new Map();
  let end = 0;
  for (const [name, entry] of entries(file.subarray(8, 8 + length))) {
    const kind = KINDS[/** @type {keyof typeof KINDS} */ (entry.dtype)];
    const { shape, data_offsets: offsets } = entry;
    if (kind === undefined) throw new BadInput(`safetensors array ${name} is of type ${entry.dtype}`);
    if (!isNaturals(shape) || !isNaturals(offsets) || offsets.length !== 2) {
      throw new BadInput(`safetensors array ${name} has no shape or place`);
    }
    const [start, stop] = offsets;
    const count = shape.reduce((size, side) => size * side, 1);
    // One lies behind the other, so that no byte is two numbers and none is left over.
    if (start !== end || stop > body.length || stop - start !== count * kind.BYTES_PER_ELEMENT) {
      throw new BadInput(`safetensors array ${name} lies at ${start} to ${stop}, its shape is ${shape.join("x")}`);
    }
    end = stop;
    // A copy: places in the file are not multiples of four.
    found.set(name, { shape, data: new kind(body.slice(start, stop).buffer) });
  }
  if (end !== body.length) throw new BadInput(`safetensors file has ${body.length - end} bytes left over`);
  return found;
}

/**
 * Names and entries by their place.
 * @param {Uint8Array} header
 * @returns {[string, { dtype?: string, shape?: unknown, data_offsets?: unknown }][]}
 */
function entries(header) {
  let parsed;
  try {
    parsed = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(header));
  } catch {
    throw new BadInput("safetensors header is not JSON");
  }
  if (typeof parsed !== "object" || parsed === null) throw new BadInput("safetensors header is not a JSON object");
  const listed = Object.entries(parsed).filter(([name]) => name !== "__metadata__");
  const start = (/** @type {any} */ entry) => Number(entry?.data_offsets?.[0]);
  return listed.sort(([, a], [, b]) => start(a) - start(b));
}

/**
 * @param {unknown} value
 * @returns {value is number[]}
 */
function isNaturals(value) {
  return Array.isArray(value) && value.every((one) => Number.isSafeInteger(one) && one >= 0);
}
