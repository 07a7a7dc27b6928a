"""PURE. How many tokens a prompt has before anybody has counted it: probably, and at most.

Text has a number of tokens a byte that is learned from what backends count, for each key and model by itself: what one
caller sends moves nobody else's figures. Pictures, sounds and files are counted apart: their bytes say little.
"""

from typing import Final

from zuebee.contracts.inference import Job

DEFAULT_TOKENS_PER_BYTE: Final = 0.25
MIN_TOKENS_PER_BYTE: Final = 0.05
"""Text of fewer tokens is mostly blanks. A caller that has sent much of it may send something else next."""

MAX_TOKENS_PER_BYTE: Final = 1.0
"""A token of text has a byte at least."""

TEMPLATE_TOKENS: Final = 256
"""What a server may put around the messages: its chat template, a system prompt, how to call tools."""

DEFAULT_MEDIA_TOKENS: Final = 1000
MIN_MEDIA_TOKENS: Final = 50
MAX_MEDIA_TOKENS: Final = 16_384
"""Of one picture; a sound, a film or a document may have more, by its size."""

MEDIA_BYTES_PER_TOKEN: Final = 16
"""As base64: fewer bytes than that have no token in any sound or film; of documents most have more."""

WEIGHT: Final = 0.05
"""Of what is seen last, after the first few: of these all count alike."""

MAX_EXTRA_TOKENS: Final = 1 << 20
MAX_KEYS: Final = 10_000
MAX_MODELS: Final = 32
"""Of one key."""


class Learned:
    """What is known of one key's prompts to one model.

    `per_byte` of text, `per_media` of each picture; `extra`: by how much prompts were longer lately than they could be
    by their size (the server puts more around them than `TEMPLATE_TOKENS`).
    """

    __slots__ = ("_media", "_texts", "extra", "per_byte", "per_media")

    def __init__(self) -> None:
        self._texts = self._media = 0
        self.per_byte = DEFAULT_TOKENS_PER_BYTE
        self.per_media = float(DEFAULT_MEDIA_TOKENS)
        self.extra = 0

    def learn(self, job: Job, prompt_tokens: int) -> None:
        """A backend counted the prompt of a job."""
        text_bytes = len(job.body) - job.media_bytes
        if job.media:
            seen = (prompt_tokens - self.per_byte * text_bytes) / job.media
            most = MAX_MEDIA_TOKENS + job.media_bytes / job.media / MEDIA_BYTES_PER_TOKEN
            self._media += 1
            self.per_media += max(WEIGHT, 1 / self._media) * (min(max(seen, MIN_MEDIA_TOKENS), most) - self.per_media)
        elif text_bytes > 0:
            seen = min(max(prompt_tokens / text_bytes, MIN_TOKENS_PER_BYTE), MAX_TOKENS_PER_BYTE)
            self._texts += 1
            self.per_byte += max(WEIGHT, 1 / self._texts) * (seen - self.per_byte)
        beyond = prompt_tokens - _most(job)
        if beyond > self.extra:
            self.extra = min(beyond, MAX_EXTRA_TOKENS)
        elif self.extra:
            self.extra -= 1 + self.extra // 64


class PromptSizes:
    """What has been learned of all prompts."""

    def __init__(self) -> None:
        self._keys: dict[str, dict[str, Learned]] = {}

    def learn(self, job: Job, prompt_tokens: int) -> None:
        """A backend counted the prompt of a job."""
        if prompt_tokens <= 0:
            return
        key = "" if job.sender is None else job.sender.key_id
        models = self._keys.get(key)
        if models is None:
            while len(self._keys) >= MAX_KEYS:
                del self._keys[next(iter(self._keys))]
            models = self._keys[key] = {}
        known = models.get(job.model)
        if known is None:
            while len(models) >= MAX_MODELS:
                del models[next(iter(models))]
            known = models[job.model] = Learned()
        known.learn(job, prompt_tokens)

    def sizes(self, key_id: str, job: Job) -> tuple[int, int]:
        """How many tokens the prompt of a job probably has, and how many it may have."""
        text_bytes = len(job.body) - job.media_bytes
        models = self._keys.get(key_id)
        known = None if models is None else models.get(job.model)
        if known is None:
            probably = round(text_bytes * DEFAULT_TOKENS_PER_BYTE) + job.media * DEFAULT_MEDIA_TOKENS
            return probably, _most(job)
        probably = round(text_bytes * known.per_byte + job.media * known.per_media) + known.extra
        most = _most(job) + known.extra
        return (probably if probably < most else most), most


def _most(job: Job) -> int:
    most = len(job.body) - job.media_bytes + TEMPLATE_TOKENS
    if job.media:
        most += max(job.media * MAX_MEDIA_TOKENS, job.media_bytes // MEDIA_BYTES_PER_TOKEN)
    return most
