// What is read of packets and files: golden bytes, every prefix, changed bytes. Python says what is refused.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";

import { crc32, fromHex, hex, sha256 } from "../../shared/kilocall/web/bytes.js";
import { Codebook, rescale } from "../../shared/kilocall/web/codebook.js";
import { BadInput, BadPacket } from "../../shared/kilocall/web/errors.js";
import { MotionDecoder, MotionEncoder, kindOf } from "../../shared/kilocall/web/motion_codec.js";
import { MotionPacket } from "../../shared/kilocall/web/motion_packet.js";
import { Extension, Float, packExtension, unpack } from "../../shared/kilocall/web/msgpack.js";
import { loadTensors } from "../../shared/kilocall/web/safetensors.js";
import { MAX_SOUND_PACKETS, SoundPackets } from "../../shared/kilocall/web/sound.js";
import { StreamReader, TimedPacket, rounded } from "../../shared/kilocall/web/stream_file.js";
import { file, flipped, json, vector } from "./helpers.mjs";

const read = json("web_read.json");
/** @typedef {{ sequence: number, reference: number | null, level: number, frame_count: number, payload: string, steps: number[][] }} Golden */
const codec = /** @type {{ codebook_hash: string, packets: Golden[] }} */ (json("motion_codec.json"));
const packets = /** @type {{ bytes: string, fields: any }[]} */ (json("motion_packets.json"));

test("sums over bytes are those of the system's library", () => {
  for (const length of [0, 1, 55, 56, 63, 64, 65, 1000]) {
    const data = Uint8Array.from({ length }, (_, n) => 7 * n);
    assert.equal(sha256(data), createHash("sha256").update(data).digest("hex"));
  }
  assert.equal(crc32(new TextEncoder().encode("123456789")), 0xcbf43926);
});

test("a float is told from a whole number, and large numbers are exact", () => {
  assert.deepEqual(unpack(fromHex("93cb4049000000000000cf0020000000000001d3ffffffffffffffff")), [
    new Float(50), 2n ** 53n + 1n, -1,
  ]);
  assert.deepEqual(unpack(fromHex("d60501020304")), new Extension(5, Uint8Array.of(1, 2, 3, 4)));
});

test("msgpack that is cut, too long, not text or nested without end is refused", () => {
  const value = fromHex("94a3616263c403010203c70501090807060593c0c2c3");
  unpack(value);
  for (let length = 0; length < value.length; length++) assert.throws(() => unpack(value.subarray(0, length)), BadInput);
  assert.throws(() => unpack(fromHex("c0c0")), /left over/);
  assert.throws(() => unpack(fromHex("a2c328")), /UTF-8/);
  assert.throws(() => unpack(fromHex("8101c0")), /map/);
  assert.throws(() => unpack(fromHex("c1")), BadInput);
  assert.throws(() => unpack(fromHex("9201c0"), { mostArray: 1 }), /array/);
  assert.throws(() => unpack(new Uint8Array(5000).fill(0x91)), /deep/);
});

test("an extension value has the shortest form of its length", () => {
  for (const length of [0, 1, 2, 3, 4, 8, 16, 17, 255, 256, 65535, 65536]) {
    const data = new Uint8Array(length).fill(9);
    assert.deepEqual(unpack(packExtension(3, data)), new Extension(3, data));
  }
  assert.equal(packExtension(1, new Uint8Array(16)).length, 18);
});

test("motion packets are read and written as golden", () => {
  for (const { bytes, fields } of packets) {
    const packet = MotionPacket.parse(fromHex(bytes));
    const { sequence, timeMs, spacingUs, frameCount, reference, level, payload } = packet;
    assert.deepEqual(
      { sequence, time_ms: timeMs, spacing_us: spacingUs, frame_count: frameCount, reference, level, payload: hex(payload) },
      fields);
    assert.equal(hex(packet.bytes()), bytes);
  }
});

test("no prefix of a motion packet is one, and changed ones are refused as by Python", () => {
  packets.forEach(({ bytes }, number) => {
    const data = fromHex(bytes);
    for (let length = 0; length < data.length; length++) {
      assert.throws(() => MotionPacket.parse(data.subarray(0, length)), BadPacket);
    }
    read["packet bytes flipped"][number].forEach((/** @type {boolean} */ taken, /** @type {number} */ at) => {
      const parse = () => MotionPacket.parse(flipped(data, at));
      if (taken) parse();
      else assert.throws(parse, BadPacket);
    });
  });
});

test("a packet's time is the nearest moment", () => {
  const { sequence, reference, frameCount, level, payload } = MotionPacket.parse(fromHex(packets[0].bytes));
  const packet = new MotionPacket({ sequence, reference, frameCount, level, payload, timeMs: 10, spacingUs: 33300 });
  assert.deepEqual(packet.frameTimesUs(65_536_000), [65_546_000, 65_579_300, 65_612_600]);
  assert.equal(packet.timeUs(65_536_000 / 2 - 1_000_000), 10_000);
});

test("the codebook's hash is Python's, for the golden and for the shipped one", () => {
  assert.equal(Codebook.fromBytes(vector("codebook.safetensors")).hash, codec.codebook_hash);
  const shipped = Codebook.fromBytes(file("shared/kilocall/model/weights/compact-256/codebook.safetensors"));
  assert.equal(shipped.hash, new StreamReader(file("shared/kilocall/sample/astronaut.kcs")).header.codebookHash);
});

test("no prefix of a codebook is one", () => {
  const data = vector("codebook.safetensors");
  for (let length = 0; length < data.length; length++) {
    assert.throws(() => Codebook.fromBytes(data.subarray(0, length)), BadInput);
  }
});

test("a codebook whose tables do not add up is refused", () => {
  const arrays = () => {
    const found = loadTensors(vector("codebook.safetensors"));
    found.delete("format_version");
    return found;
  };
  new Codebook(arrays());
  const changes = /** @type {[string, (data: any) => void, RegExp][]} */ ([
    ["frequencies", (data) => { data[0]++; }, /sum other/],
    ["base_steps", (data) => { data[0] = NaN; }, /base_steps/],
    ["mean", (data) => { data[0] = 32768; }, /mean/],
    ["shifts", (data) => { data[0] = 13; }, /shifts/],
    ["table_of", (data) => { data[0] = 6; }, /table_of/],
  ]);
  for (const [name, change, reason] of changes) {
    const changed = arrays();
    change(/** @type {any} */ (changed.get(name)).data);
    assert.throws(() => new Codebook(changed), reason);
  }
});

test("quantised values are rescaled as in Python", () => {
  assert.deepEqual([rescale(-3, 8, 4), rescale(7, 4, 5), rescale(32767, 0, 8), rescale(-1, 5, 4)], [-1, 10, 524272, -1]);
});

test("the golden packets decode to their steps", () => {
  const codebook = Codebook.fromBytes(vector("codebook.safetensors"));
  const decoder = new MotionDecoder(codebook);
  for (const packet of codec.packets) {
    const coded = { ...packet, frameCount: packet.frame_count, payload: fromHex(packet.payload) };
    const steps = codebook.steps(packet.level);
    const frames = decoder.decode(coded);
    assert.deepEqual(frames.map((frame) => Array.from(frame, (value, n) => Math.round(value / steps[n]) + 0)), packet.steps);
  }
});

test("changed payloads decode to what Python decodes, or are refused as there", () => {
  const codebook = Codebook.fromBytes(vector("codebook.safetensors"));
  codec.packets.filter(({ reference }) => reference === null).forEach((packet, number) => {
    const steps = codebook.steps(packet.level);
    read["payload bytes flipped"][number].forEach((/** @type {number[][] | null} */ wanted, /** @type {number} */ at) => {
      const coded = { ...packet, frameCount: packet.frame_count, payload: flipped(fromHex(packet.payload), at) };
      const decode = () => new MotionDecoder(codebook).decode(coded);
      if (wanted === null) assert.throws(decode, BadPacket);
      else assert.deepEqual(decode().map((frame) => Array.from(frame, (value, n) => Math.round(value / steps[n]) + 0)), wanted);
    });
  });
});

test("frames become the packets that Python makes of them, to the byte", () => {
  const codebook = Codebook.fromBytes(vector("codebook.safetensors"));
  const { frames, packets: golden } = json("web_encoded.json");
  /** @type {import("../../shared/kilocall/web/motion_packet.js").Coded[]} */
  const made = [];
  const encoder = new MotionEncoder(codebook, 50, { reference: "acknowledged" });
  let first = 0;
  for (const [count, quality, acknowledged] of [[3, 50, 0], [8, 50, 1], [1, 100, 1], [4, 0, 3], [8, 62, 3], [8, 37, -1]]) {
    encoder.setQuality(quality);
    made.push(encoder.encode(frames.slice(first, first + count)));
    encoder.acknowledge(acknowledged);
    first += count;
  }
  const clip = (/** @type {MotionEncoder} */ one, /** @type {number} */ size) => {
    for (let at = 0; at < frames.length; at += size) made.push(one.encode(frames.slice(at, at + size)));
  };
  clip(new MotionEncoder(codebook, 75, { keyInterval: 9 }), 3);
  clip(new MotionEncoder(codebook, 50, { thrift: 0, still: 0.5 }), 8);
  assert.deepEqual(made.map(({ reference, level, payload }) => ({ reference, level, payload: hex(payload) })), golden);
  // And they can be read.
  const decoder = new MotionDecoder(codebook);
  for (const packet of made.slice(-5)) assert.equal(decoder.decode(packet).length, 8);
  assert.throws(() => encoder.encode([]), BadInput);
  assert.throws(() => encoder.encode([[1, 2, 3, NaN]]), BadInput);
  encoder.reset();
  assert.equal(encoder.encode(frames.slice(0, 1)).reference, null);
});

test("a packet that refers to one that is not held is refused and leaves no trace", () => {
  const decoder = new MotionDecoder(Codebook.fromBytes(vector("codebook.safetensors")));
  const [, second] = codec.packets;
  const coded = { ...second, frameCount: second.frame_count, payload: fromHex(second.payload) };
  assert.throws(() => decoder.decode(coded), /not held/);
  assert.equal(decoder.held.size, 0);
});

test("the distance class counts frames back to the reference", () => {
  const pairs = [[1, 8], [2, 1], [2, 2], [2, 3], [2, 4], [8, 1], [2, 8], [63, 8]];
  assert.deepEqual(pairs.map(([back, frames]) => kindOf(back, frames)), [1, 2, 3, 3, 4, 4, 5, 5]);
});

/** @param {Uint8Array} data */
function found(data) {
  let reader;
  try {
    reader = new StreamReader(data);
  } catch (error) {
    assert.ok(error instanceof BadInput, String(error));
    return null;
  }
  const { length } = [...reader.records()];
  const index = reader.index.map(({ timeUs, offset, frame }) => [timeUs, offset, frame]);
  return [reader.truncated, reader.frameCount, reader.durationUs, length, index];
}

test("of every prefix of the golden stream as much is read as by Python", () => {
  const stream = vector("stream.kcs");
  const prefixes = read["stream prefixes"];
  assert.equal(prefixes.length, stream.length);
  prefixes.forEach((/** @type {any} */ wanted, /** @type {number} */ length) => {
    assert.deepEqual(found(stream.subarray(0, length)), wanted, `the first ${length} bytes`);
  });
});

test("of the golden stream with any byte changed as much is read as by Python", () => {
  const stream = vector("stream.kcs");
  read["stream bytes flipped"].forEach((/** @type {any} */ wanted, /** @type {number} */ at) => {
    assert.deepEqual(found(flipped(stream, at)), wanted, `byte ${at} changed`);
  });
});

test("a stream is sought by its key packets", () => {
  const reader = new StreamReader(vector("stream.kcs"));
  assert.equal(reader.truncated, false);
  assert.deepEqual(reader.index.map(({ frame }) => frame), [0, 12, 24]);
  const times = reader.index.map(({ timeUs }) => timeUs);
  const sought = [-5, 0, times[1] - 1, times[1], times[2] + 9e9].map((time) => reader.seek(time)?.timeUs);
  assert.deepEqual(sought, [times[0], times[0], times[0], times[1], times[2]]);
  const [first] = reader.records(reader.index[1].offset);
  assert.ok(first instanceof TimedPacket);
  assert.equal(first.timeUs, times[1]);
});

test("frame times follow the stream's rate where a packet's spacing fits it", () => {
  const fields = { sequence: 0, timeMs: 0, frameCount: 4, reference: null, level: 4, payload: new Uint8Array() };
  const timed = (/** @type {number} */ spacingUs) => new TimedPacket(7, new MotionPacket({ ...fields, spacingUs }));
  assert.deepEqual(timed(33400).frameTimesUs({ numerator: 30000, denominator: 1001 }), [7, 33374, 66740, 100107]);
  assert.deepEqual(timed(40000).frameTimesUs({ numerator: 30000, denominator: 1001 }), [7, 40007, 80007, 120007]);
  assert.deepEqual([rounded(5, 2), rounded(7, 2), rounded(8, 3)], [2, 4, 3]);
});

test("speech is read, and no prefix that cuts a packet", () => {
  const body = Uint8Array.of(0, 0, 0x0f, 0x42, 0x40, 1, 0x38, 3, 9, 8, 7, 0x81, 0x01, ...new Uint8Array(129).fill(5));
  const { timeUs, skip, packets: opus } = SoundPackets.parse(body);
  assert.deepEqual([timeUs, skip, opus.map(({ length }) => length)], [1_000_000, 312, [3, 129]]);
  for (let length = 0; length < body.length; length++) {
    if (length === 11) continue; // the first packet alone
    assert.throws(() => SoundPackets.parse(body.subarray(0, length)), BadInput, `${length} bytes`);
  }
  const many = new Uint8Array(7 + 2 * (MAX_SOUND_PACKETS + 1)).fill(1);
  assert.throws(() => SoundPackets.parse(many), /more than/);
});
