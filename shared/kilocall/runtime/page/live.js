// What every page shares: the socket to the program on this machine, and a canvas that shows the newest picture.

import { at, enter } from "./enter.js";

const RETRY_MS = 1000;

// Wishes go out as JSON; messages come in as JSON, pictures as a head of fixed length and a JPEG.
export class LiveSocket {
  // `head`: { bytes, read(view) }, where read makes an object of a DataView of so many bytes.
  // `on` has picture(picture) and locked(), which says that the page has no key; may have opened() and closed(reason),
  // and a function for each type of message.
  constructor(head, on) {
    this.head = head;
    this.on = on;
    this.socket = null;
    this.open();
  }

  async open() {
    try {
      if (!(await enter())) return this.on.locked();
    } catch {
      return this.ended("");
    }
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}${at("/live")}`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.on.opened?.();
    this.socket.onmessage = ({ data }) => this.read(data);
    this.socket.onclose = ({ reason }) => this.ended(reason);
  }

  ended(reason) {
    this.on.closed?.(reason);
    setTimeout(() => this.open(), RETRY_MS);
  }

  send(command) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(command));
  }

  read(data) {
    if (typeof data === "string") {
      const message = JSON.parse(data);
      // A newer program may say more than this page understands.
      if (Object.hasOwn(this.on, message.type)) this.on[message.type](message);
      return;
    }
    const { bytes, read } = this.head;
    this.on.picture({
      ...read(new DataView(data, 0, bytes)),
      arrivedMs: performance.now(),
      jpeg: new Blob([new Uint8Array(data, bytes)], { type: "image/jpeg" }),
    });
  }
}

// Draws JPEG pictures as they come. The browser decodes beside the page's own work; the newest picture wins.
export class NewestPicture {
  // onDrawn(picture, first): it is on the canvas; `first` since the start or since clear().
  constructor(canvas, onDrawn) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.onDrawn = onDrawn;
    this.waiting = null; // the newest picture that came while another was being decoded
    this.busy = false;
    this.era = 0; // counts clear(): what was being decoded then must not appear afterwards
    this.empty = true;
    this.drawn = 0;
    this.replaced = 0;
    this.broken = 0;
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
      let image;
      try {
        image = await createImageBitmap(picture.jpeg);
      } catch {
        this.broken += 1; // not a picture: the next one will be
        continue;
      }
      if (era === this.era) this.draw(image, picture);
      image.close();
    }
    this.busy = false;
  }

  draw(image, picture) {
    if (this.canvas.width !== image.width || this.canvas.height !== image.height) {
      this.canvas.width = image.width;
      this.canvas.height = image.height;
    }
    this.context.drawImage(image, 0, 0);
    const first = this.empty;
    this.empty = false;
    this.drawn += 1;
    this.onDrawn(picture, first);
  }
}
