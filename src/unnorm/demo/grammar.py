"""The offline demo's corpus: seeded rows of small instructions and answers in Alpaca form.

It exists so that `unnorm demo` can pretrain, swap and fine-tune a tiny model in a minute without a download, and the
losses and completions still mean something: some families are facts of a made-up world to remember, some are rules
to apply (inflection, questions), some are hard at this size (sorting, arithmetic, counting), some are free text.

It only makes rows. The words are `lexicon.py`, the templates `wording.py`; rendering, tokenizing, splitting and
training are left to others. Rows of facts repeat by nature: whoever needs held-out rows drops those that were
trained on. A change to any of the three files changes the demo's numbers.
"""

from collections.abc import Callable
from itertools import accumulate
from random import Random
from typing import Literal

from unnorm.demo import lexicon as lex
from unnorm.demo import wording

Part = Literal["pretrain", "finetune"]

# How often each family is drawn. The parts differ in mix, in wording, and in the last three families.
WEIGHTS: dict[str, dict[str, int]] = {
    "pretrain": {
        "sum": 6, "problem": 5, "reverse": 7, "sort_numbers": 5, "sort_words": 5, "opposite": 5, "plural": 5, "past": 6,
        "question": 6, "larger": 4, "bigger": 5, "count": 6, "letters": 3, "land": 4, "habitat": 6, "next": 5,
        "yesno": 6, "form": 4, "story": 6,
    },
    "finetune": {
        "sum": 3, "problem": 5, "reverse": 6, "sort_numbers": 3, "sort_words": 3, "opposite": 4, "plural": 4, "past": 4,
        "question": 4, "larger": 3, "bigger": 4, "count": 5, "letters": 3, "land": 4, "habitat": 5, "next": 3,
        "yesno": 5, "form": 5, "story": 6, "correct": 6, "odd": 6, "note": 5,
    },
}  # fmt: skip

# For showing completions side by side: (instruction, input). The first five are worded as in pretraining, the rest
# as in fine-tuning; the last two are of families that only fine-tuning has.
DEMO_PROMPTS: tuple[tuple[str, str], ...] = (
    ("Reverse the list.", "owl, hammer, plum, bear"),
    ("Turn the sentence into a question.", "The clever otter carries a lamp."),
    ("How many fruits are in the list?", "fig, saw, lemon, green, hen"),
    ("Where does the otter live and what does it eat?", ""),
    ("Write a short story about a fox and a key.", ""),
    ("Describe the owl in two sentences.", ""),
    ("Say that it happened yesterday.", "The hungry bear goes to the river."),
    ("If Mara has 9 pears and then buys 4, how many are there in the end? Explain.", ""),
    ("Correct the mistakes.", "the lazy goose swim to the lake"),
    ("Which word does not belong?", "crab, peach, mole, wolf"),
)


Slots = dict[str, str | int]


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _listed(words: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _sum(rng: Random) -> Slots:
    a, b = rng.randint(2, 12), rng.randint(1, 9)
    if rng.random() < 0.5:
        return {"a": a, "op": "+", "b": b, "c": a + b}
    return {"a": a + b, "op": "-", "b": b, "c": a}


def _problem(rng: Random) -> Slots:
    slots = _sum(rng)
    gets = rng.choice(("finds", "buys") if slots["op"] == "+" else ("eats", "sells"))
    return {**slots, "gets": gets, "name": rng.choice(lex.NAMES), "fruits": rng.choice(tuple(lex.FRUITS.values()))}


def _reverse(rng: Random) -> Slots:
    items = rng.sample(lex.WORDS, rng.randint(2, 5))
    return {"items": ", ".join(items), "answer": ", ".join(reversed(items))}


def _sort_numbers(rng: Random) -> Slots:
    items = rng.sample(range(1, 41), rng.randint(3, 5))
    return {"items": ", ".join(map(str, items)), "answer": ", ".join(map(str, sorted(items)))}


def _sort_words(rng: Random) -> Slots:
    items = rng.sample(lex.WORDS, rng.randint(3, 5))
    return {"items": ", ".join(items), "answer": ", ".join(sorted(items))}


def _opposite(rng: Random) -> Slots:
    (x, x_answer), (y, y_answer) = (pair if rng.random() < 0.5 else pair[::-1] for pair in rng.sample(lex.OPPOSITES, 2))
    return {"x": x, "x_answer": x_answer, "y": y, "y_answer": y_answer}


def _plural(rng: Random) -> Slots:
    (x, x_answer), (y, y_answer) = rng.sample(tuple(lex.PLURALS.items()), 2)
    return {"x": x, "x_answer": x_answer, "y": y, "y_answer": y_answer}


def _sentence(rng: Random) -> Slots:
    subject = f"the {rng.choice(lex.ADJECTIVES)} {rng.choice(lex.ANIMALS)[0]}"
    if rng.random() < 0.5:
        base, third, past = rng.choice(lex.MOVES)
        rest = f"to the {rng.choice(tuple(lex.HOMES))}"
    else:
        base, third, past = rng.choice(lex.ACTS)
        rest = _article(rng.choice(tuple(lex.FRUITS) + tuple(lex.TOOLS)))
    return {
        "sentence": f"The{subject[3:]} {third} {rest}.",
        "past": f"The{subject[3:]} {past} {rest}.",
        "past_lower": f"{subject} {past} {rest}.",
        "question": f"Does {subject} {base} {rest}?",
        "broken": f"{subject} {base} {rest}",
    }


def _larger(rng: Random) -> Slots:
    a, b = rng.sample(range(1, 41), 2)
    return {"a": a, "b": b, "high": max(a, b), "low": min(a, b)}


def _bigger(rng: Random) -> Slots:
    i, j = rng.sample(range(len(lex.ANIMALS)), 2)
    names = [animal[0] for animal in lex.ANIMALS]
    return {"x": f"the {names[i]}", "y": f"the {names[j]}", "big": names[max(i, j)], "small": names[min(i, j)]}


def _count(rng: Random) -> Slots:
    kind = rng.choice(tuple(lex.KINDS))
    kinds, members = lex.KINDS[kind]
    found = rng.sample(members, rng.randint(1, 3))
    items = found + rng.sample([word for word in lex.WORDS if word not in members], rng.randint(1, 3))
    rng.shuffle(items)
    found = [word for word in items if word in members]
    count = f"{len(found)} {kind if len(found) == 1 else kinds}"
    return {"kinds": kinds, "items": ", ".join(items), "found": _listed(found), "count": count}


def _letters(rng: Random) -> Slots:
    x, y = rng.sample(lex.WORDS, 2)
    short, long = sorted((x, y), key=len)
    longer = f"Both words have {len(x)} letters."
    if len(short) < len(long):
        longer = f"The word {long} is longer than the word {short}."
    return {"x": x, "y": y, "nx": len(x), "ny": len(y), "longer": longer}


def _land(rng: Random) -> Slots:
    return dict(zip(("land", "capital", "colour", "fruits"), rng.choice(lex.LANDS), strict=True))


def _habitat(rng: Random) -> Slots:
    animal, _, colour, home, food = rng.choice(lex.ANIMALS)
    return {"animal": animal, "colour": colour, "home": lex.HOMES[home], "food": food}


def _next(rng: Random) -> Slots:
    if rng.random() < 0.3:
        start, step = rng.randrange(7), rng.choice((1, 1, 2, 6))
        items = [lex.DAYS[(start + i * step) % 7] for i in range(4)]
    else:
        start, step = rng.randint(1, 10), rng.choice((1, 2, 3, 5, 10))
        items = [str(start + i * step) for i in range(4)]
        items = items[::-1] if rng.random() < 0.25 else items
    return {"items": ", ".join(items[:3]), "last": items[2], "answer": items[3]}


def _yesno(rng: Random) -> Slots:
    """A claim that is true about half of the time; the reason is the truth either way."""
    topic, holds = rng.choice(("size", "home", "food", "colour")), rng.random() < 0.5
    if topic == "size":
        slots = _bigger(rng)
        big, small = slots["big"], slots["small"]
        one, other = (big, small) if holds else (small, big)
        question, statement = f"Is the {one} bigger than the {other}?", f"The {one} is bigger than the {other}."
        reason = f"The {big} is bigger than the {small}."
    else:
        slots = _habitat(rng)
        animal, truth = slots["animal"], slots[topic]
        others = {"home": tuple(lex.HOMES.values()), "food": lex.FOODS, "colour": lex.COLOURS}[topic]
        said = truth if holds else rng.choice([other for other in others if other != truth])
        ask, base, verb = {"home": ("Does", "live", "lives"), "food": ("Does", "eat", "eats")}.get(
            topic, ("Is", "", "is")
        )
        question = f"{ask} the {animal} {base} {said}?".replace("  ", " ")
        statement, reason = f"The {animal} {verb} {said}.", f"The {animal} {verb} {truth}."
    tag = "Yes, that is right." if holds else "No, that is wrong."
    return {
        "question": question,
        "statement": statement,
        "verdict": "Yes" if holds else "No",
        "tag": tag,
        "reason": reason,
    }


def _form(rng: Random) -> Slots:
    town = rng.choice(lex.LANDS)[1]
    likes = rng.choice(tuple(lex.FRUITS.values()))
    return {"name": rng.choice(lex.NAMES), "age": rng.randint(5, 12), "town": town, "likes": likes}


def _story(rng: Random) -> Slots:
    slots = _habitat(rng)
    adjective, tool = rng.choice(lex.ADJECTIVES), rng.choice(tuple(lex.TOOLS))
    return {
        **slots,
        "a_animal": _article(str(slots["animal"])),
        "an_adj": _article(adjective),
        "An_adj": _article(adjective).capitalize(),
        "tool": tool,
        "a_tool": _article(tool),
        "place": f"near the {rng.choice(tuple(lex.HOMES))}",
        "ending": rng.choice(wording.ENDINGS).format(**slots),
        "name": rng.choice(lex.NAMES),
    }


def _odd(rng: Random) -> Slots:
    kind, odd_kind = rng.sample(tuple(lex.KINDS), 2)
    kinds, members = lex.KINDS[kind]
    odd = rng.choice(lex.KINDS[odd_kind][1])
    items = [odd, *rng.sample(members, 3)]
    rng.shuffle(items)
    return {"items": ", ".join(items), "Odd": odd.capitalize(), "an_odd_kind": _article(odd_kind), "kinds": kinds}


def _note(rng: Random) -> Slots:
    name, other = rng.sample(lex.NAMES, 2)
    tool = rng.choice(tuple(lex.TOOLS))
    return {"name": name, "other": other, "tool": tool, "a_tool": _article(tool), "praise": rng.choice(wording.PRAISE)}


SLOTS: dict[str, Callable[[Random], Slots]] = {
    "sum": _sum, "problem": _problem, "reverse": _reverse, "sort_numbers": _sort_numbers, "sort_words": _sort_words,
    "opposite": _opposite, "plural": _plural, "past": _sentence, "question": _sentence, "correct": _sentence,
    "larger": _larger, "bigger": _bigger, "count": _count, "letters": _letters, "land": _land, "habitat": _habitat,
    "next": _next, "yesno": _yesno, "form": _form, "story": _story, "odd": _odd, "note": _note,
}  # fmt: skip


def families(part: Part = "pretrain") -> tuple[str, ...]:
    """The task families that `part` draws from."""
    return tuple(WEIGHTS[part])


def generate(n: int, seed: int, part: Part = "pretrain") -> list[dict[str, str]]:
    """`n` rows {"instruction", "input", "output"}, the same for the same (n, seed, part) on every machine.

    Families are mixed row by row, so the first k rows of a longer corpus are the corpus of length k. Rows can repeat.
    """
    return [row for _, row in labelled(n, seed, part)]


def labelled(n: int, seed: int, part: Part = "pretrain") -> list[tuple[str, dict[str, str]]]:
    """As `generate`, each row with the name of its family: for losses and tests by family."""
    rng = Random(f"{part}/{seed}")  # a str seed goes through SHA-512, not through hash()
    names, cumulative = families(part), tuple(accumulate(WEIGHTS[part].values()))
    templates = {"pretrain": wording.PRETRAIN, "finetune": wording.FINETUNE}[part]
    rows = []
    for _ in range(n):
        (family,) = rng.choices(names, cum_weights=cumulative)
        template = rng.choice(templates[family])
        instruction, given, output = (field.strip() for field in template.split("|"))
        slots = SLOTS[family](rng)
        rows.append(
            (
                family,
                {
                    "instruction": instruction.format(**slots),
                    "input": given.format(**slots),
                    "output": output.format(**slots),
                },
            )
        )
    return rows
