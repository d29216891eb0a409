// Which points of a face the compact family follows. As `model/landmarks.py`: all index lists count within the subset.

const LIPS_OUTER = [61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91];
const LIPS_INNER = [78, 81, 13, 311, 308, 402, 14, 178];
const RIGHT_EYE_MESH = [33, 160, 159, 158, 133, 153, 145, 144];
const LEFT_EYE_MESH = [263, 387, 386, 385, 362, 380, 374, 373];
const IRISES = [468, 473];
const RIGHT_BROW = [70, 105, 107];
const LEFT_BROW = [300, 334, 336];
const NOSE = [168, 5, 1, 2, 98, 327];
const OVAL = [10, 103, 332, 21, 251, 234, 454, 132, 361, 172, 397, 150, 379, 152];
const CHEEKS_MESH = [50, 280, 205, 425, 151];

/** Mesh number of every followed point, in the family's order. */
export const MESH_INDEX = [
  ...LIPS_OUTER, ...LIPS_INNER, ...RIGHT_EYE_MESH, ...LEFT_EYE_MESH, ...IRISES,
  ...RIGHT_BROW, ...LEFT_BROW, ...NOSE, ...OVAL, ...CHEEKS_MESH,
];
export const LANDMARKS = MESH_INDEX.length;

/** @param {number[]} mesh */
const within = (mesh) => mesh.map((number) => MESH_INDEX.indexOf(number));

export const RIGHT_EYE = within(RIGHT_EYE_MESH);
export const LEFT_EYE = within(LEFT_EYE_MESH);
export const [RIGHT_IRIS, LEFT_IRIS] = within(IRISES);
export const OUTER_LIPS = within(LIPS_OUTER);
export const INNER_LIPS = within(LIPS_INNER);
const BROWS = { right: within(RIGHT_BROW), left: within(LEFT_BROW) };
export const CHEEKS = within(CHEEKS_MESH);
/** The outline of the face. */
export const OVAL_POINTS = within(OVAL);

/** What the close-up networks look at again, in the order of their outputs. */
export const EYE_REGIONS = [
  [...RIGHT_EYE, RIGHT_IRIS, ...BROWS.right],
  [...LEFT_EYE, LEFT_IRIS, ...BROWS.left],
];
export const MOUTH_REGION = [...OUTER_LIPS, ...INNER_LIPS];

const MIRROR_PAIRS = [
  [61, 291], [40, 270], [37, 267], [91, 321], [84, 314], [78, 308], [81, 311], [178, 402],
  ...RIGHT_EYE_MESH.map((number, n) => [number, LEFT_EYE_MESH[n]]),
  [468, 473],
  ...RIGHT_BROW.map((number, n) => [number, LEFT_BROW[n]]),
  [98, 327], [103, 332], [21, 251], [234, 454], [132, 361], [172, 397], [150, 379], [50, 280], [205, 425],
].map(within);

/** Permutation that relabels the points of a picture flipped left to right. */
export const MIRROR = MESH_INDEX.map((_, n) => {
  const pair = MIRROR_PAIRS.find((both) => both.includes(n));
  return pair === undefined ? n : pair[0] + pair[1] - n;
});

/** How much each landmark says about the skull [LANDMARKS]: eye corners and nose much, lips and jaw little. */
export const RIGID_WEIGHT = rigidWeight();

function rigidWeight() {
  const weight = new Float32Array(LANDMARKS).fill(0.5);
  /** @type {[number[], number][]} */
  const groups = [
    [within(NOSE), 2],
    [[RIGHT_EYE[0], RIGHT_EYE[4], LEFT_EYE[0], LEFT_EYE[4]], 2],
    [MOUTH_REGION, 0.05],
    [[RIGHT_IRIS, LEFT_IRIS], 0],
    [[...BROWS.right, ...BROWS.left], 0.2],
    [within([172, 397, 150, 379, 152]), 0.1],
  ];
  for (const [points, value] of groups) for (const n of points) weight[n] = value;
  return weight;
}

/** How much of a point's error counts [LANDMARKS]: lips and lids are watched, the outline of the head is vague. */
export const IMPORTANCE = importance();

function importance() {
  const weight = new Float32Array(LANDMARKS).fill(1);
  /** @type {[number[], number][]} */
  const groups = [
    [OUTER_LIPS, 1.5],
    [INNER_LIPS, 2],
    [[...RIGHT_EYE, ...LEFT_EYE, RIGHT_IRIS, LEFT_IRIS], 2],
    [[...OVAL_POINTS, ...CHEEKS], 0.5],
  ];
  for (const [points, value] of groups) for (const n of points) weight[n] = value;
  return weight;
}

/** Iris and rim of either eye; the rim's corners are its first and fifth point, the outer one first. */
export const EYES = /** @type {const} */ ([[RIGHT_IRIS, RIGHT_EYE], [LEFT_IRIS, LEFT_EYE]]);

/**
 * @param {number[]} upper
 * @param {number[]} lower
 */
const pairs = (upper, lower) => {
  const below = within(lower);
  return within(upper).map((point, n) => /** @type {[number, number]} */ ([point, below[n]]));
};

/** (upper, lower) point pairs whose distance says how far a lid or the lips are open. */
export const LID_PAIRS = [...pairs([160, 159, 158], [144, 145, 153]), ...pairs([387, 386, 385], [373, 374, 380])];
export const LIP_PAIRS = pairs([81, 13, 311], [178, 14, 402]);

/**
 * Mean distance of the point pairs, for points [LANDMARKS, 2] one behind the other: how far lids or lips are open.
 * @param {ArrayLike<number>} points
 * @param {[number, number][]} of
 */
export function meanOpening(points, of) {
  const apart = (/** @type {[number, number]} */ [a, b]) => Math.hypot(points[2 * a] - points[2 * b], points[2 * a + 1] - points[2 * b + 1]);
  return of.reduce((sum, pair) => sum + apart(pair), 0) / of.length;
}

/**
 * The middle of some points [x, y].
 * @param {ArrayLike<number>} points
 * @param {readonly number[]} of
 */
export function meanPoint(points, of) {
  return [0, 1].map((axis) => of.reduce((sum, n) => sum + points[2 * n + axis], 0) / of.length);
}
