// A canvas of the call, and how late its pictures are drawn.

import { NewestPicture } from "./common/live.js";

const RECENT = 50;

export class PictureCanvas extends NewestPicture {
  // onFirst(): the first picture after the start or after clear() is on the canvas.
  constructor(canvas, onFirst) {
    super(canvas, (picture, first) => {
      this.note(picture);
      if (first) onFirst();
    });
    this.last = null;
    this.delays = []; // milliseconds from arrival to the canvas, of the newest pictures
  }

  note({ captureUs, arrivedMs }) {
    const now = performance.now();
    const drawDelayMs = now - arrivedMs;
    this.last = { captureUs, drawDelayMs, drawnAtMs: performance.timeOrigin + now };
    this.delays.push(drawDelayMs);
    if (this.delays.length > RECENT) this.delays.shift();
  }

  // Median; 0 before the first.
  drawDelayMs() {
    return this.delays.toSorted((a, b) => a - b)[this.delays.length >> 1] ?? 0;
  }

  stats() {
    return { drawn: this.drawn, replaced: this.replaced, broken: this.broken, ...this.last };
  }
}
