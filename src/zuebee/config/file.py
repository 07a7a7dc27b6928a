"""A configuration file as `Settings`, or every mistake in it with its line.

File -> tree (kit/yaml_tree) -> references -> dialects -> overrides -> structs (kit/struct_tree) -> checks.
Only `load` touches the disk.
"""

import os
from collections.abc import Callable
from collections.abc import Mapping as Environ
from dataclasses import dataclass
from pathlib import Path as FilePath

import msgspec

from zuebee.config import Settings
from zuebee.config.check import check, kept_here, key_hash
from zuebee.config.dialects import translate
from zuebee.config.money import StoreSettings
from zuebee.config.overrides import apply_overrides, fill_proxies, resolve_references
from zuebee.config.paths import rooted
from zuebee.kit.struct_tree import build, place_of
from zuebee.kit.yaml_tree import MAX_TEXT_BYTES, Mapping, Place, Problem, Scalar, parse

MAX_PROBLEMS = 100  # an alias can repeat one mistake thousands of times


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a file says. Keys are kept as SHA-256 only (`key_sha256`); `key` is always None. Relative paths are below
    the folder of the file; in `as_written` they are as they were written.
    """

    settings: Settings
    warnings: list[str]
    as_written: StoreSettings


class ConfigError(Exception):
    """A file that cannot be used; `problems` are complete sentences with file, line and key path."""

    def __init__(self, problems: list[Problem]) -> None:
        said = _in_order(problems)
        more = [f"and {len(said) - MAX_PROBLEMS} more"] if len(said) > MAX_PROBLEMS else []
        self.problems = said[:MAX_PROBLEMS] + more
        super().__init__("\n".join(self.problems))


def load(path: str, environ: Environ[str, str]) -> Loaded:
    """Read the file; raises ConfigError with everything that is wrong with it."""
    return loads(read_text(path), path, environ, _is_readable_file, folder_of(path))


def folder_of(path: str) -> str:
    """What relative paths in this file are relative to."""
    return str(FilePath(path).parent)


def read_text(path: str) -> str:
    """The text of a configuration file. Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise ConfigError([Problem(Place(path), error.strerror or "cannot be read")]) from None
    if len(data) > MAX_TEXT_BYTES:
        raise ConfigError([Problem(Place(path), f"larger than {MAX_TEXT_BYTES} bytes")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError([Problem(Place(path, line), "not UTF-8")]) from None


def tree(text: str, source: str) -> tuple[Mapping, list[Problem]]:
    """A text as a tree of settings. Raises ConfigError if it is none."""
    root, problems = parse(text, source)
    if isinstance(root, Scalar) and root.is_null and not problems:
        root = Mapping(Place(source))
    if not isinstance(root, Mapping):
        raise ConfigError(problems or [Problem(root.place, "expected settings, such as `backends: [...]`")])
    return root, problems


def loads(
    text: str, source: str, environ: Environ[str, str], is_file: Callable[[str], bool], folder: str = ""
) -> Loaded:
    """Like `load`, of a text. `source` stands in messages in place of the file's name."""
    root, problems = tree(text, source)
    resolve_references(root, environ)
    notes = translate(root)
    problems += notes.problems + apply_overrides(root, Settings, environ)
    fill_proxies(root, environ)
    settings = build(root, Settings, problems)
    if problems:
        raise ConfigError(problems)
    as_written = settings.store
    settings = rooted(settings, folder)
    findings = check(settings, is_file)
    said = [(finding, Problem(place_of(root, finding.path), finding.message)) for finding in findings]
    if any(finding.fatal for finding, _ in said):
        raise ConfigError([problem for finding, problem in said if finding.fatal])
    warnings = _in_order([*notes.warnings, *(problem for _, problem in said)])
    return Loaded(_without_keys(kept_here(settings)), warnings, as_written)


def _in_order(problems: list[Problem]) -> list[str]:
    return [str(each) for each in sorted(problems, key=lambda each: each.place.line)]


def _is_readable_file(path: str) -> bool:
    return FilePath(path).is_file() and os.access(path, os.R_OK)


def _without_keys(settings: Settings) -> Settings:
    """The same settings with each key replaced by its hash."""
    keys = [
        msgspec.structs.replace(
            each, key=None, key_sha256=key_hash(each.key) if each.key else (each.key_sha256 or "").lower()
        )
        for each in settings.api_keys
    ]
    return msgspec.structs.replace(settings, api_keys=keys)
