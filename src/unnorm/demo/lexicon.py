"""The demo corpus's words: a small made-up world and the forms of a few dozen English words.

Data only. How rows are built from it is `grammar.py`; how they are worded is `wording.py`. Everything is a tuple or
an insertion-ordered dict: the order is part of the corpus, so a change here changes the demo's numbers.
"""


def _rows(text: str, cell: str | None = None) -> tuple[tuple[str, ...], ...]:
    """The lines of `text`, each split at blanks; with `cell`, its blank-separated words, each split at `cell`."""
    return tuple(tuple(row.split(cell)) for row in (text.split() if cell else text.strip().splitlines()))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Smallest to biggest: name, plural, colour, home, food.
ANIMALS = _rows("""
    ant ants black field leaves
    bee bees yellow field honey
    frog frogs green lake flies
    mouse mice grey barn seeds
    bat bats black cave flies
    crab crabs red shore shells
    mole moles brown hill worms
    snake snakes green cave mice
    owl owls white barn mice
    duck ducks white lake seeds
    hen hens brown barn worms
    hare hares grey hill grass
    cat cats black barn fish
    otter otters brown river fish
    fox foxes red forest berries
    goose geese white river grass
    goat goats grey hill leaves
    wolf wolves grey forest meat
    sheep sheep white field grass
    pig pigs yellow barn apples
    deer deer brown forest leaves
    cow cows brown field grass
    horse horses black field apples
    bear bears brown cave honey
""")
HOMES = {  # place -> where one lives that lives there
    "field": "in the field", "lake": "by the lake", "barn": "in the barn", "cave": "in the cave",
    "shore": "on the shore", "hill": "on the hill", "river": "by the river", "forest": "in the forest",
}  # fmt: skip
FOODS = _words("leaves honey flies seeds shells worms mice grass fish berries meat apples")

# Land, capital, colour of the flag, what grows there (a plural).
LANDS = _rows("""
    Tolmar Vessa blue plums
    Brenia Hopton red apples
    Kelda Luth green pears
    Ostrel Mirna white figs
    Parth Dunby yellow lemons
    Suvia Corra black grapes
    Wexia Tam grey cherries
    Zorin Ashby brown peaches
""")

FRUITS = {
    "apple": "apples", "pear": "pears", "plum": "plums", "fig": "figs", "peach": "peaches", "cherry": "cherries",
    "lemon": "lemons", "grape": "grapes",
}  # fmt: skip
TOOLS = {
    "hammer": "hammers", "saw": "saws", "knife": "knives", "rope": "ropes", "brush": "brushes", "lamp": "lamps",
    "key": "keys", "spade": "spades",
}  # fmt: skip
COLOURS = _words("red blue green brown black white grey yellow")
NAMES = _words("Ana Ben Cleo Dan Eva Finn Gus Ida Leo Mara Nell Otto")
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

KINDS = {  # singular -> (plural, members)
    "animal": ("animals", tuple(a[0] for a in ANIMALS)),
    "fruit": ("fruits", tuple(FRUITS)),
    "tool": ("tools", tuple(TOOLS)),
    "colour": ("colours", COLOURS),
}
WORDS = tuple(word for _, members in KINDS.values() for word in members)  # every listable word, each once
PLURALS = {
    **{a[0]: a[1] for a in ANIMALS}, **FRUITS, **TOOLS,
    "child": "children", "foot": "feet", "tooth": "teeth", "man": "men", "leaf": "leaves", "baby": "babies",
    "city": "cities", "box": "boxes",
}  # fmt: skip

OPPOSITES = _rows(
    (
        "hot/cold big/small old/young fast/slow wet/dry dark/light hard/soft high/low rich/poor full/empty open/shut "
        "clean/dirty happy/sad loud/quiet thick/thin early/late near/far strong/weak"
    ),
    "/",
)
ADJECTIVES = _words("old young small quiet happy sad brave clever hungry lazy")

# Base, third person, past. MOVES take "to the place", ACTS take an object.
MOVES = _rows("run/runs/ran walk/walks/walked swim/swims/swam go/goes/went fly/flies/flew hurry/hurries/hurried", "/")
ACTS = _rows(
    (
        "find/finds/found see/sees/saw lose/loses/lost carry/carries/carried break/breaks/broke bring/brings/brought "
        "take/takes/took want/wants/wanted hide/hides/hid keep/keeps/kept"
    ),
    "/",
)
