"""Callers that try to spend more than their budget, all at once, in every shape that a request can have."""

import asyncio
import random
from contextlib import suppress
from typing import Any, NamedTuple

from tests.support.raw_http import request, wire

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 4000}}
LINKED = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
MAX_ANSWER = 3000


class Asked(NamedTuple):
    """One request: its body, and how many tokens its prompt really has."""

    body: dict[str, Any]
    prompt_tokens: int


def chat_of_any_shape(rng: random.Random, *, hidden: int = 0) -> Asked:
    """A chat as callers might send it. `hidden`: so many tokens of its prompt that nobody can see."""
    text = "x" * int(10 ** rng.uniform(0, 3.5))
    tokens = max(1, int(len(text) * rng.choice([0.03, 0.25, 0.25, 0.6, 1.0]))) + hidden
    content: Any = text
    if rng.random() < 0.25:
        media = rng.choices([PICTURE, LINKED], k=rng.randint(1, 3))
        content = [{"type": "text", "text": text}, *media]
        tokens += sum(rng.choice([85, 1100, 6000]) for _ in media)
    answer = int(10 ** rng.uniform(0, 3.4))
    body: dict[str, Any] = {
        "model": "sim-small",
        "messages": [{"role": "user", "content": content}],
        "stream": rng.random() < 0.5,
        "sim": {"tokens": answer, "tokens_per_s": rng.choice([0, 500, 5000]), "prompt_tokens": tokens},
    }
    if rng.random() < 0.3:
        body[rng.choice(["max_tokens", "max_completion_tokens"])] = rng.choice([1, 50, MAX_ANSWER])
    elif rng.random() < 0.2:
        body["max_tokens"] = None
    if rng.random() < 0.2:
        body["n"] = rng.randint(2, 3)
    return Asked(body, tokens)


class Spenders:
    """Many at once, for so many seconds. `let_in`: how many were answered; `longest_prompt`: of any that was sent."""

    def __init__(self, ports: list[int], seed: int, *, keys: list[str], leave: float = 0.2, hidden: int = 0) -> None:
        self.let_in = 0
        self.refused = 0
        self.longest_prompt = 0
        self.odd: set[int] = set()
        self._ports = ports
        self._keys = keys
        self._rng = random.Random(seed)
        self._leave = leave
        self._hidden = hidden

    async def run(self, callers: int, each: int, timeout_s: float) -> None:
        """So many callers at once send so many requests each."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(self._caller(random.Random(self._rng.random()), each) for _ in range(callers)))

    async def _caller(self, rng: random.Random, each: int) -> None:
        for _ in range(each):
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._ask(rng)

    async def _ask(self, rng: random.Random) -> None:
        asked = chat_of_any_shape(rng, hidden=self._hidden)
        self.longest_prompt = max(self.longest_prompt, asked.prompt_tokens)
        async with wire(rng.choice(self._ports)) as connection:
            connection.send(request(asked.body, authorization=f"Bearer {rng.choice(self._keys)}"))
            leaves = rng.random() < self._leave
            if leaves and rng.random() < 0.5:
                await asyncio.sleep(rng.uniform(0, 0.05))
                connection.vanish(reset=rng.random() < 0.5)
                return
            status = await connection.read_head()
            if status == 200:
                self.let_in += 1
            elif status in (402, 429):
                self.refused += 1
            else:
                self.odd.add(status)
            seen = 0
            async for _ in connection.parts():
                seen += 1
                if leaves and seen > rng.randint(0, 20):
                    connection.vanish()
                    return
