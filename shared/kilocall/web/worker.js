// The thread that makes pictures. It gets a stream's pictures and then one motion at a time, and draws onto the page's
// canvas, or hands back what the picture is composed of where the browser does not let a worker draw.

import { copyAt, densely, mix } from "./compose.js";
import { BadInput, KilocallError } from "./errors.js";
import { GlComposer } from "./gl_compose.js";
import { fromVector } from "./motion.js";
import { ReferenceRenderer, NETWORKS, Networks, PictureRenderer } from "./renderer.js";
import { ShapeModel } from "./shape.js";

/** @typedef {import("./renderer.js").Pixels} Pixels */
/** @typedef {import("./gl_compose.js").Frame} Frame */

/**
 * @typedef {object} Opening
 * @property {"open"} do
 * @property {OffscreenCanvas | null} canvas null: frames are handed back
 * @property {number} size
 * @property {Picture[]} pictures the source picture first
 */

/**
 * @typedef {object} Picture
 * @property {Omit<import("./reference_pictures.js").ReferencePicture, "keypoints">} reference
 * @property {Pixels} small RGBA, `size` wide
 * @property {Pixels | null} detail the same at twice the width, where the source picture has that
 */

/**
 * @typedef {object} Rendering
 * @property {"render"} do
 * @property {number} number
 * @property {Float32Array} vector
 * @property {import("./geometry.js").Angles} turn
 * @property {boolean} restart
 */

/** @typedef {{ field: number, move: number, generator: number, compose: number }} Ms */

/**
 * @typedef {{ did: "open", threads: number } | { did: "render", number: number, ms: Ms, picture: number, frame: Frame | null }
 *   | { did: "fail", reason: string }} Answer
 */

const AT = new URL("./", import.meta.url);
// Not a literal: the library's own types are those of its package.
const ENGINE = new URL("vendor/ort.wasm.bundle.min.mjs", AT).href;
const ENGINE_WASM = new URL("vendor/ort-wasm-simd-threaded.wasm", AT).href;
const MOST_THREADS = 4;

/** @type {{ renderer: ReferenceRenderer, show: (picture: number, frame: Frame) => Frame | null } | null} */
let opened = null;

addEventListener("message", async (/** @type {MessageEvent<Opening | Rendering>} */ { data }) => {
  try {
    if (data.do === "open") await open(data);
    else await render(data);
  } catch (error) {
    // Whatever it is, the page says so and waits for nothing more.
    answer({ did: "fail", reason: error instanceof KilocallError ? error.message : String(error) });
  }
});

/** @param {Opening} wish */
async function open({ canvas, size, pictures }) {
  const engine = /** @type {typeof import("onnxruntime-web")} */ (await import(ENGINE));
  const threads = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
  engine.env.wasm.numThreads = threads;
  engine.env.wasm.wasmPaths = { wasm: ENGINE_WASM };
  engine.env.logLevel = "error";
  const [shape, ...networks] = await Promise.all(
    ["shape.safetensors", ...NETWORKS.map((name) => `${name}.onnx`)].map((name) => file(`networks/${name}`)));
  const files = /** @type {Record<typeof NETWORKS[number], Uint8Array>} */ (
    Object.fromEntries(NETWORKS.map((name, n) => [name, networks[n]])));
  const shapeModel = ShapeModel.fromBytes(shape);
  const family = await Networks.open(engine, files);
  const renderers = [];
  for (const { reference, small } of pictures) {
    renderers.push(await PictureRenderer.open(family, shapeModel, reference.source, small));
  }
  const base = pictures[0].reference.source;
  const references = pictures.map(({ reference }) =>
    ({ ...reference, keypoints: shapeModel.keypoints(base, reference.motion) }));
  opened = { renderer: new ReferenceRenderer(shapeModel, references, renderers), show: shower(canvas, size, pictures) };
  answer({ did: "open", threads });
}

/**
 * What brings a frame onto the canvas, or gives it back for the page to do so.
 * @param {OffscreenCanvas | null} canvas
 * @param {number} size
 * @param {Picture[]} pictures
 * @returns {(picture: number, frame: Frame) => Frame | null}
 */
function shower(canvas, size, pictures) {
  if (canvas === null) return (_, frame) => frame;
  try {
    const composer = new GlComposer(canvas, size);
    const held = pictures.map(({ small, detail }) => composer.hold(small, detail));
    return (picture, frame) => {
      composer.draw(held[picture], frame);
      return null;
    };
  } catch (error) {
    if (!(error instanceof KilocallError)) throw error;
    return plainly(canvas, size, pictures);
  }
}

/**
 * The same without a graphics processor, and without detail.
 * @param {OffscreenCanvas} canvas
 * @param {number} size
 * @param {Picture[]} pictures
 */
function plainly(canvas, size, pictures) {
  const context = canvas.getContext("2d");
  if (context === null) throw new BadInput("this browser lets a page draw neither with WebGL 2 nor plainly");
  canvas.width = canvas.height = size;
  const dense = pictures.map(({ small }) => densely(small));
  return (/** @type {number} */ picture, /** @type {Frame} */ { displacement, gate, painted }) => {
    const pixels = mix(copyAt(dense[picture], displacement), painted, gate);
    context.putImageData(new ImageData(pixels, size, size), 0, 0);
    return null;
  };
}

/** @param {Rendering} wish */
async function render({ number, vector, turn, restart }) {
  if (opened === null) throw new BadInput("nothing is open");
  if (restart) opened.renderer.restart();
  const { picture, frame } = await opened.renderer.render(fromVector(vector), turn);
  const made = performance.now();
  const left = opened.show(picture, frame);
  answer({ did: "render", number, picture, frame: left, ms: { ...frame.ms, compose: performance.now() - made } });
}

/** @param {string} name */
async function file(name) {
  const reply = await fetch(new URL(name, AT));
  if (!reply.ok) throw new BadInput(`${name} cannot be read: ${reply.status} ${reply.statusText}`);
  return new Uint8Array(await reply.arrayBuffer());
}

/** @param {Answer} message */
function answer(message) {
  postMessage(message);
}
