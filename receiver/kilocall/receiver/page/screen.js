// Draws pictures as they come and measures what is drawn.

const WINDOW_MS = 1000;

export class Screen {
  constructor(canvas, onDrawn) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.onDrawn = onDrawn;
    this.waiting = null; // the newest picture that came while another was being decoded
    this.busy = false;
    this.recent = []; // [when, bits] of the pictures of the last second
  }

  async put(picture) {
    this.waiting = picture;
    if (this.busy) return;
    this.busy = true;
    try {
      while (this.waiting) {
        const next = this.waiting;
        this.waiting = null;
        await this.draw(next);
      }
    } finally {
      this.busy = false;
    }
  }

  async draw(picture) {
    const image = await createImageBitmap(picture.jpeg);
    if (this.canvas.width !== image.width || this.canvas.height !== image.height) {
      this.canvas.width = image.width;
      this.canvas.height = image.height;
    }
    this.context.drawImage(image, 0, 0);
    image.close();
    this.recent.push([performance.now(), picture.bits]);
    this.onDrawn(picture);
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
