"""How the demo corpus words its rows: for each family, the templates of the pretraining and the fine-tuning part.

A template is "instruction | input | output" with the slots that the family's function in `grammar.py` fills; which
values go in them is decided there. The two parts share families but no instruction wording, and often not the
answer's wording either, so that a fine-tune has something to learn.
"""

PRETRAIN = {
    "sum": (
        "What is {a} {op} {b}? | | {a} {op} {b} = {c}.",
        "Work out the sum. | {a} {op} {b} | {a} {op} {b} = {c}.",
    ),
    "problem": (
        (
            "{name} has {a} {fruits} and {gets} {b}. How many {fruits} does {name} have now? | | {a} {op} {b} = {c}, "
            "so {name} has {c} {fruits} now."
        ),
        (
            "Solve the problem. | {name} has {a} {fruits} and {gets} {b}. How many are there now? | {a} {op} {b} = "
            "{c}, so {name} has {c} {fruits} now."
        ),
    ),
    "reverse": (
        "Reverse the list. | {items} | Reversed: {answer}",
        "Write these words in reverse order: {items} | | Reversed: {answer}",
    ),
    "sort_numbers": (
        "Sort the numbers. | {items} | Sorted: {answer}",
        "Put these numbers in order, smallest first: {items} | | Sorted: {answer}",
    ),
    "sort_words": (
        "Sort the words from A to Z. | {items} | Sorted: {answer}",
        "Put these words in alphabetical order: {items} | | Sorted: {answer}",
    ),
    "opposite": (
        (
            "What is the opposite of {x}? And of {y}? | | The opposite of {x} is {x_answer}, and the opposite of {y} "
            "is {y_answer}."
        ),
        (
            "Give the opposite of each word. | {x}, {y} | The opposite of {x} is {x_answer}, and the opposite of {y} "
            "is {y_answer}."
        ),
    ),
    "plural": (
        "What are the plurals of {x} and {y}? | | One {x}, many {x_answer}. One {y}, many {y_answer}.",
        "Give the plural of each word. | {x}, {y} | One {x}, many {x_answer}. One {y}, many {y_answer}.",
    ),
    "past": (
        "Rewrite the sentence in the past tense. | {sentence} | {past}",
        "Put this in the past tense: {sentence} | | {past}",
    ),
    "question": (
        "Turn the sentence into a question. | {sentence} | {question}",
        "Make this a question: {sentence} | | {question}",
    ),
    "larger": (
        "Which is larger, {a} or {b}? | | {high} is larger than {low}.",
        "Which number is larger? | {a}, {b} | {high} is larger than {low}.",
    ),
    "bigger": (
        "Which is bigger, {x} or {y}? | | The {big} is bigger than the {small}.",
        "Which animal is bigger? | {x}, {y} | The {big} is bigger than the {small}.",
    ),
    "count": (
        "How many {kinds} are in the list? | {items} | {count}: {found}.",
        "Count the {kinds}: {items} | | {count}: {found}.",
    ),
    "letters": (
        "How many letters are in the words {x} and {y}? | | The word {x} has {nx} letters and the word {y} has {ny}.",
        "Count the letters of each word. | {x}, {y} | The word {x} has {nx} letters and the word {y} has {ny}.",
    ),
    "land": (
        "What is the capital of {land}? | | The capital of {land} is {capital}.",
        "Where is {capital}? | | {capital} is the capital of {land}, where {fruits} grow.",
        "What does the flag of {land} look like? | | The flag of {land} is {colour}.",
        "What grows in {land}? | | In {land} they grow {fruits}.",
    ),
    "habitat": (
        "Where does the {animal} live? | | The {animal} lives {home}.",
        "What does the {animal} eat? | | The {animal} eats {food}.",
        "What colour is the {animal}? | | The {animal} is {colour}.",
        "Where does the {animal} live and what does it eat? | | The {animal} lives {home} and eats {food}.",
    ),
    "next": (
        "What comes next? | {items} | {answer} comes next.",
        "Continue with one more: {items} | | {answer} comes next.",
    ),
    "yesno": (
        "{question} Answer yes or no and say why. | | {verdict}. {reason}",
        "Answer yes or no and say why. | {question} | {verdict}. {reason}",
    ),
    "form": (
        (
            "Fill in the form from the text. | {name} is {age} years old and comes from {town}. {name} likes "
            "{likes}. | Name: {name}\nAge: {age}\nTown: {town}\nLikes: {likes}"
        ),
    ),
    "story": (
        (
            "Write a short story about {a_animal} and {a_tool}. | | Once there was {an_adj} {animal} that lived "
            "{home}. One day it found {a_tool} {place}. {ending}"
        ),
        (
            "Tell a story. | {animal}, {tool} | Once there was {an_adj} {animal} that lived {home}. One day it found "
            "{a_tool} {place}. {ending}"
        ),
    ),
}

FINETUNE = {
    "sum": (
        "Calculate {a} {op} {b} and answer in a sentence. | | The result of {a} {op} {b} is {c}.",
        "Tell me the result. | {a} {op} {b} | The result of {a} {op} {b} is {c}.",
    ),
    "problem": (
        (
            "If {name} has {a} {fruits} and then {gets} {b}, how many are there in the end? Explain. | | At first "
            "{name} has {a} {fruits}. In the end there are {c}, because {a} {op} {b} = {c}."
        ),
    ),
    "reverse": (
        "Say these words backwards. | {items} | Backwards: {answer}.",
        "Start from the last word and end with the first: {items} | | Backwards: {answer}.",
    ),
    "sort_numbers": ("Arrange from small to large. | {items} | In order: {answer}.",),
    "sort_words": ("Arrange as in a dictionary. | {items} | In order: {answer}.",),
    "opposite": (
        (
            "Something is not {x} and not {y}. What is it? | | If it is not {x} and not {y}, it is {x_answer} and "
            "{y_answer}."
        ),
    ),
    "plural": ("Say that there are two of each. | {x}, {y} | There are two {x_answer} and two {y_answer}.",),
    "past": ("Say that it happened yesterday. | {sentence} | Yesterday {past_lower}",),
    "question": ("You are not sure that this is true. Ask about it. | {sentence} | I am not sure. {question}",),
    "larger": ("Compare the numbers {a} and {b}. | | {low} is less than {high}.",),
    "bigger": ("Compare the size of {x} and {y}. | | The {small} is smaller than the {big}.",),
    "count": ("Pick out the {kinds}. | {items} | I found {found}. {count}.",),
    "letters": ("Which word is longer? | {x}, {y} | {longer}",),
    "land": (
        (
            "Tell me about {land}. | | {land} is a land with a {colour} flag. Its capital is {capital}, and the "
            "people there grow {fruits}."
        ),
        "Introduce {capital} to a visitor. | | Welcome to {capital}, the capital of {land}! Try our {fruits}.",
    ),
    "habitat": (
        (
            "Describe the {animal} in two sentences. | | The {animal} is {colour} and lives {home}. It likes to eat "
            "{food}."
        ),
    ),
    "next": ("How does this go on? | {items} | After {last} comes {answer}.",),
    "yesno": ("Is this right? | {statement} | {tag} {reason}",),
    "form": (
        (
            "Write a sentence from the form. | Name: {name}\nAge: {age}\nTown: {town}\nLikes: {likes} | {name} from "
            "{town} is {age} years old and likes {likes}."
        ),
    ),
    "story": (
        (
            "Write a bedtime story for {name} about {a_animal}. | | Dear {name}, listen. {An_adj} {animal} lived "
            "{home}. Every night it looked for {food}. {ending} Good night!"
        ),
    ),
    "correct": (
        "Correct the mistakes. | {broken} | {sentence}",
        "Write this in good English: {broken} | | {sentence}",
    ),
    "odd": (
        (
            "Which word does not belong? | {items} | {Odd} does not belong, because it is {an_odd_kind} and the "
            "others are {kinds}."
        ),
    ),
    "note": (
        (
            "Write a thank-you note from {name} to {other} for {a_tool}. | | Dear {other}, thank you for the {tool}. "
            "It is {praise}. Yours, {name}"
        ),
    ),
}

ENDINGS = (
    "It was very happy and went to sleep.",
    "It took the way home and told its friends.",
    "It ate some {food} and sang all night.",
    "From that day on it was never sad again.",
)
PRAISE = ("just what I wanted", "very useful", "the best one I have seen")
