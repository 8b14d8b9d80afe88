"""Which spec goes to which site: a mapping from pattern to spec, read the same way everywhere.

Keys are tried in the mapping's order; each is an exact path, else a role, else a glob, unless it starts with `re:`;
the first match wins; `None` leaves a site alone.
"""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

from unnorm.foundation.errors import SiteError
from unnorm.norms.spec import NormSpec
from unnorm.surgery.sites import ROLES, Site


def assign(sites: list[Site], specs: NormSpec | Mapping[str, NormSpec | None]) -> dict[str, NormSpec]:
    """Path -> spec for every site that is to be swapped, in execution order.

    A mapping, or one key of it, that matches no site is a `SiteError` that lists the sites there are.
    """
    if isinstance(specs, NormSpec):
        return {site.path: specs.for_site(site.role, site.width) for site in sites}
    used: set[str] = set()
    assigned: dict[str, NormSpec] = {}
    for site in sites:
        for pattern, spec in specs.items():
            if matches(pattern, site, sites):
                used.add(pattern)
                if spec is not None:
                    assigned[site.path] = spec.for_site(site.role, site.width)
                break
    idle = [pattern for pattern in specs if pattern not in used and not any(matches(pattern, s, sites) for s in sites)]
    if idle:
        raise SiteError(f"no site matches {', '.join(map(repr, idle))}. The sites are:\n{listing(sites)}")
    if not assigned:
        raise SiteError(f"the patterns leave every site alone. The sites are:\n{listing(sites)}")
    return assigned


def select(sites: list[Site], patterns: list[str]) -> list[Site]:
    """The sites that any of `patterns` matches; a pattern that matches none is a `SiteError`."""
    for pattern in patterns:
        if not any(matches(pattern, site, sites) for site in sites):
            raise SiteError(f"no site matches {pattern!r}. The sites are:\n{listing(sites)}")
    return [site for site in sites if any(matches(pattern, site, sites) for pattern in patterns)]


def matches(pattern: str, site: Site, sites: list[Site]) -> bool:
    """Whether `pattern` means `site`, among `sites`."""
    if pattern.startswith("re:"):
        try:
            return re.fullmatch(pattern[3:], site.path) is not None
        except re.error as error:
            raise SiteError(f"site pattern {pattern!r} is not a valid regular expression: {error}.") from error
    if any(other.path == pattern for other in sites):
        return site.path == pattern
    if pattern in ROLES:
        return site.role == pattern
    return fnmatchcase(site.path, pattern)


def listing(sites: list[Site]) -> str:
    """The sites, a line each, for messages."""
    return "\n".join(f"  {site.path}  ({site.role}, {site.kind}, width {site.width})" for site in sites)
