"""Which spec goes to which site: a mapping from pattern to spec, read the same way everywhere.

Keys are tried in the mapping's order; each is an exact path, else a role, else a glob, unless it starts with `re:`;
the first match wins; `None` leaves a site alone. A pattern that matches sites that a forward pass on token ids reaches
takes none of those it does not reach (a vision tower's); one that matches only such takes them.
"""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

from unnorm.foundation.errors import SettingsError, SiteError
from unnorm.norms.spec import NormSpec
from unnorm.surgery.sites import ROLES, Site


def assign(sites: list[Site], specs: NormSpec | Mapping[str, NormSpec | None]) -> dict[str, NormSpec]:
    """Path -> spec for every site that is to be swapped, in execution order.

    A mapping, or one key of it, that matches no site is a `SiteError` that lists the sites there are.
    """
    if isinstance(specs, NormSpec):
        every = {site.path: specs.for_site(site.role, site.width, site.kind) for site in sites if site.is_reached}
        if not every:
            raise SiteError(f"a forward pass on token ids reaches none of the sites:\n{listing(sites)}")
        return every
    if not isinstance(specs, Mapping):
        raise SettingsError(f"specs is a norm, as unnorm.DyT(), or a mapping from sites to norms, not {specs!r}.")
    means = {pattern: {site.path for site in meant(pattern, sites)} for pattern in specs}
    idle = [pattern for pattern in specs if not means[pattern]]
    if idle:
        raise SiteError(f"no site matches {', '.join(map(repr, idle))}. The sites are:\n{listing(sites)}")
    assigned: dict[str, NormSpec] = {}
    for site in sites:
        spec = next((spec for pattern, spec in specs.items() if site.path in means[pattern]), None)
        if spec is not None:
            assigned[site.path] = spec.for_site(site.role, site.width, site.kind)
    if not assigned:
        raise SiteError(f"the patterns leave every site alone. The sites are:\n{listing(sites)}")
    return assigned


def select(sites: list[Site], patterns: list[str]) -> list[Site]:
    """The sites that any of `patterns` means; a pattern that matches none is a `SiteError`."""
    chosen = set()
    for pattern in patterns:
        found = meant(pattern, sites)
        if not found:
            raise SiteError(f"no site matches {pattern!r}. The sites are:\n{listing(sites)}")
        chosen |= {site.path for site in found}
    return [site for site in sites if site.path in chosen]


def meant(pattern: str, sites: list[Site]) -> list[Site]:
    """The sites that `pattern` takes: of those it matches the ones that are reached, and all of them if none is."""
    found = [site for site in sites if matches(pattern, site, sites)]
    return [site for site in found if site.is_reached] or found


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
    return "\n".join(
        f"  {site.path}  ({site.role}, {site.kind}, width {site.width}{'' if site.is_reached else ', not reached'})"
        for site in sites
    )
