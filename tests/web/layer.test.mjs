// The video layer: what is read of its fragments, what is decoded of its frames, and what it changes of pictures, as in Python.

import assert from "node:assert/strict";
import test from "node:test";

import { fromHex, hex, joined } from "../../shared/kilocall/web/bytes.js";
import { BadInput, BadPacket } from "../../shared/kilocall/web/errors.js";
import { Correction, FEATURES, Fusion, WORK_SIDE, carried, changed, comparison } from "../../shared/kilocall/web/fusion.js";
import { LayerAssembly, LayerFragment, LayerFrame, MAX_UNFINISHED, TimedLayerFrame } from "../../shared/kilocall/web/layer_frame.js";
import { LayerDecoder, layerIsSupported } from "../../shared/kilocall/web/layer_decoder.js";
import { LayerMixer } from "../../shared/kilocall/web/layer_mixer.js";
import { LayerReceiver } from "../../shared/kilocall/web/layer_receiver.js";
import { LayerTrack } from "../../shared/kilocall/web/layer_track.js";
import { MotionMessage } from "../../shared/kilocall/web/motion_message.js";
import { MotionPacket } from "../../shared/kilocall/web/motion_packet.js";
import { checkedUnit } from "../../shared/kilocall/web/obu.js";
import { cubic, means } from "../../shared/kilocall/web/resize.js";
import { speakingParts } from "../../shared/kilocall/web/speaking.js";
import { StreamReader } from "../../shared/kilocall/web/stream_file.js";
import { rgba } from "../../shared/kilocall/web/yuv.js";
import { engine, flipped, json, meanDifference, near, networkFiles, noEngine, png, vector } from "./helpers.mjs";

/** @typedef {import("../../shared/kilocall/web/made.js").Made} Made */
/** @typedef {import("../../shared/kilocall/web/pixels.js").Picture} Picture */

const frames = /** @type {{ fields: any, most: number, fragments: string[] }[]} */ (json("layer_frames.json"));
const messages = /** @type {{ packet: any, fragments: any[], bytes: string }[]} */ (json("motion_messages.json"));
const read = json("web_fragments.json");

/** @param {any} fields as Python has them */
const frameOf = ({ number, time_ms: timeMs, key, data, whole }) => new LayerFrame({ number, timeMs, key, data: fromHex(data), whole });

test("the golden frames become their fragments, and are put together of them", () => {
  for (const { fields, most, fragments } of frames) {
    const frame = frameOf(fields);
    assert.deepEqual(frame.fragments(most).map((one) => hex(one.bytes())), fragments);
    const assembly = new LayerAssembly();
    const made = LayerFragment.parseRun(fromHex(fragments.join(""))).map((one) => assembly.add(one));
    assert.deepEqual(made.at(-1), frame);
    assert.ok(made.slice(0, -1).every((one) => one === null));
  }
});

test("the golden messages are read and written, and no prefix is one but without fragments", () => {
  messages.forEach(({ packet, fragments, bytes }, number) => {
    const data = fromHex(bytes);
    const message = MotionMessage.parse(data);
    assert.equal(message.packet.sequence, packet.sequence);
    assert.deepEqual(
      message.fragments.map((one) => ({
        number: one.number, time_ms: one.timeMs, key: one.key, index: one.index, last: one.last, data: hex(one.data),
      })), fragments);
    assert.equal(hex(message.bytes()), bytes);
    read["message prefixes"][number].forEach((/** @type {number | null} */ wanted, /** @type {number} */ length) => {
      assert.equal(taken(data.subarray(0, length)), wanted, `the first ${length} bytes of message ${number}`);
    });
    read["message bytes flipped"][number].forEach((/** @type {number | null} */ wanted, /** @type {number} */ at) => {
      assert.equal(taken(flipped(data, at)), wanted, `byte ${at} of message ${number} changed`);
    });
  });
});

/**
 * How many fragments a message has; null where it is refused.
 * @param {Uint8Array} data
 */
function taken(data) {
  try {
    return MotionMessage.parse(data).fragments.length;
  } catch (error) {
    assert.ok(error instanceof BadPacket, String(error));
    return null;
  }
}

test("fragments in any order, repeated, lost and changed make what they make in Python", () => {
  const assembly = new LayerAssembly();
  read.steps.forEach((/** @type {[string, any]} */ [bytes, wanted], /** @type {number} */ step) => {
    let found = null;
    try {
      found = LayerFragment.parseRun(fromHex(bytes)).map((one) => assembly.add(one))
        .map((one) => one && [one.number, one.timeMs, one.key, hex(one.data), one.whole]);
    } catch (error) {
      assert.ok(error instanceof BadPacket, String(error));
    }
    assert.deepEqual(found, wanted, `step ${step}`);
    assert.ok(assembly.unfinished.size <= MAX_UNFINISHED);
  });
  assert.deepEqual([assembly.givenUp, assembly.unused, assembly.refused], read.counts);
});

test("layer frames of a stream file are read, and no prefix of one", () => {
  const found = [...new StreamReader(vector("layer.kcs")).layerFrames()];
  assert.ok(found.length >= 1);
  assert.equal(found[0].key, true);
  const body = found[0].bytes();
  assert.deepEqual(TimedLayerFrame.parse(body), found[0]);
  for (let length = 0; length <= 6; length++) assert.throws(() => TimedLayerFrame.parse(body.subarray(0, length)), BadInput);
  assert.throws(() => TimedLayerFrame.parse(joined([body.subarray(0, 5), Uint8Array.of(2, 1)])), BadInput);
  assert.throws(() => TimedLayerFrame.parse(joined([body, new Uint8Array(8000)])), BadInput);
});

test("what the camera saw is read of a stream file, apart from the layer", () => {
  const reader = new StreamReader(vector("camera.kcs"));
  const kinds = reader.video().map(({ timeUs, key, whole, data }) => [timeUs / 1000, key, whole, data.length]);
  assert.deepEqual(kinds, [[0, true, false, 10], [120, true, true, 151], [280, false, true, 2], [320, false, true, 0], [360, true, false, 10]]);
  assert.deepEqual([...reader.layerFrames()].map(({ timeUs }) => timeUs), [0, 360_000]);
  const [, first, , end] = reader.video();
  assert.deepEqual(TimedLayerFrame.parse(first.bytes(), true), first);
  assert.deepEqual(TimedLayerFrame.parse(end.bytes(), true), end);
  assert.throws(() => TimedLayerFrame.parse(end.bytes()), BadInput);
  assert.throws(() => TimedLayerFrame.parse(first.bytes().subarray(0, 6), true), BadInput); // a key without a unit
  for (let length = 0; length < 6; length++) assert.throws(() => TimedLayerFrame.parse(end.bytes().subarray(0, length), true), BadInput);
});

// A key frame of 64x64 of SVT-AV1 and the frame after it, without their delimiters.
const { key: KEY, next: NEXT, larger: LARGER } = Object.fromEntries(
  Object.entries(json("web_units.json")).map(([name, unit]) => [name, fromHex(/** @type {string} */ (unit))]));

test("a unit is given to a decoder as a sequence header and a frame, or a frame alone, of at most 256x256", () => {
  const unit = checkedUnit(KEY, { key: true });
  assert.deepEqual([...unit.subarray(0, 2)], [0x12, 0]);
  assert.deepEqual(unit.subarray(2), KEY);
  assert.equal(checkedUnit(NEXT, { key: false }).length, NEXT.length + 2);
  checkedUnit(KEY, { key: false });
  assert.throws(() => checkedUnit(NEXT, { key: true }), /said to be a key frame/);
  assert.throws(() => checkedUnit(LARGER, { key: true }), /288x288/);
  assert.throws(() => checkedUnit(joined([NEXT, NEXT]), { key: false }), /\[6,6\]/);
  assert.throws(() => checkedUnit(joined([Uint8Array.of(0x12, 0), KEY]), { key: true }), /\[2,1,6\]/);
  for (const one of [KEY, NEXT]) {
    for (let length = 0; length < one.length; length++) {
      assert.throws(() => checkedUnit(one.subarray(0, length), { key: one === KEY }), BadPacket, `${length} bytes`);
    }
    for (let at = 0; at < Math.min(40, one.length); at++) {
      try {
        checkedUnit(flipped(one, at), { key: one === KEY });
      } catch (error) {
        assert.ok(error instanceof BadPacket, `byte ${at}: ${error}`);
      }
    }
  }
});

/** A decoder as a browser has it: it decodes nothing, and gives grey pictures when it is told to. */
class Decoders {
  /** @type {any[]} */
  static all = [];
  static side = 64;
  state = "unconfigured";
  /** @type {any[]} */
  chunks = [];

  /** @param {{ output: (frame: any) => void, error: (why: Error) => void }} told */
  constructor(told) {
    this.told = told;
    Decoders.all.push(this);
  }

  configure() {
    this.state = "configured";
  }

  /** @param {any} chunk */
  decode(chunk) {
    if (this.state !== "configured") throw new Error("InvalidStateError");
    this.chunks.push(chunk);
  }

  close() {
    this.state = "closed";
  }

  /** Gives the picture of the oldest chunk, after leaving some out. */
  async give(leftOut = 0) {
    const [{ timestamp }] = this.chunks.splice(0, 1 + leftOut).slice(leftOut);
    const { side } = Decoders;
    let closed = 0;
    this.told.output({
      timestamp, format: "I420", visibleRect: { width: side, height: side }, allocationSize: () => (side * side * 3) / 2,
      copyTo: async (/** @type {Uint8Array} */ data) => {
        data.fill(128);
        const half = side / 2;
        return [
          { offset: 0, stride: side }, { offset: side * side, stride: half }, { offset: side * side + half * half, stride: half },
        ];
      },
      close: () => { closed++; },
    });
    await new Promise((done) => setTimeout(done));
    assert.equal(closed, 1);
  }
}
const codecs = /** @type {import("../../shared/kilocall/web/layer_decoder.js").Codecs} */ (/** @type {unknown} */ ({
  VideoDecoder: Decoders, EncodedVideoChunk: class { constructor(/** @type {any} */ fields) { Object.assign(this, fields); } },
}));
const latest = () => Decoders.all[Decoders.all.length - 1];

test("where there is no decoder no layer is taken", async () => {
  assert.equal(await layerIsSupported(), false);
});

test("pictures come in the order of their frames, and after a missing one none until a key frame", async () => {
  /** @type {number[]} */
  const told = [];
  const decoder = /** @type {LayerDecoder<number>} */ (new LayerDecoder((about, { width }) => { told.push(about, width); }, codecs));
  decoder.push(NEXT, { key: false, about: 0 });
  assert.equal(decoder.needsKey, true);
  decoder.push(KEY, { key: true, about: 1 });
  decoder.push(NEXT, { key: false, about: 2, wanted: false });
  decoder.push(NEXT, { key: false, about: 3 });
  const browsers = latest();
  assert.deepEqual(browsers.chunks.map((/** @type {any} */ { type }) => type), ["key", "delta", "delta"]);
  for (let n = 0; n < 3; n++) await browsers.give();
  assert.deepEqual(told, [1, 64, 3, 64]);
  decoder.lost();
  decoder.push(NEXT, { key: false, about: 4 });
  assert.equal(browsers.chunks.length, 0);
  decoder.push(KEY, { key: true, about: 5 });
  await browsers.give();
  assert.deepEqual(told.slice(4), [5, 64]);
  assert.equal(decoder.refused, 0);
});

test("what a browser's decoder refuses, leaves out or gives in another size is counted, and a key frame makes up for it", async () => {
  /** @type {number[]} */
  const told = [];
  const decoder = /** @type {LayerDecoder<number>} */ (new LayerDecoder((about) => { told.push(about); }, codecs));
  decoder.push(KEY, { key: true, about: 1 });
  latest().told.error(new Error("EncodingError"));
  assert.deepEqual([decoder.refused, decoder.needsKey, decoder.pending], [1, true, 0]);
  decoder.push(KEY, { key: true, about: 2 });
  const second = latest();
  Decoders.side = 8;
  await second.give();
  Decoders.side = 64;
  assert.deepEqual([decoder.refused, decoder.needsKey, told], [2, true, []]);
  decoder.push(KEY, { key: true, about: 3 });
  decoder.push(NEXT, { key: false, about: 4 });
  await second.give(1);
  assert.deepEqual([decoder.refused, decoder.needsKey, decoder.pending, told], [3, true, 0, [4]]);
  // Broken bytes do not reach it.
  decoder.push(KEY.subarray(0, 20), { key: true, about: 5 });
  assert.deepEqual([decoder.refused, decoder.needsKey, second.chunks.length], [4, true, 0]);
  // One that gives nothing any more is replaced.
  decoder.push(KEY, { key: true, about: 6 });
  for (let n = 0; n < 15; n++) decoder.push(NEXT, { key: false, about: n });
  assert.equal(decoder.needsKey, false);
  await decoder.settled(0, 20);
  decoder.push(KEY, { key: true, about: 7 });
  assert.equal(second.state, "closed");
  assert.notEqual(latest(), second);
  await latest().give();
  assert.deepEqual([decoder.refused, told], [5, [4, 7]]);
  decoder.push(NEXT, { key: false, about: 8 });
  decoder.close();
  assert.equal(latest().state, "closed");
  await latest().give();
  assert.deepEqual(told, [4, 7]);
});

test("a receiver decodes frames in their order, waits for one that is late, and asks for a key frame once a second", async () => {
  /** @type {[number, boolean][]} */
  const told = [];
  /** @type {boolean[]} */
  const wholes = [];
  const receiver = new LayerReceiver(({ timeUs, key, whole }) => {
    told.push([timeUs, key]);
    wholes.push(whole);
  }, codecs);
  const push = (/** @type {number} */ number, key = false) => {
    const frame = new LayerFrame({ number: number % 256, timeMs: (65_000 + 160 * number) % 65_536, key, data: key ? KEY : NEXT });
    for (const one of frame.fragments(1000)) receiver.push(one, 65_000_000 + 160_000 * number);
  };
  const give = async () => { while (latest().chunks.length) await latest().give(); };
  assert.equal(receiver.asksForKey(0), false); // nothing was sent
  push(250, true);
  push(252);
  push(251); // late
  push(253);
  await give();
  assert.deepEqual(told.map(([timeUs]) => timeUs), [0, 1, 2, 3].map((n) => 65_000_000 + 160_000 * (250 + n)));
  assert.deepEqual([receiver.frames, receiver.newest, receiver.lostFrames, receiver.asksForKey(0)], [4, 253, 0, false]);
  for (const number of [255, 256, 257]) push(number);
  assert.deepEqual([receiver.lostFrames, receiver.newest], [1, 253]);
  const asked = [1_000_000, 1_999_999, 2_000_000, 2_500_000, 3_000_000].map((nowUs) => receiver.asksForKey(nowUs));
  assert.deepEqual(asked, [false, false, true, false, true]);
  push(258);
  push(259, true);
  push(260);
  await give();
  assert.deepEqual([receiver.frames, receiver.newest, receiver.asksForKey(9_000_000)], [6, 4, false]);
  // A camera's whole picture says that it is one, so that it is not mixed into a face.
  const whole = new LayerFrame({ number: 5, timeMs: 0, key: true, data: KEY, whole: true });
  for (const one of whole.fragments(1000)) receiver.push(one, 0);
  await give();
  assert.deepEqual(wholes, [false, false, false, false, false, false, true]);
  assert.deepEqual([receiver.frames, receiver.newest, receiver.refused], [7, 5, 0]);
  receiver.close();
});

test("no changed fragment makes a receiver throw, or hold more than it may", async () => {
  const receiver = new LayerReceiver(() => {}, codecs);
  let state = 12345; // of a generator (Numerical Recipes): the same every time
  const random = (/** @type {number} */ below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  const packet = new MotionPacket({
    sequence: 1, timeMs: 1, spacingUs: 0, frameCount: 1, reference: null, level: 4, payload: Uint8Array.of(1, 2),
  });
  for (let n = 0; n < 6000; n++) {
    const source = [KEY, NEXT, KEY.subarray(0, 1 + random(KEY.length)), Uint8Array.from({ length: 1 + random(200) }, () => random(256))][random(4)];
    const unit = source.slice();
    if (random(2)) unit[random(unit.length)] ^= 1 << random(8);
    const frame = new LayerFrame({ number: random(2) ? n % 256 : random(256), timeMs: (80 * n) % 65_536, key: random(3) > 0, data: unit });
    const pieces = frame.fragments(Math.max(200, Math.ceil(unit.length / 8)));
    const data = new MotionMessage(packet, pieces.filter(() => random(20)).slice(0, 2)).bytes();
    if (random(3) === 0) data[random(data.length)] = random(256);
    try {
      for (const one of MotionMessage.parse(random(10) ? data : data.subarray(0, random(data.length))).fragments) {
        receiver.push(one, 80_000 * n);
      }
    } catch (error) {
      assert.ok(error instanceof BadPacket, String(error));
    }
    receiver.asksForKey(80_000 * n);
    const decoder = latest();
    if (random(3) === 0 && decoder.state === "configured" && decoder.chunks.length) await decoder.give();
    if (random(50) === 0 && decoder.state === "configured") decoder.told.error(new Error("EncodingError"));
  }
  assert.ok(receiver.frames > 20 && receiver.refused > 20);
  receiver.close();
});

/**
 * What comes of it while the newest decoder gives a picture for each frame.
 * @template Of
 * @param {() => Promise<Of>} does
 */
async function whileDecoding(does) {
  let done = false;
  const giving = (async () => {
    while (!done) {
      while (latest()?.state === "configured" && latest().chunks.length) await latest().give();
      await new Promise((next) => setTimeout(next, 1));
    }
  })();
  const found = await does();
  done = true;
  await giving;
  return found;
}

test("what a stream's camera saw is shown from its picture on, until it is said or the layer goes on", async () => {
  /** @type {number[]} */
  const mixed = [];
  const mixer = /** @type {LayerMixer} */ (/** @type {unknown} */ ({
    used: 0, reset() {}, push: (/** @type {number} */ timeUs) => mixed.push(timeUs), mix: async () => "changed",
  }));
  const frame = (/** @type {number} */ ms, /** @type {Uint8Array} */ data, whole = true) =>
    ({ timeUs: 1000 * ms, key: data === KEY, data, whole });
  const end = new Uint8Array();
  const track = new LayerTrack([
    frame(0, KEY, false), frame(200, KEY), frame(360, NEXT), frame(520, end), frame(600, NEXT), frame(680, NEXT, false),
    frame(800, KEY, false), frame(960, NEXT), frame(1120, KEY), frame(1200, KEY, false), frame(1200, end),
  ], mixer, codecs);
  const shows = (/** @type {number} */ ms) => whileDecoding(async () => {
    const camera = await track.camera(1000 * ms);
    assert.equal(await track.mix(/** @type {Made} */ ({}), 1000 * ms), "changed");
    return camera !== null;
  });
  const times = [0, 160, 200, 280, 360, 480, 520, 560, 600, 640, 680, 760, 800, 960, 1120, 1160, 1200, 1240];
  const wanted = [200, 280, 360, 480, 600, 640, 1120, 1160];
  const played = [];
  for (const ms of times) if (await shows(ms)) played.push(ms);
  assert.deepEqual(played, wanted);
  // Neither kind is decoded from the other: not what follows at 680 and at 960.
  assert.deepEqual(mixed, [0, 800_000, 1_200_000]);
  assert.equal(track.damaged, 0);
  // Sought in any order, and jumped over.
  for (const ms of [1160, 280, 560, 640, 1240, 200, 760, 480, 960]) {
    track.reset();
    assert.equal(await shows(ms), wanted.includes(ms), `${ms} ms`);
  }
});

test("a stream's layer goes on, is sought from the key frame before, and hangs on no decoder", async () => {
  const timed = Array.from({ length: 40 }, (_, n) => ({ timeUs: 160_000 * n, key: n === 0 || n === 20, data: n % 20 ? NEXT : KEY }));
  /** @type {number[]} */
  const compared = [];
  const mixer = new LayerMixer({
    correction: async (_, layer) => {
      compared.push(layer.width);
      const same = /** @type {any} */ ({ for: () => "changed", after: () => [same, same] });
      return same;
    },
  });
  const track = new LayerTrack(timed, mixer, codecs);
  const helped = (/** @type {number} */ timeUs) => whileDecoding(() => track.mix(/** @type {Made} */ ({}), timeUs));
  assert.equal(await helped(0), "changed");
  for (const timeUs of [40_000, 80_000, 120_000, 160_000]) assert.equal(await helped(timeUs), "changed");
  assert.deepEqual(compared, [64, 64]);
  const before = Decoders.all.length;
  assert.equal(await helped(160_000 * 30 + 10_000), "changed"); // from the key frame before, by a decoder of its own
  assert.deepEqual([compared.length, Decoders.all.length, track.used], [3, before + 1, 3]);
  assert.equal(await helped(160_000 * 3), "changed"); // back
  track.reset();
  assert.equal(await track.mix(/** @type {Made} */ ({}), 160_000 * 3), null); // nothing is decoded, and nobody waits for ever
});

test("layer frames are compared with the pictures of their moments, seldom where pictures are, and fade", async () => {
  /** @type {[number, number][]} */
  const compared = [];
  /** @type {boolean[]} */
  const inSteps = [];
  /** @type {boolean[]} */
  const slows = [];
  /** @type {(timeUs: number) => any} */
  const made = (timeUs) => ({ timeUs });
  /** @type {(timeUs: number) => any} */
  const layer = (timeUs) => ({ timeUs });
  const mixer = new LayerMixer({
    correction: async (of, one, { inStep, slow }) => {
      compared.push([/** @type {any} */ (of).timeUs, /** @type {any} */ (one).timeUs]);
      inSteps.push(inStep ?? false);
      slows.push(slow ?? false);
      const same = /** @type {any} */ ({
        for: (/** @type {any} */ _, /** @type {number} */ strength) => strength,
        after: () => [same, same],
      });
      return same;
    },
  });
  const mix = (/** @type {number} */ ms) => mixer.mix(made(1000 * ms), 1000 * ms);
  assert.equal(await mix(0), null);
  mixer.push(0, layer(0));
  mixer.push(160_000, layer(160_000));
  assert.equal(await mix(40), 1); // with the picture of its moment, not with the newest
  for (const ms of [80, 120, 170]) assert.equal(await mix(ms), 1);
  assert.deepEqual(compared, [[0, 0], [170_000, 160_000]]);
  // One for each picture, where these are 40 ms apart.
  for (const ms of [180, 220, 260]) {
    mixer.push(1000 * ms, layer(1000 * ms));
    await mix(ms);
  }
  assert.deepEqual(compared.splice(2), [180, 220, 260].map((ms) => [1000 * ms, 1000 * ms]));
  assert.deepEqual(inSteps, [false, false, false, true, true]); // 20 ms after the one at 160, and 40 each
  // Pictures 240 ms apart: a layer frame that follows after 160 is left out.
  mixer.push(320_000, layer(320_000));
  assert.equal(await mix(500), 1);
  assert.equal(compared.length, 2);
  assert.ok(!slows.includes(true));
  // Full for 0.7 s, and gone after 1.4.
  const strengths = [];
  for (const ms of [960, 1310, 1650, 1660]) strengths.push(await mix(ms));
  assert.deepEqual(strengths, [1, 0.5, 10_000 / 700_000, null]);
  mixer.reset();
  mixer.push(1_600_000, layer(1_600_000));
  assert.equal(await mix(1760), 1); // the first may be further from its picture
  assert.equal(slows.at(-1), false); // nothing is known yet
  mixer.push(2_640_000, layer(2_640_000));
  assert.equal(await mix(2760), 1); // and one after a step forward, however long that was
  assert.deepEqual(compared.at(-1), [2_760_000, 2_640_000]);
  assert.equal(slows.at(-1), true);
});

test("a layer frame's change is seen in part at first, but in step, after a pause and after a jump in full", async () => {
  /** @type {(name: string) => any} */
  const named = (name) => ({
    for: () => name,
    after: (/** @type {any} */ before) => [named(`${before.for()}-${name}`), named(name)],
  });
  const mixer = new LayerMixer({ correction: async (_, layer) => named(String(layer.width)) });
  const mix = async (/** @type {number} */ ms, /** @type {number | null} */ width = null) => {
    if (width !== null) mixer.push(1000 * ms, /** @type {Picture} */ ({ width }));
    return mixer.mix(/** @type {Made} */ ({}), 1000 * ms);
  };
  const layers = [1, null, null, null, 2, null, null, null, 3, 4, 5];
  const seen = [];
  for (const [n, width] of layers.entries()) seen.push(await mix(40 * n, width));
  assert.deepEqual(seen, ["1", "1", "1", "1", "1-2", "2", "2", "2", "2-3", "3-4", "5"]);
  assert.deepEqual([await mix(1300, 6), await mix(1340)], ["6", "6"]);
  assert.equal(await mix(1380, 7), "6-7");
  mixer.reset();
  assert.equal(await mix(1420), null);
});

// The sums

test("fields are reduced to means and enlarged by cubic convolution as OpenCV does it", () => {
  near(means(Float32Array.from({ length: 9 }, (_, n) => n), 1, 2), [1.3333, 2.6667, 5.3333, 6.6667], 1e-3);
  const flat = cubic(new Float32Array(3 * 64).fill(7), 3, 20);
  near(flat, new Float32Array(flat.length).fill(7), 1e-5);
});

test("luma and chroma become colours: white, black, and pure red", () => {
  const [side, planes] = [2, [{ offset: 0, stride: 2 }, { offset: 4, stride: 1 }, { offset: 5, stride: 1 }]];
  const of = (/** @type {number[]} */ [y, u, v]) => [...rgba(Uint8Array.of(y, y, y, y, u, v), planes, side).subarray(0, 4)];
  assert.deepEqual([[235, 128, 128], [16, 128, 128], [81, 90, 240]].map(of), [[255, 255, 255, 255], [0, 0, 0, 255], [254, 0, 0, 255]]);
  const interleaved = rgba(Uint8Array.of(81, 81, 81, 81, 90, 240), [{ offset: 0, stride: 2 }, { offset: 4, stride: 2 }], side);
  assert.deepEqual([...interleaved.subarray(12)], [254, 0, 0, 255]);
});

const stored = json("web_layer.json");
const source = png("web_source.png");
const rendered = png("web_rendered.png");

test("mouth and eyes are where they are in Python", () => {
  const found = speakingParts(Float32Array.from(stored.points));
  const off = found.map((value, n) => Math.abs(value - stored.speaking[n]));
  const sum = (/** @type {Iterable<number>} */ of) => [...of].reduce((all, one) => all + one);
  // Polygons have other pixels here and there on their outlines.
  assert.ok(sum(off) < 0.02 * sum(stored.speaking), `${sum(off)} of ${sum(stored.speaking)}`);
  assert.ok(Math.max(...off) < 0.1);
});

/**
 * As `wave` of `vectors.py`.
 * @param {number} length
 * @param {number} step
 */
const wave = (length, step) => Float32Array.from({ length }, (_, n) => 0.5 + 0.5 * Math.sin(step * n));

/**
 * @param {number} side
 * @returns {Picture}
 */
function layerOf(side) {
  const data = new Uint8ClampedArray(4 * side * side);
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      const from = 4 * (256 * Math.floor((y * 256) / side) + Math.floor((x * 256) / side));
      const to = 4 * (side * y + x);
      data.set(source.subarray(from, from + 4), to);
      if (x >= side / 2) data[to] = source[from] + 60;
    }
  }
  return { width: side, height: side, data };
}

/** @param {number} step of the displacement */
function madeOf(step) {
  return /** @type {Made} */ (/** @type {unknown} */ ({
    number: 0,
    displacement: wave(64 * 64 * 2, step).map((value) => value * 0.1),
    picture: () => rendered,
    painted: () => wave(256 * 256, 0.0007),
    visible: () => wave(64 * 64, 0.002),
    speaking: () => wave(64 * 64 * 2, 0.001),
  }));
}

test("what a layer of any side changes is Python's, a moment later too", { skip: noEngine }, async () => {
  const { fusion: network } = networkFiles(["fusion"]);
  const fusion = await Fusion.open(await engine(), network);
  const [made, later] = [madeOf(0.003), madeOf(0.0031)];
  /** @type {Correction | undefined} */
  let before;
  for (const { side, changes, moved, shown, first, then } of stored.compared) {
    const correction = await fusion.correction(made, layerOf(side), { inStep: side === 256 });
    const change = correction.for(later, 0.75);
    assert.equal(correction.for(made, 1).way, null);
    assert.equal(correction.for(/** @type {Made} */ ({ ...later, number: 1 }), 1).way, null);
    const every = (/** @type {ArrayLike<number>} */ of, /** @type {number} */ step) =>
      Array.from({ length: Math.ceil(of.length / step) }, (_, n) => of[n * step]);
    // A level is 16, and a gain of one 4096; enlarged pictures are rounded elsewhere.
    const apart = (/** @type {number[]} */ found, /** @type {number[]} */ wanted) => {
      assert.equal(found.length, wanted.length);
      return found.reduce((sum, value, n) => sum + Math.abs(value - wanted[n]) / (n * 101 % 4 === 3 ? 256 : 1), 0) / found.length;
    };
    const movedNow = carried(correction.changes, /** @type {Float32Array} */ (change.way));
    const [atFirst, afterwards] = correction.after(before ?? new Correction(movedNow, later), made);
    before = new Correction(movedNow, later);
    const off = [
      apart(every(correction.changes, 101), changes),
      apart(every(movedNow, 101), moved),
      apart(every(atFirst.changes, 101), first),
      apart(every(afterwards.changes, 101), then),
    ];
    assert.ok(Math.max(...off) < 2, `layer of ${side}: changes differ by ${off}`);
    const rgb = changed(rendered, change).filter((_, n) => n % 4 < 3);
    const pixels = every(rgb, 103).map((value, n) => Math.abs(value - shown[n]));
    assert.ok(pixels.reduce((sum, one) => sum + one) / pixels.length < 0.3, `layer of ${side}: pictures differ`);
    assert.ok(meanDifference(changed(rendered, change), rendered) > 3);
    console.log(`layer of ${side}: changes differ by ${off.map((one) => (one / 16).toFixed(3))} levels`);
  }
  // What nothing is changed by stays as it is.
  const none = new Float32Array(4 * 128 * 128).map((_, n) => (n % 4 === 3 ? 4096 : 0));
  assert.deepEqual(changed(rendered, { changes: none, way: null, strength: 1 }), rendered);
  assert.equal(comparison(made, layerOf(64)).features.length, FEATURES * WORK_SIDE * WORK_SIDE);
  // A slow computer leaves out the detail of layers that have little.
  const detailed = (/** @type {number} */ side) => comparison(made, layerOf(side), { slow: true }).detailed;
  assert.deepEqual([128, 176, 192].map(detailed), [false, false, true]);
  assert.ok(comparison(made, layerOf(176)).detailed);
});
