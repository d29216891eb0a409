// Runs in a browser: the workers of a call, fed by the test and looked at by it.

/** @typedef {import("../../shared/kilocall/web/receive_pipeline.js").ReceivePipeline} ReceivePipeline */
/** @typedef {import("../../shared/kilocall/web/receive_pipeline.js").Rendered} Rendered */

/** @param {string} name */
const load = (name) => import(new URL(name, location.href).href);

/** @param {string} text of base64 */
export function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** The receiving side on a canvas of the page, with everything that it tells. */
export class Receiving {
  /** @param {ReceivePipeline} pipeline */
  constructor(pipeline) {
    this.pipeline = pipeline;
    this.canvas = /** @type {HTMLCanvasElement} */ (document.getElementById("shown"));
    /** @type {any[][]} */
    this.told = [];
    /** @type {Rendered[]} */
    this.pictures = [];
  }

  /** @param {number} threads */
  static async open(threads) {
    const { ReceivePipeline } = await load("receive_pipeline.js");
    const canvas = document.createElement("canvas");
    canvas.id = "shown";
    document.getElementById("shown")?.remove();
    document.body.append(canvas);
    /** @type {Receiving} */
    let made;
    const tell = (/** @type {string} */ what) => (/** @type {any[]} */ ...all) => { made.told.push([what, ...all]); };
    made = new Receiving(new ReceivePipeline(canvas.transferControlToOffscreen(), {
      picture: (/** @type {Rendered} */ picture) => { made.pictures.push(picture); },
      ...Object.fromEntries(["ready", "refused", "adapter", "reference", "rate", "problem", "layer", "layerLost"].map((what) => [what, tell(what)])),
    }, { threads }));
    await made.pipeline.ready;
    return made;
  }

  /** What was told of one kind, without its name. */
  all(/** @type {string} */ what) {
    return this.told.filter(([kind]) => kind === what).map(([, ...rest]) => rest);
  }

  /** The picture that is shown, as a PNG's bytes in base64. */
  shown() {
    const copy = Object.assign(document.createElement("canvas"), { width: this.canvas.width, height: this.canvas.height });
    copy.getContext("2d")?.drawImage(this.canvas, 0, 0);
    return copy.toDataURL("image/png").split(",")[1];
  }

  /**
   * Pushes packets when their last frames have been captured, on this page's clock.
   * @param {{ timeUs: number, data: string }[]} packets
   */
  async play(packets) {
    const { nowUs } = await load("clock.js");
    const began = nowUs() - packets[0].timeUs;
    for (const { timeUs, data } of packets) {
      const wait = (began + timeUs - nowUs()) / 1000;
      if (wait > 0) await new Promise((done) => setTimeout(done, wait));
      this.pipeline.push(bytes(data), nowUs());
    }
  }
}

/** The sending side on the page's camera, with everything that it tells. */
export class Sending {
  /** @param {import("../../shared/kilocall/web/send_pipeline.js").SendPipeline} pipeline */
  constructor(pipeline) {
    this.pipeline = pipeline;
    /** @type {any[][]} */
    this.told = [];
    /** @type {{ sequence: number, data: Uint8Array, atUs: number }[]} */
    this.packets = [];
    /** @type {((data: Uint8Array) => void) | null} */
    this.onPacket = null;
  }

  /** @param {import("../../shared/kilocall/web/send_pipeline.js").SendSettings} settings */
  static async open(settings) {
    const { SendPipeline } = await load("send_pipeline.js");
    const { nowUs } = await load("clock.js");
    /** @type {Sending} */
    let made;
    const tell = (/** @type {string} */ what) => (/** @type {any[]} */ ...all) => { made.told.push([what, ...all]); };
    made = new Sending(new SendPipeline({
      packet: (/** @type {{ sequence: number }} */ { sequence }, /** @type {Uint8Array} */ data) => {
        made.packets.push({ sequence, data, atUs: nowUs() });
        made.onPacket?.(data);
      },
      ...Object.fromEntries(["face", "source", "overlay", "camera", "problem"].map((what) => [what, tell(what)])),
    }, settings));
    await made.pipeline.ready;
    return made;
  }

  /** The camera that the browser was given as a file. */
  async film() {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 } });
    await this.pipeline.useCamera(stream.getVideoTracks()[0]);
  }

  /** What was told of one kind, without its name. */
  all(/** @type {string} */ what) {
    return this.told.filter(([kind]) => kind === what).map(([, ...rest]) => rest);
  }
}

/**
 * Both sides on one page: packets go from one worker to the other as they come, and are acknowledged at once.
 * @param {Sending} sending
 * @param {Receiving} receiving
 */
export async function call(sending, receiving) {
  const { nowUs } = await load("clock.js");
  const [{ packed }] = sending.all("source").at(-1) ?? [];
  receiving.pipeline.prepare(packed.pictureHash, packed.data);
  while (!receiving.told.length) await new Promise((done) => setTimeout(done, 20));
  sending.onPacket = (data) => {
    receiving.pipeline.push(data.slice(), nowUs());
    sending.pipeline.acknowledge(sending.packets[sending.packets.length - 1].sequence);
  };
  sending.pipeline.begin();
  sending.pipeline.confirm(packed.pictureHash);
}
