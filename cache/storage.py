"""Where a store lies: in a folder, or below a prefix of an S3 bucket (`s3://bucket/name.zarr`).

The only place that knows how the two are reached. Endpoint and credentials of S3 come from the environment, under the
names that AWS gives them (docs/object-stores.md); no secret is kept here, so none can be printed or stored.
"""

from __future__ import annotations

import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import MemoryStore, ObjectStore, StoreLike

READ_CACHE_BYTES = 128 * 2**20
"""Decoded chunks and shard indices that a process which reads records from S3 keeps in memory."""

ATTEMPTS = 10
"""How often a request to S3 is sent before it has failed, where AWS_MAX_ATTEMPTS does not say."""

STALL_SECONDS = 60
"""An answer of which no byte comes for so long has failed, and is asked for again."""

# What may name credentials that obstore and TensorStore both find. Profiles (~/.aws) are not among them: obstore reads
# none. An instance role needs its endpoint named: looked for elsewhere, it is minutes until it is not found.
CREDENTIAL_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_METADATA_ENDPOINT",
)
# TensorStore's codes of requests that S3 has not answered, or has refused; the others speak of the object.
UNANSWERED = ("ABORTED", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "UNAUTHENTICATED", "UNAVAILABLE")
ANSWER_CURE = "Check AWS_ENDPOINT_URL and the network, then run the same command again"
PERMISSION_CURE = "Check the credentials (AWS_ACCESS_KEY_ID ...) and what the bucket allows them"


class StorageError(OSError):
    """An object store does not answer, or refuses; says nothing about what it holds."""


class Location(ABC):
    """Where a store lies: objects by key, as `plan/zarr.json`. Its text is what users give and are told."""

    is_remote = False

    @property
    @abstractmethod
    def name(self) -> str:
        """The last part of the path."""

    @abstractmethod
    def zarr_store(self) -> StoreLike:
        """What zarr-python opens."""

    @abstractmethod
    def exists(self) -> bool:
        """Whether anything is there."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """An object's bytes.

        Raises:
            FileNotFoundError: there is no such object.
            StorageError: the object store does not answer, or refuses.
        """

    @abstractmethod
    def size(self, key: str) -> int | None:
        """An object's bytes, counted; None where there is none."""

    @abstractmethod
    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Keys of all objects below `prefix` (empty, or ending in a slash), with their sizes."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; nothing where there is none."""

    @abstractmethod
    def url(self, key: str) -> str:
        """How users name an object."""

    @abstractmethod
    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Parts of an object, each given by its first byte and its length; shorter where the object ends.

        Raises:
            FileNotFoundError, StorageError: as `read`.
        """

    def problem(self, key: str, limit: int) -> str | None:
        """Why an object must not be opened: larger than `limit` bytes, say; None where it may be, or is absent."""
        size = self.size(key)
        return None if size is None or size <= limit else f"has {size:,} bytes; at most {limit:,} are possible"

    def has(self, key: str) -> bool:
        return self.size(key) is not None

    @abstractmethod
    def tensorstore_spec(self, key: str) -> dict[str, Any]:
        """How TensorStore reaches the array `key`."""

    def tensorstore_context(self) -> dict[str, Any] | None:
        """What TensorStore's arrays of one reader share; None where each has its own."""
        return None


@dataclass(frozen=True)
class Folder(Location):
    """A store in a local folder."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    def zarr_store(self) -> StoreLike:
        return self.path

    def tensorstore_spec(self, key: str) -> dict[str, Any]:
        return {"kvstore": {"driver": "file", "path": f"{self.path / key}/"}}

    def exists(self) -> bool:
        return self.path.exists()

    def read(self, key: str) -> bytes:
        return (self.path / key).read_bytes()

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        descriptor = os.open(f"{self.path}/{key}", os.O_RDONLY)
        try:
            return [os.pread(descriptor, length, start) for start, length in ranges]
        finally:
            os.close(descriptor)

    def problem(self, key: str, limit: int) -> str | None:
        """A link could name any file of the machine, a pipe never ends, and a file of holes claims any size."""
        # Every folder on the way as well: texts, because paths would take most of the time of opening a store.
        root, end = str(self.path), 0
        while end < len(key):
            end = key.find("/", end + 1) % (len(key) + 1)
            try:
                status = os.lstat(f"{root}/{key[:end]}")
            except (FileNotFoundError, NotADirectoryError):
                return None
            if stat.S_ISLNK(status.st_mode):
                return f"{key[:end]} is a symbolic link; a store holds plain files"
        if not stat.S_ISREG(status.st_mode):
            return "is no plain file"
        if status.st_size > limit:
            return f"has {status.st_size:,} bytes; at most {limit:,} are possible"
        return None

    def size(self, key: str) -> int | None:
        file = self.path / key
        return file.stat().st_size if file.is_file() else None

    def sizes(self, prefix: str = "") -> dict[str, int]:
        found = {}
        for folder, _, names in os.walk(self.path / prefix):
            for file in (Path(folder, name) for name in names):
                if file.is_file():
                    found[file.relative_to(self.path).as_posix()] = file.stat().st_size
        return found

    def delete(self, key: str) -> None:
        (self.path / key).unlink(missing_ok=True)

    def url(self, key: str) -> str:
        return str(self.path / key)

    def sync(self, key: str) -> None:
        """Flush a written object: a commit must never be on disk before what it covers."""
        descriptor = os.open(self.path / key, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Memory(Location):
    """Objects on their way to an object store."""

    def __init__(self) -> None:
        self._objects: dict[str, Buffer] = {}

    def __str__(self) -> str:
        return "memory"

    @property
    def name(self) -> str:
        return "memory"

    def zarr_store(self) -> StoreLike:
        return MemoryStore(self._objects)

    def tensorstore_spec(self, key: str) -> dict[str, Any]:
        raise AssertionError("a store is read where it lies, not on its way there")

    def exists(self) -> bool:
        return bool(self._objects)

    def read(self, key: str) -> bytes:
        if key not in self._objects:
            raise FileNotFoundError(key)
        return self._objects[key].to_bytes()

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        data = self.read(key)
        return [data[start : start + length] for start, length in ranges]

    def size(self, key: str) -> int | None:
        return len(self._objects[key]) if key in self._objects else None

    def sizes(self, prefix: str = "") -> dict[str, int]:
        return {key: len(value) for key, value in self._objects.items() if key.startswith(prefix)}

    def delete(self, key: str) -> None:
        self._objects.pop(key, None)

    def url(self, key: str) -> str:
        return key


@dataclass(frozen=True)
class Bucket(Location):
    """A store below a prefix of an S3 bucket."""

    bucket: str
    prefix: str
    is_remote = True

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def path(self) -> str:
        return str(self)

    @property
    def name(self) -> str:
        return PurePosixPath(self.prefix).name

    @property
    def client(self) -> S3Store:
        """The connection of this process.

        Raises:
            ValueError: the environment names no credentials, or a connection that cannot be used.
        """
        return _s3_client(self.bucket, self.prefix, S3Settings.of_environment(), os.environ.get("AWS_ACCESS_KEY_ID"))

    def zarr_store(self) -> StoreLike:
        return _ReadOnlyObjects(self)

    def tensorstore_spec(self, key: str) -> dict[str, Any]:
        """With a bounded cache: what is committed does not change, so nothing that was read is asked for again."""
        settings = S3Settings.of_environment()
        endpoint = {} if settings.endpoint is None else {"endpoint": settings.endpoint}
        return {
            "kvstore": {
                "driver": "s3",
                "bucket": self.bucket,
                "path": f"{self.prefix}/{key}/",
                "aws_region": settings.region,
                **endpoint,
            },
            "recheck_cached_data": "open",
        }

    def tensorstore_context(self) -> dict[str, Any]:
        """What all arrays of a reader share."""
        # TensorStore waits for ever unless its HTTP client is told, and only the environment tells it.
        os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", str(STALL_SECONDS))
        os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
        settings = S3Settings.of_environment()
        return {
            "cache_pool": {"total_bytes_limit": READ_CACHE_BYTES},
            "aws_credentials": {"type": settings.credentials},
            "s3_request_retries": {
                "max_retries": max(1, settings.attempts - 1),
                "initial_delay": "100ms",
                "max_delay": "15s",
            },
        }

    def exists(self) -> bool:
        with _s3_errors(f"{self} cannot be listed"):
            return _retried(lambda: any(batch for batch in obstore.list(self.client, chunk_size=1)))

    def read(self, key: str) -> bytes:
        with _s3_errors(f"{self.url(key)} cannot be read"):
            return _retried(lambda: bytes(obstore.get(self.client, key).bytes()))

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        if not ranges:
            return []
        starts, lengths = [start for start, _ in ranges], [length for _, length in ranges]
        with _s3_errors(f"{self.url(key)} cannot be read"):
            parts = _retried(lambda: obstore.get_ranges(self.client, key, starts=starts, lengths=lengths))
            return [bytes(part) for part in parts]

    def size(self, key: str) -> int | None:
        try:
            with _s3_errors(f"{self.url(key)} cannot be read"):
                return _retried(lambda: int(obstore.head(self.client, key)["size"]))
        except FileNotFoundError:
            return None

    def sizes(self, prefix: str = "") -> dict[str, int]:
        with _s3_errors(f"{self.url(prefix)} cannot be listed"):
            batches = _retried(lambda: list(obstore.list(self.client, prefix=prefix or None)))
            return {entry["path"]: int(entry["size"]) for batch in batches for entry in batch}

    def delete(self, key: str) -> None:
        with _s3_errors(f"{self.url(key)} cannot be deleted"):
            _retried(lambda: obstore.delete(self.client, key))

    def url(self, key: str) -> str:
        return f"{self}/{key}"

    def put(self, key: str, data: bytes) -> None:
        """Write an object, whole or not at all; it is durable when this returns."""
        with _s3_errors(f"{self.url(key)} cannot be written"):
            # In one request: the parts of a killed multipart upload would stay, unseen, and be paid for.
            _retried(lambda: obstore.put(self.client, key, data, use_multipart=False))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write an object where there is none; False where there is one. Of several callers one gets True."""
        try:
            with _s3_errors(f"{self.url(key)} cannot be written"):
                _retried(lambda: obstore.put(self.client, key, data, use_multipart=False, mode="create"))
        except AlreadyExistsError:
            return False
        return True

    def download(self, key: str, file: Path) -> None:
        """Write an object into a file, a piece at a time."""

        def fetch() -> None:
            with open(file, "wb") as opened:
                for piece in obstore.get(self.client, key).stream():
                    opened.write(piece)

        with _s3_errors(f"{self.url(key)} cannot be read"):
            _retried(fetch)


Place = str | Path | Location
"""What names a store: `s3://bucket/name.zarr`, a folder, or either as a `Location`."""


def locate(place: Place) -> Location:
    """Where a store lies.

    Raises:
        ValueError: a text that starts like an address on S3 and is none.
    """
    if isinstance(place, Location):
        return place
    text = str(place)
    if not text.startswith("s3:"):
        return Folder(Path(text))
    # A bucket's name holds no @ and no colon: keys cannot be put into the address, where they would be printed.
    match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]+)/([^/].*?)/*", text)
    if match is None:
        raise ValueError(
            "an object store's address is s3://bucket/name.zarr, with a bucket in lower case and a name, without keys; "
            "credentials come from the environment (docs/object-stores.md)"
        )
    return Bucket(match[1], match[2])


@dataclass(frozen=True)
class S3Settings:
    """How S3 is reached, without any secret.

    endpoint: None for AWS itself. credentials: the kind, in TensorStore's words. attempts: of a request.
    """

    endpoint: str | None
    region: str
    credentials: str
    attempts: int

    @classmethod
    def of_environment(cls) -> S3Settings:
        """One set of variables for obstore and TensorStore.

        Raises:
            ValueError: no credentials, an endpoint with keys in it, or a number of attempts that is none.
        """
        endpoint = _first_set("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
        if endpoint is not None and not re.fullmatch(r"https?://[^@/?#]+/?", endpoint):
            raise ValueError(
                "AWS_ENDPOINT_URL must be http://host:port or https://host, without keys, path or query. Correct it; "
                "credentials have variables of their own (docs/object-stores.md)"
            )
        if os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true", "yes"):
            credentials = "anonymous"
        elif os.environ.get("AWS_ACCESS_KEY_ID"):
            credentials = "environment"
        elif _first_set(*CREDENTIAL_VARIABLES):
            credentials = "default"
        else:
            raise ValueError(
                "no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true "
                "for a public bucket (docs/object-stores.md)"
            )
        attempts = _first_set("AWS_MAX_ATTEMPTS") or str(ATTEMPTS)
        if not attempts.isdecimal() or int(attempts) < 1:
            raise ValueError(f"AWS_MAX_ATTEMPTS is {attempts!r}; a whole number from 1 on is needed")
        return cls(
            endpoint=endpoint.rstrip("/") if endpoint is not None else None,
            region=_first_set("AWS_REGION", "AWS_DEFAULT_REGION") or "us-east-1",
            credentials=credentials,
            attempts=int(attempts),
        )


def describe_unanswered(location: Location, error: Exception) -> str | None:
    """What TensorStore says, and the cure, where S3 has not answered or has refused; None for what an object is."""
    text = str(error)
    if not location.is_remote or text.partition(":")[0] not in UNANSWERED:
        return None
    # Without the specification that follows: it is long, and says what the address says.
    reason = text.partition(" [tensorstore_spec=")[0]
    return f"{reason}. {PERMISSION_CURE if "http_response_code='403'" in text else ANSWER_CURE}"


def _first_set(*variables: str) -> str | None:
    """The first of these variables that is set and not empty."""
    return next((value for value in map(os.environ.get, variables) if value), None)


# The process whose connections these are, among this one and those that it was forked from.
_s3_process: int | None = None


@lru_cache(maxsize=64)
def _s3_connection(bucket: str, prefix: str, settings: S3Settings, key_id: str | None) -> S3Store:
    # Secrets are read by obstore itself. The key's name is an argument so that new credentials make a new connection.
    endpoint = {} if settings.endpoint is None else {"endpoint": settings.endpoint}
    return S3Store(
        bucket,
        prefix=prefix,
        region=settings.region,
        skip_signature=settings.credentials == "anonymous",
        client_options={
            "allow_http": (settings.endpoint or "").startswith("http://"),
            "connect_timeout": timedelta(seconds=10),
            "read_timeout": timedelta(seconds=STALL_SECONDS),
            # Of the whole request: a large object may take its time.
            "timeout": timedelta(minutes=15),
        },
        retry_config={
            "max_retries": settings.attempts - 1,
            "retry_timeout": timedelta(minutes=3),
            "backoff": {
                "init_backoff": timedelta(milliseconds=50),
                "max_backoff": timedelta(seconds=15),
                "base": 2,
            },
        },
        **endpoint,  # type: ignore[arg-type]
    )


def _s3_client(bucket: str, prefix: str, settings: S3Settings, key_id: str | None) -> S3Store:
    """A connection, kept for the next request.

    Raises:
        ValueError: in a process forked after the first connection, where every request would wait for ever.
    """
    global _s3_process
    if _s3_process is None:
        _s3_process = os.getpid()
    elif _s3_process != os.getpid():
        raise ValueError(
            f"s3://{bucket}/{prefix} cannot be reached from a process forked from one that has reached S3: start "
            "workers with the method forkserver (DataLoader: multiprocessing_context='forkserver')"
        )
    return _s3_connection(bucket, prefix, settings, key_id)


@contextmanager
def _s3_errors(what: str) -> Iterator[None]:
    """obstore's errors in one line, with a cure; a missing object and a lost race stay what they are."""
    try:
        yield
    except AlreadyExistsError:
        raise
    except BaseError as error:
        first, *rest = str(error).splitlines()
        code = re.search(r"<Code>(\w+)</Code>", " ".join(rest))
        reason = first.partition(": <?xml")[0].rstrip(": .") + (f" ({code[1]})" if code else "")
        refused = isinstance(error, PermissionDeniedError | UnauthenticatedError)
        raise StorageError(f"{what}: {reason}. {PERMISSION_CURE if refused else ANSWER_CURE}") from error


def _is_broken_off(error: BaseError) -> bool:
    """Whether an answer began and broke off, which obstore tries again for some answers only."""
    return "body error" in str(error)


def _retried[Answer](ask: Callable[[], Answer]) -> Answer:
    """The answer to a request that may be repeated."""
    for _ in range(S3Settings.of_environment().attempts - 1):
        try:
            return ask()
        except BaseError as error:
            if not _is_broken_off(error):
                raise
    return ask()


async def _retried_async[Answer](ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """The same for zarr-python, which asks asynchronously."""
    for _ in range(S3Settings.of_environment().attempts - 1):
        try:
            return await ask()
        except BaseError as error:
            if not _is_broken_off(error):
                raise
    return await ask()


class _ReadOnlyObjects(ObjectStore[S3Store]):
    """zarr-python's view of a store on S3: its errors are ours, and its text the address."""

    def __init__(self, location: Bucket) -> None:
        super().__init__(location.client, read_only=True)
        self._location = location

    def __str__(self) -> str:
        return str(self._location)

    def with_read_only(self, read_only: bool = False) -> _ReadOnlyObjects:
        assert read_only, "a store on S3 is written object by object"
        return self

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        with _s3_errors(f"{self._location.url(key)} cannot be read"):
            ask = super().get
            return await _retried_async(lambda: ask(key, prototype, byte_range))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        with _s3_errors(f"{self._location} cannot be read"):
            ask, wanted = super().get_partial_values, list(key_ranges)
            return await _retried_async(lambda: ask(prototype, wanted))

    async def exists(self, key: str) -> bool:
        with _s3_errors(f"{self._location.url(key)} cannot be read"):
            ask = super().exists
            return await _retried_async(lambda: ask(key))
