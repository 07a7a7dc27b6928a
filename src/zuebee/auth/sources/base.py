"""The keys of the configuration file."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from zuebee.auth.records import QUOTA_EXCEEDED, digest_of, key_id_of, same_digest
from zuebee.config.settings import Settings
from zuebee.config.settings_auth import ApiKeySettings
from zuebee.config.settings_base import LimitSettings
from zuebee.contracts.admission import Budget, Limit, Principal
from zuebee.contracts.errors import Refusal
from zuebee.contracts.keys import Credential, KeyRecord
from zuebee.contracts.limits import limits_of
from zuebee.lib.networks import parse_networks


class FileSource:
    """The `api_keys` of the configuration file."""

    def __init__(self, records: Sequence[KeyRecord], name: str = "file") -> None:
        self.name = name
        self.records = {record.digest: record for record in records}

    async def find(self, presented: Credential) -> KeyRecord | Refusal | None:
        record = self.records.get(presented.digest)
        return record if record is not None and same_digest(record.digest, presented.digest) else None

    async def aclose(self) -> None:
        """It holds nothing."""


def file_records(settings: Settings) -> list[KeyRecord]:
    """The records of all keys of the file."""
    per_key = settings.rate_limit.per_key
    limited = settings.rate_limit.enabled and per_key is not None and per_key.enabled
    defaults = per_key if limited and per_key is not None else LimitSettings()
    return [_record(key, defaults, settings.rate_limit.enabled) for key in settings.api_keys]


def _record(key: ApiKeySettings, defaults: LimitSettings, limits_on: bool) -> KeyRecord:
    digest = (key.key_sha256 or digest_of((key.key or "").encode())).lower()
    key_id = key_id_of(digest)
    name = key.name or key_id
    subject = f"key:{key_id}"
    budgets: tuple[Budget, ...] = ()
    if key.total_quota:
        account = f"{subject}/tokens/{key.quota_reset_period}"
        budgets = (Budget(account, "tokens", key.quota_reset_period, key.total_quota, key.used_quota),)
    return KeyRecord(
        digest=digest,
        principal=Principal(
            key_id,
            name,
            key.user_id or name,
            key.team_id,
            key.organization_id,
            priority=key.priority,
            models=tuple(key.models),
            endpoints=tuple(key.endpoints),
            limits=_limits(subject, key, defaults) if limits_on else (),
            budgets=budgets,
        ),
        active=key.enabled and key.status in ("active", "quota_exceeded"),
        expired=key.status == "expired",
        expires_at_s=datetime.fromisoformat(key.expires_at).timestamp() if key.expires_at else 0.0,
        allowed=parse_networks(key.allowed_ips),
        denied=parse_networks(key.denied_ips),
        refusal=QUOTA_EXCEEDED if key.status == "quota_exceeded" else None,
        data=_data(key),
    )


def _limits(subject: str, key: ApiKeySettings, defaults: LimitSettings) -> tuple[Limit, ...]:
    """Its own numbers over the defaults; a section of its own leaves nothing of them."""
    rates = msgspec.structs.replace(
        key.limits or defaults,
        requests_per_minute=key.requests_per_minute or (key.limits or defaults).requests_per_minute,
        max_concurrent=key.max_concurrent or (key.limits or defaults).max_concurrent,
    )
    return limits_of(subject, rates, whole=key.limits is not None)


def _data(key: ApiKeySettings) -> dict[str, Any]:
    """What a decision script sees, by LLMProxy's names. Times are unix seconds, as they are there."""
    times = {name: getattr(key, name) for name in ("expires_at", "created_at", "updated_at")}
    return {
        "name": key.name,
        "user_id": key.user_id,
        "status": key.status if key.enabled else "disabled",
        "total_quota": key.total_quota,
        "used_quota": key.used_quota,
        "quota_reset_period": key.quota_reset_period,
        "allowed_ips": key.allowed_ips,
        "denied_ips": key.denied_ips,
        "team": key.team_id,
        "organization": key.organization_id,
        "priority": key.priority,
        **{name: int(datetime.fromisoformat(text.upper()).timestamp()) for name, text in times.items() if text},
    }
