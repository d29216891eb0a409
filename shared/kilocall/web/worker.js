// The thread that makes pictures. It gets a stream's pictures and then one motion at a time, and draws onto the page's
// canvas, or hands back what the picture is composed of where the browser does not let a worker draw. It also finds the face
// in another picture that is given, and shows that in place of the stream's own.

import { file, networkFiles, openEngine } from "./engine.js";
import { BadInput, KilocallError } from "./errors.js";
import { faceOfPicture } from "./face_finder.js";
import { FACE_NETWORKS, FaceTracker, sourceOf } from "./face_tracker.js";
import { Fusion } from "./fusion.js";
import { layerIsSupported } from "./layer_decoder.js";
import { LayerMixer } from "./layer_mixer.js";
import { LayerTrack } from "./layer_track.js";
import { fromVector } from "./motion.js";
import { ReferenceRenderer, NETWORKS, Networks, OtherRenderer, PictureRenderer } from "./renderer.js";
import { screenOn } from "./screen.js";
import { ShapeModel } from "./shape.js";

/** @typedef {import("./renderer.js").Pixels} Pixels */
/** @typedef {import("./gl_compose.js").Frame} Frame */

/**
 * @typedef {object} Opening
 * @property {"open"} do
 * @property {OffscreenCanvas | null} canvas null: frames are handed back
 * @property {number} size
 * @property {Picture[]} pictures the source picture first
 * @property {import("./layer_track.js").TimedLayer[]} layer of the stream, and the camera's frames, in the order of time
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
 * @property {number} timeUs
 * @property {Float32Array} vector
 * @property {import("./geometry.js").Angles} turn
 * @property {boolean} restart
 * @property {number} stepUs stream time since the frame before: where there is more of it faces move further
 */

/**
 * @typedef {object} Showing
 * @property {"show"} do
 * @property {import("./pixels.js").Picture | null} picture null: the stream's own
 */

/** @typedef {{ field: number, move: number, generator: number, layer: number, compose: number }} Ms */

/**
 * @typedef {{ did: "open", threads: number }
 *   | { did: "render", number: number, ms: Ms, picture: number | null, frame: Frame | null, layered: number, camera: boolean,
 *       plain: import("./pixels.js").Picture | null }
 *   | { did: "show", picture: { small: Pixels, detail: Pixels | null } | null } | { did: "refuse", reason: string } | { did: "fail", reason: string }} Answer
 */

const MOST_THREADS = 4;

/** What every picture needs.
 * @typedef {object} Opened
 * @property {import("./renderer.js").Engine} engine
 * @property {Networks} networks
 * @property {ShapeModel} shapeModel
 * @property {import("./screen.js").Screen} screen
 * @property {number} size
 * @property {import("./shape.js").Source} source of the stream
 */

/** @typedef {{ renderer: ReferenceRenderer, held: any[], track: LayerTrack | null }} Own the stream's pictures, and its layer */
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
async function open({ canvas, size, pictures, layer }) {
  const { engine, threads } = await openEngine(MOST_THREADS);
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
    track: await trackOf(layer, engine),
  };
  opened = { engine, networks, shapeModel, screen, size, source, own, other: null };
  answer({ did: "open", threads });
}

/**
 * Null where the stream has no video layer, or this browser does not decode it: it is played by motion alone.
 * @param {import("./layer_track.js").TimedLayer[]} layer
 * @param {import("./renderer.js").Engine} engine
 */
async function trackOf(layer, engine) {
  if (!layer.length || !await layerIsSupported()) return null;
  const { fusion } = await networkFiles(["fusion"]);
  return new LayerTrack(layer, new LayerMixer(await Fusion.open(engine, fusion)));
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

/** A frame so much later than the one before is not its picture moved on: somebody has jumped to it. */
const LONGEST_STEP_US = 500_000;

/** @param {Rendering} wish */
async function render({ number, timeUs, vector, turn, restart, stepUs }) {
  if (opened === null) throw new BadInput("nothing is open");
  const { own, other, screen } = opened;
  const { renderer } = other ?? own;
  if (restart || stepUs > LONGEST_STEP_US) renderer.restart();
  if (restart) own.track?.reset();
  const layered = () => own.track?.used ?? 0;
  const began = performance.now();
  // What the camera saw shows who moves another picture.
  const camera = other === null ? await own.track?.camera(timeUs) ?? null : null;
  if (camera !== null) {
    const decoded = performance.now();
    const plain = screen.show(camera);
    const ms = { field: 0, move: 0, generator: 0, layer: decoded - began, compose: performance.now() - decoded };
    answer({ did: "render", number, picture: null, frame: null, ms, layered: layered(), camera: true, plain });
    return;
  }
  const { picture, frame } = await renderer.render(fromVector(vector), turn, Math.max(1, stepUs / 40_000));
  const rendered = performance.now();
  // What the layer saw fits neither another picture nor a head that is turned further.
  const fits = other === null && !turn.some(Boolean);
  const change = fits ? await own.track?.mix(frame.made, timeUs) : null;
  const made = performance.now();
  const left = screen.draw(picture === null ? other?.held : own.held[picture], { ...frame, change });
  const ms = { ...frame.ms, layer: made - rendered, compose: performance.now() - made };
  answer({ did: "render", number, picture, frame: left, ms, layered: layered(), camera: false, plain: null });
}

/** @param {Answer} message */
function answer(message) {
  postMessage(message);
}
