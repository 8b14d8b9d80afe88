"""The stretch of a stream that is held in memory, and where it stands in the whole."""

from unnorm.data.repair.stream import Stream


class Window:
    """`text` is what is held, `base` the offset of its first byte, `whole` whether the stream ends with it."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.text = b""
        self.base = 0
        self.whole = False

    def ensure(self, length: int) -> bool:
        """Hold at least `length` bytes, unless the stream ends sooner. True if there was something to read."""
        if self.whole or len(self.text) >= length:
            return False
        pieces, held = [self.text], len(self.text)
        while held < length:
            piece = self._stream.read()
            if not piece:
                self.whole = True
                break
            pieces.append(piece)
            held += len(piece)
        self.text = b"".join(pieces)
        return True

    def drop(self, count: int) -> None:
        """Let go of the first `count` bytes."""
        self.text = self.text[count:]
        self.base += count
