import assert from "node:assert/strict";
import test from "node:test";

import { CaptureClock } from "../../shared/kilocall/web/clock.js";
import { fromHex } from "../../shared/kilocall/web/bytes.js";
import { BadInput } from "../../shared/kilocall/web/errors.js";
import { JitterBuffer } from "../../shared/kilocall/web/jitter_buffer.js";
import { MotionPacket, TIMES_MS } from "../../shared/kilocall/web/motion_packet.js";
import { EvenSteps, Pace, framesInMessage } from "../../shared/kilocall/web/pace.js";
import { readHeader } from "../../shared/kilocall/web/picture_header.js";
import { SwitchTime } from "../../shared/kilocall/web/switch_time.js";
import { file, flipped, json } from "./helpers.mjs";

const TICK_US = 7_300;

for (const { way, steps, counts } of json("web_played.json")) {
  test(`on a way that is ${way} each packet is judged, and each frame due, as in Python`, () => {
    const jitter = new JitterBuffer();
    let tickUs = steps[0][0];
    for (const [nowUs, pushed, due, report, delayUs, nextDueUs] of steps) {
      // Ticks at which nothing happens are not written down, and count all the same.
      for (; tickUs < nowUs; tickUs += TICK_US) assert.deepEqual(jitter.pop(tickUs), []);
      tickUs += TICK_US;
      for (const [arrivedUs, data, verdict] of pushed) {
        assert.equal(jitter.push(MotionPacket.parse(fromHex(data)), arrivedUs), verdict);
      }
      assert.deepEqual(
        jitter.pop(nowUs).map((one) => [one.packet.sequence, one.index, one.timeUs, one.dueUs, one.lostBefore]), due);
      if (report !== null) {
        const { receivedBytes, ...said } = /** @type {import("../../shared/kilocall/web/jitter_buffer.js").Report} */ (
          jitter.report(nowUs, 1000));
        assert.equal(receivedBytes, 1000);
        assert.deepEqual(Object.values(said), report);
      }
      assert.deepEqual([jitter.delayUs, jitter.nextDueUs()], [delayUs, nextDueUs]);
    }
    const { received, late, duplicates, old, played, skipped, repeated } = jitter;
    assert.deepEqual([received, late, duplicates, old, played, skipped, repeated], counts);
  });
}

test("the rates that are held, and the frames that are taken for them, are Python's", () => {
  const [{ pictures, messages }] = json("web_pace.json");
  const pace = new Pace();
  const steps = new EvenSteps();
  const taken = new Map(pictures.map((/** @type {number[]} */ one) => [one[0], one]));
  for (const [nowUs, doneUs, wallS, leftOut, changed, fps] of taken.values()) {
    assert.equal(pace.done(doneUs, wallS, leftOut), changed, `at ${nowUs}`);
    assert.equal(pace.fps, fps);
  }
  assert.ok(pace.changes > 5);
  assert.ok(steps.take(0, 10));
  // 25 a second asked for 10: every second or third.
  assert.deepEqual([1, 2, 3, 4, 5].map((n) => steps.take(40_000 * n, 10)), [false, true, false, false, true]);
  for (const [planned, fps, frames] of messages) assert.equal(framesInMessage(planned, 25, fps), frames);
});

test("frames that are read late keep their distance, and a camera that starts anew is followed", () => {
  const clock = new CaptureClock();
  assert.equal(clock.captureUs(0, 1_000_000), 1_000_000);
  assert.equal(clock.captureUs(40_000, 1_100_000), 1_040_100);
  assert.equal(clock.captureUs(80_000, 1_080_000), 1_080_000);
  assert.equal(clock.captureUs(5, 9_000_000), 9_000_000);
});

for (const pauseS of [1, 33, 40, 50, 65, 66, 99, 200]) {
  test(`what is said around a pause of ${pauseS} s holds from the first frame after it`, () => {
    const ahead = 7 * TIMES_MS * 1000; // the sender's clock, of what frames have, whose times are counted on from the first
    const before = new SwitchTime(ahead + 40_000, 0);
    assert.deepEqual([before.reached(0), before.reached(pauseS * 1e6)], [false, true]);
    assert.ok(new SwitchTime(ahead + pauseS * 1e6, 0).reached(pauseS * 1e6));
  });
}

test("what is said before any frame has come is taken to be near the first", () => {
  const half = TIMES_MS * 500;
  for (const firstUs of [0, half - 40_000, -half, -40_000]) {
    assert.ok(new SwitchTime(14 * half + firstUs, null).reached(firstUs));
    const later = new SwitchTime(14 * half + firstUs + 200_000, null);
    assert.deepEqual([0, 160_000, 200_000, 50e6].map((us) => later.reached(firstUs + us)), [false, false, true, true]);
  }
});

test("a picture's size is read from its compressed frame, and one that is cut or changed there is refused or read", () => {
  const webp = file("tests/data/astronaut.webp");
  const { format, width, height } = readHeader(webp);
  assert.deepEqual([format, width === height], ["webp", true]);
  for (let length = 0; length < 30; length++) assert.throws(() => readHeader(webp.subarray(0, length)), BadInput);
  for (let at = 0; at < 30; at++) {
    try {
      readHeader(flipped(webp, at));
    } catch (error) {
      assert.ok(error instanceof BadInput, `byte ${at}: ${error}`);
    }
  }
});
