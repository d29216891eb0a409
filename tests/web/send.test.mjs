import assert from "node:assert/strict";
import test, { before, describe } from "node:test";

import { Alignment, CompactAligner, greyOf } from "../../shared/kilocall/web/align.js";
import { hex } from "../../shared/kilocall/web/bytes.js";
import { Codebook } from "../../shared/kilocall/web/codebook.js";
import { PacketEncoder } from "../../shared/kilocall/web/encoder.js";
import { NoFace } from "../../shared/kilocall/web/errors.js";
import { FaceCropper } from "../../shared/kilocall/web/face_crop.js";
import { FACE_NETWORKS, FaceTracker } from "../../shared/kilocall/web/face_tracker.js";
import { familyHello } from "../../shared/kilocall/web/hello.js";
import { KeypointAligner } from "../../shared/kilocall/web/keypoint_aligner.js";
import { faceColour, faceMask } from "../../shared/kilocall/web/likeness.js";
import { INNER_LIPS, LEFT_EYE } from "../../shared/kilocall/web/landmarks.js";
import { fromVector, toVector } from "../../shared/kilocall/web/motion.js";
import { MotionExtractor } from "../../shared/kilocall/web/motion_extractor.js";
import { MotionFit, motionOf } from "../../shared/kilocall/web/motion_fit.js";
import { interpolated, interpolatedAndHalved, part, reduced } from "../../shared/kilocall/web/pixels.js";
import { ReframePolicy } from "../../shared/kilocall/web/reframe.js";
import { FieldNetworks, SENDER_NETWORKS } from "../../shared/kilocall/web/renderer.js";
import { ShapeModel } from "../../shared/kilocall/web/shape.js";
import { chooseSource, openness, sharpness, turnOf } from "../../shared/kilocall/web/source_picture.js";
import { readFaces } from "../../shared/kilocall/web/faces.js";
import { SpeakerCheck } from "../../shared/kilocall/web/speaker_check.js";
import { WEIGHTS, engine, file, json, near, networkFiles, noEngine, png } from "./helpers.mjs";

const SIZE = 256;
const portrait = { width: SIZE, height: SIZE, data: png("web_source.png") };
const model = ShapeModel.fromBytes(file(`${WEIGHTS}shape.safetensors`));
const codebook = Codebook.fromBytes(file(`${WEIGHTS}codebook.safetensors`));
const [{ reference: { source } }] = readFaces(json("web_faces.json")).pictures;
const wanted = json("web_extracted.json");

/** @param {string} text */
const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));

/** @param {any} one */
function lookOf(one) {
  const points = Float32Array.from(one.points);
  return { grey: bytes(one.look), mask: faceMask(points, 64), colour: one.colour };
}

/** @param {any} one */
function trackOf(one) {
  const floats = (/** @type {number[]} */ values) => Float32Array.from(values);
  return {
    points: floats(one.points), depth: floats(one.depth), implicit: floats(one.implicit), interior: floats(one.interior),
    certainty: 1, changed: 0, refinement: null,
  };
}

test("motion is packed as plans and acknowledgements ask for it, bit for bit", () => {
  const { events, vectors, times, packets } = json("web_packed.json");
  const encoder = new PacketEncoder(codebook, { keyEveryS: 2, reference: "acknowledged" });
  /** @type {(string | null)[]} */
  const made = [];
  const add = (/** @type {import("../../shared/kilocall/web/motion_packet.js").MotionPacket | null} */ packet) =>
    made.push(packet === null ? null : hex(packet.bytes()));
  vectors.forEach((/** @type {number[]} */ vector, /** @type {number} */ number) => {
    const event = events[number] ?? {};
    if (event.flush) add(encoder.flush());
    if (event.restart) encoder.restart();
    if (event.acknowledge !== undefined) encoder.codec.acknowledge(event.acknowledge);
    if (event.plan !== undefined) {
      const [framesPerPacket, level, redundantFrames, spacingUs] = event.plan;
      Object.assign(encoder, { framesPerPacket, redundantFrames, spacingUs });
      encoder.codec.setQuality((100 * level) / 8);
    }
    add(encoder.push(fromVector(Float32Array.from(vector)), times[number]));
  });
  assert.deepEqual(made, packets);
});

test("landmarks become Python's motion, filtered as there", () => {
  const fit = new MotionFit(source.shape, model);
  /** @type {import("../../shared/kilocall/web/motion.js").Motion | null} */
  let previous = null;
  for (const one of wanted.seen) {
    previous = motionOf(fit, trackOf(one), source, previous);
    // Both sum in double precision; what is kept of it is float32.
    near(toVector(previous), one.fitted, 2e-5);
  }
});

test("somebody else is noticed, held for a second and then for good, until the speaker is back", () => {
  const check = new SpeakerCheck();
  const looks = [0.9, 0.88, null, 0.5, 0.45, 0.9, 0.4, ...Array(12).fill(0.3), 0.8, 0.9, 0.85];
  const found = looks.map((likeness, n) => check.look(likeness, 100_000 * n));
  assert.deepEqual(found, ["same", "same", "same", "doubtful", "doubtful", "same", "doubtful", ...Array(9).fill("doubtful"),
    ...Array(3).fill("another"), "another", "another", "same"]);
});

test("the face's place and colour are told as in Python", () => {
  const points = Float32Array.from(wanted.seen[0].points);
  const mask = faceMask(points, 64);
  const count = mask.reduce((sum, value) => sum + value, 0);
  assert.ok(Math.abs(count - wanted.mask) <= 0.01 * wanted.mask, `${count} places, wanted ${wanted.mask}`);
  near(faceColour(portrait, mask), wanted.colour.map((/** @type {number} */ value) => value - 128), 0.7);
});

test("a frame is looked at as Python does, within a grey level", () => {
  const apart = greyOf(portrait).map((value, n) => Math.abs(value - bytes(wanted.portrait)[n]));
  assert.ok(Math.max(...apart) <= 1);
  assert.ok(apart.reduce((sum, value) => sum + value, 0) / apart.length < 0.02);
});

test("points that are told to stay where the copy lies on the frame do stay there", () => {
  const alignment = new Alignment(portrait);
  const follows = Array.from({ length: 5 }, (_, n) => new Float32Array(64 * 64).fill(n === 0 ? 1 : 0));
  for (let n = 0; n < 3; n++) {
    alignment.expect(new Float32Array(10));
    const copy = alignment.step(greyOf(portrait), new Float32Array(2 * 64 * 64), follows);
    assert.equal(copy.length, 64 * 64);
  }
  near(/** @type {Float32Array} */ (alignment.moved), new Float32Array(10), 2e-4);
});

test("the crop goes where Python moves it", () => {
  const policy = new ReframePolicy({ width: 640, height: 480 });
  for (const [x0, y0, width, height, elapsed, ...place] of json("web_reframed.json")) {
    const found = policy.step({ x0, y0, width, height }, elapsed);
    near([found.x0, found.y0, found.side], place, 1e-6);
  }
});

test("open eyes, a closed mouth and a straight look are told as in Python, and the same frame is chosen", () => {
  wanted.openings.forEach((/** @type {number[]} */ [eye, lips, turn], /** @type {number} */ n) => {
    const points = Float32Array.from(wanted.seen[n].points);
    near([openness(points, LEFT_EYE), openness(points, INNER_LIPS), turnOf(points)], [eye, lips, turn], 1e-5);
  });
  assert.ok(Math.abs(sharpness(portrait) / wanted.sharpness - 1) < 0.01);
  const frames = wanted.seen.map((/** @type {any} */ one) => ({ crop: portrait, track: trackOf(one) }));
  assert.equal(chooseSource(frames), wanted.best);
  assert.throws(() => chooseSource([{ crop: portrait, track: { ...trackOf(wanted.seen[0]), certainty: 0.2 } }]), NoFace);
});

test("a crop is made smaller as by interpolating and halving, within a grey level", () => {
  const large = interpolated(portrait, 700, 700);
  for (const [side, times] of [[257, 2], [300, 2], [700, 4]]) {
    const square = part(large, 0, 0, side, side);
    let steps = interpolated(square, SIZE * times, SIZE * times);
    while (steps.width > SIZE) steps = reduced(steps, steps.width / 2, steps.height / 2);
    const found = interpolatedAndHalved(square, SIZE, times);
    assert.ok(found.data.every((value, n) => Math.abs(value - steps.data[n]) <= 1));
  }
});

test("the hello says what Python's does", () => {
  const { weights_hash: weightsHash, size } = json("web_faces.json");
  const hello = familyHello(file(`${WEIGHTS}manifest.json`), codebook);
  assert.deepEqual(hello, { family: "compact-256", weightsHash, codebookHash: codebook.hash, pictureSize: size });
});

describe("with the networks", { skip: noEngine }, () => {
  /** @type {FaceTracker} */
  let faces;
  /** @type {FieldNetworks} */
  let networks;
  before(async () => {
    const ort = await engine();
    faces = await FaceTracker.open(ort, networkFiles(FACE_NETWORKS));
    networks = await FieldNetworks.open(ort, networkFiles(SENDER_NETWORKS));
  });

  test("implicit keypoints are aligned as in Python, on fields that are held as often", async () => {
    const aligner = new KeypointAligner(await CompactAligner.open(networks, model, source, portrait));
    const steady = new MotionExtractor(model, source, new KeypointAligner(
      await CompactAligner.open(networks, model, source, portrait)));
    const count = wanted.seen.length;
    for (const one of wanted.seen) {
      const track = trackOf(one);
      const { motion, likeness } = await aligner.align(fromVector(Float32Array.from(one.fitted)), track, lookOf(one));
      const filtered = toVector(await steady.fromTrack(track, lookOf(one), one.time));
      near(toVector(motion).subarray(0, 34), one.aligned.slice(0, 34), 1e-5);
      // Two engines' 8-bit fields lie a little apart, and the steps that follow from them: a third of a pixel of 256.
      near(toVector(motion), one.aligned, 0.003);
      near(filtered, one.filtered, 0.003);
      near([likeness ?? NaN], [one.likeness], 0.01);
    }
    assert.ok(aligner.aligner.field.made < count);
  });

  test("a face that fills the picture is found without looking for smaller ones", async () => {
    const shown = { width: 640, height: 480, data: new Uint8ClampedArray(4 * 640 * 480).fill(110) };
    const large = interpolated(portrait, 440, 440);
    for (let y = 0; y < 440; y++) shown.data.set(large.data.subarray(1760 * y, 1760 * (y + 1)), 4 * ((y + 20) * 640 + 100));
    const cropper = new FaceCropper(faces, SIZE);
    const before = faces.looks;
    assert.ok((await cropper.crop(shown, 0)).found);
    // Two crops are as large as the picture; then the face is cut out until its crop stays where it is.
    assert.ok(faces.looks - before <= 12, `${faces.looks - before} looks`);
  });

  test("a face that comes into the picture is found within some frames, followed, and missed when it leaves", async () => {
    const empty = { width: 640, height: 480, data: new Uint8ClampedArray(4 * 640 * 480).fill(110) };
    const shown = { ...empty, data: empty.data.slice() };
    const small = reduced(portrait, 240, 240);
    for (let y = 0; y < 240; y++) {
      shown.data.set(small.data.subarray(960 * y, 960 * (y + 1)), 4 * ((y + 120) * 640 + 220));
    }
    const cropper = new FaceCropper(faces, SIZE);
    assert.equal((await cropper.crop(empty, 0)).found, false);
    let frames = 0;
    let crop;
    do crop = await cropper.crop(shown, 40_000 * ++frames); while (!crop.found && frames < 20);
    assert.ok(crop.found, "no face within 20 frames");
    const before = faces.looks;
    crop = await cropper.crop(shown, 40_000 * ++frames);
    assert.ok(faces.looks - before <= 2, "a face that is followed is looked for anew");
    near([crop.place.x0 + crop.place.side / 2, crop.place.y0 + crop.place.side / 2], [340, 240], 12);
    let lost = 0;
    while ((await cropper.crop(empty, 40_000 * ++frames)).found) assert.ok(++lost < 8, "a face that has left is seen on");
  });
});
