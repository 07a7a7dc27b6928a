"""PURE. The rules that come with the firewall: what no client of a language model ever sends.

They look at targets and header fields only. What a prompt says never matches one of them. Control characters in fields
need no rule: the parser refuses them (RFC 9110, section 5.5).
"""

from functools import lru_cache

from zuebee.admission.patterns import searcher
from zuebee.config import FirewallRuleSettings

_AGENTS = (
    r"(?i)\b(sqlmap|nikto|nuclei|masscan|zgrab|dirbuster|gobuster|feroxbuster|wpscan|acunetix|nessus"
    r"|openvas|netsparker|w3af|havij)\b"
)

DEFAULT_RULES = (
    FirewallRuleSettings(
        # TRACE answers with the caller's own fields, the key among them (RFC 9110, section 9.3.8).
        name="method",
        methods=["TRACE", "TRACK", "DEBUG", "CONNECT"],
        status=405,
    ),
    FirewallRuleSettings(
        name="path_trick",
        paths=[
            r".*(^|[/\\])\.\.([/\\].*|$)",
            r"(?i).*%(2e|2f|5c|00|25).*",  # encoded twice: the server has decoded it once
            r"(?s).*[\x00-\x1f\x7f\\].*",
        ],
        status=404,
    ),
    FirewallRuleSettings(
        name="scanner_path",
        paths=[
            r"(?i).*/\.(env|git|svn|hg|aws|ssh|kube|docker|vscode|htaccess|htpasswd|DS_Store|npmrc|bash_history)"
            r"([./_~-].*)?",
            r"(?i).*\.(php\d?|phtml|aspx?|ashx|asmx|jspx?|cgi|cfm|do|action|bak|sql|swp|old)(/.*)?",
            r"(?i)/+(wp-[a-z]+|wordpress|xmlrpc|phpmyadmin|pma|adminer|cgi-bin|vendor|actuator|solr|jenkins|struts"
            r"|owa|ecp|autodiscover|hnap1|boaform|goform|manager|server-status|server-info|_ignition|telescope"
            r"|console|druid|jolokia|geoserver|sdk|remote|dana-na|vpn|cgi|invoker|web-inf|etc|proc)(/.*)?",
        ],
        status=404,
    ),
    FirewallRuleSettings(name="scanner_agent", header="user-agent", pattern=_AGENTS),
    FirewallRuleSettings(
        # Look-ups that old log libraries run, functions that old shells run.
        name="header_attack",
        header="*",
        pattern=r"(?i)\$\{\s*(jndi|env|sys|lower|upper|date|main|ctx|java|::-)|^\s*\(\)\s*\{",
        status=400,
    ),
)

UNKNOWN_TARGETS_ONLY = frozenset({"path_trick", "scanner_path"})
"""They cannot be right about a path that the gateway serves."""

FIELD_RULES = frozenset({"scanner_agent", "header_attack"})
"""Those that look at header fields only."""

_is_scanner = lru_cache(1024)(searcher(_AGENTS))


def harmless(fields: dict[bytes, bytes]) -> bool:
    """Whether none of FIELD_RULES can match, seen at a glance; False: ask them."""
    # Not `in`: for bytes that first tries to take the needle for a number, and makes an exception of it.
    if b"".join(fields.values()).find(b"{") >= 0:
        return False
    return not _is_scanner(fields.get(b"user-agent", b""))
