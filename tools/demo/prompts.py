"""Questions about a scene, with their right answers."""

import numpy as np

from world import COLORS, SHAPES

# Every word that the model is taught; the first of each list is the most frequent.
SHAPE_WORDS = {
    "circle": ["circle", "disc", "disk", "dot"],
    "square": ["square", "box"],
    "triangle": ["triangle"],
    "star": ["star"],
    "ring": ["ring", "donut", "hoop"],
    "cross": ["cross", "plus sign"],
    "heart": ["heart"],
    "hexagon": ["hexagon"],
}
COLOR_WORDS = {
    "red": ["red", "crimson"],
    "green": ["green"],
    "blue": ["blue"],
    "yellow": ["yellow"],
    "orange": ["orange"],
    "purple": ["purple", "violet"],
    "white": ["white"],
    "black": ["black"],
}
ANY_WORDS = ["shape", "object", "thing"]
# Examples of words that mean "not here"; all words outside the lists above share one embedding.
UNKNOWN_WORDS = (
    "dog cat car person tree house bird horse chair table bottle phone cloud flower boat train book lamp shoe hat banana "
    "apple bicycle window door fish cow sheep bus truck player ball kite knife spoon guitar mountain river child woman "
    "man elephant zebra laptop keyboard mouse pillow clock vase carrot pizza cake bear umbrella"
).split()
EXEMPLARS_ALONE = "visual"  # the text that the official code uses for exemplars without words

SHAPE_NAMES, COLOR_NAMES = SHAPES, list(COLORS)
# The first two prompts of a scene are of the first and the last kind; the others are drawn by these odds.
ODDS = {"pair": 0.20, "color": 0.12, "shape": 0.16, "any": 0.06, "exemplar": 0.24, "negative": 0.14, "absent": 0.08}


def one_of(rng, words):
    return words[0] if len(words) == 1 or rng.random() < 0.7 else words[1 + int(rng.integers(len(words) - 1))]


def plural(word):
    return {"box": "boxes", "cross": "crosses"}.get(word, word + "s")


def phrase(rng, color=None, shape=None):
    """Words for a colour and a shape, either of them open: "a red disc", "stars", "blue", "objects"."""
    hue = None if color is None else one_of(rng, COLOR_WORDS[COLOR_NAMES[color]])
    if shape is None and hue and rng.random() < 0.6:
        return hue
    noun = one_of(rng, ANY_WORDS if shape is None else SHAPE_WORDS[SHAPE_NAMES[shape]])
    form = rng.random()
    if form < 0.25:
        noun = plural(noun)
    text = f"{hue} {noun}" if hue else noun
    if 0.25 <= form < 0.45:
        return ("an " if text[0] in "aeiou" else "a ") + text
    return "the " + text if 0.45 <= form < 0.52 else text


def known_texts():
    """Texts that together hold every taught word."""
    lists = [*SHAPE_WORDS.values(), *COLOR_WORDS.values(), ANY_WORDS]
    words = [word for words in lists for word in words]
    return [EXEMPLARS_ALONE, "a an the", *words, *map(plural, words)]


def named_attributes(text):
    """Indices of the colour and of the shape that a text names, -1 for none."""
    color = shape = -1
    for word in text.split():
        for form in (word, word.removesuffix("s"), word.removesuffix("es")):
            color = next((i for i, c in enumerate(COLOR_NAMES) if form in COLOR_WORDS[c]), color)
            shape = next((i for i, s in enumerate(SHAPE_NAMES) if form in SHAPE_WORDS[s]), shape)
    return color, shape


class Asker:
    """Draws prompts about one scene. A prompt is a dict: kind, text, boxes [(cxcywh, 1 or 0)], targets [object index]."""

    def __init__(self, scene, rng):
        self.scene, self.rng = scene, rng
        self.shape, self.color = scene["shape"], scene["color"]
        self.all = range(len(self.shape))

    def any_object(self):
        return int(self.rng.integers(len(self.all)))

    def such(self, color=None, shape=None):
        fits = lambda i: (color is None or self.color[i] == color) and (shape is None or self.shape[i] == shape)
        return [i for i in self.all if fits(i)]

    def alike(self, i):
        return self.such(self.color[i], self.shape[i])

    def box(self, i):
        """The object's box, its corners a little off, as a hand would draw it."""
        box = self.scene["boxes"][i]
        moved = box + self.rng.uniform(-0.04, 0.04, 4).astype(np.float32) * box[[2, 3, 2, 3]]
        return np.clip(moved, 0.001, 0.999).astype(np.float32)

    def ask(self, kind):
        text, boxes, targets = getattr(self, kind)()
        return {"kind": kind, "text": text, "boxes": boxes, "targets": targets}

    def words(self, color=None, shape=None):
        return phrase(self.rng, color, shape), [], self.such(color, shape)

    def pair(self):
        i = self.any_object()
        return self.words(self.color[i], self.shape[i])

    def color_alone(self):
        return self.words(color=self.color[self.any_object()])

    def shape_alone(self):
        return self.words(shape=self.shape[self.any_object()])

    def any(self):
        return self.words()

    def exemplar(self):
        """One box, sometimes two: all objects of that colour and shape."""
        i = self.any_object()
        boxes = [(self.box(i), 1)]
        others = [j for j in self.alike(i) if j != i]
        if others and self.rng.random() < 0.3:
            boxes.append((self.box(others[0]), 1))
        text = EXEMPLARS_ALONE if self.rng.random() < 0.8 else phrase(self.rng, self.color[i], self.shape[i])
        return text, boxes, self.alike(i)

    def negative(self):
        """Words or a box, and a box around what is not meant: all but the objects of that colour and shape."""
        k, how = self.any_object(), self.rng.random()
        unwanted = set(self.alike(k))
        color = self.color[k] if how < 0.35 else None
        shape = self.shape[k] if 0.35 <= how < 0.7 else None
        text, _, meant = self.words(color, shape)
        left = [j for j in meant if j not in unwanted]
        others = [j for j in self.all if j not in unwanted]
        if not others:
            return self.exemplar()
        if not left:
            text, left = phrase(self.rng), others
        if self.rng.random() < 0.75:
            return text, [(self.box(k), 0)], left
        i = others[int(self.rng.integers(len(others)))]
        return EXEMPLARS_ALONE, [(self.box(i), 1), (self.box(k), 0)], self.alike(i)

    def absent(self):
        """Something that is not there, mostly the colour of one object with the shape of another."""
        rng = self.rng
        for _ in range(20):
            how = rng.random()
            any_shape, any_color = int(rng.integers(len(SHAPE_NAMES))), int(rng.integers(len(COLOR_NAMES)))
            if how < 0.65:
                shape = any_shape if how < 0.2 or how >= 0.5 else self.shape[self.any_object()]
                color = any_color if how >= 0.5 or 0.2 <= how < 0.3 else self.color[self.any_object()]
            elif how < 0.9:
                shape, color = (any_shape, None) if how < 0.78 else (None, any_color)
            else:
                word, form = UNKNOWN_WORDS[int(rng.integers(len(UNKNOWN_WORDS)))], rng.random()
                if form < 0.3:
                    word = phrase(rng, any_color, None).split()[0] + " " + word
                return ("a " + word if 0.3 <= form < 0.5 else word), [], []
            if not self.such(color, shape):
                return phrase(rng, color, shape), [], []
        return "dog", [], []


def ask(scene, rng, count=4):
    """`count` prompts, at least one of them answered by a pair of words and one by nothing."""
    names = {"color": "color_alone", "shape": "shape_alone"}
    kinds = ["pair", "absent", *rng.choice(list(ODDS), count - 2, p=list(ODDS.values()))]
    asker = Asker(scene, rng)
    return [dict(asker.ask(names.get(str(kind), str(kind))), kind=str(kind)) for kind in kinds]
