// The thread that makes pictures. It gets a stream's pictures and then one motion at a time, and draws onto the page's
// canvas, or hands back what the picture is composed of where the browser does not let a worker draw. It also finds the face
// in another picture that is given, and shows that in place of the stream's own.

import { copyAt, densely, mix } from "./compose.js";
import { BadInput, KilocallError } from "./errors.js";
import { faceOfPicture } from "./face_finder.js";
import { FACE_NETWORKS, FaceTracker, sourceOf } from "./face_tracker.js";
import { GlComposer } from "./gl_compose.js";
import { fromVector } from "./motion.js";
import { ReferenceRenderer, NETWORKS, Networks, OtherRenderer, PictureRenderer } from "./renderer.js";
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

/**
 * @typedef {object} Showing
 * @property {"show"} do
 * @property {import("./pixels.js").Picture | null} picture null: the stream's own
 */

/** @typedef {{ field: number, move: number, generator: number, compose: number }} Ms */

/**
 * @typedef {{ did: "open", threads: number } | { did: "render", number: number, ms: Ms, picture: number | null, frame: Frame | null }
 *   | { did: "show", picture: { small: Pixels, detail: Pixels | null } | null } | { did: "refuse", reason: string } | { did: "fail", reason: string }} Answer
 */

const AT = new URL("./", import.meta.url);
// Not a literal: the library's own types are those of its package.
const ENGINE = new URL("vendor/ort.wasm.bundle.min.mjs", AT).href;
const ENGINE_WASM = new URL("vendor/ort-wasm-simd-threaded.wasm", AT).href;
const MOST_THREADS = 4;

/** What brings frames onto the canvas, or gives them back for the page to do so.
 * @typedef {object} Screen
 * @property {(small: Pixels, detail: Pixels | null) => any} hold a picture, for `draw`
 * @property {(held: any, frame: Frame) => Frame | null} draw
 * @property {(held: any) => void} release
 */

/** What every picture needs.
 * @typedef {object} Opened
 * @property {import("./renderer.js").Engine} engine
 * @property {Networks} networks
 * @property {ShapeModel} shapeModel
 * @property {Screen} screen
 * @property {number} size
 * @property {import("./shape.js").Source} source of the stream
 */

/** @typedef {{ renderer: ReferenceRenderer, held: any[] }} Own the stream's pictures */
/** @typedef {{ renderer: OtherRenderer, held: any }} Other one that a person has given */

/** @type {Opened & { own: Own, other: Other | null } | null} */
let opened = null;
/** @type {Promise<FaceTracker> | null} loaded when the first picture is given */
let tracker = null;

// One wish after the other: a network runs once at a time.
let done = Promise.resolve();
addEventListener("message", (/** @type {MessageEvent<Opening | Rendering | Showing>} */ { data }) => {
  done = done.then(() => take(data));
});

/** @param {Opening | Rendering | Showing} wish */
async function take(wish) {
  try {
    if (wish.do === "open") await open(wish);
    else if (wish.do === "show") await show(wish);
    else await render(wish);
  } catch (error) {
    // Whatever it is, the page says so; without another picture the one before is shown on.
    const reason = error instanceof KilocallError ? error.message : String(error);
    answer({ did: wish.do === "show" ? "refuse" : "fail", reason });
  }
}

/** @param {Opening} wish */
async function open({ canvas, size, pictures }) {
  const engine = /** @type {typeof import("onnxruntime-web")} */ (await import(ENGINE));
  const threads = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
  engine.env.wasm.numThreads = threads;
  engine.env.wasm.wasmPaths = { wasm: ENGINE_WASM };
  engine.env.logLevel = "error";
  const [shape, files] = await Promise.all([file("networks/shape.safetensors"), networkFiles(NETWORKS)]);
  const shapeModel = ShapeModel.fromBytes(shape);
  const networks = await Networks.open(engine, files);
  const renderers = [];
  for (const { reference, small } of pictures) {
    renderers.push(await PictureRenderer.open(networks, shapeModel, reference.source, small));
  }
  const { source } = pictures[0].reference;
  const references = pictures.map(({ reference }) =>
    ({ ...reference, keypoints: shapeModel.keypoints(source, reference.motion) }));
  const screen = screenOn(canvas, size);
  const own = {
    renderer: new ReferenceRenderer(shapeModel, references, renderers),
    held: pictures.map(({ small, detail }) => screen.hold(small, detail)),
  };
  opened = { engine, networks, shapeModel, screen, size, source, own, other: null };
  answer({ did: "open", threads });
}

/**
 * @param {OffscreenCanvas | null} canvas
 * @param {number} size
 * @returns {Screen}
 */
function screenOn(canvas, size) {
  if (canvas === null) return { hold: () => null, draw: (_, frame) => frame, release() {} };
  try {
    const composer = new GlComposer(canvas, size);
    return {
      hold: (small, detail) => composer.hold(small, detail),
      draw(held, frame) {
        composer.draw(held, frame);
        return null;
      },
      release: (held) => composer.release(held),
    };
  } catch (error) {
    if (!(error instanceof KilocallError)) throw error;
    return plainScreen(canvas, size);
  }
}

/**
 * The same without a graphics processor, and without detail.
 * @param {OffscreenCanvas} canvas
 * @param {number} size
 * @returns {Screen}
 */
function plainScreen(canvas, size) {
  const context = canvas.getContext("2d");
  if (context === null) throw new BadInput("this browser lets a page draw neither with WebGL 2 nor plainly");
  canvas.width = canvas.height = size;
  return {
    hold: densely,
    draw(dense, { displacement, gate, painted }) {
      const pixels = mix(copyAt(dense, displacement), painted, gate);
      context.putImageData(new ImageData(pixels, size, size), 0, 0);
      return null;
    },
    release() {},
  };
}

/**
 * Another picture in place of the stream's own, or the stream's own again.
 * @param {Showing} wish
 */
async function show({ picture }) {
  if (opened === null) throw new BadInput("nothing is open");
  const { engine, networks, shapeModel, screen, size, source, other } = opened;
  if (picture === null) {
    if (other !== null) screen.release(other.held);
    opened.other = null;
    opened.own.renderer.restart();
    answer({ did: "show", picture: null });
    return;
  }
  tracker ??= networkFiles(FACE_NETWORKS).then((files) => FaceTracker.open(engine, files));
  let faces;
  try {
    faces = await tracker;
  } catch (error) {
    tracker = null; // the next picture tries again
    throw error;
  }
  const { small, detail } = await faceOfPicture(faces, picture, size);
  const found = sourceOf(await faces.track(small), shapeModel, source.pose.expression.length);
  const renderer = await PictureRenderer.open(networks, shapeModel, found, small.data);
  const held = screen.hold(small.data, detail?.data ?? null);
  if (other !== null) screen.release(other.held);
  opened.other = { renderer: new OtherRenderer(renderer, source.pose), held };
  answer({ did: "show", picture: { small: small.data, detail: detail?.data ?? null } });
}

/** @param {Rendering} wish */
async function render({ number, vector, turn, restart }) {
  if (opened === null) throw new BadInput("nothing is open");
  const { own, other, screen } = opened;
  const { renderer } = other ?? own;
  if (restart) renderer.restart();
  const { picture, frame } = await renderer.render(fromVector(vector), turn);
  const made = performance.now();
  const left = screen.draw(picture === null ? other?.held : own.held[picture], frame);
  answer({ did: "render", number, picture, frame: left, ms: { ...frame.ms, compose: performance.now() - made } });
}

/**
 * @template {string} Name
 * @param {readonly Name[]} names
 * @returns {Promise<Record<Name, Uint8Array>>}
 */
async function networkFiles(names) {
  const files = await Promise.all(names.map((name) => file(`networks/${name}.onnx`)));
  return /** @type {Record<Name, Uint8Array>} */ (Object.fromEntries(names.map((name, n) => [name, files[n]])));
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
