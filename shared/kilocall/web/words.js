// The 256 words that two people read to each other; `proto/words.py` has them, and a test holds the two together.

const IN_ORDER = `
  acorn actor album angel ankle apple apron arrow
  atlas attic autumn bacon badge bagel bakery balloon
  bamboo banana barrel basket beard beaver bench bicycle
  biscuit blanket blossom bottle branch bread bridge brother
  brush bubble bucket butter button cabbage cactus camel
  candle canyon carbon carpet castle cellar chain chalk
  cheese cherry chimney chocolate circus citizen clock cloud
  clover coconut coffee comet compass copper coral corner
  cotton cousin cowboy cradle crayon cricket crocodile crown
  crystal cucumber curtain cushion daisy dancer desert diamond
  dinner doctor dolphin domino dragon drawer drum eagle
  echo elbow elephant eleven emerald engine envelope evening
  fabric falcon farmer feather fiddle fiesta flag flute
  forest fork fossil fountain friday frog garage garden
  garlic giant ginger giraffe glacier glove goblin grape
  guitar hammer harbor hazel helmet hero honey hotel
  iceberg igloo indigo insect island ivory jacket jaguar
  jelly jewel jungle kangaroo kettle keyboard kitchen kiwi
  knife ladder lagoon lantern lawyer lemon leopard letter
  library lizard lobster lunch magnet mammal mango maple
  marble market meadow medal melon mirror monday monkey
  mosquito museum mushroom music napkin needle nephew nickel
  noodle nutmeg oasis octopus olive onion opera orange
  orchid otter oven oyster padlock palace panda paper
  parrot peach peanut pencil penguin pepper piano pigeon
  pillow pilot pirate planet plum pocket potato powder
  prince pumpkin puzzle python quartz queen rabbit radio
  rainbow raven ribbon river robot rooster ruby saddle
  salad sandal saturn saxophone school scissors shadow shark
  silver soccer spider spoon squirrel summer sunday swan
  table teapot tennis thunder tiger tomato tractor trumpet
  tulip turtle umbrella valley velvet violin walnut zebra
`;

export const WORDS = /** @type {readonly string[]} */ (Object.freeze(IN_ORDER.trim().split(/\s+/)));
