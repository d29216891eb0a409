// The socket to the program that plays: wishes out, pictures and states in.

const HEADER_BYTES = 20; // frame u32, time in microseconds u64, bits a frame f32, milliseconds f32; then a JPEG
const RETRY_MS = 1000;

export class Connection {
  // `on` has: stream(facts), state(state), error(text), picture(picture), closed(reason)
  constructor(on) {
    this.on = on;
    this.open();
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}/live`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) => this.read(data);
    this.socket.onclose = ({ reason }) => {
      this.on.closed(reason);
      setTimeout(() => this.open(), RETRY_MS);
    };
  }

  ask(wish) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(wish));
  }

  read(data) {
    if (typeof data === "string") {
      const message = JSON.parse(data);
      this.on[message.type](message);
      return;
    }
    const head = new DataView(data, 0, HEADER_BYTES);
    this.on.picture({
      frame: head.getUint32(0),
      timeUs: Number(head.getBigUint64(4)),
      bits: head.getFloat32(12),
      madeMs: head.getFloat32(16),
      jpeg: new Blob([new Uint8Array(data, HEADER_BYTES)], { type: "image/jpeg" }),
    });
  }
}
