// From a stream's numbers to what the networks are asked for, as Python has it.

import assert from "node:assert/strict";
import { test } from "node:test";

import { sha256 } from "../../shared/kilocall/web/bytes.js";
import { Codebook } from "../../shared/kilocall/web/codebook.js";
import { BadInput } from "../../shared/kilocall/web/errors.js";
import { readFaces } from "../../shared/kilocall/web/faces.js";
import { Chooser, distance, retargetTo } from "../../shared/kilocall/web/reference_pictures.js";
import { fromVector, turnHead } from "../../shared/kilocall/web/motion.js";
import { ReplayStream, FrameCursor, Playhead, bitsByTime } from "../../shared/kilocall/web/player.js";
import { ShapeModel } from "../../shared/kilocall/web/shape.js";
import { StreamReader } from "../../shared/kilocall/web/stream_file.js";
import { WEIGHTS, file, json, near } from "./helpers.mjs";

const wanted = json("web_motion.json");
const faces = readFaces(json("web_faces.json"));
const [{ reference: base }] = faces.pictures;
const reader = new StreamReader(file("shared/kilocall/sample/astronaut.kcs"), "astronaut.kcs");
const replay = () => new ReplayStream(reader, Codebook.fromBytes(file(`${WEIGHTS}codebook.safetensors`)));
const model = ShapeModel.fromBytes(file(`${WEIGHTS}shape.safetensors`));
const motions = [...replay().motions()];

/** @param {import("../../shared/kilocall/web/motion.js").Motion} motion */
const pose = ({ rotation, translation, scale, expression }) =>
  [...rotation, ...translation, scale, ...expression.subarray(0, 3)];

test("every number of the sample is the one that Python decodes, to the bit", () => {
  const all = new Float32Array(motions.flatMap(({ vector }) => [...vector]));
  assert.equal(sha256(new Uint8Array(all.buffer)), wanted.vectors_sha256);
  assert.deepEqual(motions.map(({ timeUs }) => timeUs), wanted.times);
});

test("keypoints, jacobian and what is seen between the lips are Python's, from the side as well", () => {
  for (const { frame, view, pose: seen, x_d: points, jacobian, interior } of wanted.driving) {
    const radians = view.map((/** @type {number} */ degrees) => (degrees * Math.PI) / 180);
    const motion = turnHead(fromVector(motions[frame].vector), radians, base.source.neck);
    near(pose(motion), seen, 1e-6);
    const found = model.driving(base.source, motion);
    near(found.points, points, 2e-6);
    near(found.jacobian, jacobian, 1e-6);
    near(found.interior, interior, 1e-6);
  }
});

test("a frame's distance from each picture, and the picture it is shown on, are Python's", () => {
  const still = model.keypoints(base.source, base.motion);
  const other = { source: base.source, motion: fromVector(motions[133].vector) };
  const pictures = [still, model.keypoints(base.source, other.motion)];
  const distances = motions.map(({ vector }) => {
    const points = model.keypoints(base.source, fromVector(vector));
    return pictures.map((picture) => distance(points, picture));
  });
  const { references } = wanted;
  references.distances.forEach((/** @type {number[]} */ pair, /** @type {number} */ n) => near(distances[20 * n], pair, 1e-5));
  const chooser = new Chooser();
  const choices = distances.map((pair) => chooser.choose(pair));
  assert.deepEqual(choices.map(({ picture, before, share }) => [picture, before, Number(share.toFixed(6))]), references.choices);
  const cutting = new Chooser({ fadeFrames: 0 });
  assert.deepEqual(distances.map((pair) => cutting.choose(pair).picture), references.cuts);
  assert.ok(new Set(references.cuts).size === 2, "the sample shows both");
  near(pose(retargetTo(fromVector(motions[40].vector), { ...other, keypoints: pictures[1] })), references.retargeted, 2e-6);
});

test("a hostile scale stays finite", () => {
  assert.equal(fromVector(Float32Array.of(0, 0, 0, 0, 0, 1e9)).scale, Math.exp(3));
  assert.equal(fromVector(Float32Array.of(0, 0, 0, 0, 0, -1e9)).scale, Math.exp(-5));
});

test("faces of another format or with a number missing are refused", () => {
  const found = json("web_faces.json");
  assert.throws(() => readFaces({ ...found, format: 2 }), BadInput);
  found.pictures[0].shape.pop();
  assert.throws(() => readFaces(found), /207 numbers/);
});

test("the frame on screen is the last one due, also after going back and far ahead", () => {
  const cursor = new FrameCursor(replay());
  const order = [0, 39_999, 40_000, 120_000, 7_960_000, 7_999_999, 80_000, 4_000_000, 3_999_999];
  assert.deepEqual(order.map((time) => cursor.at(time)?.timeUs),
    [0, 0, 40_000, 120_000, 7_960_000, 7_960_000, 80_000, 4_000_000, 3_960_000]);
  // However it was reached, a frame's numbers are the same.
  assert.deepEqual(cursor.at(3_999_999)?.vector, motions[99].vector);
});

test("the playhead keeps time, stops at the end or begins again", () => {
  const head = new Playhead(1000);
  head.play(50);
  assert.equal(head.position(150), 100);
  head.setSpeed(2, 150);
  assert.equal(head.position(250), 300);
  head.pause(250);
  assert.equal(head.position(900), 300);
  head.play(1000);
  assert.equal(head.turnAtEnd(1349), false);
  assert.equal(head.turnAtEnd(1350), true);
  assert.deepEqual([head.playing, head.position(9999)], [false, 1000]);
  head.loop = true;
  head.play(2000);
  assert.equal(head.turnAtEnd(2500), true);
  assert.deepEqual([head.playing, head.position(2600)], [true, 200]);
});

test("bits are counted by packet", () => {
  const bits = bitsByTime(reader);
  assert.equal(bits.reduce((sum, { frames }) => sum + frames, 0), reader.frameCount);
  const mean = bits.reduce((sum, packet) => sum + packet.bits * packet.frames, 0) / reader.frameCount;
  assert.equal(mean.toFixed(2), "28.48");
});
