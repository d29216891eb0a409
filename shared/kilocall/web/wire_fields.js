// Kinds of fields that wire messages have: what is allowed, and what a value is in msgpack.
//
// As `proto/wire_fields.py`. Whatever does not fit throws BadPacket, with the message's and the field's name in it.

import { fromHex, hex, utf8 } from "./bytes.js";
import { BadPacket } from "./errors.js";
import { Float } from "./msgpack.js";

/** @typedef {import("./msgpack.js").Value} Value */

/**
 * One kind of field. `where` is the names of message and field, for errors.
 * @typedef {object} Field
 * @property {(where: string, value: Value) => any} read from what msgpack gave, which may be of any type
 * @property {(where: string, value: any, message: any) => any} checked the value as the message keeps it
 * @property {(value: any) => Value} write for msgpack
 */

/**
 * `least` to `most`, which may be a function of the message.
 * @param {number} least
 * @param {number | ((message: any) => number)} most
 * @returns {Field}
 */
export function integer(least, most) {
  return {
    read(where, value) {
      if (typeof value !== "number" && typeof value !== "bigint") throw wrongType(where, value, "a whole number");
      return value;
    },
    checked(where, value, message) {
      const limit = typeof most === "number" ? most : most(message);
      // Of a bigint before it is rounded.
      if (!(value >= least && value <= limit && Number.isInteger(Number(value)))) {
        throw new BadPacket(`${where} is ${value}, allowed is ${least} to ${limit}`);
      }
      return Number(value);
    },
    write: (value) => value,
  };
}

/**
 * Yes or no.
 * @returns {Field}
 */
export function flag() {
  return {
    read(where, value) {
      if (typeof value !== "boolean") throw wrongType(where, value, "true or false");
      return value;
    },
    checked: (_, value) => value,
    write: (value) => value,
  };
}

/**
 * Rounded to what 32 bits hold, then `least` to `most`.
 * @param {number} least
 * @param {number} most
 * @returns {Field}
 */
export function float32(least, most) {
  return {
    read(where, value) {
      if (!(value instanceof Float)) throw wrongType(where, value, "a float");
      return value.value;
    },
    checked(where, value) {
      const rounded = Math.fround(value);
      if (!Number.isFinite(rounded)) throw new BadPacket(`${where} is ${value}, not a finite float32`);
      if (rounded < least || rounded > most) throw new BadPacket(`${where} is ${rounded}, allowed is ${least} to ${most}`);
      return rounded;
    },
    write: (value) => new Float(value),
  };
}

/**
 * At most `most` numbers, four bytes each on the wire; or none at all, nil.
 * @param {number} most
 * @returns {Field}
 */
export function float32s(most) {
  return {
    read(where, value) {
      if (value === null) return null;
      if (!(value instanceof Uint8Array)) throw wrongType(where, value, "bytes");
      if (value.length % 4 || value.length > 4 * most) {
        throw new BadPacket(`${where} is ${value.length} bytes, allowed are multiples of 4 up to ${4 * most}`);
      }
      const view = new DataView(value.buffer, value.byteOffset, value.length);
      return Float32Array.from({ length: value.length / 4 }, (_, n) => view.getFloat32(4 * n));
    },
    checked(where, value) {
      if (value === null) return null;
      if (value.length > most) throw new BadPacket(`${where} has ${value.length} numbers, most is ${most}`);
      const rounded = Float32Array.from(value);
      if (!rounded.every(Number.isFinite)) throw new BadPacket(`${where} holds a number that is not a finite float32`);
      return rounded;
    },
    write(value) {
      if (value === null) return null;
      const view = new DataView(new ArrayBuffer(4 * value.length));
      for (let n = 0; n < value.length; n++) view.setFloat32(4 * n, value[n]);
      return new Uint8Array(view.buffer);
    },
  };
}

/**
 * At most so many bytes of UTF-8.
 * @param {number} most
 * @returns {Field}
 */
export function text(most) {
  return {
    read(where, value) {
      if (typeof value !== "string") throw wrongType(where, value, "text");
      return value;
    },
    checked(where, value) {
      // What becomes bytes has lost half a surrogate pair.
      if (/\p{Surrogate}/u.test(value)) throw new BadPacket(`${where} holds half a surrogate pair`);
      const size = utf8(value).length;
      if (size > most) throw new BadPacket(`${where} is ${size} bytes, most is ${most}`);
      return value;
    },
    write: (value) => value,
  };
}

/**
 * `least` to `most` bytes.
 * @param {number} least
 * @param {number} most
 * @returns {Field}
 */
export function data(least, most) {
  return {
    read(where, value) {
      if (!(value instanceof Uint8Array)) throw wrongType(where, value, "bytes");
      return value;
    },
    checked(where, value) {
      if (value.length < least || value.length > most) {
        throw new BadPacket(`${where} is ${value.length} bytes, allowed are ${least} to ${most}`);
      }
      return value;
    },
    write: (value) => value,
  };
}

/**
 * A SHA-256: 64 hexadecimal digits here, 32 bytes on the wire.
 * @returns {Field}
 */
export function hexDigest() {
  return {
    read(where, value) {
      if (!(value instanceof Uint8Array)) throw wrongType(where, value, "bytes");
      return hex(value);
    },
    checked(where, value) {
      if (!/^[0-9a-f]{64}$/.test(value)) {
        throw new BadPacket(`${where} is ${JSON.stringify(value).slice(0, 80)}, not 64 hexadecimal digits`);
      }
      return value;
    },
    write: fromHex,
  };
}

/**
 * One of a few names; its number on the wire.
 * @param {readonly string[]} names
 * @returns {Field}
 */
export function choice(names) {
  return {
    read(where, value) {
      if (typeof value !== "number" && typeof value !== "bigint") throw wrongType(where, value, "a whole number");
      const name = names[Number(value)];
      if (name === undefined) throw new BadPacket(`${where} is number ${value}, allowed is 0 to ${names.length - 1}`);
      return name;
    },
    checked(where, value) {
      if (!names.includes(value)) throw new BadPacket(`${where} is ${value}, allowed are ${names.join(", ")}`);
      return value;
    },
    write: (value) => names.indexOf(value),
  };
}

/**
 * One of another kind, or none at all, nil.
 * @param {Field} kind
 * @returns {Field}
 */
export function orNil(kind) {
  return {
    read: (where, value) => (value === null ? null : kind.read(where, value)),
    checked: (where, value, message) => (value === null ? null : kind.checked(where, value, message)),
    write: (value) => (value === null ? null : kind.write(value)),
  };
}

/**
 * @param {string} where
 * @param {Value} value
 * @param {string} wanted
 */
function wrongType(where, value, wanted) {
  const found = value === null ? "nil" : Array.isArray(value) ? "an array" : value instanceof Uint8Array ? "bytes" : typeof value;
  return new BadPacket(`${where} is ${value instanceof Float ? "a float" : found}, not ${wanted}`);
}
