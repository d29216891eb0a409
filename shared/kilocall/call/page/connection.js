// The socket to the node: commands out, messages and pictures in.

import { LiveSocket } from "./common/live.js";

export const REMOTE_PICTURE = 1;
export const OWN_PICTURE = 2;

// Kind u8, capture time in microseconds u64.
const HEAD = {
  bytes: 9,
  read: (view) => ({ kind: view.getUint8(0), captureUs: Number(view.getBigUint64(1)) }),
};

export class Connection extends LiveSocket {
  constructor(on) {
    super(HEAD, on);
  }

  ask(type, command = {}) {
    this.send({ type, ...command });
  }
}
