// Draws JPEG pictures on a canvas. The browser decodes beside the page's own work; the newest picture wins.

export class PictureCanvas {
  // onFirst(): the first picture after the start or after clear() is on the canvas.
  constructor(canvas, onFirst) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.onFirst = onFirst;
    this.waiting = null;
    this.busy = false;
    this.era = 0; // counts clear(): what was being decoded then must not appear afterwards
    this.empty = true;
    this.drawn = 0;
    this.replaced = 0;
    this.broken = 0;
    this.last = null;
  }

  put(picture) {
    if (this.waiting) this.replaced += 1;
    this.waiting = picture;
    if (!this.busy) this.drain();
  }

  clear() {
    this.era += 1;
    this.waiting = null;
    this.empty = true;
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  async drain() {
    this.busy = true;
    while (this.waiting) {
      const picture = this.waiting;
      const { era } = this;
      this.waiting = null;
      try {
        const image = await createImageBitmap(picture.jpeg);
        if (era === this.era) this.draw(image, picture);
        image.close();
      } catch {
        this.broken += 1; // not a picture: the next one will be
      }
    }
    this.busy = false;
  }

  draw(image, { captureUs, arrivedMs }) {
    if (this.canvas.width !== image.width || this.canvas.height !== image.height) {
      this.canvas.width = image.width;
      this.canvas.height = image.height;
    }
    this.context.drawImage(image, 0, 0);
    this.drawn += 1;
    const now = performance.now();
    this.last = { captureUs, drawDelayMs: now - arrivedMs, drawnAtMs: performance.timeOrigin + now };
    if (this.empty) {
      this.empty = false;
      this.onFirst();
    }
  }

  stats() {
    return { drawn: this.drawn, replaced: this.replaced, broken: this.broken, ...this.last };
  }
}
