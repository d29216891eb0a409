// Control messages: everything two peers say beside motion, over an ordered, reliable channel.
//
// As `proto/control.py`. Each is one msgpack array: the message's type number, then its fields. `parseControl` reads any
// of them; `message.bytes()` writes it.

import { sha256 } from "./bytes.js";
import { BadPacket, KilocallError } from "./errors.js";
import { PROTOCOL_VERSION, SEQUENCES } from "./limits.js";
import { pack, unpack } from "./msgpack.js";
import { choice, data, flag, float32, float32s, hexDigest, integer, orNil, text } from "./wire_fields.js";

/** @typedef {import("./msgpack.js").Value} Value */
/** @typedef {import("./wire_fields.js").Field} Field */

export const PICTURE_FORMATS = /** @type {const} */ (["webp", "avif"]);
export const MAX_PICTURE_BYTES = 256 << 10;
const MAX_KEYPOINT_NUMBERS = 4096;
export const MAX_MESSAGE_BYTES = MAX_PICTURE_BYTES + 4 * MAX_KEYPOINT_NUMBERS + 1024;
export const MAX_PART_BYTES = 1000;
export const MAX_PERSONAL_BYTES = 2_000_000;
export const MAX_PIECE_BYTES = 16_000;
export const MAX_REFERENCE_BYTES = 16 << 10;
export const MAX_LAYER_BPS = 64_000;
const MAX_SIDE = 16384;
const MAX_TIME_US = 2 ** 53;

/** @typedef {typeof PICTURE_FORMATS[number]} PictureFormat */

const sequenceNumber = integer(0, SEQUENCES - 1);
/** Capture time; the clock of the motion packets, not cut to 65 s. */
const captureTime = integer(0, MAX_TIME_US);
/** At most a minute. */
const milliseconds = integer(0, 60_000);
const hash = hexDigest();
const pictureFormat = choice(PICTURE_FORMATS);

/** Base of the messages below. Making one with a field out of range throws BadPacket. */
export class ControlMessage {
  /** @type {number} */
  static TYPE;
  /** @type {Record<string, Field>} of every field, in the order of the wire */
  static KINDS = {};
  /** @type {readonly string[] | null} order in which a constructor takes the fields, where that is another */
  static TAKES = null;

  /** Each field as it is kept; to be called last by every constructor. */
  check() {
    const { name: message, KINDS } = /** @type {typeof ControlMessage} */ (this.constructor);
    const self = /** @type {Record<string, any>} */ (/** @type {unknown} */ (this));
    for (const [name, kind] of Object.entries(KINDS)) self[name] = kind.checked(`${message} ${name}`, self[name], this);
  }

  /** What goes on the wire; `parseControl` is its inverse. */
  bytes() {
    const { TYPE, KINDS } = /** @type {typeof ControlMessage} */ (this.constructor);
    const self = /** @type {Record<string, any>} */ (/** @type {unknown} */ (this));
    return pack([TYPE, ...Object.entries(KINDS).map(([name, kind]) => kind.write(self[name]))]);
  }
}

/** First message of each side: what both must share. Whoever finds a difference says Bye. */
export class Hello extends ControlMessage {
  static TYPE = 1;
  static KINDS = {
    version: integer(0, 255),
    family: text(64),
    weightsHash: hash,
    codebookHash: hash,
    fpsNumerator: integer(1, 1_000_000),
    fpsDenominator: integer(1, 1_000_000),
    pictureSize: integer(16, 4096),
  };
  static TAKES = ["family", "weightsHash", "codebookHash", "fpsNumerator", "fpsDenominator", "pictureSize", "version"];

  /**
   * @param {string} family model family, for example "compact-256"
   * @param {string} weightsHash
   * @param {string} codebookHash
   * @param {number} fpsNumerator
   * @param {number} fpsDenominator
   * @param {number} pictureSize side of the square picture that the models work on, pixels
   * @param {number} version
   */
  constructor(family, weightsHash, codebookHash, fpsNumerator, fpsDenominator, pictureSize, version = PROTOCOL_VERSION) {
    super();
    this.version = version;
    this.family = family;
    this.weightsHash = weightsHash;
    this.codebookHash = codebookHash;
    this.fpsNumerator = fpsNumerator;
    this.fpsDenominator = fpsDenominator;
    this.pictureSize = pictureSize;
    if (version !== PROTOCOL_VERSION) throw otherVersion(String(version));
    this.check();
    if (!(this.fps >= 1 && this.fps <= 240)) {
      throw new BadPacket(`Hello fps is ${fpsNumerator}/${fpsDenominator}, allowed is 1 to 240`);
    }
  }

  get fps() {
    return this.fpsNumerator / this.fpsDenominator;
  }

  /**
   * Whether both sides' networks and coding are the same, and motion of one means the same to the other.
   * @param {Hello} other
   */
  sameWeights(other) {
    return this.weightsHash === other.weightsHash && this.codebookHash === other.codebookHash;
  }
}

/** The picture that the receiver animates, or, without data, the offer of one that it may hold already. */
export class SourcePicture extends ControlMessage {
  static TYPE = 2;
  static KINDS = {
    pictureHash: hash,
    format: pictureFormat,
    data: data(0, MAX_PICTURE_BYTES),
    keypoints: float32s(MAX_KEYPOINT_NUMBERS),
  };
  static TAKES = ["format", "data", "pictureHash", "keypoints"];

  /**
   * @param {PictureFormat} format
   * @param {Uint8Array} data the encoded picture; empty: an offer, WantPicture asks for the rest
   * @param {string} pictureHash SHA-256 of the encoded picture; computed when left out
   * @param {Float32Array | null} keypoints the family's own numbers for this picture; null: the receiver extracts them
   */
  constructor(format, data, pictureHash = "", keypoints = null) {
    super();
    // Before the sum over them: too many bytes are not worth it.
    SourcePicture.KINDS.data.checked("SourcePicture data", data, this);
    const sum = data.length ? sha256(data) : pictureHash;
    this.pictureHash = pictureHash || sum;
    this.format = format;
    this.data = data;
    this.keypoints = keypoints;
    this.check();
    if (this.pictureHash !== sum) throw new BadPacket("SourcePicture data does not have the stated hash");
  }

  /** The same picture without its data and numbers. */
  offer() {
    return new SourcePicture(this.format, new Uint8Array(), this.pictureHash);
  }
}

/** Where the square that is coded lies in the sender's full frame, from `timeUs` on; pixels. */
export class CropPlace extends ControlMessage {
  static TYPE = 3;
  static KINDS = {
    timeUs: captureTime,
    x0: float32(-MAX_SIDE, 2 * MAX_SIDE),
    y0: float32(-MAX_SIDE, 2 * MAX_SIDE),
    side: float32(1, 2 * MAX_SIDE),
    frameWidth: integer(1, MAX_SIDE),
    frameHeight: integer(1, MAX_SIDE),
  };

  /**
   * @param {number} timeUs of the first frame this holds for
   * @param {number} x0 left edge in pixels of the full frame; may lie outside
   * @param {number} y0
   * @param {number} side width and height in pixels
   * @param {number} frameWidth
   * @param {number} frameHeight
   */
  constructor(timeUs, x0, y0, side, frameWidth, frameHeight) {
    super();
    this.timeUs = timeUs;
    this.x0 = x0;
    this.y0 = y0;
    this.side = side;
    this.frameWidth = frameWidth;
    this.frameHeight = frameHeight;
    this.check();
  }
}

/** The receiver has decoded this motion packet and will hold its state for the next 63 packets. */
export class Acknowledge extends ControlMessage {
  static TYPE = 4;
  static KINDS = { sequence: sequenceNumber };

  /** @param {number} sequence */
  constructor(sequence) {
    super();
    this.sequence = sequence;
    this.check();
  }
}

/** The last message of a side. */
export class Bye extends ControlMessage {
  static TYPE = 5;
  static KINDS = { reason: text(200) };

  /** @param {string} reason for people */
  constructor(reason) {
    super();
    this.reason = reason;
    this.check();
  }
}

/** Answer to an offered picture that the receiver does not hold. */
export class WantPicture extends ControlMessage {
  static TYPE = 6;
  static KINDS = { pictureHash: hash };

  /** @param {string} pictureHash */
  constructor(pictureHash) {
    super();
    this.pictureHash = pictureHash;
    this.check();
  }
}

/**
 * What became of the sender's motion packets since the report before; every second or two.
 *
 * The sender knows when it sent packet `highest`, so its round trip time is now - then - heldMs.
 */
export class ReceiverReport extends ControlMessage {
  static TYPE = 7;
  static KINDS = {
    highest: sequenceNumber,
    heldMs: milliseconds,
    intervalMs: milliseconds,
    expected: sequenceNumber,
    lost: integer(0, (report) => report.expected),
    late: sequenceNumber,
    delayMs: milliseconds,
    receivedBytes: integer(0, 2 ** 32 - 1),
  };

  /**
   * @param {number} highest sequence number of the newest motion packet that has arrived
   * @param {number} heldMs from its arrival to this report
   * @param {number} intervalMs what the counts below cover
   * @param {number} expected packets that should have arrived: how far `highest` has moved
   * @param {number} lost how many of them had not arrived
   * @param {number} late how many arrived too late to be played
   * @param {number} delayMs how much longer than the shortest of late the packets' way now takes
   * @param {number} receivedBytes everything that arrived from this peer, IP headers included
   */
  constructor(highest, heldMs, intervalMs, expected, lost, late, delayMs, receivedBytes) {
    super();
    this.highest = highest;
    this.heldMs = heldMs;
    this.intervalMs = intervalMs;
    this.expected = expected;
    this.lost = lost;
    this.late = late;
    this.delayMs = delayMs;
    this.receivedBytes = receivedBytes;
    this.check();
  }
}

/** Whether the sender sees a face; while it does not, no motion is sent. */
export class FaceState extends ControlMessage {
  static TYPE = 8;
  static KINDS = { seen: flag(), timeUs: captureTime };

  /**
   * @param {boolean} seen
   * @param {number} timeUs since when
   */
  constructor(seen, timeUs) {
    super();
    this.seen = seen;
    this.timeUs = timeUs;
    this.check();
  }
}

/**
 * A piece of a message longer than MAX_PART_BYTES, so that motion gets through between the pieces.
 *
 * The parts of one message follow each other without those of another between them; whole messages may.
 */
export class Part extends ControlMessage {
  static TYPE = 9;
  static KINDS = { left: integer(0, MAX_MESSAGE_BYTES), data: data(1, MAX_PART_BYTES) };

  /**
   * @param {number} left bytes of the message after this part; 0: this is the last
   * @param {Uint8Array} data
   */
  constructor(left, data) {
    super();
    this.left = left;
    this.data = data;
    this.check();
  }

  /**
   * Parts that together are `message`.
   * @param {Uint8Array} message
   */
  static split(message) {
    const parts = [];
    for (let start = 0; start < message.length; start += MAX_PART_BYTES) {
      const left = Math.max(0, message.length - start - MAX_PART_BYTES);
      parts.push(new Part(left, message.subarray(start, start + MAX_PART_BYTES)));
    }
    return parts;
  }
}

/**
 * Answer to a picture, offered or whole: the receiver is ready to move it.
 *
 * The sender's motion refers to it from then on; a FaceState says from which frame.
 */
export class HavePicture extends ControlMessage {
  static TYPE = 10;
  static KINDS = { pictureHash: hash };

  /** @param {string} pictureHash */
  constructor(pictureHash) {
    super();
    this.pictureHash = pictureHash;
    this.check();
  }
}

/** What the sender has switched off on purpose, for the other side to show; both on until it is sent. */
export class MediaState extends ControlMessage {
  static TYPE = 11;
  static KINDS = { muted: flag(), cameraOff: flag() };

  /**
   * @param {boolean} muted
   * @param {boolean} cameraOff
   */
  constructor(muted, cameraOff) {
    super();
    this.muted = muted;
    this.cameraOff = cameraOff;
    this.check();
  }
}

/**
 * A piece of a file that makes the receiver's renderer the sender's own, or, with no data, the offer of one.
 *
 * Pieces are asked for one by one, so that pictures get through between them.
 */
export class PersonalPiece extends ControlMessage {
  static TYPE = 12;
  static KINDS = {
    fileHash: hash,
    size: integer(1, MAX_PERSONAL_BYTES),
    offset: integer(0, (piece) => piece.size - piece.data.length),
    data: data(0, MAX_PIECE_BYTES),
  };

  /**
   * @param {string} fileHash of the whole file
   * @param {number} size bytes of the whole file
   * @param {number} offset where in the file the piece begins
   * @param {Uint8Array} data
   */
  constructor(fileHash, size, offset, data) {
    super();
    this.fileHash = fileHash;
    this.size = size;
    this.offset = offset;
    this.data = data;
    this.check();
  }
}

/** Asks for the next piece of an offered speaker adapter; `offset` is its size once all is there and can be used. */
export class WantPersonal extends ControlMessage {
  static TYPE = 13;
  static KINDS = { fileHash: hash, offset: integer(0, MAX_PERSONAL_BYTES) };

  /**
   * @param {string} fileHash
   * @param {number} offset
   */
  constructor(fileHash, offset) {
    super();
    this.fileHash = fileHash;
    this.offset = offset;
    this.check();
  }
}

/**
 * A further picture of the speaker of a source picture. WantPicture asks for it, HavePicture says that it is held.
 *
 * Motion never refers to it: who receives it shows each frame on the picture that is nearest.
 */
export class ReferenceOffer extends ControlMessage {
  static TYPE = 14;
  static KINDS = { baseHash: hash, pictureHash: hash, format: pictureFormat, size: integer(1, MAX_REFERENCE_BYTES) };

  /**
   * @param {string} baseHash of the source picture
   * @param {string} pictureHash of the picture's data
   * @param {PictureFormat} format
   * @param {number} size bytes of data
   */
  constructor(baseHash, pictureHash, format, size) {
    super();
    this.baseHash = baseHash;
    this.pictureHash = pictureHash;
    this.format = format;
    this.size = size;
    this.check();
  }
}

/** Some bytes of an offered picture that was asked for, in order, some seconds apart. */
export class ReferencePiece extends ControlMessage {
  static TYPE = 15;
  static KINDS = {
    pictureHash: hash,
    offset: integer(0, (piece) => MAX_REFERENCE_BYTES - piece.data.length),
    data: data(1, MAX_PART_BYTES),
  };

  /**
   * @param {string} pictureHash
   * @param {number} offset where in the picture's data the piece begins
   * @param {Uint8Array} data
   */
  constructor(pictureHash, offset, data) {
    super();
    this.pictureHash = pictureHash;
    this.offset = offset;
    this.data = data;
    this.check();
  }
}

/** The nonce that this side had committed to before the connection was made; see `trust.js`. */
export class Reveal extends ControlMessage {
  static TYPE = 16;
  static KINDS = { nonce: data(32, 32) };

  /** @param {Uint8Array} nonce */
  constructor(nonce) {
    super();
    this.nonce = nonce;
    this.check();
  }
}

/** Shows that this side was there when the words of an earlier connection were compared. */
export class Recognise extends ControlMessage {
  static TYPE = 17;
  static KINDS = { proof: data(32, 32) };

  /** @param {Uint8Array} proof */
  constructor(proof) {
    super();
    this.proof = proof;
    this.check();
  }
}

/** The person on this side has said that the words of this connection are the same. */
export class Compared extends ControlMessage {
  static TYPE = 18;
}

/**
 * How many pictures a second the sender of this message can show; more of them are of no use to it.
 *
 * Not said by who can show all. Who does not know the message sends on as before.
 */
export class PictureRate extends ControlMessage {
  static TYPE = 19;
  static KINDS = { millihertz: integer(1000, 240_000) };

  /** @param {number} millihertz pictures in a thousand seconds */
  constructor(millihertz) {
    super();
    this.millihertz = millihertz;
    this.check();
  }

  get fps() {
    return this.millihertz / 1000;
  }
}

/**
 * What the sender of this message can take of the layer, and what has become of it.
 *
 * Who has not said it is sent no layer. Who does not know the message sends none.
 */
export class LayerReport extends ControlMessage {
  static TYPE = 20;
  static KINDS = { wantedBps: integer(0, MAX_LAYER_BPS), newest: orNil(integer(0, 255)), keyNeeded: flag() };

  /**
   * @param {number} wantedBps 0: none, the other side is to stop
   * @param {number | null} newest number of the layer frame that was decoded last; null: none yet
   * @param {boolean} keyNeeded frames are missing: nothing more can be decoded until a key frame comes
   */
  constructor(wantedBps, newest, keyNeeded) {
    super();
    this.wantedBps = wantedBps;
    this.newest = newest;
    this.keyNeeded = keyNeeded;
    this.check();
  }
}

/**
 * Whether the layer is what the sender's camera sees, to be shown as it is, from `timeUs` on.
 *
 * Said with each connection, which tells the other side that this one can show it as well. Who has not said it is sent
 * none.
 */
export class CameraState extends ControlMessage {
  static TYPE = 21;
  static KINDS = { shown: flag(), timeUs: captureTime };

  /**
   * @param {boolean} shown
   * @param {number} timeUs of the first frame this holds for
   */
  constructor(shown, timeUs) {
    super();
    this.shown = shown;
    this.timeUs = timeUs;
    this.check();
  }
}

/** @typedef {{ new (...fields: any[]): ControlMessage, TYPE: number, KINDS: Record<string, Field>, TAKES: readonly string[] | null }} MessageClass */

const MESSAGES = /** @type {readonly MessageClass[]} */ ([
  Hello, SourcePicture, CropPlace, Acknowledge, Bye, WantPicture, ReceiverReport, FaceState, Part, HavePicture, MediaState,
  PersonalPiece, WantPersonal, ReferenceOffer, ReferencePiece, Reveal, Recognise, Compared, PictureRate,
  LayerReport, CameraState,
]);

/** Message class by type number. */
export const CONTROL_TYPES = /** @type {ReadonlyMap<number, MessageClass>} */ (
  new Map(MESSAGES.map((message) => [message.TYPE, message])));

/**
 * Reads one message that fills `data` exactly. Throws BadPacket with the reason.
 * @param {Uint8Array} data
 * @returns {ControlMessage}
 */
export function parseControl(data) {
  if (data.length > MAX_MESSAGE_BYTES) {
    throw new BadPacket(`control message is ${data.length} bytes, most is ${MAX_MESSAGE_BYTES}`);
  }
  const value = unpacked(data);
  if (!Array.isArray(value) || (typeof value[0] !== "number" && typeof value[0] !== "bigint")) {
    throw new BadPacket("control message is not a msgpack array that begins with a type number");
  }
  const [number, ...fields] = value;
  const message = CONTROL_TYPES.get(Number(number));
  if (message === undefined) {
    const known = [...CONTROL_TYPES].map(([key, kind]) => `${key} ${kind.name}`).join(", ");
    throw new BadPacket(`control message has type ${number}, known are ${known}`);
  }
  if (message === Hello && fields.length && fields[0] !== PROTOCOL_VERSION) {
    // Before the fields are counted: another version may well have more of them.
    throw otherVersion(shown(fields[0]));
  }
  const kinds = Object.entries(message.KINDS);
  if (fields.length !== kinds.length) {
    throw new BadPacket(`${message.name} has ${fields.length} fields, needs ${kinds.length}`);
  }
  const read = Object.fromEntries(kinds.map(([name, kind], n) => [name, kind.read(`${message.name} ${name}`, fields[n])]));
  return new message(...(message.TAKES ?? Object.keys(message.KINDS)).map((name) => read[name]));
}

/** @param {string} theirs */
function otherVersion(theirs) {
  return new BadPacket(`peer speaks protocol version ${theirs}, this side speaks ${PROTOCOL_VERSION}`);
}

/** @param {Value} value */
function shown(value) {
  return typeof value === "string" ? JSON.stringify(value).slice(0, 20) : String(value).slice(0, 20);
}

/** @param {Uint8Array} data */
function unpacked(data) {
  try {
    return unpack(data, { mostArray: 16, mostExtension: 0 });
  } catch (error) {
    if (!(error instanceof KilocallError)) throw error;
    throw new BadPacket(`control message of ${data.length} bytes is not one msgpack value: ${error.message}`);
  }
}
