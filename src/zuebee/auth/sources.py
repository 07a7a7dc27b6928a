"""Where keys are known. A source answers for a digest; it never sees or keeps a key."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from zuebee.auth.credentials import KeyRecord, digest_of, parse_networks, same_digest
from zuebee.config import ApiKeySettings, PerKeyLimitSettings, Settings
from zuebee.contracts.admission import Limits, Principal


class Source(Protocol):
    """One place that may know a key."""

    name: str

    async def find(self, digest: str) -> KeyRecord | None:
        """The record of a key, None if it is not known here. An exception refuses the request."""
        ...


class FileSource:
    """The `api_keys` of the configuration file."""

    name = "file"

    def __init__(self, records: Sequence[KeyRecord]) -> None:
        self._records = {record.digest: record for record in records}

    async def find(self, digest: str) -> KeyRecord | None:
        record = self._records.get(digest)
        return record if record is not None and same_digest(record.digest, digest) else None


def file_records(settings: Settings) -> list[KeyRecord]:
    """The records of all keys of the file."""
    per_key = settings.rate_limit.per_key
    limited = settings.rate_limit.enabled and per_key is not None and per_key.enabled
    defaults = per_key if limited and per_key is not None else PerKeyLimitSettings()
    return [_record(key, defaults, settings.rate_limit.enabled) for key in settings.api_keys]


def _record(key: ApiKeySettings, defaults: PerKeyLimitSettings, limits_on: bool) -> KeyRecord:
    digest = (key.key_sha256 or digest_of((key.key or "").encode())).lower()
    limits = Limits(
        requests_per_minute=(key.requests_per_minute or defaults.requests_per_minute) if limits_on else 0,
        max_concurrent=(key.max_concurrent or defaults.max_concurrent) if limits_on else 0,
        total_tokens=key.total_quota,
        tokens_used_before=key.used_quota,
        token_period=key.quota_reset_period,
    )
    key_id = "key_" + digest[:16]
    name = key.name or key_id
    return KeyRecord(
        digest=digest,
        principal=Principal(key_id, name, key.user_id or name, limits),
        active=key.enabled and key.status == "active",
        expired=key.status == "expired",
        expires_at_s=datetime.fromisoformat(key.expires_at).timestamp() if key.expires_at else 0.0,
        allowed=parse_networks(key.allowed_ips),
        denied=parse_networks(key.denied_ips),
    )
