// Encodes crops as the send worker does: node encode_frames.mjs JOB.json, answers on standard output as JSON.
//
// The job names a file of crops, [N, S, S, 3] one behind the other, of which the first is the source picture, their times, and
// whether implicit keypoints are aligned.

import { readFileSync } from "node:fs";

import { CompactAligner, lookAt } from "../../shared/kilocall/web/align.js";
import { hex } from "../../shared/kilocall/web/bytes.js";
import { Codebook } from "../../shared/kilocall/web/codebook.js";
import { PacketEncoder } from "../../shared/kilocall/web/encoder.js";
import { FACE_NETWORKS, FaceTracker, sourceOf } from "../../shared/kilocall/web/face_tracker.js";
import { KeypointAligner } from "../../shared/kilocall/web/keypoint_aligner.js";
import { MotionExtractor } from "../../shared/kilocall/web/motion_extractor.js";
import { FieldNetworks, SENDER_NETWORKS } from "../../shared/kilocall/web/renderer.js";
import { ShapeModel, expressionNumbers } from "../../shared/kilocall/web/shape.js";
import { WEIGHTS, engine, file, networkFiles } from "./helpers.mjs";

const SIZE = 256;
const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const pixels = new Uint8Array(readFileSync(job.crops));

/** @param {number} number */
function crop(number) {
  const from = 3 * SIZE * SIZE * number;
  const data = new Uint8ClampedArray(4 * SIZE * SIZE).fill(255);
  for (let n = 0; n < SIZE * SIZE; n++) for (let c = 0; c < 3; c++) data[4 * n + c] = pixels[from + 3 * n + c];
  return { width: SIZE, height: SIZE, data };
}

const ort = await engine();
const faces = await FaceTracker.open(ort, networkFiles(FACE_NETWORKS));
const networks = await FieldNetworks.open(ort, networkFiles(SENDER_NETWORKS));
const shapeModel = ShapeModel.fromBytes(file(`${WEIGHTS}shape.safetensors`));
const codebook = Codebook.fromBytes(file(`${WEIGHTS}codebook.safetensors`));
const picture = crop(0);
const found = await faces.track(picture);
const source = sourceOf(found, shapeModel, expressionNumbers(shapeModel, found.implicit));
const aligner = job.align ? new KeypointAligner(await CompactAligner.open(networks, shapeModel, source, picture)) : null;
const extractor = new MotionExtractor(shapeModel, source, aligner);
const encoder = new PacketEncoder(codebook);
/** @type {import("../../shared/kilocall/web/face_tracker.js").Track | null} */
let track = null;
const packets = [];
const points = [];
for (const [n, timeUs] of job.times.entries()) {
  const seen = crop(n + 1);
  track = await faces.track(seen, track);
  points.push([...track.points]);
  packets.push(encoder.push(await extractor.fromTrack(track, job.align ? lookAt(seen, track.points) : null, timeUs), timeUs));
}
packets.push(encoder.flush());
console.log(JSON.stringify({
  packets: packets.filter((packet) => packet !== null).map((packet) => hex(packet.bytes())),
  points,
  looks: faces.looks,
  fields: aligner?.aligner.field.made ?? 0,
}));
