// What the modules' tests share: golden files, and pictures without loss.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { inflateSync } from "node:zlib";

export const ROOT = new URL("../../", import.meta.url);
export const WEIGHTS = "shared/kilocall/model/weights/compact-256/";

const library = new URL("shared/kilocall/web/vendor/ort.wasm.bundle.min.mjs", ROOT);
/** Why a test that runs networks is skipped. */
export const noEngine = !existsSync(library) && "no engine: run `make web`";

/** The engine that the page has, on one thread. */
export async function engine() {
  const loaded = /** @type {typeof import("onnxruntime-web")} */ (await import(library.href));
  loaded.env.wasm.numThreads = 1;
  loaded.env.logLevel = "error";
  loaded.env.wasm.wasmBinary = file("shared/kilocall/web/vendor/ort-wasm-simd-threaded.wasm").buffer;
  return loaded;
}

/**
 * As a page gets them: rewritten, where `make web` could do that.
 * @param {readonly string[]} names
 * @returns {any}
 */
export function networkFiles(names) {
  return Object.fromEntries(names.map((name) => {
    const stored = file(`${WEIGHTS}${name}.onnx`);
    const hash = createHash("sha256").update(stored).digest("hex").slice(0, 16);
    const rewritten = `shared/kilocall/web/vendor/networks/${name}-${hash}.onnx`;
    return [name, existsSync(new URL(rewritten, ROOT)) ? file(rewritten) : stored];
  }));
}

/**
 * As a graphics processor gets them; null where `make web` could not make them.
 * @param {readonly string[]} names
 * @returns {any}
 */
export function gpuNetworkFiles(names) {
  const found = names.map((name) => {
    const hash = createHash("sha256").update(file(`${WEIGHTS}${name}.onnx`)).digest("hex").slice(0, 16);
    return [name, `shared/kilocall/web/vendor/networks/${name}-${hash}.gpu.onnx`];
  });
  if (!found.every(([, path]) => existsSync(new URL(path, ROOT)))) return null;
  return Object.fromEntries(found.map(([name, path]) => [name, file(path)]));
}

/** @param {string} path below the project's folder */
export function file(path) {
  return new Uint8Array(readFileSync(new URL(path, ROOT)));
}

/** @param {string} name */
export function vector(name) {
  return file(`tests/vectors/${name}`);
}

/** @param {string} name */
export function json(name) {
  return JSON.parse(new TextDecoder().decode(vector(name)));
}

/**
 * @param {Uint8Array} data
 * @param {number} at
 */
export function flipped(data, at) {
  const changed = data.slice();
  changed[at] ^= 0x55;
  return changed;
}

/**
 * @param {ArrayLike<number>} found
 * @param {ArrayLike<number>} wanted
 * @param {number} within
 */
export function near(found, wanted, within) {
  assert.equal(found.length, wanted.length);
  for (let n = 0; n < found.length; n++) {
    assert.ok(Math.abs(found[n] - wanted[n]) <= within, `number ${n} is ${found[n]}, wanted ${wanted[n]}`);
  }
}

/**
 * A PNG of 8-bit RGB as RGBA [S, S, 4].
 * @param {string} name
 */
export function png(name) {
  const data = vector(name);
  const view = new DataView(data.buffer);
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  assert.deepEqual([...data.subarray(24, 29)], [8, 2, 0, 0, 0], `${name} is no plain RGB`);
  const parts = [];
  for (let at = 8; at < data.length; at += 12 + view.getUint32(at)) {
    const kind = String.fromCharCode(...data.subarray(at + 4, at + 8));
    if (kind === "IDAT") parts.push(data.subarray(at + 8, at + 8 + view.getUint32(at)));
  }
  const raw = inflateSync(Buffer.concat(parts));
  const made = new Uint8ClampedArray(4 * width * height);
  const row = 3 * width;
  let above = new Uint8Array(row);
  for (let y = 0; y < height; y++) {
    const line = new Uint8Array(raw.subarray(y * (row + 1) + 1, (y + 1) * (row + 1)));
    const filter = raw[y * (row + 1)];
    for (let n = 0; n < row; n++) {
      const [left, up, corner] = [n < 3 ? 0 : line[n - 3], above[n], n < 3 ? 0 : above[n - 3]];
      line[n] += [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter];
    }
    for (let x = 0; x < width; x++) made.set([...line.subarray(3 * x, 3 * x + 3), 255], 4 * (y * width + x));
    above = line;
  }
  return made;
}

/**
 * @param {number} left
 * @param {number} up
 * @param {number} corner
 */
function paeth(left, up, corner) {
  const guess = left + up - corner;
  const [a, b, c] = [left, up, corner].map((one) => Math.abs(guess - one));
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

/**
 * Mean difference of red, green and blue, grey levels.
 * @param {ArrayLike<number>} a [S, S, 4]
 * @param {ArrayLike<number>} b
 */
export function meanDifference(a, b) {
  assert.equal(a.length, b.length);
  let sum = 0;
  for (let n = 0; n < a.length; n++) if (n % 4 < 3) sum += Math.abs(a[n] - b[n]);
  return sum / (0.75 * a.length);
}
