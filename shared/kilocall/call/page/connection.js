// The socket to the node: wishes out, messages and pictures in.

const HEADER_BYTES = 9; // kind u8, capture time in microseconds u64; then a JPEG
const RETRY_MS = 1000;

export const REMOTE_PICTURE = 1;
export const OWN_PICTURE = 2;

export class Connection {
  // `on` has: opened(), closed(), picture(kind, picture), and a function for every kind of message, by its name.
  constructor(on) {
    this.on = on;
    this.open();
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}/live`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.on.opened();
    this.socket.onmessage = ({ data }) => this.read(data);
    this.socket.onclose = () => {
      this.on.closed();
      setTimeout(() => this.open(), RETRY_MS);
    };
  }

  ask(type, wish = {}) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type, ...wish }));
  }

  read(data) {
    if (typeof data === "string") {
      const message = JSON.parse(data);
      // A newer node may say more than this page understands.
      if (Object.hasOwn(this.on, message.type)) this.on[message.type](message);
      return;
    }
    const head = new DataView(data, 0, HEADER_BYTES);
    this.on.picture(head.getUint8(0), {
      captureUs: Number(head.getBigUint64(1)),
      arrivedMs: performance.now(),
      jpeg: new Blob([new Uint8Array(data, HEADER_BYTES)], { type: "image/jpeg" }),
    });
  }
}
