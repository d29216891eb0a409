// The video layer that is sent: what is coded when, what goes with which message, and when the camera is shown instead.

import assert from "node:assert/strict";
import test, { beforeEach } from "node:test";

import { fromHex } from "../../shared/kilocall/web/bytes.js";
import { CAMERA_LADDER, LADDER, LayerEncoder, fittedSize, layerEncoding, settingFor } from "../../shared/kilocall/web/layer_encoder.js";
import { LayerAssembly, fragmentBytes } from "../../shared/kilocall/web/layer_frame.js";
import { LayerSender } from "../../shared/kilocall/web/layer_sender.js";
import { MAX_LAYERED_BYTES } from "../../shared/kilocall/web/motion_message.js";
import { MotionPacket } from "../../shared/kilocall/web/motion_packet.js";
import { OwnCameraView } from "../../shared/kilocall/web/own_camera_view.js";
import { StillScene } from "../../shared/kilocall/web/still_scene.js";
import { rgba, yuv } from "../../shared/kilocall/web/yuv.js";
import { json } from "./helpers.mjs";

/** @typedef {import("../../shared/kilocall/web/layer_encoder.js").CodedLayer} CodedLayer */
/** @typedef {import("../../shared/kilocall/web/pixels.js").Picture} Picture */

const { key: KEY, next: NEXT } = Object.fromEntries(
  Object.entries(json("web_units.json")).map(([name, unit]) => [name, fromHex(/** @type {string} */ (unit))]));
const DELIMITER = [0x12, 0];
const STEP_US = 40_000;

/** An encoder as a browser has it: it encodes nothing, and gives frames that were made before when it is told to. */
class Encoders {
  /** @type {Encoders[]} */
  static all = [];
  static refuses = false;
  static supported = true;
  state = "unconfigured";
  /** @type {any} */
  config = null;
  /** @type {{ timestamp: number, keyFrame: boolean, pixels: Uint8Array, size: number[] }[]} */
  taken = [];
  first = true;

  /** @param {{ output: (chunk: any) => void, error: (why: Error) => void }} told */
  constructor(told) {
    this.told = told;
    Encoders.all.push(this);
  }

  static async isConfigSupported() {
    return { supported: Encoders.supported };
  }

  /** @param {any} config */
  configure(config) {
    if (Encoders.refuses) throw new Error("NotSupportedError");
    this.state = "configured";
    this.config = config;
  }

  /**
   * @param {any} frame
   * @param {{ keyFrame: boolean }} options
   */
  encode({ data, fields }, { keyFrame }) {
    this.taken.push({ timestamp: fields.timestamp, keyFrame, pixels: data, size: [fields.codedWidth, fields.codedHeight] });
  }

  close() {
    this.state = "closed";
  }

  /**
   * Gives the frame of the oldest picture.
   * @param {Uint8Array} [unit] what it is
   */
  give(unit) {
    const one = /** @type {Encoders["taken"][0]} */ (this.taken.shift());
    const key = one.keyFrame || this.first;
    this.first = false;
    const data = Uint8Array.from([...DELIMITER, ...(unit ?? (key ? KEY : NEXT))]);
    this.told.output({
      timestamp: one.timestamp, type: key ? "key" : "delta", byteLength: data.length,
      copyTo: (/** @type {Uint8Array} */ to) => to.set(data),
    });
  }
}

const codecs = /** @type {import("../../shared/kilocall/web/layer_encoder.js").Codecs} */ (/** @type {unknown} */ ({
  VideoEncoder: Encoders,
  VideoFrame: class {
    /**
     * @param {Uint8Array} data
     * @param {any} fields
     */
    constructor(data, fields) { Object.assign(this, { data, fields, close() {} }); }
  },
}));

const latest = () => /** @type {Encoders} */ (Encoders.all.at(-1));

beforeEach(() => {
  Encoders.all = [];
  Encoders.refuses = false;
  Encoders.supported = true;
});

/**
 * @param {number} width
 * @param {number} [height]
 * @param {number} [shade]
 * @returns {Picture}
 */
function picture(width, height = width, shade = 0) {
  const data = new Uint8ClampedArray(4 * width * height);
  for (let n = 0; n < width * height; n++) {
    data.set([(n % width + shade) % 256, 200 - shade % 100, Math.floor(n / width) % 256, 255], 4 * n);
  }
  return { width, height, data };
}

test("a picture as video keeps its light, and its colours at half the side", () => {
  const made = picture(16, 8, 40);
  const data = yuv(made);
  assert.equal(data.length, 16 * 8 * 1.5);
  const back = rgba(Uint8Array.from(data), [{ offset: 0, stride: 16 }, { offset: 128, stride: 8 }, { offset: 160, stride: 8 }], 16, 8);
  back.forEach((value, n) => assert.ok(Math.abs(value - made.data[n]) <= 3, `${n}: ${value}, ${made.data[n]}`));
  assert.deepEqual([...yuv({ width: 2, height: 2, data: new Uint8ClampedArray(16).fill(255) })], [235, 235, 235, 235, 128, 128]);
});

test("frames come at the setting's rate, each made of the crop made small", () => {
  /** @type {CodedLayer[]} */
  const coded = [];
  const setting = /** @type {import("../../shared/kilocall/web/layer_encoder.js").LayerSetting} */ (settingFor(6));
  const encoder = new LayerEncoder(setting, (one) => coded.push(one), { codecs });
  for (let n = 0; n < 100; n++) {
    encoder.push(picture(256, 256, n), n * STEP_US);
    if (latest().taken.length) latest().give();
  }
  assert.ok(Math.abs(coded.length - 4 * setting.fps) <= 1, `${coded.length} frames in 4 s`);
  assert.deepEqual([coded[0].key, coded[1].key, coded[0].timeUs], [true, false, 0]);
  assert.deepEqual(coded[0].data, KEY);
  const { config } = latest();
  assert.deepEqual([config.width, config.height, config.codec], [128, 128, "av01.0.00M.08"]);
  assert.ok(config.bitrate < 6000 && config.bitrate > 5000);
  encoder.push(picture(256, 256, 7), 100 * STEP_US);
  assert.deepEqual(latest().taken[0].size, [128, 128]);
  assert.equal(latest().taken[0].pixels.length, 128 * 128 * 1.5);
});

test("what costs more than the rate has fewer frames", () => {
  /** @type {CodedLayer[]} */
  const coded = [];
  const encoder = new LayerEncoder({ kbps: 3, side: 64, fps: 25 }, (one) => coded.push(one), { codecs });
  for (let n = 0; n < 250; n++) {
    encoder.push(picture(64), n * STEP_US);
    if (latest().taken.length) latest().give();
  }
  const bits = coded.reduce((sum, { data }) => sum + 8 * fragmentBytes(data.length), 0);
  assert.ok(bits / 10 < 3000 * 1.25 && bits / 10 > 2500, `${bits / 10} bit/s`); // what was saved up at the start, too
});

test("an encoder that is late, or leaves out pictures, holds up nothing", async () => {
  const encoder = new LayerEncoder({ kbps: 24, side: 64, fps: 25 }, () => {}, { codecs });
  for (let n = 0; n < 10; n++) encoder.push(picture(64), n * STEP_US);
  assert.equal(latest().taken.length, 2);
  let settled = false;
  const waiting = encoder.settled(5000).then(() => { settled = true; });
  latest().give();
  await Promise.resolve();
  assert.equal(settled, false);
  latest().give();
  await waiting;
  encoder.push(picture(64), 10 * STEP_US);
  encoder.push(picture(64), 11 * STEP_US);
  await encoder.settled(1); // not for ever
  latest().taken = []; // they were left out, without a word
  encoder.push(picture(64), 12 * STEP_US);
  assert.equal(latest().taken.length, 0);
  encoder.push(picture(64), 12 * STEP_US + 1_000_000);
  assert.equal(latest().taken.length, 1);
});

test("a picture that is not worth it is not coded, and one of another shape begins anew", () => {
  const encoder = new LayerEncoder({ kbps: 24, side: 256, fps: 25 }, () => {}, { codecs, whole: true });
  encoder.push(() => null, 0);
  assert.equal(Encoders.all.length, 0);
  encoder.push(() => picture(640, 480), STEP_US);
  assert.deepEqual(latest().taken[0].size, [294, 220]);
  encoder.push(() => picture(480, 640), 2 * STEP_US);
  assert.deepEqual(Encoders.all.map(({ state }) => state), ["closed", "configured"]);
  assert.deepEqual(latest().taken[0].size, [220, 294]);
  assert.deepEqual(fittedSize(1000, 10, 256), [512, 128]);
  assert.deepEqual(fittedSize(640, 480, 96), [110, 82]);
});

test("an encoder that fails, or whose frames nobody takes, is replaced, and the third time given up", () => {
  /** @type {CodedLayer[]} */
  const coded = [];
  const encoder = new LayerEncoder({ kbps: 24, side: 64, fps: 25 }, (one) => coded.push(one), { codecs });
  encoder.push(picture(64), 0);
  latest().told.error(new Error("EncodingError"));
  encoder.push(picture(64), STEP_US);
  latest().give(Uint8Array.from([...NEXT, ...NEXT]));
  assert.equal(Encoders.all.length, 2);
  encoder.push(picture(64), 2 * STEP_US);
  latest().give();
  assert.deepEqual([coded.length, encoder.failed], [1, false]);
  Encoders.refuses = true;
  latest().told.error(new Error("EncodingError"));
  for (let n = 3; n < 6; n++) encoder.push(picture(64), n * STEP_US);
  assert.equal(encoder.failed, true);
  const { length } = Encoders.all;
  encoder.push(picture(64), 9 * STEP_US);
  assert.equal(Encoders.all.length, length);
});

test("a frame that does not fit into a message's pieces is not sent, and the next ones are coarser", () => {
  /** @type {CodedLayer[]} */
  const coded = [];
  const encoder = new LayerEncoder({ kbps: 24, side: 64, fps: 25 }, (one) => coded.push(one), { codecs, mostBytes: KEY.length - 1 });
  encoder.push(picture(64), 0);
  const { bitrate } = latest().config;
  latest().give();
  encoder.push(picture(64), STEP_US);
  assert.equal(coded.length, 0);
  assert.ok(latest().config.bitrate < 0.7 * bitrate);
});

test("a browser that gives frames late is asked to give them at once", async () => {
  const trying = layerEncoding(codecs);
  await new Promise((done) => setTimeout(done));
  assert.equal(latest().config.latencyMode, "quality");
  latest().give();
  assert.equal(await trying, "quality");
  assert.equal(latest().state, "closed");
  assert.equal(await layerEncoding(codecs), "realtime"); // nothing came of the picture
  assert.equal(latest().state, "closed");
  Encoders.supported = false;
  assert.equal(await layerEncoding(codecs), null);
});

test("where there is no encoder none is asked for", async () => {
  assert.equal(await layerEncoding(), null);
  const layer = new LayerSender(codecs);
  layer.follow(3000, 24_000);
  layer.asked({ wantedBps: 24_000, keyNeeded: false });
  layer.push(picture(256), 0);
  assert.deepEqual([layer.setting, layer.mayShowCamera, layer.waits], [null, false, false]);
});

/** @param {{ kbps?: number, askedBps?: number }} [rates] */
function sender({ kbps = 6, askedBps = 24_000 } = {}) {
  const layer = new LayerSender(codecs);
  layer.encode("quality");
  layer.follow(1000 * kbps, 24_000);
  layer.begin();
  layer.asked({ wantedBps: askedBps, keyNeeded: false });
  return layer;
}

/**
 * Pushes a picture, and has its frame come.
 * @param {LayerSender} layer
 * @param {number} number
 * @param {Uint8Array} [unit]
 */
function sent(layer, number, unit) {
  layer.push(picture(256, 256, number), number * 200_000);
  latest().give(unit);
}

const packet = new MotionPacket({
  sequence: 1, timeMs: 0, spacingUs: 40_000, frameCount: 3, reference: null, level: 4, payload: new Uint8Array(150),
});

test("the lower of what is planned and asked for is sent, and nothing before it is asked for", () => {
  const layer = new LayerSender(codecs);
  layer.encode("realtime");
  layer.follow(6000, 24_000);
  layer.begin();
  layer.push(picture(256), 0);
  assert.deepEqual([layer.setting, layer.waits, layer.mayShowCamera], [null, false, false]);
  for (const [kbps, askedBps, side] of [[6, 24_000, 128], [24, 3000, 96], [0, 24_000, null], [6, 0, null], [24, 24_000, 256]]) {
    assert.equal(sender({ kbps: kbps ?? 0, askedBps: askedBps ?? 0 }).setting?.side ?? null, side);
  }
  const other = sender();
  other.begin(); // another connection, which has not asked
  assert.equal(other.setting, null);
});

test("a message is the packet with what fits behind it, and a repeated frame is carried again", () => {
  const layer = sender();
  sent(layer, 0, KEY);
  assert.equal(layer.waits, true);
  const first = layer.behind(packet, false);
  assert.equal(first.packet, packet);
  const assembly = new LayerAssembly();
  const frame = first.fragments.map((one) => assembly.add(one)).at(-1);
  assert.deepEqual([frame?.key, frame?.whole, frame?.data], [true, false, KEY]);
  assert.deepEqual([layer.waits, layer.behind(packet, false).fragments.length], [false, 0]);
  sent(layer, 1, NEXT);
  const second = layer.behind(packet, true);
  assert.deepEqual(second.fragments.map(({ number }) => number), [2]);
  assert.deepEqual(layer.behind(packet, true).fragments.map(({ number }) => number), [2]);
  assert.equal(layer.behind(packet, true).fragments.length, 0);
  assert.ok([first, second].every((message) => message.bytes().length <= MAX_LAYERED_BYTES));
  assert.deepEqual([layer.frames, layer.keyFrames], [2, 1]);
});

test("a key frame comes where one is asked for, and what waited before it is not sent", () => {
  const layer = sender();
  sent(layer, 0);
  sent(layer, 1);
  layer.asked({ wantedBps: 24_000, keyNeeded: true });
  assert.equal(layer.keyWanted, true);
  sent(layer, 2, KEY);
  assert.equal(layer.keyWanted, false);
  assert.deepEqual(layer.behind(packet, false).fragments.map(({ number, key }) => [number, key]), [[3, true]]);
});

test("what nobody takes is dropped, and begins with a key frame", () => {
  const layer = sender({ kbps: 24 });
  for (let n = 0; n < 20; n++) {
    layer.push(picture(256), n * 80_000);
    if (latest().taken.length) latest().give();
  }
  const waiting = [];
  while (layer.waits) waiting.push(...layer.behind(packet, false).fragments);
  assert.ok(waiting.length <= 13, `${waiting.length} pieces`);
});

test("nothing shows who moves somebody else's picture, but a camera that is asked for", () => {
  const layer = sender();
  layer.allow(false);
  assert.deepEqual([layer.setting, layer.allowed, layer.mayShowCamera], [null, false, true]);
  layer.showCamera(true);
  assert.deepEqual(layer.setting, CAMERA_LADDER.at(-1));
  layer.push(picture(640, 480), 0);
  latest().give(KEY);
  assert.equal(layer.behind(packet, false).fragments[0].whole, true);
  layer.showCamera(false);
  layer.allow(true);
  assert.deepEqual(layer.setting, LADDER[2]);
});

test("frames of an encoder that was replaced do not come among the new one's", () => {
  const layer = sender();
  layer.push(picture(256), 0);
  const old = latest();
  layer.showCamera(true);
  assert.equal(old.state, "closed");
  old.give(KEY);
  assert.equal(layer.waits, false);
});

test("a browser whose encoder fails shows no camera either", () => {
  const layer = sender();
  Encoders.refuses = true;
  assert.equal(layer.possible, true);
  for (let n = 0; n < 4; n++) layer.push(picture(256), n * 200_000);
  assert.deepEqual([layer.possible, layer.mayShowCamera], [false, false]);
  layer.follow(24_000, 24_000);
  assert.equal(layer.setting, null);
});

test("a room that nobody is in is shown once a second however its camera trembles, and what moves at once", () => {
  const scene = new StillScene();
  let state = 1;
  const noisy = (/** @type {Picture} */ { width, height, data }) => ({
    width, height, data: data.map((value) => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0; // Numerical Recipes
      return value + (state >>> 28) - 8;
    }),
  });
  const room = picture(320, 240);
  const shown = [];
  for (let n = 0; n < 60; n++) if (scene.shows(noisy(room), n * STEP_US)) shown.push(n);
  assert.deepEqual(shown, [0, 25, 50]);
  const hand = noisy(room);
  for (let y = 220; y < 240; y++) hand.data.fill(250, 4 * 320 * y, 4 * (320 * y + 20));
  assert.equal(scene.shows(hand, 60 * STEP_US), true);
  assert.equal(scene.shows(noisy(hand), 61 * STEP_US), false);
  scene.restart();
  assert.equal(scene.shows(hand, 62 * STEP_US), true);
});

test("the camera is shown while no face is seen for long enough, or somebody says so", () => {
  const view = new OwnCameraView(true);
  const look = (/** @type {boolean[]} */ faces, /** @type {number} */ start) => faces.map((seen, n) => view.look(seen, start + n * STEP_US));
  const said = look([...Array(10).fill(true), ...Array(70).fill(false), ...Array(15).fill(true)], 0);
  assert.equal(said.indexOf("away"), 60);
  assert.deepEqual(said.slice(60), [...Array(30).fill("away"), ...Array(5).fill(null)]);
  view.asked = true;
  assert.deepEqual(look([true, false], 10_000_000), ["asked", "asked"]);
  const never = new OwnCameraView(false);
  assert.equal(never.look(false, 0), null);
  assert.equal(never.look(false, 9_000_000), null);
  const again = new OwnCameraView(true);
  again.look(false, 0);
  assert.equal(again.look(false, 2_000_000), "away");
  again.restart();
  assert.equal(again.look(false, 2_040_000), null);
});
