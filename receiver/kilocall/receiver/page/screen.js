// Draws pictures as they come and measures what is drawn.

import { NewestPicture } from "./common/live.js";

const WINDOW_MS = 1000;

export class Screen extends NewestPicture {
  constructor(canvas, onDrawn) {
    super(canvas, (picture) => {
      this.recent.push([performance.now(), picture.bits]);
      onDrawn(picture);
    });
    this.recent = []; // [when, bits] of the pictures of the last second
  }

  // Frames a second and mean payload bits a frame over the last second; null when nothing was drawn.
  measure() {
    const since = performance.now() - WINDOW_MS;
    while (this.recent.length && this.recent[0][0] < since) this.recent.shift();
    if (!this.recent.length) return null;
    const bits = this.recent.reduce((sum, [, b]) => sum + b, 0) / this.recent.length;
    return { fps: this.recent.length / (WINDOW_MS / 1000), bits };
  }
}
