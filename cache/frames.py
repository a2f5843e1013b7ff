"""How large a compressed chunk says it will become, read from its first bytes.

A few bytes can decompress to any number. The libraries believe a chunk's own header (blosc in all of them, zstd in
numcodecs), so the header is compared with the chunk's shape before they see it.
"""

from __future__ import annotations

import struct

from cache.storage import Location

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# Bytes of the longest header, and what a chunk that does not compress grows by: headers, block heads, checksum.
HEADER_BYTES = 18
CHECKSUM_BYTES = 4
# Offset and size of an absent chunk in a shard's index.
ABSENT = 2**64 - 1


def largest_encoded(chunk_bytes: int) -> int:
    """Most bytes that a chunk can take on disk."""
    return chunk_bytes + chunk_bytes // 128 + 64


def content_bytes(head: bytes, *, is_blosc: bool) -> int | None:
    """What a compressed chunk that begins with `head` says it holds; None where it does not say."""
    if is_blosc:
        return int(struct.unpack_from("<I", head, 4)[0]) if len(head) >= 16 else None
    if len(head) < 6 or head[:4] != ZSTD_MAGIC:
        return None
    descriptor = head[4]
    is_single = bool(descriptor & 0x20)
    size_bytes = (1 if is_single else 0, 2, 4, 8)[descriptor >> 6]
    begin = 5 + (not is_single) + (0, 1, 2, 4)[descriptor & 3]
    if size_bytes == 0 or len(head) < begin + size_bytes:
        return None
    # A size in two bytes counts from 256 on.
    return int.from_bytes(head[begin : begin + size_bytes], "little") + (256 if size_bytes == 2 else 0)


def require_content(head: bytes, chunk_bytes: int, key: str, *, is_blosc: bool) -> None:
    """Refuse a chunk that would not become exactly `chunk_bytes`.

    Raises:
        ValueError: naming the object and both sizes.
    """
    found = content_bytes(head, is_blosc=is_blosc)
    if found != chunk_bytes:
        said = "does not say how large it is" if found is None else f"says that it holds {found:,} bytes"
        raise ValueError(f"{key}: a compressed chunk {said}, its shape has {chunk_bytes:,}")


def require_frame(location: Location, key: str, chunk_bytes: int, *, is_blosc: bool = False) -> None:
    """The same for an object that is one chunk; an absent one is left to its reader.

    Raises:
        ValueError: as `require_content`.
    """
    try:
        (head,) = location.read_ranges(key, [(0, HEADER_BYTES)])
    except FileNotFoundError:
        return
    require_content(head, chunk_bytes, key, is_blosc=is_blosc)


def require_shard_frames(
    location: Location, key: str, chunk_bytes: int, num_chunks: int, wanted: range, *, is_blosc: bool
) -> None:
    """The same for the wanted chunks of a shard of `num_chunks`; absent ones are left to their reader.

    Raises:
        ValueError: as `require_content`; a shard whose index points outside it.
    """
    size = location.size(key)
    if size is None:
        return
    end = size - 16 * num_chunks - CHECKSUM_BYTES
    if end < 0:
        raise ValueError(f"{key}: {size:,} bytes hold no index of its chunks")
    (index,) = location.read_ranges(key, [(end + 16 * wanted.start, 16 * len(wanted))])
    chunks = [place for place in struct.iter_unpack("<QQ", index) if place != (ABSENT, ABSENT)]
    for offset, length in chunks:
        if offset + length > end:
            raise ValueError(f"{key}: the index of its chunks points to byte {offset + length:,} of {end:,}")
    for head in location.read_ranges(key, [(offset, min(HEADER_BYTES, length)) for offset, length in chunks]):
        require_content(head, chunk_bytes, key, is_blosc=is_blosc)
