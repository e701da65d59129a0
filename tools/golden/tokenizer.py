"""Writes tests/golden/tokenizer.jsonl.gz: texts and the ids the official tokenizer gives them.

Needs a checkout of facebookresearch/sam3, commit 99d02f2, and the packages its tokenizer imports:

    PYTHONPATH=path/to/checkout python tools/golden/tokenizer.py tests/golden/tokenizer.jsonl.gz

One JSON array a line: text, context length, tokens before cutting, ids without the padding.
The texts are the same on every run; `--mixes` and `--seed` make a larger or another set.
"""

import argparse
import gzip
import html.entities
import importlib.util
import json
import random
import unicodedata
from pathlib import Path

import regex

# Letters and digits that Unicode added later are known to some versions of Python's `regex` and
# not to others, and the ids depend on it: texts that come to contain one are left out, and counted.
UNICODE = "14.0.0"
LETTER_OR_DIGIT = regex.compile(r"[\p{L}\p{N}]")

HANDWRITTEN = [
    "", " ", "\n", "\t\r\n", "\u00a0", "\u3000", "a", "!", "!;", "!!!!", ";!;!", "?!;", "!a!", "visual",
    "dog", "a dog", "The Quick Brown Fox", "a yellow school bus", "person in blue", "iPhone 15 Pro",
    "it's", "IT'S", "they're", "we'VE", "I'm", "you'll", "he'd", "don't", "'s", "'S", "' s", "''s", "'tis",
    "dog's", "dogs'", "'re've'm'll'd", "'LL", "'rest", "o'clock", "rock'n'roll", "'\u017f", "it'\u017f", "'\u212a", "\u212a",
    "\u017ftop", "<\u017ftart_of_text>", "<start_o\u017f_text>", "<\u017fTART_OF_TEXT>", "<\ufb05art_of_text>",
    "<start_of_text>", "<end_of_text>", "<|startoftext|>", "<|endoftext|>", "<START_OF_TEXT>", "<End_Of_Text>",
    "a<start_of_text>b", "x <end_of_text> y", "<<start_of_text>>", "!<start_of_text>", "<start_of_text", "start_of_text>",
    "<start_of_text><end_of_text>", "<start_ of_text>", "&lt;start_of_text&gt;", "&amp;lt;end_of_text&amp;gt;", "<end_of_text>'s",
    "</w>", "dog</w>", "</w></w>", "\u0120dog", "Ġ", "ĠthE Ġ", "\u0100\u0101\u0143", "##ing", "@@",
    "1", "12", "1234567890", "3.14159", "1,000,000", "2nd", "42nd street", "a1b2c3", "v2.0.1", "½ ¼ ⅓", "Ⅷ ⅷ", "①②③", "٣٤٥", "१२३", "²³¹", "10³", "一二三", "𝟘𝟙𝟚", "１２３",
    "“curly” ‘quotes’", "it’s", "it‘s", "itʼs", "‚low‛ „low‟", "«guillemets»", "‹single›", "`backtick´", "′prime″",
    "ﬁve ﬂuﬀy ﬃ ﬄ ﬅ ﬆ", "Ĳ ĳ ŉ Ǆ ǅ ǆ Ǉ ǈ ǉ Ǌ ǋ ǌ Ǳ ǲ ǳ", "æ Œuvre œ", "ﬓ ﬔ ﭏ",
    "ＬＯＵＤ　ＮＯＩＳＥＳ", "Ｕﾀｰﾝ", "ｶﾞｷﾞ ﾊﾟ", "ﾡﾢ", "￠￡￢￣￤￥￦", "￨￩￪￫￬￭￮", "！＂＃＄％＆＇", "＜start_of_text＞", "＆amp;", "＆ａｍｐ；",
    "İstanbul", "IĞDIR ığdır", "STRASSE straße ẞ", "ΣΊΣΥΦΟΣ", "ὈΔΥΣΣΕΎΣ", "Σ", "ΑΣ", "ΑΣ.", "ΑΣ Β", "ΑΣΒ", "Α\u0301Σ", "ΑΣ\u0301", "'Σ", "Α'Σ'Β", "1Σ", "Σ1", "ᾼ ᾈ Ω ω", "Ǆ", "ﬃX", "Ⓐ ⓐ", "ŸY\u0308", "\u1e9e", "Ꭰ ꭰ", "Ა ა",
    "e\u0301", "E\u0301T\u00c9", "a\u0300\u0301\u0302", "n\u0303o", "\u1112\u1161\u11ab", "가각", "\u0345", "a\u0345b", "α\u0345", "\u0345\u0345 x", "!\u0345!", "1\u03451", "\u0344", "\u0374", "\u212b", "\u2126", "क़ \u0915\u093c", "\u0f73",
    "日本語のテキスト", "中文 字符", "한국어 텍스트", "ไทย", "ภาษาไทย", "हिन्दी", "தமிழ்", "العربية", "עברית", "Ελληνικά", "Русский", "Українська ґ", "ქართული", "Հայերեն", "አማርኛ", "ខ្មែរ", "မြန်မာ", "বাংলা", "Tiếng Việt", "čeština", "Zażółć gęślą jaźń",
    "😀", "👨‍👩‍👧‍👦", "🏴󠁧󠁢󠁷󠁬󠁳󠁿", "👍🏽", "🇩🇪", "❤️", "☃", "a😀b", "🐶 dog 🐶", "1️⃣", "©®™", "¯\\_(ツ)_/¯", "(╯°□°)╯︵ ┻━┻", "ಠ_ಠ", "ò_ó", "(ˆ_ˆ)",
    "a\u200db", "a\u200cb", "a\u200bb", "\ufeffdog", "a\ufeffb", "a\u00adb", "a\u2060b", "\u200e\u200f", "\u202eabc\u202c", "\u206a\u206fx", "\ufff9a\ufffab\ufffb", "\ufffc", "\ufffd", "a\ufffdb",
    "a\u2028b", "a\u2029b", "a\u0085b", "a\x0bb", "a\x0cb", "a\x1cb\x1db\x1eb\x1fb", "a\rb\r\nc\nd", "a\r\u2028b", "a\u1680b\u2000\u2003\u2009\u202f\u205fc", "a\u180eb", "\x00\x01\x02", "a\x7fb", "\x08\x1a", "a\x1ab",
    "\x1b[36;44mI'm blue\x1b[0m", "\x1b[mx", "\x1b[1;31x\x1b[31", "\x1b]0;t\x07", "\x1b[\u0663m!", "\x1b[３1m!", "\x1b\x1b[0m[0mx", "\x1b[0\x00m", "\u009b31m",
    "&amp;", "&amp", "&AMP;", "&AMP", "&lt;b&gt;", "<b>&amp;</b>", "&amp;amp;", "&amp;amp;amp;", "&amp;amp;amp;amp;lt;", "<&amp;amp;amp;lt;", "<\n&amp;amp;amp;", "&amp;amp;amp;\n<&amp;amp;amp;\n&amp;amp;amp;",
    "&quot;x&quot;", "&apos;s", "&#39;s", "&#039;s", "&#x27;s", "&#X27;s", "it&rsquo;s", "it&#8217;s", "&hellip;", "&nbsp;", "a&nbspb", "&eacute;", "&EACUTE;", "&Eacute;", "&eacute", "&EACUTE", "P&EACUTE;REZ", "&NTILDE; &nTILDE;", "STRA&SZLIG;E", "&notit;", "&notin;", "&not it", "this&not that", "&ampamp", "&ampamp;", "&LTIMES;", "&FRAC12;", "&Sup2;", "&SUP2;", "&fjlig;", "&acE;", "&ngE;", "&NewLine;x&Tab;y", "&CounterClockwiseContourIntegral;", "&counterclockwisecontourintegral;", "&nosuch;", "&;", "&&amp;&", "& amp;", "&#;", "&#x;", "&#X;", "&#xg;", "&#a;", "AT&T", "R&D;", "a&b;c", "&" * 40, "&" + "a" * 40 + ";", "&" + "é" * 40 + ";", "&éamp;",
    "&#65;", "&#65", "&#65x;", "&#065", "&#0;", "&#1;", "&#11;", "&#12;", "&#13;", "&#28;", "&#59;", "&#38;amp;", "&#60;&#62;", "&#127;", "&#128;", "&#129;", "&#x80;&#x85;&#x8d;&#x99;&#x9f;", "&#xA0;", "&#xAD;", "&#xD800;", "&#xDFFF;", "&#xD83D;&#xDE00;", "&#x1F600;", "&#xFDD0;", "&#xFFFE;", "&#xFFFF;", "&#x1FFFE;", "&#x10FFFF;", "&#x110000;", "&#99999999999999999999;", "&#x2028;", "&#x0345;", "&#x130;", "&#x65;&#x301;", "<e&#x301;", "<&#xFB01;", "<&#x2019;s", "<&#8220;x&#8221;", "<&copy &reg; &#0153;", "<&#x1b;[0m",
    "âœ” no problem", "âœ” No problems", "schÃ¶n", "Iâ€™m", "Itâ€™s", "â€œquotesâ€\u009d", "â€œ lost â€�", "â€œ lost â€?", "voilÃ le travail", "Ã la mode", "fÃ cil", "Ã\u00a0 la", "Ãs vezes", "Ãquele", "Ã quele", " Ã ", "Ã ", "Ã", "Â", "Â ", "aÂ b", "xÂ©", "Â© 2024", "NoiseÂ´s",
    "l’humanitÃ©", "sÃ³", "Ã³", "Ãƒâ€šÃ‚Â¶", "ÃƒÂ¤", "Ã¤", "ä¸\u00adæ–‡", "ðŸ˜ƒ", "ðŸ˜", "í\u00a0½í¸\u0083", "í ½í¸ƒ", "Ñ‚ÐµÑÑ‚", "РїСЂРёРІРµС‚", "ÐŸÑ€Ð¸Ð²ÐµÑ‚", "Ø§Ù„Ø¹Ø±Ø¨ÙŠØ©", "à¤¹à¤¿à¤¨à¥\u008d", "æ—¥æœ¬", "‚Äôs", "‚Äî", "√©", "√† la", "don‚Äôt", "ÔøΩ", "ΓÇÖs", "├⌐", "ΓÇ£x╬ô╟¥", "вЂ™", "вЂњx вЂќ", "ГўВЂВ™s", "â\u0080\u0099s", "\u0091x\u0092", "\u0085", "\u0081", "a\u0093b\u0094", "Ã\u00ad", "Ã­", "\u00c0\u0080", "Â\u0080", "Ã\x1a", "�", "Ã�", "Â�x", "日本 schÃ¶n", "☃ Iâ€™m fine", "schön schÃ¶n ☃", "â‚¬", "â„¢", "β€™s", "ā€™s", "â€¦", "â€\"", "à²¤", "à¹\u0080", "×²", "Œ", "œ1", "Œ ", "cœur", "À°", "Ü°", "20°C", "¿Qué?", "Â¿QuÃ© pasa?", "¡Â", "ª º", "¦¤", "£50€", "Žďár", "ŽŤ", "║█", "│ò", "®™", "“®", "É»a", "Ý…",
    "ÅÄÖ", "åäö", "Åre", "blåbærgrød", "naïve café", "Ærø", "Þór", "Dvořák", "Škoda", "AÑO", "aÑo", "L'Haÿ", "ÑÑ", "ÉTÉ ÉTÉ", "MÜNCHEN", "ÖÄÜß",
    "http://example.com/?a=1&b=2&amp;c=3", "user@example.com", "C:\\dir\\file.txt", "#hashtag @mention", "a_b-c.d/e\\f", "{json: [1, 2]}", "$5.00 €5,00 ¥500", "50% off!!!", "a+b=c", "~`!@#$%^&*()_-+={}[]|\\:;\"'<>,.?/", "...", "…", "—–―", "a…b", "a...b", "。、！？", "؟،", "‽", "\u2044", "™", "ℝ ℵ ℃ ℉ K Å",
    "x" * 300, "ab" * 200, "é" * 90, "日" * 90, "😀" * 40, "!" * 200, "!a" * 100, "a " * 100, "1" * 100, "' " * 50, "dog's " * 30, "supercalifragilisticexpialidocious", "Donaudampfschifffahrtsgesellschaftskapitän", "floccinaucinihilipilification" * 3, "aaaaaaa", "aaaaaaab", "ababababab", "thethethe", "lalalalala", "hahahahahaha",
]

ADJECTIVES = "red blue dark-green striped wooden rusty tiny enormous half-eaten left-most second shiny old parked flying furry spotted transparent broken folded blurry smiling electric vintage stainless-steel man-made".split()
NOUNS = "dog cat person bus traffic light|fire hydrant|stop sign|laptop|coffee mug|T-shirt|giraffe|school bus|wine glass|baseball bat|tennis racket|hot dog|potted plant|dining table|cell phone|teddy bear|hair drier|toothbrush|windshield|licence plate|shipping container|solar panel|speech bubble|jack-o'-lantern|Boeing 747|coca-cola can|crème brûlée|jalapeño|kite surfer|ice-cream cone|zebra crossing|mitochondrion|scalpel|wing mirror|goalkeeper|barcode|QR code|chess piece|knight|pawn".replace(" ", "|", 3).split("|")
PLACES = ["", "", " on the left", " in the background", " in blue", " next to the tree", " with a white logo", " wearing a hat", "'s wheel", " (2nd row)", ", not the other one", " #3", " at 10:45", " & co.", "!", "?", " — the big one", "’s tail"]

SENTENCES = [
    "Das schöne Mädchen aß Äpfel über Öl – “wirklich”…", "L’été à Noël, où est le cœur du garçon ?", "¿Dónde está el niño? ¡Aquí!", "São Paulo não é à toa; às vezes, àquela hora", "Žluťoučký kůň úpěl ďábelské ódy", "Zażółć gęślą jaźń", "Árvíztűrő tükörfúrógép", "Pijamalı hasta yağız şoföre çabucak güvendi", "Съешь же ещё этих мягких французских булок", "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία", "نص حكيم له سر قاطع", "דג סקרן שט בים", "いろはにほへと ちりぬるを", "天地玄黃 宇宙洪荒", "키스의 고유조건은", "สวัสดีชาวโลก", "नमस्ते दुनिया", "Příliš “tichý” €5 ™ © ½ ×", "emoji 😀👍🏽🏴 and ☃", "Øl på Ærø – blåbærgrød", "Glāžšķūņa rūķīši", "It’s 20 °C ± 2 – “fine”™ • ok…",
]

CODE_PAGES = ["latin-1", "sloppy-windows-1250", "sloppy-windows-1251", "sloppy-windows-1252", "sloppy-windows-1253", "sloppy-windows-1254", "sloppy-windows-1257", "iso-8859-2", "macroman", "cp437"]


def assigned(start, stop):
    """All characters of a range that were assigned in the pinned version, no surrogates."""
    assert unicodedata.unidata_version == UNICODE, f"needs Python with Unicode {UNICODE}"
    return [c for c in map(chr, range(start, stop)) if unicodedata.category(c) not in ("Cn", "Cs")]


def mojibake(random, text):
    """`text` as it looks after one to three wrong decodings, often damaged further."""
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        data = text.encode("utf-8", "replace")
        if random.random() < 0.1:
            data = "".join(map(surrogates, text)).encode("utf-8", "surrogatepass")
        text = data.decode(random.choice(CODE_PAGES), "replace")
    for damage, probability in [(("\u00a0", " "), 0.2), (("\ufffd", "?"), 0.1)]:
        if random.random() < probability:
            text = text.replace(*damage)
    if random.random() < 0.15:
        text = "".join(random.choice("\ufffd? \x1a") if random.random() < 0.03 and ord(c) > 127 else c for c in text)
    if random.random() < 0.2:
        text = text[random.randrange(len(text) + 1):]
    return text


def surrogates(c):
    if ord(c) < 0x10000:
        return c
    high, low = divmod(ord(c) - 0x10000, 0x400)
    return chr(0xD800 + high) + chr(0xDC00 + low)


def reference(random, code):
    number = random.choice([f"&#{code}", f"&#x{code:x}", f"&#X{code:X}"])
    return number + random.choice([";", ";", "", "z"])


def is_later(c):
    return unicodedata.category(c) == "Cn" and bool(LETTER_OR_DIGIT.match(c))


def noun_phrase(random):
    words = random.sample(ADJECTIVES, random.randrange(3)) + [random.choice(NOUNS)]
    article = random.choice(["", "", "a ", "the ", "The ", "every ", "two "])
    case = random.choice([str, str, str, str.upper, str.title, str.capitalize])
    return case(article + " ".join(words) + random.choice(PLACES))


def texts(random, mixes):
    yield from HANDWRITTEN
    # Every name of HTML, as written, without the semicolon, in capitals, glued to letters.
    names = sorted(html.entities.html5)
    for at in range(0, len(names), 8):
        group = names[at : at + 8]
        yield " ".join("&" + n for n in group)
        yield " ".join("&" + n.rstrip(";").upper() + ";" for n in group)
        yield "<" + "x".join("&" + n.rstrip(";") for n in group)
    # Every character below U+3000 and of the odd blocks above, between letters and alone.
    sweep = assigned(1, 0x3000) + assigned(0xA640, 0xABC0) + assigned(0xF900, 0xFB50) + assigned(0xFE10, 0x10000)
    sweep += assigned(0x10400, 0x10500) + assigned(0x1D400, 0x1D800) + assigned(0x1F000, 0x1FB00)
    for at in range(0, len(sweep), 12):
        yield " ".join(f"a{c}B {c}" for c in sweep[at : at + 12])
    # Pairs of the characters mojibake is made of.
    table = sorted({c for page in CODE_PAGES for c in bytes(range(128, 256)).decode(page)})
    everything = assigned(1, 0x30000)
    pieces = [noun_phrase, lambda r: r.choice(HANDWRITTEN)[:40], lambda r: r.choice(SENTENCES)]
    pieces.append(lambda r: mojibake(r, r.choice(SENTENCES)))
    pieces.append(lambda r: mojibake(r, r.choice(r.choice(SENTENCES).split())))
    pieces.append(lambda r: "".join(r.choices(table, k=r.randrange(1, 8))))
    pieces.append(lambda r: "".join(r.choices(table + list("  aAzé?.\n")  * 20, k=r.randrange(2, 12))))
    pieces.append(lambda r: "".join(r.choices(everything, k=r.randrange(1, 5))))
    pieces.append(lambda r: "&" * r.choice([1, 1, 1, 2]) + "amp;" * r.randrange(3) + r.choice(names))
    pieces.append(lambda r: reference(r, r.choice([r.randrange(300), ord(r.choice(everything)), 0xD83D])))
    pieces.append(lambda r: r.choice(["'s", "’S", "'\u017f", "\u0345", "\u0301", "\u200d", "\x1b[1m", "<", ">", "\n", "\u2028", "\x85", "İ", "Σ", "ẞ", "!", "!;", "1", "½", "\u3099", "ｶﾞ"]))
    for _ in range(mixes // 2):
        yield noun_phrase(random)
        count = random.choice([1, 1, 2, 3, 5])
        yield random.choice(["", " ", " ", "\n"]).join(random.choice(pieces)(random) for _ in range(count))


def official_tokenizer():
    """The official class, loaded from its file: the package itself imports all models."""
    package = Path(importlib.util.find_spec("sam3").submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location("tokenizer_ve", package / "model/tokenizer_ve.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer(str(package / "assets/bpe_simple_vocab_16e6.txt.gz"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--mixes", type=int, default=9000, help="how many random texts")
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args()

    tokenizer = official_tokenizer()
    generator = random.Random(arguments.seed)
    unique = list(dict.fromkeys(texts(generator, arguments.mixes)))
    kept = [text for text in unique if not any(map(is_later, tokenizer.clean_fn(text)))]
    with open(arguments.output, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as lines:
        for text in kept:
            tokens = len(tokenizer.encode(text)) + 2
            context = generator.choice([32, 32, 32, 77, 512, 8])
            ids = tokenizer(text, context)[0].tolist()
            ids = ids[: min(tokens, context)]
            line = json.dumps([text, context, tokens, ids], ensure_ascii=False, separators=(",", ":"))
            lines.write(line.encode("utf-8") + b"\n")
    print(f"{len(kept)} texts, {len(unique) - len(kept)} left out, {arguments.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
