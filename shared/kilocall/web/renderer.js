// Motion to what a picture is composed of: the networks of compact-256, and their inputs. As `model/compact/family.py`
// and `receiver/reference_renderer.py`; `vendor/` has the engine that runs the networks.

import { move, densely } from "./compose.js";
import { loading } from "./engine.js";
import { BadInput } from "./errors.js";
import { FieldFor } from "./held_field.js";
import { HeldPicture } from "./held_picture.js";
import { LANDMARKS } from "./landmarks.js";
import { MOST_PICTURES } from "./limits.js";
import { Made, Paint } from "./made.js";
import { Chooser, distance, retargetTo } from "./reference_pictures.js";
import { transfer, turnHead } from "./motion.js";
import { rgb } from "./pixels.js";
import { sourceKeypoints } from "./shape.js";
import { speakingParts } from "./speaking.js";

/** @typedef {Pick<import("onnxruntime-web").InferenceSession, "inputNames" | "run">} Session */
/** @typedef {import("onnxruntime-web").Tensor} Tensor */
/** @typedef {import("./motion.js").Motion} Motion */
/** @typedef {import("./shape.js").ShapeModel} ShapeModel */
/** @typedef {import("./reference_pictures.js").ReferencePicture} ReferencePicture */
/** @typedef {import("./gl_compose.js").Frame} Frame */
/** @typedef {Uint8Array | Uint8ClampedArray} Pixels */
/** @typedef {import("./made.js").Origin} Origin */

/**
 * What a picture is composed of, and what making it took.
 * @typedef {Frame & { made: Made, ms: { field: number, move: number, generator: number } }} Rendered
 */

/** What networks need of the engine's library: `onnxruntime-web`. */
/** @typedef {Pick<typeof import("onnxruntime-web"), "InferenceSession" | "Tensor">} Engine */

export const NETWORKS = /** @type {const} */ (["appearance", "field", "generator"]);
/** Those of them that a sender runs. */
export const SENDER_NETWORKS = /** @type {const} */ (["appearance", "field"]);
/** Of the motion field, what a receiver wants. */
const FIELD_OUTPUTS = ["displacement", "visible", "gate", "fine", "coarse", "masks"];
/** Where the networks take longer for a picture, it may be moved on from one before. */
const HOLD_FROM_MS = 10;
/** Features by the generator's name for them, the appearance network's, and channels. */
const FEATURES = /** @type {const} */ ([["seen_128", "at_128"], ["seen_64", "at_64"], ["seen_32", "at_32"]]);

/** What both sides need of the family's networks, on one engine. */
export class FieldNetworks {
  /**
   * @param {Engine} engine
   * @param {Record<typeof SENDER_NETWORKS[number], Session>} sessions
   */
  constructor(engine, { appearance, field }) {
    this.engine = engine;
    this.appearance = appearance;
    this.field = field;
  }

  /**
   * @param {Engine} engine
   * @param {Record<typeof SENDER_NETWORKS[number], Uint8Array>} files
   */
  static async open(engine, files) {
    return new FieldNetworks(engine, await sessionsOf(engine, SENDER_NETWORKS, files));
  }

  /**
   * Features of a picture.
   * @param {Pixels} picture [S, S, 4]
   */
  appearanceOf(picture) {
    const side = Math.sqrt(picture.length / 4);
    const pixels = rgb({ width: side, height: side, data: picture });
    return this.appearance.run({ picture: this.bytes(pixels, [1, side, side, 3]) });
  }

  /**
   * @param {Float32Array} data
   * @param {number[]} shape
   */
  floats(data, shape) {
    return new this.engine.Tensor("float32", data, shape);
  }

  /**
   * @param {Uint8Array} data
   * @param {number[]} shape
   */
  bytes(data, shape) {
    return new this.engine.Tensor("uint8", data, shape);
  }
}

/** What renders, too. */
export class Networks extends FieldNetworks {
  /**
   * @param {Engine} engine
   * @param {Record<typeof NETWORKS[number], Session>} sessions
   */
  constructor(engine, sessions) {
    super(engine, sessions);
    this.generator = sessions.generator;
  }

  /**
   * @param {Engine} engine
   * @param {Record<typeof NETWORKS[number], Uint8Array>} files
   */
  static async open(engine, files) {
    return new Networks(engine, await sessionsOf(engine, NETWORKS, files));
  }
}

/**
 * One after the other: the engine is no quicker with two at a time, and takes more memory.
 * @template {string} Name
 * @param {Engine} engine
 * @param {readonly Name[]} names
 * @param {Record<Name, Uint8Array>} files
 */
async function sessionsOf(engine, names, files) {
  /** @type {Partial<Record<Name, Session>>} */
  const sessions = {};
  for (const name of names) {
    sessions[name] = await engine.InferenceSession.create(files[name], loading(files[name]));
  }
  return /** @type {Record<Name, Session>} */ (sessions);
}

/** One picture's features; the networks that move them are the family's. */
export class PictureRenderer {
  /**
   * @param {Networks} networks
   * @param {ShapeModel} shapeModel
   * @param {import("./shape.js").Source} source
   * @param {Record<string, Tensor>} appearance
   * @param {Pixels} picture
   */
  constructor(networks, shapeModel, source, appearance, picture) {
    this.networks = networks;
    this.shapeModel = shapeModel;
    this.source = source;
    const points = sourceKeypoints(source);
    this.still = { motion_cue: appearance.motion_cue, x_s: networks.floats(points, [1, points.length / 2, 2]) };
    const wanted = networks.generator.inputNames;
    this.features = FEATURES.filter(([name]) => wanted.includes(name)).map(([name, from]) => {
      const { data, dims } = appearance[from];
      return { name, dims, values: /** @type {Float32Array} */ (data), channels: dims[3], moved: new Float32Array(data.length) };
    });
    this.picture = picture;
    this.points = points;
    /** @type {Origin | null} */
    this.held = null;
    /** @type {HeldPicture | null} */
    this.kept = null;
  }

  /** The next frame does not follow the last one. */
  restart() {
    this.kept = null;
  }

  /** What is made of the picture alone, once it is needed. */
  get origin() {
    this.held ??= { dense: densely(this.picture), speaking: speakingParts(this.points.subarray(0, 2 * LANDMARKS)) };
    return this.held;
  }

  /**
   * @param {Networks} networks
   * @param {ShapeModel} shapeModel
   * @param {import("./shape.js").Source} source
   * @param {Pixels} picture [S, S, 4]
   */
  static async open(networks, shapeModel, source, picture) {
    return new PictureRenderer(networks, shapeModel, source, await networks.appearanceOf(picture), picture);
  }

  /**
   * What the picture moved by `motion` is composed of. With `hold`, for frames in their order, it may
   * be what was made for a frame before, moved on, where the networks are slow; at 1 that hardly shows, with more the face may
   * have moved so many times as far.
   * @param {Motion} motion
   * @param {number} [hold]
   * @returns {Promise<Rendered>}
   */
  async render(motion, hold = 0) {
    const { networks, features, kept } = this;
    const origin = () => this.origin;
    const started = performance.now();
    const { points, jacobian, interior } = this.shapeModel.driving(this.source, motion);
    if (hold > 0 && kept?.reaches(points, hold)) {
      const { displacement, trace } = kept.movedOn(points, jacobian);
      const ms = { field: performance.now() - started, move: 0, generator: 0 };
      const made = new Made(origin, displacement, { paint: kept.paint, visible: kept.visible, trace });
      return { displacement, gate: kept.paint.gate, painted: null, trace, made, ms };
    }
    const driven = networks.floats(points, [1, points.length / 2, 2]);
    const field = await networks.field.run(
      { ...this.still, x_d: driven, jacobian: networks.floats(jacobian, [1, 2, 2]) }, FIELD_OUTPUTS);
    const asked = performance.now();
    const [flow, visible] = [floats(field.displacement), floats(field.visible)];
    /** @type {Record<string, Tensor>} */
    const wanted = { fine: field.fine, coarse: field.coarse, x_d: driven, interior: networks.floats(interior, [1, 3]) };
    for (const { name, dims, values, channels, moved } of features) {
      wanted[name] = networks.floats(move(values, channels, flow, visible, moved), [...dims]);
    }
    const moved = performance.now();
    const { painted } = await networks.generator.run(wanted);
    const ended = performance.now();
    const ms = { field: asked - started, move: moved - asked, generator: ended - moved };
    const paint = new Paint(/** @type {Uint8Array} */ (painted.data), floats(field.gate));
    const slow = ended - started > HOLD_FROM_MS;
    this.kept = hold > 0 && slow ? new HeldPicture(new FieldFor(field, this.points, points, jacobian), paint, visible) : null;
    const made = new Made(origin, flow, { paint, visible, trace: null });
    return { displacement: flow, gate: paint.gate, painted: paint.pixels, trace: null, made, ms };
  }
}

/** @param {Tensor} tensor */
const floats = (tensor) => /** @type {Float32Array} */ (tensor.data);

/**
 * Holds the source picture and up to seven further ones; each frame is made on the one that is nearest. A change of
 * picture is a cut.
 */
export class ReferenceRenderer {
  /**
   * @param {ShapeModel} shapeModel
   * @param {ReferencePicture[]} references the source picture first
   * @param {PictureRenderer[]} renderers
   */
  constructor(shapeModel, references, renderers) {
    if (!references.length) throw new BadInput("gallery is empty, wanted is a source picture");
    this.shapeModel = shapeModel;
    this.references = references;
    this.renderers = renderers;
    this.chooser = new Chooser({ fadeFrames: 0 });
    this.last = 0;
  }

  /**
   * A further picture of the speaker, shown where it is nearer than the others. Raises BadInput when MOST_PICTURES are held.
   * @param {ReferencePicture} reference
   * @param {PictureRenderer} renderer
   */
  add(reference, renderer) {
    if (this.references.length >= MOST_PICTURES) {
      throw new BadInput(`gallery holds ${this.references.length} pictures, most are ${MOST_PICTURES}`);
    }
    this.references.push(reference);
    this.renderers.push(renderer);
  }

  /** The next frame does not follow the last one: after seeking. */
  restart() {
    this.chooser.reset();
    this.renderers[this.last].restart();
  }

  /**
   * Which picture shows the frame, and what it is composed of.
   * @param {Motion} motion
   * @param {import("./geometry.js").Angles} turn the head turned further at the receiver, radians
   * @param {number} [hold] as `PictureRenderer.render`
   */
  async render(motion, turn, hold = 0) {
    const base = this.references[0].source;
    const seen = turn.some(Boolean) ? turnHead(motion, turn, base.neck) : motion;
    if (this.references.length === 1) return { picture: 0, frame: await this.renderers[0].render(seen, hold) };
    const points = this.shapeModel.keypoints(base, seen);
    const { picture } = this.chooser.choose(this.references.map(({ keypoints }) => distance(points, keypoints)));
    const own = picture === 0 ? seen : retargetTo(seen, this.references[picture]);
    // What was painted is kept for the picture shown last alone.
    if (picture !== this.last) this.renderers[picture].restart();
    this.last = picture;
    const frame = await this.renderers[picture].render(own, hold);
    frame.made.number = picture;
    return { picture, frame };
  }
}

/**
 * Another picture in place of the stream's own: only what changed since the stream's source is applied (relative motion), so
 * that a stranger keeps their own face shape and pose. As `receiver/render.py`.
 */
export class OtherRenderer {
  /**
   * @param {PictureRenderer} renderer of the other picture
   * @param {Motion} streamPose of the stream's source picture
   */
  constructor(renderer, streamPose) {
    this.renderer = renderer;
    this.streamPose = streamPose;
  }

  /** The next frame does not follow the last one. */
  restart() {
    this.renderer.restart();
  }

  /**
   * @param {Motion} motion
   * @param {import("./geometry.js").Angles} turn the head turned further at the receiver, radians
   * @param {number} [hold] as `PictureRenderer.render`
   */
  async render(motion, turn, hold = 0) {
    const { source } = this.renderer;
    const moved = transfer(motion, this.streamPose, source.pose);
    const seen = turn.some(Boolean) ? turnHead(moved, turn, source.neck) : moved;
    return { picture: null, frame: await this.renderer.render(seen, hold) };
  }
}
