// What two parties agree on above a connection: who they are, their source pictures, faces, reports and farewell.
//
// As `control/session.py`. A Session outlives connections: after a change of network the next one goes on with the same
// pictures. It does no input or output of its own and runs no network: it is told what arrived, and asks its ports to do
// things.
//
//     introduce    this side's Hello, once its models are loaded
//     opened    -> Hello, Reveal, MediaState, the own picture's offer
//     Hello     checked: version, family, weights; a difference ends the call with a Bye that says what to update
//     offer     -> WantPicture, unless the picture is in the cache; HavePicture once it can be moved
//
// Two things are other than in Python. Speaker adapters, which this renderer cannot use, are never asked for. And a
// browser does not tell which motion packets the other side's transport has acknowledged: what a ReceiverReport names as
// the newest one has arrived, so that is acknowledged to the encoder.

import { utf8 } from "./bytes.js";
import { Acquaintance } from "./acquaintance.js";
import {
  Bye,
  CameraState,
  Compared,
  CropPlace,
  FaceState,
  HavePicture,
  Hello,
  LayerReport,
  MediaState,
  PersonalPiece,
  PictureRate,
  ReceiverReport,
  Recognise,
  ReferenceOffer,
  ReferencePiece,
  Reveal,
  SourcePicture,
  WantPicture,
  parseControl,
} from "./control.js";
import { BadPacket, NotProven } from "./errors.js";
import { Exchange, PICTURES, dropOldest } from "./exchange.js";
import { HISTORY } from "./limits.js";
import { samePlan } from "./rate_control.js";
import { ReferenceExchange } from "./references.js";

/** @typedef {import("./control.js").ControlMessage} ControlMessage */
/** @typedef {import("./trust.js").Handshake} Handshake */
/** @typedef {import("./rate_control.js").Plan} Plan */
/** @typedef {import("./rate_control.js").RateControl} RateControl */
/** @typedef {import("./blob_store.js").BlobStore} BlobStore */
/** @typedef {"alone" | "connecting" | "open" | "lost" | "ended" | "refused"} Phase */

/**
 * What the session asks of the sending side.
 * @typedef {object} Outgoing
 * @property {(sequence: number) => void} acknowledge
 * @property {(pictureHash: string) => void} confirm
 * @property {(plan: Plan) => void} follow
 * @property {(report: LayerReport) => void} askLayer
 * @property {() => void} takeCamera
 * @property {(fps: number) => void} limit
 */

/**
 * What the session asks of the receiving side.
 * @typedef {object} Incoming
 * @property {(pictureHash: string, data: Uint8Array) => void} prepare
 * @property {(pictureHash: string, fromUs: number) => void} use
 * @property {(baseHash: string, pictureHash: string, data: Uint8Array) => void} refer
 * @property {(fps: number) => void} expect
 * @property {(shown: boolean, fromUs: number) => void} showCamera
 * @property {() => void} forget
 */

/**
 * What is known of the other side.
 * @typedef {object} Remote
 * @property {boolean} present
 * @property {boolean} face
 * @property {number} faceSinceUs on this side's clock
 * @property {boolean} muted
 * @property {boolean} cameraOff
 * @property {boolean} takesCamera whether it can show what this side's camera sees
 * @property {string | null} pictureHash of the picture that is moved
 */

/**
 * @typedef {object} SessionOptions
 * @property {RateControl} rate
 * @property {() => number} clockUs microseconds, whole ones
 * @property {string} linkName LinkSecret's `name`
 * @property {{ pictures: BlobStore, references: BlobStore } | null} [stores] pictures that outlive the call
 * @property {Storage | null} [storage] what outlives the call of who was compared with
 * @property {() => void} [onChange]
 * @property {(plan: Plan) => void} [onPlan]
 * @property {(pictureHash: string) => void} [onReference] told of each further picture of this side's that the other holds
 */

const BUSY_MS = 100;
/** No more often is it said in the log what the other side got wrong. */
const DROPPED_EVERY_US = 1_000_000;
/** Clocks this near are one clock: both parties are on one machine. */
const SAME_CLOCK_US = 3_000_000;
const MOST_REASON_BYTES = 200;
/** Families whose weights are the user's own. */
const OWN_WEIGHTS = ["facevid2vid", "liveportrait"];

/** One call's state. */
export class Session {
  #outgoing;
  #incoming;
  #clockUs;
  #onChange;
  #onPlan;
  /** @type {((data: Uint8Array) => boolean) | null} */
  #send = null;
  #greeted = false;
  /** @type {Hello | null} */
  #hello = null;
  /** @type {FaceState | null} */
  #ownFace = null;
  #media = new MediaState(false, false);
  /** @type {PictureRate | null} */
  #ownRate = null;
  /** Of the video layer that is taken here. */
  #layerBps = 0;
  #ownCamera = new CameraState(false, 0);
  /** @type {Map<number, number>} when each motion packet was sent */
  #sentAt = new Map();
  /** @type {number | null} */
  #droppedUs = null;
  /** @type {string | null} */
  #ready = null;
  /** @type {Plan | null} */
  #followed = null;

  /**
   * @param {Outgoing} outgoing
   * @param {Incoming} incoming
   * @param {SessionOptions} options
   */
  constructor(outgoing, incoming, options) {
    this.rate = options.rate;
    /** @type {Phase} */
    this.phase = "alone";
    /** Why the phase is what it is: for people. */
    this.reason = "";
    /** @type {Remote} */
    this.remote = { present: false, face: false, faceSinceUs: 0, muted: false, cameraOff: false, takesCamera: false, pictureHash: null };
    /** Control messages that made no sense here and were dropped. */
    this.malformed = 0;
    /** @type {number | null} */
    this.rttMs = null;
    /** @type {number | null} share of this side's motion packets that the other side missed lately */
    this.loss = null;
    /** @type {boolean | null} whether both sides read one clock, so that delays can be measured exactly; null: not known yet */
    this.sameClock = null;
    /** How much longer than it need this machine takes from camera to wire: no matter of the network. */
    this.ownLagMs = 0;
    /** How late this machine reads what has arrived. */
    this.loopLagMs = 0;
    /** @type {string | null} the other side's farewell on this connection */
    this.saidBye = null;
    /** @type {string | null} hash of this side's picture that the other side is known to hold */
    this.confirmed = null;
    this.#outgoing = outgoing;
    this.#incoming = incoming;
    this.#clockUs = options.clockUs;
    this.#onChange = options.onChange ?? (() => {});
    this.#onPlan = options.onPlan ?? (() => {});
    const onReference = options.onReference ?? (() => {});
    const say = (/** @type {ControlMessage} */ message) => this.#say(message);
    const drop = (/** @type {string} */ why) => this.#drop(why);
    /** Source pictures, both sides'. */
    this.pictures = new Exchange(PICTURES, {
      say,
      drop,
      clockUs: this.#clockUs,
      got: ({ pictureHash, data }) => incoming.prepare(pictureHash, data),
      offered: (pictureHash, first) => this.#pictureOffered(pictureHash, first),
      confirmed: (pictureHash) => this.#pictureConfirmed(pictureHash),
      inUse: () => [this.remote.pictureHash],
    }, options.stores?.pictures);
    /** Further pictures of the speaker, both sides'. */
    this.references = new ReferenceExchange({
      say,
      drop,
      got: (baseHash, pictureHash, data) => incoming.refer(baseHash, pictureHash, data),
      confirmed: (pictureHash) => {
        onReference(pictureHash);
        this.#onChange();
      },
    }, options.stores?.references);
    /** Whether the other side is who the person here takes it for. */
    this.acquaintance = new Acquaintance(
      options.linkName, { say, drop, changed: () => this.#onChange() }, options.storage ?? null);
  }

  /** The other side's picture that is moved. */
  get remotePicture() {
    return this.pictures.get(this.remote.pictureHash);
  }

  /** Whether the other side's Hello has come and fits. */
  get greeted() {
    return this.#greeted;
  }

  /** This side's Hello, once introduced. */
  get hello() {
    if (this.#hello === null) throw new Error("this side has not been introduced");
    return this.#hello;
  }

  // The connection

  /**
   * What the other side is told of this one's models; before the first connection is opened.
   * @param {Hello} hello
   */
  introduce(hello) {
    this.#hello = hello;
  }

  connecting(reason = "") {
    this.#to("connecting", reason);
  }

  /**
   * A connection can be used from now on; `handshake` is how it was made.
   * @param {(data: Uint8Array) => boolean} send
   * @param {Handshake} handshake
   */
  opened(send, handshake) {
    this.#send = send;
    this.#greeted = false;
    this.saidBye = null;
    this.confirmed = null;
    this.#sentAt.clear();
    this.#say(this.hello);
    this.acquaintance.opened(handshake);
    if (this.#media.muted || this.#media.cameraOff) this.#say(this.#media);
    if (this.#ownRate !== null) this.#say(this.#ownRate);
    if (this.#layerBps) this.#sayLayer();
    this.pictures.opened();
    this.references.opened();
    if (this.#ownFace !== null) this.#say(this.#ownFace);
    this.#to("connecting", "");
  }

  /**
   * The connection is gone; nothing is sent until the next one.
   * @param {Phase} phase
   * @param {string} reason
   */
  closed(phase, reason) {
    this.#send = null;
    this.#greeted = false;
    this.acquaintance.closed();
    this.remote = { ...this.remote, present: false, face: false, takesCamera: false };
    if (this.phase !== "refused") this.#to(phase, reason);
  }

  /**
   * The last message of this side.
   * @param {string} reason
   */
  bye(reason) {
    // What is cut in the middle of a letter is left out, as in a stream of which more may come.
    const cut = new TextDecoder().decode(utf8(reason).subarray(0, MOST_REASON_BYTES), { stream: true });
    this.#say(new Bye(cut));
  }

  // This side

  /**
   * A new source picture: offered now, or with the next connection.
   * @param {SourcePicture} picture
   */
  ownSource(picture) {
    this.references.follow(picture.pictureHash);
    this.pictures.offer(picture);
  }

  /**
   * A further picture of the speaker of the source picture `baseHash`: sent in the background.
   * @param {string} baseHash
   * @param {SourcePicture} picture
   */
  ownReference(baseHash, picture) {
    this.references.offer(baseHash, picture);
  }

  /**
   * @param {boolean} seen
   * @param {number} timeUs
   */
  ownFace(seen, timeUs) {
    this.#ownFace = new FaceState(seen, timeUs);
    this.#say(this.#ownFace);
  }

  /** @param {{ muted: boolean, cameraOff: boolean }} media */
  ownMedia({ muted, cameraOff }) {
    this.#media = new MediaState(muted, cameraOff);
    this.#say(this.#media);
  }

  /**
   * So many pictures a second can be shown here.
   * @param {number} fps
   */
  ownRate(fps) {
    this.#ownRate = new PictureRate(Math.round(1000 * fps));
    this.#say(this.#ownRate);
  }

  /**
   * So much of a video layer is taken here, on this and every later connection.
   * @param {number} wantedBps
   */
  takeLayer(wantedBps) {
    this.#layerBps = wantedBps;
    this.#sayLayer();
  }

  /** Who takes a layer can show what a camera sees, and says so with what its own one does. */
  #sayLayer() {
    this.#say(new LayerReport(this.#layerBps, null, false));
    this.#say(this.#ownCamera);
  }

  /**
   * What this side's camera sees is shown as it is from this capture time on, or no more.
   * @param {boolean} shown
   * @param {number} timeUs
   */
  ownCamera(shown, timeUs) {
    this.#ownCamera = new CameraState(shown, timeUs);
    this.#say(this.#ownCamera);
    this.rate.showCamera(shown);
  }

  /**
   * A frame of the layer is missing.
   * @param {number | null} newest number of the one that was decoded last
   */
  layerLost(newest) {
    this.#say(new LayerReport(this.#layerBps, newest, true));
  }

  /**
   * The receiving side can move this picture.
   * @param {string} pictureHash
   */
  pictureReady(pictureHash) {
    this.#ready = pictureHash;
    this.pictures.ready(pictureHash);
    if (this.remote.pictureHash === null) this.#shown(pictureHash);
    this.#onChange();
  }

  /**
   * The receiving side cannot use this picture; what was shown stays.
   * @param {string} pictureHash
   * @param {string} reason
   */
  pictureRefused(pictureHash, reason) {
    this.malformed++;
    this.pictures.refused(pictureHash);
    console.warn(`the other side's source picture cannot be used: ${reason}`);
    if (this.remote.pictureHash === null) {
      this.reason = `the other side's picture cannot be used: ${reason}`;
      this.#onChange();
    }
  }

  /** @param {{ sequence: number }} packet */
  motionSent({ sequence }) {
    this.#sentAt.set(sequence, this.#clockUs());
    dropOldest(this.#sentAt, HISTORY);
  }

  /**
   * What the receiving side has to tell.
   * @param {ReceiverReport | null} report
   */
  report(report) {
    if (report !== null) this.#say(report);
  }

  /** Once a second while a connection is open. */
  tick() {
    // Reports that this machine has not come round to reading are not missing.
    if (this.#greeted && this.loopLagMs < BUSY_MS) this.#plan(this.rate.tick(this.#clockUs()));
    if (this.#greeted && this.rate.rung === 0) this.references.tick(this.#clockUs());
  }

  // The other side

  /**
   * A control message as it arrived; whatever makes no sense is counted and dropped.
   * @param {Uint8Array} data
   * @param {number} arrivedUs
   */
  control(data, arrivedUs) {
    let message;
    try {
      message = parseControl(data);
    } catch (error) {
      if (!(error instanceof BadPacket)) throw error;
      if (error.message.includes("protocol version") && !this.#greeted) {
        this.#refuse(
          `the two programs speak different protocol versions (${error.message}): please update the older kilocall`);
      } else {
        this.#drop(error.message);
      }
      return;
    }
    if (!this.#greeted && !(message instanceof Hello || message instanceof Bye)) {
      this.#drop(`${message.constructor.name} before Hello`);
      return;
    }
    this.#take(message, arrivedUs);
  }

  /**
   * @param {ControlMessage} message
   * @param {number} arrivedUs
   */
  #take(message, arrivedUs) {
    if (message instanceof Hello) this.#takeHello(message);
    else if (message instanceof SourcePicture) this.pictures.take(message);
    else if (message instanceof WantPicture) this.#takeWant(message.pictureHash);
    else if (message instanceof HavePicture) {
      this.pictures.confirm(message.pictureHash);
      this.references.confirm(message.pictureHash);
    } else if (message instanceof ReferenceOffer) this.references.takeOffer(message);
    else if (message instanceof ReferencePiece) this.references.takePiece(message);
    else if (message instanceof Reveal || message instanceof Recognise || message instanceof Compared) {
      this.#takeAcquaintance(message);
    } else if (message instanceof FaceState) this.#takeFace(message, arrivedUs);
    else if (message instanceof MediaState) {
      this.remote = { ...this.remote, muted: message.muted, cameraOff: message.cameraOff };
      this.#onChange();
    } else if (message instanceof ReceiverReport) this.#takeReport(message, arrivedUs);
    else if (message instanceof PictureRate) this.#outgoing.limit(message.fps);
    else if (message instanceof Bye) this.saidBye = message.reason;
    else if (message instanceof CropPlace) return; // for files; a call shows the square alone
    else if (message instanceof LayerReport) this.#outgoing.askLayer(message);
    else if (message instanceof CameraState) this.#takeCamera(message);
    else if (message instanceof PersonalPiece && !message.data.length) return; // an offer that is not taken up
    else this.#drop(`${message.constructor.name} is not expected`);
  }

  /** @param {string} pictureHash */
  #takeWant(pictureHash) {
    if (!this.pictures.send(pictureHash) && !this.references.send(pictureHash)) {
      this.#drop("WantPicture for a picture that was not offered");
    }
  }

  /** @param {Hello} theirs */
  #takeHello(theirs) {
    if (this.#greeted) {
      this.#drop("second Hello");
      return;
    }
    const mine = this.hello;
    let problem = "";
    if (theirs.family !== mine.family) {
      problem = `the other side uses the models ${`'${theirs.family}'`.slice(0, 40)}, this side '${mine.family}'`;
    } else if (!mine.sameWeights(theirs)) {
      problem = `the other side has ${theirs.family} weights ${theirs.weightsHash.slice(0, 12)}, this side `
        + mine.weightsHash.slice(0, 12);
    } else if (theirs.pictureSize !== mine.pictureSize) {
      problem = `the other side's pictures are ${theirs.pictureSize} wide, this side's ${mine.pictureSize}`;
    }
    if (problem) {
      this.#refuse(`${problem}: ${cure(mine.family, theirs.family)}`);
      return;
    }
    this.#greeted = true;
    this.#incoming.expect(theirs.fps);
    this.remote = { ...this.remote, present: true, muted: false, cameraOff: false };
    this.#to("open", "");
  }

  /** @param {Reveal | Recognise | Compared} message */
  #takeAcquaintance(message) {
    try {
      this.acquaintance.take(message);
    } catch (error) {
      if (!(error instanceof NotProven)) throw error;
      this.malformed++;
      this.#refuse(error.message);
    }
  }

  /**
   * @param {string} pictureHash
   * @param {boolean} first
   */
  #pictureOffered(pictureHash, first) {
    if (!first || pictureHash === this.remote.pictureHash) return;
    // Somebody else, or the same person after a new start: motion refers to the new picture at once.
    this.remote = { ...this.remote, pictureHash: null };
    this.references.show(null);
    this.#incoming.forget();
  }

  /** @param {string} pictureHash */
  #pictureConfirmed(pictureHash) {
    this.confirmed = pictureHash;
    this.#outgoing.confirm(pictureHash);
    this.references.baseConfirmed(pictureHash);
    this.#onChange();
  }

  /**
   * @param {FaceState} face
   * @param {number} arrivedUs
   */
  #takeFace(face, arrivedUs) {
    // One that was lost at first comes late.
    if (!this.sameClock) this.sameClock = Math.abs(arrivedUs - face.timeUs) < SAME_CLOCK_US;
    this.remote = { ...this.remote, face: face.seen, faceSinceUs: arrivedUs };
    const ready = this.#ready;
    if (face.seen && ready !== null && ready !== this.remote.pictureHash) {
      this.#incoming.use(ready, face.timeUs);
      this.#shown(ready);
    }
    this.#onChange();
  }

  /** @param {CameraState} state */
  #takeCamera({ shown, timeUs }) {
    if (!this.remote.takesCamera) this.#outgoing.takeCamera();
    this.#incoming.showCamera(shown, timeUs);
    this.remote = { ...this.remote, takesCamera: true };
    this.#onChange();
  }

  /** @param {string} pictureHash */
  #shown(pictureHash) {
    this.references.show(pictureHash);
    this.remote = { ...this.remote, pictureHash };
  }

  /**
   * @param {ReceiverReport} report
   * @param {number} arrivedUs
   */
  #takeReport(report, arrivedUs) {
    const sentUs = this.#sentAt.get(report.highest);
    if (sentUs !== undefined) {
      const rttMs = (arrivedUs - sentUs) / 1000 - report.heldMs;
      if (rttMs >= 0) this.rttMs = rttMs;
      this.#outgoing.acknowledge(report.highest);
    }
    if (report.expected) this.loss = report.lost / report.expected;
    const intervalS = Math.max(report.intervalMs, 1) / 1000;
    this.#plan(this.rate.update({
      nowUs: this.#clockUs(),
      loss: report.expected ? report.lost / report.expected : 0,
      delayMs: Math.max(0, report.delayMs - this.ownLagMs),
      receivedBps: 8 * report.receivedBytes / intervalS,
      rttMs: this.rttMs === null ? null : Math.max(0, this.rttMs - this.loopLagMs),
    }));
  }

  /** @param {Plan} plan */
  #plan(plan) {
    if (this.#followed !== null && samePlan(plan, this.#followed)) return;
    this.#followed = plan;
    this.#outgoing.follow(plan);
    this.#onPlan(plan);
  }

  /** @param {string} reason */
  #refuse(reason) {
    this.bye(reason);
    this.#to("refused", reason);
  }

  /** @param {string} why */
  #drop(why) {
    this.malformed++;
    const nowUs = this.#clockUs();
    if (this.#droppedUs === null || nowUs - this.#droppedUs >= DROPPED_EVERY_US) {
      this.#droppedUs = nowUs;
      console.warn(`control message dropped: ${why}`);
    }
  }

  /** @param {ControlMessage} message */
  #say(message) {
    if (this.#send !== null && !this.#send(message.bytes())) console.warn(`${message.constructor.name} could not be sent`);
  }

  /**
   * @param {Phase} phase
   * @param {string} reason
   */
  #to(phase, reason) {
    if (phase === this.phase && reason === this.reason) return;
    this.phase = phase;
    this.reason = reason;
    this.#onChange();
  }
}

/**
 * @param {string} mine
 * @param {string} theirs
 */
function cure(mine, theirs) {
  return OWN_WEIGHTS.includes(mine) || OWN_WEIGHTS.includes(theirs)
    ? "start both sides with the same --family, --weights and --codebook"
    : "install the same version of kilocall on both sides";
}
