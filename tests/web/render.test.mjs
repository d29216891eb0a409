// Pictures: the sums around the networks, and one whole picture beside Python's.

import assert from "node:assert/strict";
import { test } from "node:test";

import { copyAt, densely, halved, move, paintedAt, paintedOf, paintedOver, sized, together, traced } from "../../shared/kilocall/web/compose.js";
import { Codebook } from "../../shared/kilocall/web/codebook.js";
import { readFaces } from "../../shared/kilocall/web/faces.js";
import { fromVector } from "../../shared/kilocall/web/motion.js";
import { ReplayStream } from "../../shared/kilocall/web/player.js";
import { ReferenceRenderer, NETWORKS, Networks, PictureRenderer } from "../../shared/kilocall/web/renderer.js";
import { ShapeModel } from "../../shared/kilocall/web/shape.js";
import { StreamReader } from "../../shared/kilocall/web/stream_file.js";
import { WEIGHTS, engine, file, gpuNetworkFiles, json, meanDifference, near, networkFiles, noEngine, png } from "./helpers.mjs";

const FIELD = 64;
const still = new Float32Array(2 * FIELD * FIELD);
const source = png("web_source.png");

test("what does not move is copied to the bit", () => {
  assert.deepEqual(copyAt(densely(source), still), source);
  const features = Float32Array.from({ length: 128 * 128 * 3 }, (_, n) => Math.sin(n));
  assert.deepEqual(move(features, 3, still, new Float32Array(FIELD * FIELD).fill(1)), features);
});

test("what is moved by whole places is moved by just these, and edges repeat", () => {
  const flow = still.map((_, n) => (n % 2 ? 0 : 2 / FIELD)); // one place of 64, four pixels of 256
  const features = Float32Array.from({ length: FIELD * FIELD }, (_, n) => n % FIELD);
  const moved = move(features, 1, flow, new Float32Array(FIELD * FIELD).fill(0.5));
  assert.deepEqual([...moved.subarray(0, 3), ...moved.subarray(62, 64)], [0.5, 1, 1.5, 31.5, 31.5]);
  const copied = copyAt(densely(source), flow);
  near(copied.subarray(4 * 256 * 100, 4 * (256 * 100 + 252)), source.subarray(4 * (256 * 100 + 4), 4 * (256 * 101)), 0);
});

test("fields are enlarged between their places and reduced to means", () => {
  const slope = Float32Array.from({ length: FIELD * FIELD }, (_, n) => n % FIELD);
  near(sized(slope, 1, 128).subarray(0, 5), [0, 0.25, 0.75, 1.25, 1.75], 1e-6);
  near(sized(slope, 1, 32).subarray(0, 3), [0.5, 2.5, 4.5], 1e-6);
});

test("a pixel shuffle lays four pixels where they belong", () => {
  const pixels = new Uint8Array(2 * 2 * 16).map((_, n) => n);
  const pairs = [[0, 16], [8, 24], [32, 48], [40, 56]];
  const wanted = pairs.flatMap((row) => row.flatMap((first) => Array.from({ length: 8 }, (_, n) => first + n)));
  assert.deepEqual([...together(pixels)], wanted);
});

test("a closed gate shows the copy, an open one the smoothed painting", () => {
  const grey = new Uint8Array(128 * 128 * 16).fill(100).map((value, n) => (n % 4 === 3 ? 255 : value));
  assert.deepEqual(mix(source, grey, new Float32Array(FIELD * FIELD)), source);
  const painted = mix(source, grey, new Float32Array(FIELD * FIELD).fill(1));
  assert.deepEqual(new Set(painted), new Set([100, 255]));
  // The filter takes a chequered pattern out altogether.
  const chequered = grey.map((value, n) => (n % 4 === 3 ? 255 : value + ([0, 12].includes(n % 16 - (n % 4)) ? 20 : -20)));
  near(mix(source, chequered, new Float32Array(FIELD * FIELD).fill(1)).subarray(4 * 2560, 4 * 2600), painted.subarray(0, 160), 0);
});

/**
 * @param {Uint8ClampedArray} copied
 * @param {Uint8Array | null} painted
 * @param {Float32Array} gate
 */
function mix(copied, painted, gate) {
  return paintedOver(paintedOf(/** @type {Uint8Array} */ (painted), gate), copied);
}

test("what has moved is found where it was, and what was painted with it", () => {
  // All is shown two places further right than it was; half a crop is FIELD / 2 places wide.
  const shifted = (/** @type {number} */ places) => Float32Array.from({ length: 2 * FIELD * FIELD }, (_, n) => n % 2 ? 0 : (-2 * places) / FIELD);
  const trace = traced(shifted(5), shifted(3));
  near(trace, shifted(2), 1e-6);
  const side = 4 * FIELD;
  const picture = Uint8ClampedArray.from({ length: 4 * side * side }, (_, n) => (n >> 2) % side);
  const made = paintedAt({ picture, share: Float32Array.from({ length: side * side }, (_, n) => (n % side) / side) }, trace);
  assert.equal(made.picture[4 * (side * 40 + 100)], 100 - 8);
  near(made.share.subarray(side * 40 + 100, side * 40 + 101), [(100 - 8) / side], 1e-6);
  assert.equal(made.picture[4 * (side * 40 + 3)], 0); // edges repeat
});

test("a picture of twice the size is seen as the means of its pixels", () => {
  const large = densely(source);
  const first = [0, 4, 4 * 512, 4 * 512 + 4].reduce((sum, at) => sum + large[at], 0);
  assert.equal(halved(large)[0], (first + 2) >> 2);
  assert.equal(halved(large).length, source.length);
});

test("a whole picture is Python's within a grey level", { skip: noEngine }, async () => {
  const networks = await Networks.open(await engine(), networkFiles(NETWORKS));
  const model = ShapeModel.fromBytes(file(`${WEIGHTS}shape.safetensors`));
  const [{ reference }] = readFaces(json("web_faces.json")).pictures;
  const renderer = await PictureRenderer.open(networks, model, reference.source, source);
  const base = { ...reference, keypoints: model.keypoints(reference.source, reference.motion) };
  const gallery = new ReferenceRenderer(model, [base], [renderer]);
  const codebook = Codebook.fromBytes(file(`${WEIGHTS}codebook.safetensors`));
  const motions = [...new ReplayStream(new StreamReader(file("shared/kilocall/sample/astronaut.kcs")), codebook).motions()];
  const { frame } = await gallery.render(fromVector(motions[133].vector), [0, 0, 0]);
  const made = mix(copyAt(densely(source), frame.displacement), frame.painted, frame.gate);
  const wanted = png("web_rendered.png");
  const apart = meanDifference(made, wanted);
  console.log(`mean difference ${apart.toFixed(3)} grey levels; moved by ${meanDifference(source, wanted).toFixed(2)}`);
  assert.ok(apart <= 1, `pictures differ by ${apart}`);
  // The same frames are moved on from others as in Python, and look the same.
  const held = /** @type {boolean[]} */ (json("web_held.json"));
  gallery.restart();
  /** @type {Awaited<ReturnType<typeof gallery.render>>["frame"][]} */
  const frames = [];
  for (const { vector } of motions.slice(100, 108)) frames.push((await gallery.render(fromVector(vector), [0, 0, 0], 1)).frame);
  assert.deepEqual(frames.map((one) => one.painted === null), held.slice(100, 108));
  const [{ painted, gate }, last] = [frames[0], frames[7]];
  const kept = paintedOf(/** @type {Uint8Array} */ (painted), gate);
  const shown = paintedOver(paintedAt(kept, /** @type {Float32Array} */ (last.trace)), copyAt(densely(source), last.displacement));
  const off = meanDifference(shown, png("web_held.png"));
  console.log(`moved on: mean difference ${off.toFixed(3)} grey levels`);
  assert.ok(off <= 1, `pictures that are moved on differ by ${off}`);
  // At rest the picture itself.
  const rest = await renderer.render(reference.source.pose);
  assert.ok(meanDifference(mix(copyAt(densely(source), rest.displacement), rest.painted, rest.gate), source) < 0.2);
});

const noGpuNetworks = noEngine || (gpuNetworkFiles(["field", "generator"]) === null && "onnx was not there for `make web`");

test("networks for graphics processors show the same within a grey level", { skip: noGpuNetworks }, async () => {
  // Computed in WebAssembly: what the roundings of the 8-bit networks make of a picture, and nothing else.
  const { InferenceSession, Tensor } = await engine();
  const open = async (/** @type {Uint8Array} */ data) =>
    InferenceSession.create(data, { executionProviders: ["wasm"], extra: { session: { disable_quant_qdq: "1" } } });
  const files = networkFiles(NETWORKS);
  const eightBit = await Networks.open({ InferenceSession, Tensor }, files);
  const unrounded = await Networks.open({ InferenceSession, Tensor }, files);
  const { field, generator } = gpuNetworkFiles(["field", "generator"]);
  Object.assign(unrounded, { field: await open(field), generator: await open(generator) });
  const model = ShapeModel.fromBytes(file(`${WEIGHTS}shape.safetensors`));
  const [{ reference }] = readFaces(json("web_faces.json")).pictures;
  const codebook = Codebook.fromBytes(file(`${WEIGHTS}codebook.safetensors`));
  const motions = [...new ReplayStream(new StreamReader(file("shared/kilocall/sample/astronaut.kcs")), codebook).motions()];
  const renderers = await Promise.all([eightBit, unrounded].map((networks) => PictureRenderer.open(networks, model, reference.source, source)));
  const differences = [];
  for (const number of [20, 75, 133, 175]) {
    const pictures = [];
    for (const renderer of renderers) {
      const frame = await renderer.render(fromVector(motions[number].vector));
      pictures.push(mix(copyAt(densely(source), frame.displacement), frame.painted, frame.gate));
    }
    differences.push(meanDifference(pictures[0], pictures[1]));
    if (number === 133) assert.ok(meanDifference(pictures[1], png("web_rendered.png")) <= 1);
  }
  console.log(`without roundings: mean difference ${differences.map((one) => one.toFixed(3)).join(", ")} grey levels`);
  assert.ok(Math.max(...differences) <= 1);
});
