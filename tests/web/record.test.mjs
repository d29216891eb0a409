// What the browser writes: stream files as Python writes them, and a call's motion as it was decoded.

import assert from "node:assert/strict";
import { test } from "node:test";

import { hex } from "../../shared/kilocall/web/bytes.js";
import { Codebook } from "../../shared/kilocall/web/codebook.js";
import { CropPlace, Hello, SourcePicture } from "../../shared/kilocall/web/control.js";
import { BadInput } from "../../shared/kilocall/web/errors.js";
import { TimedLayerFrame } from "../../shared/kilocall/web/layer_frame.js";
import { MotionDecoder } from "../../shared/kilocall/web/motion_codec.js";
import { Recorder } from "../../shared/kilocall/web/recorder.js";
import { ReferencePicture, StreamReader, TimedPacket } from "../../shared/kilocall/web/stream_file.js";
import { StreamWriter } from "../../shared/kilocall/web/stream_writer.js";
import { file, vector, WEIGHTS } from "./helpers.mjs";

test("a stream that is written again is the same file", () => {
  const golden = vector("stream.kcs");
  assert.deepEqual(writtenAgain(golden), golden);
});

test("layer frames are written as Python writes them", () => {
  const golden = vector("layer.kcs");
  const written = writtenAgain(golden);
  const frames = new StreamReader(golden).video();
  assert.ok(frames.length >= 2);
  assert.deepEqual(new StreamReader(written).video(), frames);
  for (const frame of frames) {
    // Type, length, body and checksum.
    const body = hex(frame.bytes());
    const head = body.length < 256 ? 4 : 6;
    const [found, wanted] = [written, golden].map((one) => {
      const at = hex(one).indexOf(body);
      return hex(one).slice(at - head, at + body.length + 8);
    });
    assert.ok(found.startsWith("08"));
    assert.equal(found, wanted);
  }
});

test("the camera's pictures are written as Python writes them", () => {
  const golden = vector("camera.kcs");
  assert.deepEqual(writtenAgain(golden), golden);
});

/** @param {Uint8Array} golden */
function writtenAgain(golden) {
  const reader = new StreamReader(golden);
  const writer = new StreamWriter(reader.header);
  for (const record of reader.records()) {
    if (record instanceof SourcePicture) writer.addPicture(record);
    else if (record instanceof ReferencePicture) writer.addReference(record.picture);
    else if (record instanceof CropPlace) writer.addPlace(record);
    else if (record instanceof TimedPacket) writer.addPacket(record.timeUs, record.packet);
    else if (record instanceof TimedLayerFrame) {
      const { timeUs, key, data, whole } = record;
      if (whole) writer.addCamera(timeUs, key, data);
      else writer.addLayer(timeUs, key, data);
    }
  }
  return writer.end();
}

/** The built-in speaker's motion as a receiver decodes it, and what it is moved with. */
function call() {
  const codebook = Codebook.fromBytes(file(`${WEIGHTS}codebook.safetensors`));
  const reader = new StreamReader(file("shared/kilocall/sample/astronaut.kcs"));
  const decoder = new MotionDecoder(codebook);
  const { family, weightsHash, codebookHash, pictureSize } = reader.header;
  const hello = new Hello(family, weightsHash, codebookHash, 25_000, 1000, pictureSize);
  const played = [...reader.packets()].map(({ timeUs, packet }) => {
    const { level, spacingUs } = packet;
    return { timeUs, level, spacingUs, vectors: decoder.decode(packet) };
  });
  const picture = reader.sourcePicture();
  assert.ok(picture);
  return { codebook, hello, picture, played };
}

test("a recording that begins in the middle holds exactly the motion that was shown", () => {
  const { codebook, hello, picture, played } = call();
  const recorder = new Recorder(codebook, hello, picture, []);
  const shown = played.slice(7);
  for (const one of shown) recorder.addMotion({ ...one, timeUs: one.timeUs + 5_000_000 });
  const reader = new StreamReader(recorder.end());
  const decoder = new MotionDecoder(codebook);
  assert.equal(reader.truncated, false);
  assert.deepEqual(reader.sourcePicture()?.data, picture.data);
  const packets = [...reader.packets()];
  assert.equal(packets.length, shown.length);
  assert.equal(packets[0].timeUs, 0);
  packets.forEach(({ timeUs, packet }, n) => {
    assert.equal(timeUs, shown[n].timeUs - shown[0].timeUs);
    const found = decoder.decode(packet);
    shown[n].vectors.forEach((vector, k) => {
      for (let i = 0; i < vector.length; i++) assert.ok(Math.abs(found[k][i] - vector[i]) < 1e-6 * Math.max(1, Math.abs(vector[i])));
    });
  });
  assert.equal(reader.frameCount, recorder.frames);
  // Seeking needs key packets.
  assert.ok(reader.index.length >= 3);
});

test("a further picture is in a recording once, and no more than a reader takes", () => {
  const { codebook, hello, picture, played } = call();
  const further = Array.from({ length: 9 }, (_, n) => new SourcePicture("webp", Uint8Array.of(1, 2, n)));
  const recorder = new Recorder(codebook, hello, picture, further.slice(0, 2));
  recorder.addMotion(played[0]);
  for (const one of further) recorder.addPicture(one);
  const reader = new StreamReader(recorder.end());
  assert.deepEqual([...reader.references()].map(({ pictureHash }) => pictureHash), further.slice(0, 7).map(({ pictureHash }) => pictureHash));
});

test("a recording has the layer from its first key frame on", () => {
  const { codebook, hello, picture, played } = call();
  const recorder = new Recorder(codebook, hello, picture, []);
  const add = (/** @type {number} */ timeUs, key = false) => recorder.addLayer({ timeUs, key, data: Uint8Array.of(1, timeUs & 255) });
  const startUs = played[3].timeUs;
  add(startUs); // refers to what nobody has
  for (const one of played.slice(3, 9)) recorder.addMotion(one);
  add(startUs + 1);
  add(startUs + 80_000, true);
  add(startUs + 240_000);
  add(startUs + 160_000); // goes back: decoded in this order all the same
  add(startUs + 400_000);
  const reader = new StreamReader(recorder.end());
  assert.equal(reader.truncated, false);
  assert.deepEqual([...reader.layerFrames()].map(({ timeUs, key }) => [timeUs, key]),
    [[80_000, true], [240_000, false], [240_000, false], [400_000, false]]);
});

test("a recording has what the camera showed from its first key frame on, until it is said, and the layer anew", () => {
  const { codebook, hello, picture, played } = call();
  const recorder = new Recorder(codebook, hello, picture, []);
  const startUs = played[3].timeUs;
  const add = (/** @type {number} */ ms, key = false, whole = true, bytes = 3) =>
    recorder.addLayer({ timeUs: startUs + 1000 * ms, key, whole, data: new Uint8Array(bytes).fill(7) });
  const end = (/** @type {number} */ ms) => add(ms, false, true, 0);
  end(0);
  add(-80);
  add(-40, true); // decoded before any motion is shown
  add(120);
  for (const one of played.slice(3, 9)) recorder.addMotion(one);
  add(200, false, false); // refers to what the layer showed before the recording
  add(280);
  add(480, true, false); // comes before the frame is shown in which the camera's ends
  end(440);
  end(520); // is over
  add(600); // refers to what the camera saw
  add(640, false, false);
  add(700, true);
  add(690, false);
  end(650);
  const reader = new StreamReader(recorder.end());
  assert.equal(reader.truncated, false);
  const found = [...reader.records()].filter((record) => record instanceof TimedLayerFrame);
  assert.deepEqual(found.map(({ timeUs, key, whole, data }) => [timeUs / 1000, key, whole, data.length > 0]), [
    [0, true, true, true], [120, false, true, true], [280, false, true, true], [480, true, false, true], [440, false, true, false],
    [640, false, false, true], [700, true, true, true], [700, false, true, true], [700, false, true, false],
  ]);
});

test("times that go back and pictures that are too many are refused", () => {
  const { header } = new StreamReader(vector("stream.kcs"));
  const [{ timeUs, packet }] = new StreamReader(vector("stream.kcs")).packets();
  const writer = new StreamWriter(header);
  assert.throws(() => writer.addReference(new SourcePicture("webp", Uint8Array.of(1))), BadInput);
  writer.addPacket(timeUs + 1, packet);
  assert.throws(() => writer.addPacket(timeUs, packet), BadInput);
});
