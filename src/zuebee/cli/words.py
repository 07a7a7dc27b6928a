"""Words that people write in more than one way, and the word that is meant by one that is nearly right. PURE."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import typer

from zuebee.kit.nearest import did_you_mean

_SPELLED = re.compile(r"^(--)?organization(s?)(?=$|=)")
_CHOICE = re.compile(r"^(?:Value error, )?(['\"])(?P<given>.*)\1 is not one of (?P<known>'.*')\.?$", re.DOTALL)


def option(argument: str) -> str:
    """An argument with the name of its option as it is documented."""
    return _SPELLED.sub(r"--organisation\2", argument) if argument.startswith("--") else argument


def spelled(given: str, known: Sequence[str]) -> str:
    """One of these words, as it is documented: `organization` and plurals are other ways to write them. Raises
    BadParameter.
    """
    word = _SPELLED.sub(r"organisation\2", given.lower())
    for each in (word, word.removesuffix("s")):
        if each in known:
            return each
    raise typer.BadParameter(none_of(given, known))


def one_of(*known: str) -> dict[str, Any]:
    """What makes an argument one of these words."""

    def read(given: str) -> str:
        return spelled(given, known)

    def complete(begun: str) -> list[str]:
        return [word for word in known if word.startswith(begun)]

    parser: Callable[[str], str] = read
    return {"parser": parser, "autocompletion": complete, "help": f"{', '.join(known[:-1])} or {known[-1]}."}


def none_of(given: str, known: Sequence[str]) -> str:
    """The message for a word that is none of these, with the nearest."""
    return f"`{given}` is none of {', '.join(known)}{did_you_mean(given, known)}"


def mended(message: str) -> str:
    """The message of a choice that was not met, in the same words."""
    found = _CHOICE.match(message)
    return none_of(found["given"], re.findall(r"'([^']*)'", found["known"])) if found else message
