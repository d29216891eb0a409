// Pictures as video has them: luma and, at half its side, colour (ITU-R BT.601, 16 to 235), to and from red, green and blue.

/** @typedef {import("./pixels.js").Picture} Picture */

/**
 * Planes of luma and of chroma at half its side as colours [H, W, 4].
 * @param {Uint8Array} data
 * @param {PlaneLayout[]} layout luma and either chroma, or both interleaved
 * @param {number} width
 * @param {number} [height]
 */
export function rgba(data, layout, width, height = width) {
  const [luma, blue] = layout;
  const step = layout.length === 2 ? 2 : 1;
  const red = layout.length === 2 ? { offset: blue.offset + 1, stride: blue.stride } : layout[2];
  const made = new Uint8ClampedArray(4 * width * height);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += 4) {
      const light = 1.164383 * (data[luma.offset + y * luma.stride + x] - 16);
      const u = data[blue.offset + (y >> 1) * blue.stride + (x >> 1) * step] - 128;
      const v = data[red.offset + (y >> 1) * red.stride + (x >> 1) * step] - 128;
      made[to] = light + 1.596027 * v;
      made[to + 1] = light - 0.391762 * u - 0.812968 * v;
      made[to + 2] = light + 2.017232 * u;
      made[to + 3] = 255;
    }
  }
  return made;
}

/**
 * A picture as planes one behind the other: luma [H, W], and of each block of 2x2 pixels blue and red [H / 2, W / 2].
 * @param {Picture} picture of even sides
 */
export function yuv({ width, height, data }) {
  const made = new Uint8ClampedArray((3 * width * height) / 2);
  for (let from = 0, to = 0; to < width * height; from += 4, to++) {
    made[to] = 16 + 0.256788 * data[from] + 0.504129 * data[from + 1] + 0.097906 * data[from + 2];
  }
  let [blue, red] = [width * height, (5 * width * height) / 4];
  const below = 4 * width;
  for (let y = 0; y < height; y += 2) {
    for (let x = 0, at = y * below; x < width; x += 2, at += 8, blue++, red++) {
      const r = (data[at] + data[at + 4] + data[at + below] + data[at + below + 4]) / 4;
      const g = (data[at + 1] + data[at + 5] + data[at + below + 1] + data[at + below + 5]) / 4;
      const b = (data[at + 2] + data[at + 6] + data[at + below + 2] + data[at + below + 6]) / 4;
      made[blue] = 128 - 0.148223 * r - 0.290993 * g + 0.439216 * b;
      made[red] = 128 + 0.439216 * r - 0.367788 * g - 0.071427 * b;
    }
  }
  return made;
}
