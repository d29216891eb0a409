// The codebook: everything both sides must share, to the bit, to read motion bits. As `codec/codebook.py`.

import { sha256 } from "./bytes.js";
import { BadInput } from "./errors.js";
import { LEVELS } from "./limits.js";
import { TOTAL, TOTAL_BITS } from "./range_coder.js";
import { loadTensors } from "./safetensors.js";

/** @typedef {import("./safetensors.js").Tensor} Tensor */

export const FORMAT_VERSION = 1;
export const BASE_LEVEL = 4;
/** Largest residual with a symbol of its own; symbol i stands for the residual i - 15. */
export const LARGEST = 15;
/** The symbol that announces a larger residual. */
export const ESCAPE = 2 * LARGEST + 1;
export const SYMBOLS = ESCAPE + 1;
export const KINDS = 6;
export const ACTIVITY_CLASSES = 8;
export const NEIGHBOUR_CLASSES = 6;
export const CONTEXTS = KINDS * ACTIVITY_CLASSES * NEIGHBOUR_CLASSES;

const MAX_COEFFICIENTS = 1024;
const MAX_TABLES = 256;
const MAX_SHIFT = 12;
const MAX_FILE_BYTES = 4 << 20;

// 2^(n/2) in units of 2^-16 for n = -8..8.
const SQRT2_POWERS = [
  4096, 5793, 8192, 11585, 16384, 23170, 32768, 46341, 65536,
  92682, 131072, 185364, 262144, 370728, 524288, 741455, 1048576,
];
const SQRT2 = Math.fround(1.41421354);

/**
 * A quantised value of one level as the nearest one of another; integers only, ties up.
 * @param {number} value -32767..32767
 * @param {number} fromLevel
 * @param {number} toLevel
 */
export function rescale(value, fromLevel, toLevel) {
  // Beyond 32 bits, which shifts would cut off.
  return Math.floor((value * SQRT2_POWERS[toLevel - fromLevel + LEVELS - 1] + 0x8000) / 65536);
}

/**
 * The level 0..8 of a quality 0..100; 50 is the base level. Raises BadInput outside.
 * @param {number} quality
 */
export function levelOfQuality(quality) {
  if (!(quality >= 0 && quality <= 100)) throw new BadInput(`quality is ${quality}, allowed is 0 to 100`);
  return Math.floor((quality * (LEVELS - 1)) / 100 + 0.5);
}

/**
 * Row of `Codebook.tableOf` for three classes.
 * @param {number} kind
 * @param {number} activity
 * @param {number} neighbour
 */
export function contextIndex(kind, activity, neighbour) {
  return (kind * ACTIVITY_CLASSES + activity) * NEIGHBOUR_CLASSES + neighbour;
}

const TYPES = {
  base_steps: { name: "float32", kind: Float32Array },
  mean: { name: "int32", kind: Int32Array },
  frequencies: { name: "int32", kind: Int32Array },
  shifts: { name: "int32", kind: Int32Array },
  table_of: { name: "uint8", kind: Uint8Array },
};

/** Frozen tables of one model family. */
export class Codebook {
  /**
   * Raises BadInput when the arrays do not fit together.
   * @param {Map<string, Tensor>} arrays as a file has them
   */
  constructor(arrays) {
    const names = Object.keys(TYPES).sort();
    if ([...arrays.keys()].sort().join() !== names.join()) {
      throw new BadInput(`codebook holds ${[...arrays.keys()]}; expected ${names}`);
    }
    /** Step of each coefficient at the base level, in the coefficient's unit [D]. */
    this.baseSteps = numbers(arrays, "base_steps", Float32Array);
    /** What a key frame is coded against, in steps of the finest level [D]. */
    this.mean = numbers(arrays, "mean", Int32Array);
    /** Tables [T, 32]: residuals -15..15 and escape; each row sums to 65536. */
    this.frequencies = numbers(arrays, "frequencies", Int32Array);
    /** Low bits of a residual that a table sends as they are [T]. */
    this.shifts = numbers(arrays, "shifts", Int32Array);
    /** The table of each coefficient in each context [CONTEXTS, D]. */
    this.tableOf = numbers(arrays, "table_of", Uint8Array);
    this.#check(arrays);
    /** SHA-256 over all arrays, 64 hexadecimal digits. */
    this.hash = digest(arrays);
    /** Per table the running sums 0..65536, 33 of them. */
    this.cumulative = Array.from(this.shifts, (_, table) => runningSums(this.frequencies, table));
  }

  /** Per table the price of each symbol in 1/256 bit, raw bits included; only the encoder uses it. */
  get costs() {
    return Array.from(this.shifts, (shift, table) =>
      Array.from(this.frequencies.subarray(table * SYMBOLS, (table + 1) * SYMBOLS), (frequency) =>
        Math.round(256 * (TOTAL_BITS - Math.log2(frequency) + shift))));
  }

  /** D, the length of a motion vector. */
  get coefficients() {
    return this.baseSteps.length;
  }

  /**
   * Step sizes [D] at a level, the same float32 everywhere (one exact and one rounded product).
   * @param {number} level
   */
  steps(level) {
    const down = BASE_LEVEL - level;
    const by = 2 ** Math.floor(down / 2);
    return this.baseSteps.map((step) => (down % 2 ? step * by * SQRT2 : step * by));
  }

  /**
   * What a key frame is coded against, in steps of `level`.
   * @param {number} level
   */
  meanAt(level) {
    return Array.from(this.mean, (value) => rescale(value, LEVELS - 1, level));
  }

  /**
   * Reads a codebook file. Raises BadInput with the reason.
   * @param {Uint8Array} data
   */
  static fromBytes(data) {
    if (data.length > MAX_FILE_BYTES) throw new BadInput(`codebook is larger than ${MAX_FILE_BYTES} bytes`);
    const arrays = loadTensors(data);
    const version = arrays.get("format_version");
    arrays.delete("format_version");
    if (!(version?.data instanceof Int32Array) || version.shape.join() !== "1") {
      throw new BadInput("codebook has no format_version");
    }
    if (version.data[0] !== FORMAT_VERSION) {
      throw new BadInput(`codebook has format version ${version.data[0]}, this program reads ${FORMAT_VERSION}`);
    }
    return new Codebook(arrays);
  }

  /** @param {Map<string, Tensor>} arrays */
  #check(arrays) {
    const shape = (/** @type {string} */ name) => arrays.get(name)?.shape ?? [];
    const coefficients = this.coefficients;
    if (shape("base_steps").length !== 1 || coefficients < 1 || coefficients > MAX_COEFFICIENTS) {
      const allowed = `1 to ${MAX_COEFFICIENTS} coefficients`;
      throw new BadInput(`codebook base_steps has shape ${shape("base_steps")}, allowed are ${allowed}`);
    }
    const tables = shape("frequencies")[0] ?? 0;
    if (tables < 1 || tables > MAX_TABLES) {
      throw new BadInput(`codebook has ${tables} tables, allowed are 1 to ${MAX_TABLES}`);
    }
    const shapes = {
      mean: [coefficients],
      frequencies: [tables, SYMBOLS],
      shifts: [tables],
      table_of: [CONTEXTS, coefficients],
    };
    for (const [name, wanted] of Object.entries(shapes)) {
      if (shape(name).join() !== wanted.join()) {
        throw new BadInput(`codebook ${name} has shape ${shape(name)}, expected ${wanted}`);
      }
    }
    if (!this.baseSteps.every((step) => step >= Math.fround(1e-9) && step < 1e9)) {
      throw new BadInput("codebook base_steps holds a value outside 1e-9 to 1e9");
    }
    if (!this.mean.every((value) => Math.abs(value) <= 32767)) {
      throw new BadInput("codebook mean holds a value outside -32767 to 32767");
    }
    for (let table = 0; table < tables; table++) {
      const row = this.frequencies.subarray(table * SYMBOLS, (table + 1) * SYMBOLS);
      if (!row.every((frequency) => frequency >= 1) || row.reduce((sum, one) => sum + one, 0) !== TOTAL) {
        throw new BadInput(`codebook frequencies holds a row with a zero, or with a sum other than ${TOTAL}`);
      }
    }
    if (!this.shifts.every((shift) => shift >= 0 && shift <= MAX_SHIFT)) {
      throw new BadInput(`codebook shifts holds a value outside 0 to ${MAX_SHIFT}`);
    }
    if (!this.tableOf.every((table) => table < tables)) {
      throw new BadInput(`codebook table_of names a table beyond ${tables}`);
    }
  }
}

/**
 * @template {Float32Array | Int32Array | Uint8Array} T
 * @param {Map<string, Tensor>} arrays
 * @param {string} name
 * @param {new (...args: any[]) => T} kind
 * @returns {T}
 */
function numbers(arrays, name, kind) {
  const data = arrays.get(name)?.data;
  if (!(data instanceof kind)) throw new BadInput(`codebook ${name} is not ${kind.name}`);
  return data;
}

/** @param {Map<string, Tensor>} arrays */
function digest(arrays) {
  const text = new TextEncoder();
  /** @type {Uint8Array[]} */
  const parts = [text.encode(`kilocall codebook ${FORMAT_VERSION}`)];
  for (const [name, { name: type }] of Object.entries(TYPES)) {
    const { shape, data } = /** @type {Tensor} */ (arrays.get(name));
    const said = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(", ")})`;
    parts.push(text.encode(`${name} ${type} ${said}`), new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  parts.reduce((at, part) => (whole.set(part, at), at + part.length), 0);
  return sha256(whole);
}

/**
 * @param {Int32Array} frequencies
 * @param {number} table
 */
function runningSums(frequencies, table) {
  const sums = new Int32Array(SYMBOLS + 1);
  for (let n = 0; n < SYMBOLS; n++) sums[n + 1] = sums[n] + frequencies[table * SYMBOLS + n];
  return sums;
}
