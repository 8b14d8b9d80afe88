"""What a site does to the residual stream, and what it serves, read from the data flow of one forward pass.

The stream starts at the embeddings; adding to it gives the stream again, and so does a cast, a view or a constant
factor. A site that is given the stream *reads* it. A site whose output is added to the stream *writes* it. If a site
reads the stream and its output is then what others are added to, its output is the stream from there on: *both*, as in
BERT.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from unnorm.surgery.data_flow import Flow, Node


@dataclass(frozen=True)
class StreamPlace:
    """Where a site stands. role: one of `ROLES`, or "" where the flow does not tell; residual: as in `Site`."""

    role: str
    residual: str


@dataclass(slots=True)
class _State:
    """What is known of a node."""

    stream: bool = False
    written: bool = False
    """Whether a block has added to the stream; before that it is embeddings alone."""
    carries: Node | None = None
    """The site call whose output this is, through casts, views and constant factors."""
    sole: bool = False
    """Whether everything that comes from the embeddings so far comes through this node."""


@dataclass
class _Cone:
    """What lies between a site and the stream, on one side of it."""

    attends: bool = False
    projects: bool = False
    mixes: bool = False
    named_attention: bool = False
    reaches_stream: bool = False

    def role(self) -> str:
        if self.attends or self.named_attention:
            return "attention"
        if self.mixes:  # a state space, a recurrence, a convolution
            return "other"
        return "mlp" if self.projects else ""


def places(flow: Flow) -> dict[str, StreamPlace]:
    """Site -> its place, for every site that the forward pass reached."""
    return _Reading(flow).places()


@dataclass
class _Reading:
    flow: Flow
    state: dict[int, _State] = field(default_factory=dict)
    reads: set[int] = field(default_factory=set)
    writes: set[int] = field(default_factory=set)
    scores: set[int] = field(default_factory=set)

    def places(self) -> dict[str, StreamPlace]:
        known: set[int] | None = None
        while known != (known := self.reads & self.writes):  # that a norm's output is the stream shows further on
            for node in self.flow.nodes:
                self.state[id(node)] = self._state(node)
        for node in self.flow.nodes:
            if node.op == "softmax":
                self._mark_scores(node)
        found = {path: self._place(calls) for path, calls in self.flow.calls.items()}
        if self.reads:
            return found
        # No stream that this could follow, as in Gemma 3n, which keeps four in one tensor.
        return {path: StreamPlace(place.role if place.role == "qk" else "", "unknown") for path, place in found.items()}

    def _of(self, node: Node) -> _State:
        return self.state[id(node)]

    def _state(self, node: Node) -> _State:
        parents = [self._of(parent) for parent in node.parents]
        sole = all(parent.sole for parent in parents) and len(node.children) == 1
        stream = [parent for parent in parents if parent.stream]
        if node.op == "embedding":
            return _State(stream=True, sole=sole)
        if node.op == "site":
            if stream:
                self.reads.add(id(node))
            is_stream = id(node) in self.reads & self.writes
            return _State(is_stream, any(parent.written for parent in parents), node, sole)
        if node.op == "alias":
            source = parents[0]
            return _State(source.stream, source.written, source.carries, sole)
        if node.op == "add":
            return self._sum(parents, stream, sole)
        if node.op == "project" and parents[0].sole:  # embeddings of another width than the stream's
            self._write(parents[0])
            return _State(stream=True, sole=sole)
        return _State()

    def _sum(self, parents: list[_State], stream: list[_State], sole: bool) -> _State:
        if not stream and len(parents) > 1:  # perhaps a norm's output is the stream: x + f(x) with x = LN(…)
            normed = [p for p in parents if p.carries is not None and id(p.carries) in self.reads]
            if len(normed) == len(parents):
                return _State()
            stream = normed
            for parent in normed:
                self._write(parent)
        if not stream:
            return _State()
        others = [parent for parent in parents if not any(parent is s for s in stream)]
        for parent in others:
            self._write(parent)
        return _State(True, bool(others) or any(s.written for s in stream), None, sole)

    def _write(self, parent: _State) -> None:
        if parent.carries is not None:
            self.writes.add(id(parent.carries))

    def _mark_scores(self, softmax: Node) -> None:
        """The product of queries and keys that a softmax is of. A router's softmax is of a product with weights."""

        def seen(node: Node) -> bool:
            if node.op == "mix":
                self.scores.add(id(node))
            return node.op not in ("mix", "project", "site", "attention", "softmax")

        _walk(softmax.parents, lambda node: node.parents, seen)

    def _place(self, calls: list[Node]) -> StreamPlace:
        reads = any(id(call) in self.reads for call in calls)
        writes = any(id(call) in self.writes for call in calls)
        residual = {(True, True): "both", (True, False): "reads", (False, True): "writes"}.get((reads, writes), "none")
        call = calls[0]
        if residual == "both":
            if not self._of(call).written:
                return StreamPlace("embedding", residual)
            return StreamPlace(self._cone(self._branches(call), forward=False).role(), residual)
        if residual == "writes":
            return StreamPlace(self._cone(call.parents, forward=False).role(), residual)
        ahead = self._cone(call.children, forward=True)
        if residual == "reads":
            return StreamPlace(ahead.role() if ahead.reaches_stream else "final", residual)
        if self._is_query_or_key(call):
            return StreamPlace("qk", residual)
        if not ahead.reaches_stream and not ahead.attends:
            return StreamPlace("final", residual)
        behind = self._cone(call.parents, forward=False)
        return StreamPlace(behind.role() if behind.role() == "attention" else ahead.role(), residual)

    def _branches(self, call: Node) -> list[Node]:
        """What was added to the stream to give this call's input."""
        node = call.parents[0]
        while node.op == "alias":
            node = node.parents[0]
        return [
            parent
            for parent in node.parents
            if not self._of(parent).stream and not self._is_stream_norm(self._of(parent).carries)
        ]

    def _is_stream_norm(self, node: Node | None) -> bool:
        return node is not None and id(node) in self.reads

    def _cone(self, start: list[Node], *, forward: bool) -> _Cone:
        cone = _Cone()

        def seen(node: Node) -> bool:
            if self._of(node).stream:
                cone.reaches_stream = True
                return False
            if not forward and (self._is_stream_norm(node) or self._is_stream_norm(self._of(node).carries)):
                return False
            cone.attends |= node.op == "attention" or id(node) in self.scores
            cone.mixes |= node.op == "mix"
            cone.projects |= node.op == "project"
            cone.named_attention |= node.in_attention and node.op in ("project", "mix")
            return True

        _walk(start, lambda node: node.children if forward else node.parents, seen)
        return cone

    def _is_query_or_key(self, call: Node) -> bool:
        """Whether an attention takes this output for queries or keys with no weights in between."""
        found = False
        own: dict[int, Node] = {id(call): call}

        def seen(node: Node) -> bool:
            nonlocal found
            if node.op == "attention":
                found |= any(id(parent) in own for parent in node.parents[:2])
                return False
            found |= id(node) in self.scores
            own[id(node)] = node
            return node.op not in ("project", "mix")

        _walk(call.children, lambda node: node.children, seen)
        return found


def _walk(start: Iterable[Node], step: Callable[[Node], list[Node]], seen: Callable[[Node], bool]) -> None:
    """Visit nodes breadth first, each once; go on from those for which `seen` is true."""
    queue = list(start)
    visited: set[int] = set()
    for node in queue:  # grows while it is read
        if id(node) not in visited:
            visited.add(id(node))
            if seen(node):
                queue.extend(step(node))
