"""CLIP's byte-pair tokenizer (49408 entries, context 32, padded with 0), from the merges that the library embeds."""

import gzip
import html
from pathlib import Path

import regex

MERGES = Path(__file__).parents[2] / "src/text/clip_merges.txt.gz"
START, END, CONTEXT = 49406, 49407, 32
PIECES = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE)


def byte_symbols():
    """A printable character for each byte, in the order of the vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [byte for byte in range(256) if byte not in printable]
    codes = printable + [256 + i for i in range(len(other))]
    return {byte: chr(code) for byte, code in zip(printable + other, codes)}


class Tokenizer:
    def __init__(self):
        self.byte = byte_symbols()
        lines = gzip.open(MERGES).read().decode("utf-8").split("\n")
        merges = [tuple(line.split()) for line in lines if len(line.split()) == 2][: 49152 - 256 - 2]
        letters = list(self.byte.values())
        vocabulary = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
        self.id = {piece: i for i, piece in enumerate(vocabulary)}
        self.rank = {pair: i for i, pair in enumerate(merges)}
        self.known = {}

    def word(self, word):
        """The ids of one word, its bytes already written as symbols."""
        parts = list(word[:-1]) + [word[-1] + "</w>"]
        while len(parts) > 1:
            rank, i = min((self.rank.get(pair, 1 << 30), i) for i, pair in enumerate(zip(parts, parts[1:])))
            if rank == 1 << 30:
                break
            pair, merged, i = (parts[i], parts[i + 1]), [], 0
            while i < len(parts):
                step = 2 if tuple(parts[i : i + 2]) == pair else 1
                merged.append("".join(parts[i : i + step]))
                i += step
            parts = merged
        return [self.id[part] for part in parts]

    def __call__(self, text):
        """CONTEXT ids: start, the text, end, zeros."""
        if text not in self.known:
            clean = " ".join(html.unescape(html.unescape(text)).split()).lower()
            ids = [START]
            for piece in PIECES.findall(clean):
                ids += self.word("".join(self.byte[byte] for byte in piece.encode("utf-8")))
            ids = ids[: CONTEXT - 1] + [END]
            self.known[text] = ids + [0] * (CONTEXT - len(ids))
        return self.known[text]
