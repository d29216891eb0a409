// Every error that these modules raise on purpose. A message says what was refused, which value it had and what is
// allowed.

export class KilocallError extends Error {}

/** Bytes that are malformed, or that refer to something this side does not hold. */
export class BadPacket extends KilocallError {}

/** What should come from the other side, without the proof that it does. */
export class NotProven extends BadPacket {}

/** A file, picture or setting that cannot be used. */
export class BadInput extends KilocallError {}

/** A picture without a face where one is needed. */
export class NoFace extends BadInput {}
