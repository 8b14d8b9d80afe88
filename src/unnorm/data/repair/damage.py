"""What repair says about a file: its damages, and the account of its bytes.

The words of the report. An *action* tells what became of the bytes concerned:

- `mended`: they are kept, in another form, or something was put between them (length 0);
- `decoded`: they are kept, one layer of encoding taken off;
- `ignored`: they stand between records and do no harm there;
- `removed`: they are left out of a record, or of what stands between records;
- `replaced`: U+FFFD or null stands in their place;
- `rejected`: they were part of a record that cannot be trusted, or of no record;
- `unverified`: they are kept, though no checksum speaks for them: the file is cut off before it, or it fails, and to
  keep them was asked for.

The bytes of those three that are removed, replaced or rejected are lost, and no others are.
"""

from dataclasses import dataclass, field

LOSING = ("removed", "replaced", "rejected")
"""The actions whose bytes are lost."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One damage. `offset` and `length` in bytes of the decompressed text; `record`: the 0-based line in OUT, or None.

    `raw`: the bytes concerned, where they are removed or replaced (rejected ones are `Rejected`).
    """

    offset: int
    length: int
    kind: str
    action: str
    record: int | None = None
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Bytes that could not be trusted, at `offset`; a long stretch comes in several pieces."""

    offset: int
    kind: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """`count` records as lines, each ended by a newline."""

    lines: bytes
    count: int


Event = Damage | Rejected | Kept


@dataclass
class Account:
    """Every byte of the decompressed text, once: `kept` in records, `separators` between them, or `lost`."""

    bytes_in: int = 0
    kept: int = 0
    separators: int = 0
    lost: int = 0
    records: int = 0
    mended_records: int = 0
    unverified: int = 0
    """Of the bytes kept, those that no checksum speaks for: it fails, or the file is cut off before it."""
    unread: bool = False
    """Whether a part of the file could not be unpacked, so that nobody knows what was in it."""
    damages: dict[str, dict[str, int]] = field(default_factory=dict)
    """Kind -> action -> how many."""

    @property
    def adds_up(self) -> bool:
        """Whether no byte is missing and none is counted twice."""
        return self.bytes_in == self.kept + self.separators + self.lost

    @property
    def sound(self) -> bool:
        """Whether all that was in the file was kept, and can be trusted."""
        return not (self.lost or self.unverified or self.unread)

    @property
    def rejected(self) -> int:
        """Stretches that were rejected: records, parts of records, or of none."""
        return sum(actions.get("rejected", 0) for actions in self.damages.values())

    def describe(self) -> str:
        """For people, in a line. The account of a file that is not read to its end has no size yet."""
        return (
            f"repaired: {self.records:,} records kept, {self.mended_records:,} of them mended; "
            + (
                f"{self.lost:,} of {self.bytes_in:,} bytes lost"
                if self.bytes_in
                else f"{self.lost:,} bytes lost so far"
            )
            + (f", {self.unverified:,} kept that no checksum speaks for" if self.unverified else "")
            + (", and a part could not be unpacked" if self.unread else "")
        )

    def count(self, damage: Damage) -> None:
        """Take note of `damage`; its bytes are lost if its action says so."""
        actions = self.damages.setdefault(damage.kind, {})
        actions[damage.action] = actions.get(damage.action, 0) + 1
        if damage.action in LOSING:
            self.lost += damage.length
