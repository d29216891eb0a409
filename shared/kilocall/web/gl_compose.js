// The final mix on the graphics processor, onto a canvas. The sums are those of `compose.js`, and of
// `model/compact/detail.py` for pictures of twice the networks' size:
//
//   out = up(made) + (1 - painted share) * (moved - up(down(moved)))
//
// and of `fusion.js` for what a video layer changes of either.

import { TAPS, densely } from "./compose.js";
import { KilocallError } from "./errors.js";
import { FAR } from "./fusion.js";

/**
 * What a video layer changes: `changes` [C, C, 4], offsets of colours in sixteenths of a level and the gain of detail in 4096ths,
 * fetched from so far away [F, F, 2] in crop units, null: from where they are; with a `strength` below one, less.
 * @typedef {{ changes: Float32Array, way: Float32Array | null, strength: number }} Change
 */

/**
 * What the networks made; or, without `painted`, that of the frame before moved on: `trace` [F, F, 2] then says how far from
 * each place lay what was painted of it, crop units.
 * @typedef {{ displacement: Float32Array, gate: Float32Array, painted: Uint8Array | null, trace: Float32Array | null,
 *   change?: Change | null }} Frame
 */

/** Detail is what half of the networks' side cannot hold, at any size. */
const LOW_SIDE = 128;

const CORNERS = `#version 300 es
void main() {
  gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0);
}`;

const PRECISE = `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
`;

const HEAD_OF_SUMS = `${PRECISE}
out ivec4 sum;
`;

const HEAD = `${PRECISE}
out vec4 colour;

ivec2 bounded(ivec2 at, ivec2 size) {
  return clamp(at, ivec2(0), size - 1);
}
// Between four texels, at a place that is counted in texels. Edges repeat.
vec4 between(sampler2D of, vec2 at) {
  ivec2 size = textureSize(of, 0);
  ivec2 low = ivec2(floor(at));
  vec2 share = at - vec2(low);
  vec4 above = mix(texelFetch(of, bounded(low, size), 0), texelFetch(of, bounded(low + ivec2(1, 0), size), 0), share.x);
  vec4 below = mix(texelFetch(of, bounded(low + ivec2(0, 1), size), 0), texelFetch(of, bounded(low + 1, size), 0), share.x);
  return mix(above, below, share.y);
}
// A small field seen at a pixel of a picture so many pixels wide.
vec4 seen(sampler2D field, ivec2 pixel, int side) {
  vec2 size = vec2(textureSize(field, 0));
  return between(field, clamp((vec2(pixel) + 0.5) * size / float(side) - 0.5, vec2(0.0), size - 1.0));
}
vec2 rounded(vec2 place) {
  return floor(place * 32.0 + 0.5) / 32.0;
}
vec4 asBytes(vec4 value) {
  return floor(value * 255.0 + 0.5) / 255.0;
}
`;

// What was painted, smoothed: first along the rows, in 255 x 16ths.
const ALONG = `${HEAD_OF_SUMS}
uniform sampler2D painted;
uniform int side;

ivec4 shuffled(ivec2 at) {
  return ivec4(texelFetch(painted, ivec2((at.x >> 1) * 4 + (at.y & 1) * 2 + (at.x & 1), at.y >> 1), 0) * 255.0 + 0.5);
}
void main() {
  ivec2 pixel = ivec2(gl_FragCoord.xy);
  const int taps[5] = int[5](${TAPS.join(", ")});
  sum = ivec4(0);
  for (int x = 0; x < 5; x++) sum += taps[x] * shuffled(ivec2(clamp(pixel.x + x - 2, 0, side - 1), pixel.y));
}`;

// Then along the columns; how far it counts goes into alpha.
const PAINT = `${HEAD}
uniform highp isampler2D along;
uniform sampler2D gate;
uniform int side;
void main() {
  ivec2 pixel = ivec2(gl_FragCoord.xy);
  const int taps[5] = int[5](${TAPS.join(", ")});
  ivec4 sum = ivec4(128);
  for (int y = 0; y < 5; y++) sum += taps[y] * texelFetch(along, ivec2(pixel.x, clamp(pixel.y + y - 2, 0, side - 1)), 0);
  vec4 smoothed = vec4(clamp(sum >> 8, 0, 255)) / 255.0;
  colour = vec4(smoothed.rgb, seen(gate, pixel, side).x * smoothed.a);
}`;

// How far it is a copy goes into alpha, where another pass needs it.
const MIX = `${HEAD}
uniform sampler2D dense, flow, smoothed, trace;
uniform int side, last, moved; // last: of the rows, where they are drawn from below; -1 otherwise
void main() {
  ivec2 pixel = ivec2(gl_FragCoord.xy);
  if (last >= 0) pixel.y = last - pixel.y;
  vec2 where = vec2(2 * pixel) + seen(flow, pixel, side).xy * float(side);
  vec4 copied = asBytes(between(dense, rounded(where)));
  vec4 paint = moved == 0 ? texelFetch(smoothed, pixel, 0)
    : between(smoothed, rounded(vec2(pixel) + seen(trace, pixel, side).xy * float(side) / 2.0));
  colour = vec4(mix(copied.rgb, paint.rgb, paint.a), last >= 0 ? 1.0 : 1.0 - paint.a);
}`;

const MOVE = `${HEAD}
uniform sampler2D large, flow;
uniform int side;
void main() {
  ivec2 pixel = ivec2(gl_FragCoord.xy);
  colour = between(large, rounded(vec2(pixel) + seen(flow, pixel, side).xy * float(side) / 2.0));
}`;

// The mean of each 2x2 pixels, which the detail's pass fetches four of at every pixel.
const HALVE = `${HEAD}
uniform sampler2D moved;
void main() {
  ivec2 pixel = 2 * ivec2(gl_FragCoord.xy);
  vec3 sum = texelFetch(moved, pixel, 0).rgb + texelFetch(moved, pixel + ivec2(1, 0), 0).rgb
    + texelFetch(moved, pixel + ivec2(0, 1), 0).rgb + texelFetch(moved, pixel + 1, 0).rgb;
  colour = asBytes(vec4(sum / 4.0, 0.0));
}`;

const DETAIL = `${HEAD}
uniform sampler2D made, moved, halved;
uniform int side, last; // last: as in the final mix
void main() {
  ivec2 pixel = ivec2(gl_FragCoord.xy);
  if (last >= 0) pixel.y = last - pixel.y;
  vec2 at = clamp((vec2(pixel) - 0.5) / 2.0, vec2(0.0), vec2(side / 2 - 1));
  vec4 base = between(made, at);
  colour = vec4(base.rgb + base.a * (texelFetch(moved, pixel, 0).rgb - between(halved, at).rgb), 1.0);
}`;

// What half of the networks' side holds of a picture.
const LOW = `${HEAD}
uniform sampler2D picture;
uniform int side;
void main() {
  int block = textureSize(picture, 0).x / side;
  ivec2 first = block * ivec2(gl_FragCoord.xy);
  vec4 sum = vec4(0.0);
  for (int y = 0; y < block; y++) {
    for (int x = 0; x < block; x++) sum += texelFetch(picture, first + ivec2(x, y), 0);
  }
  colour = sum / float(block * block);
}`;

const CHANGE = `${HEAD}
uniform sampler2D picture, low, changes, way;
uniform int side, moved;
uniform float strength, far;
void main() {
  ivec2 pixel = ivec2(gl_FragCoord.xy);
  pixel.y = side - 1 - pixel.y;
  float places = float(textureSize(changes, 0).x);
  vec2 at = (vec2(pixel) + 0.5) * places / float(side) - 0.5;
  float kept = strength;
  if (moved != 0) {
    vec2 from = seen(way, pixel, side).xy;
    at += from * places / 2.0;
    kept /= 1.0 + dot(from, from) / (far * far);
  }
  vec4 change = between(changes, at);
  vec3 coarse = asBytes(seen(low, pixel, side)).rgb;
  float gain = change.a * kept / 4096.0 + 1.0 - kept;
  vec4 blended = asBytes(vec4(clamp(mix(coarse, texelFetch(picture, pixel, 0).rgb, gain), 0.0, 1.0), 1.0));
  colour = vec4(blended.rgb + change.rgb * kept / (16.0 * 255.0), 1.0);
}`;

/** A source picture as the graphics processor holds it. */
class Held {
  /**
   * @param {WebGLTexture} dense
   * @param {WebGLTexture | null} large
   */
  constructor(dense, large) {
    this.dense = dense;
    this.large = large;
  }
}

/** Composes pictures onto one canvas, [S, S] or, for source pictures with detail, [2S, 2S]. */
export class GlComposer {
  /**
   * Raises KilocallError where there is no WebGL 2.
   * @param {HTMLCanvasElement | OffscreenCanvas} canvas
   * @param {number} side S
   */
  constructor(canvas, side) {
    // Preserved, so that a picture that stands can be copied and saved.
    const settings = { alpha: false, antialias: false, preserveDrawingBuffer: true };
    const gl = /** @type {WebGL2RenderingContext | null} */ (canvas.getContext("webgl2", settings));
    if (gl === null) throw new KilocallError("this browser has no WebGL 2");
    this.canvas = canvas;
    this.gl = gl;
    this.side = side;
    this.summing = this.#program(ALONG);
    this.painting = this.#program(PAINT);
    this.mixing = this.#program(MIX);
    this.moving = this.#program(MOVE);
    this.halving = this.#program(HALVE);
    this.detailing = this.#program(DETAIL);
    this.lowering = this.#program(LOW);
    this.changing = this.#program(CHANGE);
    this.checked = false;
    this.flow = this.#texture();
    this.gate = this.#texture();
    this.painted = this.#texture();
    this.trace = this.#texture();
    this.along = this.#target(side, gl.RGBA16I);
    this.smoothed = this.#target(side);
    this.made = this.#target(side);
    this.moved = this.#target(2 * side);
    this.halved = this.#target(side);
    this.low = this.#target(LOW_SIDE);
    this.plain = this.#buffered(this.#texture());
    this.changes = this.#texture();
    this.way = this.#texture();
    /** @type {Float32Array | null} that the texture holds */
    this.changesHeld = null;
    /** @type {{ texture: WebGLTexture, buffer: WebGLFramebuffer } | null} a picture with detail that is still to be changed */
    this.detailed = null;
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
  }

  /**
   * @param {Uint8Array | Uint8ClampedArray} picture [S, S, 4]
   * @param {Uint8Array | Uint8ClampedArray | null} detail [2S, 2S, 4]
   */
  hold(picture, detail) {
    const dense = this.#texture();
    this.#put(dense, "RGBA8", 2 * this.side, densely(picture));
    if (detail === null) return new Held(dense, null);
    const large = this.#texture();
    this.#put(large, "RGBA8", 2 * this.side, detail);
    return new Held(dense, large);
  }

  /** @param {Held} held */
  release(held) {
    this.gl.deleteTexture(held.dense);
    this.gl.deleteTexture(held.large);
  }

  /**
   * @param {Held} held
   * @param {Frame} frame
   */
  draw(held, { displacement, gate, painted, trace, change = null }) {
    const { gl, side } = this;
    if (!this.checked) this.#check();
    const large = held.large !== null;
    const shown = large ? 2 * side : side;
    if (this.canvas.width !== shown || this.canvas.height !== shown) this.canvas.width = this.canvas.height = shown;
    const field = Math.sqrt(gate.length);
    this.#put(this.flow, "RG32F", field, displacement);
    if (painted !== null) {
      this.#put(this.gate, "R32F", field, gate);
      this.#put(this.painted, "RGBA8", 2 * side, painted, side / 2);
      this.#run(this.summing, this.along, side, { painted: this.painted }, { side });
      this.#run(this.painting, this.smoothed, side, { along: this.along.texture, gate: this.gate }, { side });
    }
    if (trace !== null) this.#put(this.trace, "RG32F", field, trace);
    const mixed = { dense: held.dense, flow: this.flow, smoothed: this.smoothed.texture, trace: this.trace };
    // What goes onto the canvas itself is drawn from below.
    const numbers = { side, last: large || change ? -1 : side - 1, moved: Number(trace !== null) };
    this.#run(this.mixing, large || change ? this.made : null, side, mixed, numbers);
    let picture = this.made;
    if (held.large !== null) {
      this.#run(this.moving, this.moved, shown, { large: held.large, flow: this.flow }, { side: shown });
      if (change) picture = this.detailed ??= this.#target(shown);
      this.#run(this.halving, this.halved, side, { moved: this.moved.texture }, {});
      const detailed = { made: this.made.texture, moved: this.moved.texture, halved: this.halved.texture };
      this.#run(this.detailing, change ? picture : null, shown, detailed, { side: shown, last: change ? -1 : shown - 1 });
    }
    if (change) this.#change(picture.texture, shown, change);
    if (large || change) gl.flush();
  }

  /**
   * A picture as it is.
   * @param {import("./pixels.js").Picture} picture
   */
  show({ width, height, data }) {
    const { gl } = this;
    if (this.canvas.width !== width || this.canvas.height !== height) [this.canvas.width, this.canvas.height] = [width, height];
    this.#put(this.plain.texture, "RGBA8", width, data, height);
    gl.bindFramebuffer(gl.READ_FRAMEBUFFER, this.plain.buffer);
    gl.bindFramebuffer(gl.DRAW_FRAMEBUFFER, null);
    // From below.
    gl.blitFramebuffer(0, 0, width, height, 0, height, width, 0, gl.COLOR_BUFFER_BIT, gl.NEAREST);
  }

  /**
   * What a video layer changes of a picture, onto the canvas.
   * @param {WebGLTexture} picture
   * @param {number} shown
   * @param {Change} change
   */
  #change(picture, shown, { changes, way, strength }) {
    if (changes !== this.changesHeld) this.#put(this.changes, "RGBA32F", Math.sqrt(changes.length / 4), changes);
    this.changesHeld = changes;
    if (way !== null) this.#put(this.way, "RG32F", Math.sqrt(way.length / 2), way);
    this.#run(this.lowering, this.low, LOW_SIDE, { picture }, { side: LOW_SIDE });
    const { gl } = this;
    gl.useProgram(this.changing);
    gl.uniform1f(gl.getUniformLocation(this.changing, "strength"), strength);
    gl.uniform1f(gl.getUniformLocation(this.changing, "far"), FAR);
    const textures = { picture, low: this.low.texture, changes: this.changes, way: this.way };
    this.#run(this.changing, null, shown, textures, { side: shown, moved: Number(way !== null) });
  }

  /**
   * @param {WebGLProgram} program
   * @param {{ buffer: WebGLFramebuffer } | null} target
   * @param {number} side
   * @param {Record<string, WebGLTexture>} textures
   * @param {Record<string, number>} numbers
   */
  #run(program, target, side, textures, numbers) {
    const { gl } = this;
    gl.useProgram(program);
    gl.bindFramebuffer(gl.FRAMEBUFFER, target?.buffer ?? null);
    gl.viewport(0, 0, side, side);
    Object.entries(textures).forEach(([name, texture], unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.uniform1i(gl.getUniformLocation(program, name), unit);
    });
    for (const [name, value] of Object.entries(numbers)) gl.uniform1i(gl.getUniformLocation(program, name), value);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  /** @param {string} source */
  #program(source) {
    const { gl } = this;
    const program = gl.createProgram();
    for (const [kind, text] of /** @type {[number, string][]} */ ([[gl.VERTEX_SHADER, CORNERS], [gl.FRAGMENT_SHADER, source]])) {
      const shader = /** @type {WebGLShader} */ (gl.createShader(kind));
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    return program;
  }

  /** Not at once: to be asked for it, the graphics processor would have to have compiled all shaders. */
  #check() {
    const { gl } = this;
    const { summing, painting, mixing, moving, halving, detailing, lowering, changing } = this;
    for (const program of [summing, painting, mixing, moving, halving, detailing, lowering, changing]) {
      if (gl.getProgramParameter(program, gl.LINK_STATUS) || gl.isContextLost()) continue;
      const logs = (gl.getAttachedShaders(program) ?? []).map((shader) => gl.getShaderInfoLog(shader));
      throw new KilocallError(`this browser's WebGL does not take a shader: ${logs.join(" ")}`);
    }
    this.checked = true;
  }

  #texture() {
    const { gl } = this;
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
    for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, name, gl.CLAMP_TO_EDGE);
    return texture;
  }

  /**
   * @param {number} side
   * @param {number} [format]
   */
  #target(side, format = this.gl.RGBA8) {
    const { gl } = this;
    const texture = this.#texture();
    gl.texStorage2D(gl.TEXTURE_2D, 1, format, side, side);
    return this.#buffered(texture);
  }

  /** @param {WebGLTexture} texture */
  #buffered(texture) {
    const { gl } = this;
    const buffer = gl.createFramebuffer();
    gl.bindFramebuffer(gl.FRAMEBUFFER, buffer);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
    return { texture, buffer };
  }

  /**
   * @param {WebGLTexture} texture
   * @param {"RGBA8" | "RGBA32F" | "RG32F" | "R32F"} format
   * @param {number} width
   * @param {Uint8Array | Uint8ClampedArray | Float32Array} data
   * @param {number} [height]
   */
  #put(texture, format, width, data, height = width) {
    const { gl } = this;
    const [layout, kind] = {
      RGBA8: [gl.RGBA, gl.UNSIGNED_BYTE],
      RGBA32F: [gl.RGBA, gl.FLOAT],
      RG32F: [gl.RG, gl.FLOAT],
      R32F: [gl.RED, gl.FLOAT],
    }[format];
    // A plain view: WebGL takes bytes of one kind alone.
    const bytes = data instanceof Uint8ClampedArray ? new Uint8Array(data.buffer, data.byteOffset, data.length) : data;
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl[format], width, height, 0, layout, kind, bytes);
  }
}
