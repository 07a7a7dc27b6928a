"""Whether what names the store names one. PURE."""

from collections.abc import Iterator

from zuebee.config.money import StoreSettings
from zuebee.config.paths import path_problem, url_problem
from zuebee.kit.yaml_tree import Path


def store_findings(store: StoreSettings) -> Iterator[tuple[Path, str, bool]]:
    """(path, message, fatal) of everything that is wrong with the store. No message repeats a URL."""
    if store.url is not None:
        if problem := url_problem(store.url):
            yield ("store", "url"), problem, True
    elif problem := path_problem(store.path):
        yield ("store", "path"), problem, True
