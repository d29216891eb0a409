// The sending thread: camera pictures to motion packets, and the source picture. As `sender/live.py`; `send_pipeline.js` is the
// page's end.

import { CompactAligner, lookAt } from "./align.js";
import { Calibration } from "./calibration.js";
import { followClock, nowUs } from "./clock.js";
import { PacketEncoder } from "./encoder.js";
import { file, givenEngine, networkFiles, openEngine } from "./engine.js";
import { BadInput, NoFace } from "./errors.js";
import { FaceCropper } from "./face_crop.js";
import { faceOfPicture } from "./face_finder.js";
import { FACE_CERTAINTY, FACE_NETWORKS, FaceTracker, nobody, sourceOf } from "./face_tracker.js";
import { readPicture } from "./given_picture.js";
import { GpuNetworks, engineName } from "./gpu_network.js";
import { ownFamily } from "./hello.js";
import { KeypointAligner } from "./keypoint_aligner.js";
import { layerEncoding } from "./layer_encoder.js";
import { LayerSender } from "./layer_sender.js";
import { lend } from "./lent_tracker.js";
import { LEVELS } from "./limits.js";
import { MotionExtractor } from "./motion_extractor.js";
import { OwnCameraView } from "./own_camera_view.js";
import { EvenSteps, Pace, framesInMessage } from "./pace.js";
import { decoded } from "./picture_decoder.js";
import { FieldNetworks, SENDER_NETWORKS } from "./renderer.js";
import { SAME_PERSON, ShapeModel, expressionNumbers, shapeDistance } from "./shape.js";
import { chooseSource, packSource } from "./source_picture.js";
import { StillScene } from "./still_scene.js";
import { MeanMs } from "./timing.js";
import { WorkerLoop } from "./worker_loop.js";

/** @typedef {import("./pixels.js").Picture} Picture */
/** @typedef {import("./face_tracker.js").Track} Track */
/** @typedef {import("./face_crop.js").FaceCrop} FaceCrop */
/** @typedef {import("./shape.js").Source} Source */
/** @typedef {import("./send_pipeline.js").Plan} Plan */
/** @typedef {import("./send_pipeline.js").OwnSource} OwnSource */

/** The first source picture is the best of so many frames: longer than a blink at 25 fps. */
const FIRST_OF = 10;
const CANDIDATES = 25;
/** A packet may say that its frames lie 204 ms apart, and no frame waits longer for others. */
const LONGEST_WAIT_US = 200_000;
/** What a frame's way from the camera to its message takes beside the wait. */
const ON_THE_WAY_US = 50_000;
/** Robustness against a receiver that has lost its state although packets were delivered. */
const KEY_EVERY_S = 4;
const OVERLAY_EVERY_US = 100_000;
const REST_MS = 40;
/** So long after the start a camera's first frame may still be about to come. */
const WARM_AFTER_MS = 1000;
/** A layer's frame takes 4 ms to code beside the motion of its picture; a message waits no longer for it. */
const CODED_MS = 15;
/** Where only the pose of a face is asked for. */
const NO_EXPRESSION = 0;
const STAGES = /** @type {const} */ (["read", "crop", "motion", "all"]);

/** What is the same for every picture.
 * @typedef {object} Opened
 * @property {FieldNetworks} networks
 * @property {FaceTracker} faces
 * @property {ShapeModel} shapeModel
 * @property {import("./codebook.js").Codebook} codebook
 * @property {number} size
 * @property {GpuNetworks} gpu
 * @property {number} threads
 */

/** @typedef {{ own: OwnSource, picture: Picture }} Offered */

/** Owns the cropper, the encoder and the video layer's. */
class Sender {
  /**
   * @param {Opened} opened
   * @param {{ fps: number, align: boolean, plan: Plan }} settings
   */
  constructor(opened, { fps, align, plan }) {
    this.opened = opened;
    this.fps = fps;
    this.align = align;
    this.plan = plan;
    /** Real video under the motion, where the other side takes it. */
    this.layer = new LayerSender();
    this.layer.follow(plan.layerBps, plan.cameraBps);
    /** @type {Promise<void> | null} */
    this.layerTried = null;
    this.cameraView = new OwnCameraView(plan.layerBps > 0);
    this.scene = new StillScene();
    this.cropper = new FaceCropper(opened.faces, opened.size);
    this.calibration = new Calibration(opened.shapeModel.mean, 3);
    this.pace = new Pace(fps);
    this.shownFps = Infinity;
    this.steps = new EvenSteps(fps);
    this.ms = Object.fromEntries(STAGES.map((stage) => [stage, new MeanMs()]));
    this.cameraOff = false;
    this.overlayWanted = false;
    this.frames = this.sentFrames = this.payloadBits = this.packetsSent = this.keyPackets = 0;
    this.faceSeen = false;
    /** @type {Offered | null} */
    this.source = null;
    /** @type {Offered | null} */
    this.offered = null;
    /** @type {PacketEncoder | null} */
    this.encoder = null;
    /** @type {MotionExtractor | null} */
    this.extractor = null;
    this.sending = false;
    this.connection = 0;
    /** @type {{ crop: Picture, track: Track }[]} */
    this.candidates = [];
    this.lastSentUs = 0;
    /** @type {number | null} */
    this.gatheredSinceUs = null;
    this.aloneOnce = false;
    this.announce = false;
    /** @type {import("./speaker_check.js").Speaker} */
    this.speaker = "same";
    this.retake = false;
    /** @type {boolean | null} */
    this.faceTold = null;
    this.overlayUs = 0;
    /** The newest frame, no other. @type {{ image: VideoFrame | ImageBitmap, captureUs: number } | null} */
    this.newest = null;
    /** @type {CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D | null} */
    this.context = null;
  }

  /** Frames a second that are sent now. */
  get sentFps() {
    return Math.min(this.fps, this.plan.fps, this.pace.fps, this.shownFps);
  }

  /** What would be sent if this computer were fast enough. */
  get wantedFps() {
    return Math.min(this.fps, this.plan.fps, this.shownFps);
  }

  get limitedBy() {
    if (this.sentFps >= this.fps) return "none";
    if (this.pace.fps <= this.wantedFps) return "processor";
    return this.shownFps <= this.plan.fps ? "the other side" : "network";
  }

  get framesPerMessage() {
    return framesInMessage(this.plan.framesPerMessage, Math.min(this.fps, this.plan.fps), this.sentFps);
  }

  /**
   * @param {VideoFrame | ImageBitmap} image
   * @param {number} captureUs
   */
  take(image, captureUs) {
    this.newest?.image.close();
    this.newest = { image, captureUs };
  }

  /** Milliseconds until there is something to do again. */
  async step() {
    this.#flushOverdue();
    const { newest } = this;
    if (newest === null) return REST_MS;
    this.newest = null;
    const { image, captureUs } = newest;
    try {
      if (!this.steps.take(captureUs, this.sentFps)) return 0;
      if (this.cameraOff) {
        this.#noteFace(false, captureUs);
        this.cameraView.restart();
        if (this.cameraView.shown !== null) this.#switchCamera(null, captureUs);
        return 0;
      }
      const began = performance.now();
      const frame = await this.#pixelsOf(image);
      this.ms.read.add(performance.now() - began);
      await this.#look(frame, captureUs);
      const ended = performance.now();
      this.ms.all.add(ended - began);
      // Before, what loads the machine is the program's own start.
      if (this.sending && this.pace.done(nowUs(), (ended - began) / 1000, this.steps.leftOut)) this.#fitMessages();
    } finally {
      image.close();
      tell({ did: "taken" });
    }
    return 0;
  }

  /**
   * @param {VideoFrame | ImageBitmap} image
   * @returns {Promise<Picture>}
   */
  async #pixelsOf(image) {
    const copied = "copyTo" in image ? await copiedFrom(image) : null;
    if (copied !== null) return copied;
    const [width, height] = "displayWidth" in image ? [image.displayWidth, image.displayHeight] : [image.width, image.height];
    if (this.context === null || this.context.canvas.width !== width || this.context.canvas.height !== height) {
      this.context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    }
    if (this.context === null) throw new BadInput("this browser lets a page read no pictures");
    this.context.drawImage(image, 0, 0, width, height);
    return { width, height, data: this.context.getImageData(0, 0, width, height).data };
  }

  /**
   * @param {Picture} frame
   * @param {number} captureUs
   */
  async #look(frame, captureUs) {
    this.frames++;
    // Whoever is in a picture that is shown as it is, is looked for only to be told where to be.
    if (this.cameraView.asked && this.#canShowCamera && !this.overlayWanted) await this.#showCamera(frame, captureUs);
    else await this.#lookForFace(frame, captureUs);
  }

  /**
   * @param {Picture} frame
   * @param {number} captureUs
   */
  async #lookForFace(frame, captureUs) {
    const began = performance.now();
    const crop = await this.cropper.crop(frame, captureUs);
    const cropped = performance.now();
    this.ms.crop.add(cropped - began);
    const { track } = crop;
    const seen = crop.found && track !== null && track.certainty >= FACE_CERTAINTY;
    // A frame or two without landmarks is a blur: nothing is sent, and nobody is told.
    if (seen || !crop.found) this.#noteFace(seen, captureUs);
    const showing = await this.#showCamera(frame, captureUs);
    if (seen) {
      this.candidates.push({ crop: crop.crop, track });
      if (this.candidates.length > CANDIDATES) this.candidates.shift();
      if (this.source === null && this.offered === null && this.candidates.length >= FIRST_OF) await this.#takeFirst();
      if (showing) await this.#lookWho(crop.crop, track, captureUs);
      else await this.#code(crop.crop, track, captureUs);
      this.ms.motion.add(performance.now() - cropped);
    } else if (!showing) {
      this.#flush();
    }
    this.#show(frame, crop, seen ? track : null, captureUs);
  }

  get #canShowCamera() {
    return this.sending && this.cameraView.taken && this.layer.mayShowCamera;
  }

  /**
   * Sends the camera's whole picture where that is what is shown; the face stands still meanwhile.
   * @param {Picture} frame
   * @param {number} captureUs
   */
  async #showCamera(frame, captureUs) {
    const { cameraView, layer } = this;
    let why = cameraView.look(this.faceSeen && this.speaker !== "another", captureUs);
    // Not unasked while somebody else's picture is moved: it would show who moves it.
    if (!this.#canShowCamera || (why === "away" && !layer.allowed)) why = null;
    if (why !== cameraView.shown) this.#switchCamera(why, captureUs);
    if (why === null) return false;
    this.#pushLayer(() => (this.scene.shows(frame, captureUs) || layer.keyWanted ? frame : null), captureUs);
    await layer.settled(CODED_MS);
    if (layer.waits) { // who is not moved needs no messages but for these
      const { encoder, extractor } = this.encoder !== null && this.extractor !== null
        ? { encoder: this.encoder, extractor: this.extractor } : await this.#referToNobody();
      this.#gather(captureUs);
      this.#emit(encoder.push(extractor.given ?? extractor.rest, captureUs));
      this.#flush();
    }
    return true;
  }

  /** Pictures go with motion, be it of nobody. */
  async #referToNobody() {
    const { faces, shapeModel, size } = this.opened;
    const { source } = await nobody(faces, shapeModel, size);
    const extractor = this.extractor = new MotionExtractor(shapeModel, source, null);
    return { encoder: this.encoder ?? this.#openEncoder(), extractor };
  }

  /**
   * Whether it is the speaker whose face is there again.
   * @param {Picture} crop
   * @param {Track} track
   * @param {number} captureUs
   */
  async #lookWho(crop, track, captureUs) {
    const { extractor } = this;
    if (extractor === null || this.source === null) return;
    await extractor.fromTrack(track, extractor.aligner === null ? null : lookAt(crop, track.points), captureUs);
    await this.#mind(extractor.speaker);
  }

  /**
   * @param {import("./own_camera_view.js").Why | null} why
   * @param {number} captureUs
   */
  #switchCamera(why, captureUs) {
    const before = this.cameraView.shown;
    this.cameraView.shown = why;
    if ((why === null) !== (before === null)) {
      this.#flush();
      this.extractor?.reset();
      this.aloneOnce = true;
      this.layer.showCamera(why !== null);
      this.scene.restart();
      if (why === null && before === "asked") this.cropper.reset(); // whoever was looked for meanwhile may be anywhere
    }
    tell({ did: "camera", why, sinceUs: captureUs });
  }

  /**
   * @param {Picture} crop
   * @param {Track} track
   * @param {number} captureUs
   */
  async #code(crop, track, captureUs) {
    const { encoder, extractor } = this;
    if (encoder === null || extractor === null || this.source === null || !this.sending) return;
    if (this.announce) {
      // Tells the other side which frame is the first of the new source picture.
      this.announce = false;
      tell({ did: "face", seen: true, sinceUs: captureUs });
    }
    // First, so that it goes with the message that this frame may complete.
    this.#pushLayer(crop, captureUs);
    this.#gather(captureUs);
    const look = extractor.aligner === null ? null : lookAt(crop, track.points);
    const motion = await extractor.fromTrack(track, look, captureUs);
    await this.layer.settled(CODED_MS);
    this.#emit(encoder.push(motion, captureUs));
    await this.#mind(extractor.speaker);
    if (this.aloneOnce) {
      this.aloneOnce = false;
      this.#flush();
    }
  }

  /**
   * @param {import("./layer_encoder.js").ToCode} picture
   * @param {number} captureUs
   */
  #pushLayer(picture, captureUs) {
    const before = this.layer.possible;
    this.layer.push(picture, captureUs);
    if (before && !this.layer.possible) tell({ did: "layer", canSend: false }); // its encoder fails
  }

  /**
   * Before a frame goes to the encoder: one that comes late does not go with those before it.
   * @param {number} captureUs
   */
  #gather(captureUs) {
    if (this.gatheredSinceUs !== null && captureUs - this.lastSentUs > LONGEST_WAIT_US) this.#flush();
    this.gatheredSinceUs ??= captureUs;
    this.lastSentUs = captureUs;
    this.sentFrames++;
  }

  /**
   * Somebody else in the picture gets a source picture of his own; one that the user has chosen rests.
   * @param {import("./speaker_check.js").Speaker} speaker
   */
  async #mind(speaker) {
    const before = this.speaker;
    this.speaker = speaker;
    if (speaker === "same" || this.source === null) return;
    if (before === "same") this.candidates = []; // from now on they show whoever is there
    if (speaker === "another" && before !== "another") {
      this.retake = this.source.own.takenAt !== "";
      const what = this.retake ? "a new source picture is taken" : "your source picture rests";
      tell({ did: "problem", text: `somebody else seems to have come into the picture: ${what}` });
    }
    if (speaker === "another" && this.retake && this.candidates.length >= FIRST_OF) {
      this.retake = false;
      await this.takeFromCamera();
    }
  }

  /** @param {import("./motion_packet.js").MotionPacket | null} packet */
  #emit(packet) {
    if (packet === null) return;
    this.gatheredSinceUs = null;
    this.payloadBits += 8 * packet.payload.length;
    this.packetsSent++;
    this.keyPackets += Number(packet.isKey);
    const message = this.layer.behind(packet, this.plan.redundantFrames > 0);
    tell({ did: "packet", data: message.bytes(), connection: this.connection });
  }

  #flush() {
    if (this.encoder !== null) this.#emit(this.encoder.flush());
    this.gatheredSinceUs = null;
  }

  #flushOverdue() {
    if (this.gatheredSinceUs === null) return;
    // One frame that does not come is waited for; a camera that stands still is not.
    const wait = Math.min(LONGEST_WAIT_US, Math.round((1e6 * this.framesPerMessage) / this.sentFps));
    if (nowUs() - this.gatheredSinceUs > wait + ON_THE_WAY_US) this.#flush();
  }

  /**
   * @param {boolean} seen
   * @param {number} captureUs
   */
  #noteFace(seen, captureUs) {
    this.faceSeen = seen;
    if (seen === this.faceTold) return;
    if (seen) {
      this.extractor?.reset();
      this.aloneOnce = true; // the first frame goes at once: the other side has been waiting
    } else {
      this.#flush();
    }
    this.faceTold = seen;
    tell({ did: "face", seen, sinceUs: captureUs });
  }

  /** Another camera: the next frame is of somewhere else. */
  anew() {
    this.newest?.image.close();
    this.newest = null;
    this.#flush();
    this.cropper.reset();
    this.candidates = [];
    this.extractor?.reset();
  }

  // Source pictures

  async #takeFirst() {
    try {
      await this.takeFromCamera();
    } catch (error) {
      this.candidates = []; // others are needed before the next try
      throw error;
    }
  }

  async takeFromCamera() {
    if (!this.candidates.length) throw new NoFace("no face in the last second: look into the camera");
    const { crop } = this.candidates[chooseSource(this.candidates)];
    await this.#pack(crop, new Date().toTimeString().slice(0, 5));
  }

  /**
   * The face of a picture file's bytes. Raises NoFace where there is none, BadInput for a file that is not taken.
   * @param {Uint8Array} data
   */
  async takeFromPicture(data) {
    const { small } = await faceOfPicture(this.opened.faces, await readPicture(data), this.opened.size);
    await this.#pack(small, "");
  }

  /** @param {OwnSource} own one that was offered before */
  async takeAgain(own) {
    await this.#offer({ own, picture: await decoded(own.packed.data) });
  }

  /**
   * @param {Picture} crop
   * @param {string} takenAt
   */
  async #pack(crop, takenAt) {
    const { packed: { data, pictureHash }, picture } = await packSource(crop);
    await this.#offer({ own: { packed: { format: "webp", data, pictureHash }, id: pictureHash.slice(0, 16), takenAt }, picture });
  }

  /** @param {Offered} source */
  async #offer(source) {
    await this.#found(source.picture); // NoFace before anybody is offered anything
    this.offered = source;
    if (!this.sending || this.source === null) await this.#adopt(source);
    tell({ did: "source", source: source.own });
  }

  /** @param {Picture} picture */
  async #found(picture) {
    const { faces, shapeModel } = this.opened;
    const track = await faces.track(picture);
    return sourceOf(track, shapeModel, expressionNumbers(shapeModel, track.implicit));
  }

  /** @param {string} pictureHash */
  async confirm(pictureHash) {
    const { offered } = this;
    if (offered === null || offered.own.packed.pictureHash !== pictureHash) return;
    if (offered !== this.source) await this.#adopt(offered);
    this.announce = this.sending;
  }

  /**
   * Motion refers to `source` from the next frame on.
   * @param {Offered} source
   */
  async #adopt(source) {
    this.#flush();
    const { networks, shapeModel } = this.opened;
    const shown = await this.#found(source.picture);
    const own = this.#ownFace(source, shown);
    // On somebody else's picture there is nothing to lie on.
    const aligner = this.align && own === null
      ? new KeypointAligner(await CompactAligner.open(networks, shapeModel, shown, source.picture)) : null;
    this.extractor = own === null
      ? new MotionExtractor(shapeModel, shown, aligner) : new MotionExtractor(shapeModel, own, null, shown);
    [this.speaker, this.retake] = ["same", false];
    this.layer.allow(own === null && this.#showsTheSpeaker(source));
    if (this.encoder === null) this.#openEncoder();
    else this.encoder.follow();
    this.source = source;
  }

  #openEncoder() {
    const { fps, framesPerMessage: framesPerPacket } = this;
    const options = { fps, framesPerPacket, keyEveryS: KEY_EVERY_S, reference: /** @type {const} */ ("acknowledged") };
    const encoder = this.encoder = new PacketEncoder(this.opened.codebook, options);
    this.follow(this.plan);
    return encoder;
  }

  /**
   * Whether that is known of a picture for which `#ownFace` found nobody: it was taken here, or what the camera sees could be
   * compared with it.
   * @param {Offered} source
   */
  #showsTheSpeaker({ own: { takenAt } }) {
    return takenAt !== "" || this.candidates.length > 0;
  }

  /**
   * This side's own face where the source picture is somebody else's: only what changes since then is applied to that.
   * @param {Offered} source
   * @param {Source} shown
   */
  #ownFace({ own: { takenAt } }, shown) {
    const last = this.candidates.at(-1);
    if (takenAt !== "" || last === undefined) return null;
    const { shapeModel } = this.opened;
    const own = sourceOf(last.track, shapeModel, shown.pose.expression.length);
    return shapeDistance(own.shape, shown.shape) > SAME_PERSON ? own : null;
  }

  /** @param {number} connection */
  async begin(connection) {
    this.connection = connection;
    if (this.offered !== null && this.offered !== this.source) await this.#adopt(this.offered);
    this.encoder?.restart();
    this.extractor?.reset();
    this.limit(Infinity);
    this.gatheredSinceUs = this.faceTold = null;
    this.announce = false;
    this.layer.begin();
    this.cameraView.taken = false;
    this.cameraView.restart();
    if (this.cameraView.shown !== null) this.#switchCamera(null, nowUs());
    this.aloneOnce = this.sending = true;
  }

  /** @param {{ wantedBps: number, keyNeeded: boolean }} report */
  askLayer(report) {
    this.layer.asked(report);
    // Not before somebody asks: until then the computer has more urgent things to do.
    this.layerTried ??= layerEncoding().then((mode) => {
      this.layer.encode(mode);
      tell({ did: "layer", canSend: mode !== null });
    });
  }

  /** @param {Plan} plan */
  follow(plan) {
    this.plan = plan;
    this.layer.follow(plan.layerBps, plan.cameraBps);
    if (this.encoder !== null) {
      this.encoder.redundantFrames = plan.redundantFrames;
      this.encoder.codec.setQuality((100 * plan.level) / (LEVELS - 1));
    }
    this.#fitMessages();
  }

  /** @param {number} fps */
  limit(fps) {
    this.shownFps = fps;
    this.#fitMessages();
  }

  /** After a change of the rate. */
  #fitMessages() {
    if (this.encoder === null) return;
    this.encoder.framesPerPacket = this.framesPerMessage;
    this.encoder.spacingUs = Math.round(1e6 / this.sentFps);
    this.encoder.codec.keyInterval = Math.max(1, Math.round(KEY_EVERY_S * this.sentFps));
  }

  /**
   * @param {Picture} frame
   * @param {FaceCrop} crop
   * @param {Track | null} track
   * @param {number} timeUs
   */
  #show({ width, height }, crop, track, timeUs) {
    const { place } = crop;
    if (!this.overlayWanted || timeUs - this.overlayUs < OVERLAY_EVERY_US) return;
    this.overlayUs = timeUs;
    const { shapeModel } = this.opened;
    const face = track && {
      points: track.points, place, crop: crop.crop, rotation: sourceOf(track, shapeModel, NO_EXPRESSION).pose.rotation,
    };
    tell({ did: "overlay", overlay: this.calibration.look(face, { width, height }), timeUs, points: track?.points ?? null });
  }

  numbers() {
    const { frames, sentFrames, payloadBits, packetsSent, keyPackets, sentFps: fps, wantedFps, limitedBy, faceSeen } = this;
    const ms = Object.fromEntries(STAGES.map((stage) => [stage, this.ms[stage].mean]));
    const { gpu, threads } = this.opened;
    const onGpu = gpu.names;
    const { bytesSent, frames: layerFrames } = this.layer;
    const engine = engineName(gpu, threads);
    return { frames, sentFrames, payloadBits, packetsSent, keyPackets, fps, wantedFps, limitedBy, faceSeen, ms, engine, onGpu, layer: { frames: layerFrames, bytes: bytesSent, setting: this.layer.setting } };
  }
}

/** @type {Sender | null} */
let sender = null;
const loop = new WorkerLoop(async () => sender?.step() ?? REST_MS, (text) => tell({ did: "problem", text }));
let filmed = false;

addEventListener("message", ({ data: wish }) => {
  if (wish.do === "open") {
    open(wish).then(() => loop.run(), (error) => tell({ did: "fail", text: String(error?.message ?? error) }));
  } else if (wish.do === "frame") {
    hand(wish.image, wish.captureUs);
  } else if (wish.do !== "engine") { // `givenEngine` takes that
    loop.ask(() => (sender === null ? undefined : take(sender, wish)));
  }
});

/**
 * A camera's frame as it lies there, in less time than a canvas takes; null where it has to be turned or stretched, or this
 * browser copies no colours.
 * @param {VideoFrame} frame
 * @returns {Promise<Picture | null>}
 */
async function copiedFrom(frame) {
  const { displayWidth: width, displayHeight: height, visibleRect: seen } = frame;
  const { rotation = 0, flip = false } = /** @type {{ rotation?: number, flip?: boolean }} */ (frame);
  const plain = seen?.width === width && seen.height === height && rotation === 0 && !flip;
  /** @type {VideoFrameCopyToOptions} */
  const asColours = { format: "RGBA", colorSpace: "srgb" };
  try {
    if (!plain || frame.allocationSize(asColours) !== 4 * width * height) return null;
    const data = new Uint8ClampedArray(4 * width * height);
    await frame.copyTo(data, asColours);
    return { width, height, data };
  } catch {
    return null;
  }
}

/**
 * @param {VideoFrame | ImageBitmap} image
 * @param {number} captureUs
 */
function hand(image, captureUs) {
  filmed = true;
  if (sender === null) {
    image.close();
    tell({ did: "taken" });
    return;
  }
  sender.take(image, captureUs);
  loop.wake();
}

/**
 * @param {Sender} to
 * @param {any} wish
 */
async function take(to, wish) {
  switch (wish.do) {
    case "anew": return to.anew();
    case "begin": return to.begin(wish.connection);
    case "pause": to.sending = false; return;
    case "acknowledge": return to.encoder?.codec.acknowledge(wish.sequence);
    case "confirm": return to.confirm(wish.pictureHash);
    case "follow": return to.follow(wish.plan);
    case "limit": return to.limit(wish.fps);
    case "ask layer": return to.askLayer(wish.report);
    case "take camera": to.cameraView.taken = true; return;
    case "show camera": to.cameraView.asked = wish.on; return;
    case "camera off": to.cameraOff = wish.off; return;
    case "overlay": to.overlayWanted = wish.wanted; return;
    case "take source": return answer(wish.number, () => to.takeFromCamera());
    case "use source": return answer(wish.number, () => to.takeAgain(wish.source));
    case "use picture": return answer(wish.number, () => to.takeFromPicture(wish.data));
    case "gpu": return to.opened.gpu.use(wish.port);
    case "numbers": return answer(wish.number, async () => to.numbers());
    default: throw new BadInput(`the sender is asked to ${wish.do}, which it cannot`);
  }
}

/**
 * @param {number} number
 * @param {() => Promise<any>} work
 */
async function answer(number, work) {
  try {
    tell({ did: "answer", number, value: await work(), why: null });
  } catch (error) {
    tell({ did: "answer", number, value: null, why: error instanceof Error ? error.message : String(error) });
  }
}

/**
 * @param {{ fps: number, threads: number, given: boolean, lends: MessagePort | null, align: boolean,
 *   plan: Plan, clockOffsetUs: number }} settings
 */
async function open(settings) {
  followClock(settings.clockOffsetUs);
  const [{ engine, threads }, { family, codebook }, shape, files, faceFiles] = await Promise.all([
    openEngine(settings.threads, settings.given ? givenEngine() : null), ownFamily(), file("networks/shape.safetensors"), networkFiles(SENDER_NETWORKS),
    networkFiles(FACE_NETWORKS),
  ]);
  const size = family.pictureSize;
  const shapeModel = ShapeModel.fromBytes(shape);
  const faces = await FaceTracker.open(engine, faceFiles);
  const networks = await FieldNetworks.open(engine, files);
  const gpu = new GpuNetworks(engine);
  networks.field = gpu.lent("field", networks.field);
  for (const name of /** @type {const} */ (["face", "eye", "mouth"])) faces.sessions[name] = gpu.lent(name, faces.sessions[name]);
  sender = new Sender({ networks, faces, shapeModel, codebook, size, gpu, threads }, settings);
  if (settings.lends !== null) {
    // Between two frames, as all that is asked for.
    lend(settings.lends, (crop) => new Promise((done, fail) => loop.ask(() => faces.track(crop).then(done, fail))));
  }
  tell({ did: "open" });
  setTimeout(() => {
    if (!filmed) loop.ask(() => warm(networks, faces, shapeModel, size));
  }, WARM_AFTER_MS);
}

/**
 * Every network runs once while no camera is there yet, rather than in the first second of the call.
 * @param {FieldNetworks} networks
 * @param {FaceTracker} faces
 * @param {ShapeModel} shapeModel
 * @param {number} size
 */
async function warm(networks, faces, shapeModel, size) {
  const { source, picture, track } = await nobody(faces, shapeModel, size);
  const aligner = await CompactAligner.open(networks, shapeModel, source, picture);
  await aligner.align(source.pose, track, lookAt(picture, track.points));
}

/** @param {object} message */
function tell(message) {
  postMessage(message);
}
