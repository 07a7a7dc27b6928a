"""PURE. Deterministic text that reads like an answer, cut into tokens whose JSON is made once.

A token is a word with the space before it, or a punctuation mark. The same seed always gives the same text.
"""

import re
import zlib
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

import msgspec

# 31 sentences: a prime number, so that every stride from 1 to 30 visits all of them before it repeats.
_SENTENCES = """\
The river had carved its valley long before anyone thought of building a bridge.
A good measurement begins with a clear question, and ends with an honest error bar.
Most gardens do better with less water and more patience than their owners expect.
In the evening the harbour fills with small boats, each carrying a lamp at the bow.
The simplest explanation is usually worth testing before the clever one.
Bread dough rises faster in a warm kitchen, although the flavour prefers a slow night.
Every map leaves something out, and that is precisely what makes it useful.
The library keeps its oldest volumes in a cool room without windows.
When two clocks disagree, a third one seldom settles the argument.
Swallows return in April, and the barn is noisy again before the leaves are out.
A careful engineer writes down the assumption first and the formula second.
Snow muffled the street until the first tram of the morning rang its bell.
The committee met on Tuesday, agreed on the principle, and postponed the details.
Copper conducts heat so well that the handle of the pan has to be made of wood.
Old songs survive because they are easy to remember and hard to improve.
It helps to read the last page of a proof before the first one.
The lighthouse was automated years ago, but somebody still paints the door.
Small rivers freeze from the edges, while large ones freeze from the top.
A recipe is a promise that the author has already made the mistakes for you.
The orchestra tuned for a minute, and the hall fell silent without being asked.
Good tools disappear in the hand, whereas poor tools demand attention.
The mountain path is shorter, yet nobody who carries a load would choose it.
Bees prefer the meadow behind the school, where the clover is never mown.
The census counted houses first, then hearths, and only much later people.
A question asked twice is often two different questions.
The night train is slower on purpose, since nobody wants to arrive at four.
Paper remembers pressure, which is how the erased note was read at last.
Wind from the north clears the air, and the islands seem closer than they are.
The museum labels are short because visitors read standing up.
An estimate becomes a deadline as soon as somebody repeats it aloud.
Whoever planted these oaks did not expect to sit in their shade.
""".splitlines()


class Token(NamedTuple):
    """One token: its text, the JSON string of it, and the chat delta that carries it."""

    text: str
    json: bytes
    delta: bytes


def token(text: str) -> Token:
    """Return the token for `text`, its JSON made."""
    encoded = msgspec.json.encode(text)
    return Token(text, encoded, b'{"content":%b}' % encoded)


_CORPUS = [[token(word) for word in re.findall(r" [\w'-]+|[^\w\s]", " " + sentence)] for sentence in _SENTENCES]
_OPENINGS = [token(sentence[0].text.lstrip()) for sentence in _CORPUS]
_FULL_STOP = token(".")


def seed_of(parts: Iterable[str]) -> int:
    """Return the seed of a request: a checksum of what was asked, in order."""
    seed = 0
    for part in parts:
        seed = zlib.crc32(part.encode("utf-8", "surrogatepass"), seed)
    return seed


def tokens(seed: int, count: int, *, whole: bool) -> list[Token]:
    """Return `count` tokens of the text of `seed`; a `whole` text ends with a full stop."""
    size = len(_CORPUS)
    start, stride = seed % size, 1 + seed // size % (size - 1)
    words = (word for step in range(count) for word in _CORPUS[(start + step * stride) % size])
    found = list(islice(words, count))
    if found:
        found[0] = _OPENINGS[start]
    if whole and count > 1:
        found[-1] = _FULL_STOP
    return found


def cut_at(found: list[Token], stops: list[str]) -> list[Token] | None:
    """Return the tokens before the first of the `stops` strings, or None when none of them occurs."""
    text = "".join(word.text for word in found)
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    if not places:
        return None
    end, kept = min(places), []
    for word in found:
        if end <= 0:
            break
        kept.append(word if len(word.text) <= end else token(word.text[:end]))
        end -= len(word.text)
    return kept


def count_tokens(text: str) -> int:
    """Return how many tokens a prompt of `text` counts for: one for every four bytes of UTF-8, rounded up."""
    return (len(text.encode("utf-8", "surrogatepass")) + 3) // 4
