"""Stores below a prefix of an S3 bucket (`s3://bucket/name.zarr`).

Endpoint and credentials come from the environment, under the names that AWS gives them (docs/object-stores.md); no
secret is kept here, so none can be printed or stored.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore, StoreLike

from cache.storage import Location, StorageError

READ_CACHE_BYTES = 128 * 2**20
"""Decoded chunks and shard indices that a process which reads records from S3 keeps in memory."""

ATTEMPTS = 10
"""How often a request to S3 is sent before it has failed, where AWS_MAX_ATTEMPTS does not say."""

STALL_SECONDS = 60
"""After so many seconds without a byte, an answer has failed and is asked for again."""

COALESCE_BYTES = 2**16
"""Ranges of an object that lie closer are fetched in one request, with what is between them."""

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


@dataclass(frozen=True)
class Bucket(Location):
    """A store below a prefix of an S3 bucket."""

    bucket: str
    prefix: str
    is_remote = True

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def client(self) -> S3Store:
        """The connection of this process.

        Raises:
            ValueError: the environment names no credentials, or a connection that cannot be used.
        """
        return _s3_client(self.bucket, self.prefix, S3Settings.of_environment(), os.environ.get("AWS_ACCESS_KEY_ID"))

    def _ask[Answer](self, done: str, key: str, request: Callable[[S3Store], Answer]) -> Answer:
        """The answer to a request that may be repeated; errors say that the object cannot be `done`."""
        with _s3_errors(f"{self.url(key)} cannot be {done}"):
            for _ in range(S3Settings.of_environment().attempts - 1):
                try:
                    return request(self.client)
                except BaseError as error:
                    if not _is_broken_off(error):
                        raise
            return request(self.client)

    def exists(self) -> bool:
        return self._ask("listed", "", lambda client: any(obstore.list(client, chunk_size=1)))

    def read(self, key: str) -> bytes:
        return self._ask("read", key, lambda client: bytes(obstore.get(client, key).bytes()))

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        if not ranges:
            return []
        starts, lengths = zip(*ranges, strict=True)
        parts = self._ask(
            "read",
            key,
            lambda client: obstore.get_ranges(client, key, starts=starts, lengths=lengths, coalesce=COALESCE_BYTES),
        )
        return [bytes(part) for part in parts]

    def size(self, key: str) -> int | None:
        try:
            return self._ask("read", key, lambda client: int(obstore.head(client, key)["size"]))
        except FileNotFoundError:
            return None

    def sizes(self, prefix: str = "") -> dict[str, int]:
        batches = self._ask("listed", prefix, lambda client: list(obstore.list(client, prefix=prefix or None)))
        return {entry["path"]: int(entry["size"]) for batch in batches for entry in batch}

    def write(self, objects: Mapping[str, bytes]) -> None:
        for key, data in objects.items():
            self._put(key, data, "overwrite")

    def _put(self, key: str, data: bytes, mode: Literal["create", "overwrite"]) -> None:
        # In one request: the parts of a killed multipart upload would stay, unseen, and be paid for.
        self._ask("written", key, lambda client: obstore.put(client, key, data, use_multipart=False, mode=mode))

    def delete(self, key: str) -> None:
        self._ask("deleted", key, lambda client: obstore.delete(client, key))

    def create(self, objects: Mapping[str, bytes], blocks: range) -> None:
        """The root document claims the address: of several writers one puts it, the others find it there."""
        with suppress(AlreadyExistsError):
            self._put("zarr.json", objects["zarr.json"], "create")

    def download(self, key: str, file: Path) -> None:
        """Write an object into a file, a piece at a time."""

        def fetch(client: S3Store) -> None:
            with open(file, "wb") as opened:
                for piece in obstore.get(client, key).stream():
                    opened.write(piece)

        self._ask("read", key, fetch)

    def zarr_store(self) -> StoreLike:
        return _ReadOnlyObjects(self)

    def tensorstore_spec(self, key: str) -> dict[str, Any]:
        """With a bounded cache: what is committed does not change, so nothing that was read is asked for again."""
        settings = S3Settings.of_environment()
        kvstore = {
            "driver": "s3",
            "bucket": self.bucket,
            "path": f"{self.prefix}/{key}/",
            "aws_region": settings.region,
            **({} if settings.endpoint is None else {"endpoint": settings.endpoint}),
        }
        return {"kvstore": kvstore, "recheck_cached_data": "open"}

    def tensorstore_context(self) -> dict[str, Any]:
        """What all arrays of a reader share."""
        # TensorStore waits for ever unless its HTTP client is told, and only the environment tells it.
        os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", str(STALL_SECONDS))
        os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
        settings = S3Settings.of_environment()
        retries = {"max_retries": max(1, settings.attempts - 1), "initial_delay": "100ms", "max_delay": "15s"}
        return {
            "cache_pool": {"total_bytes_limit": READ_CACHE_BYTES},
            "aws_credentials": {"type": settings.credentials},
            "s3_request_retries": retries,
        }

    def describe_unanswered(self, error: Exception) -> str | None:
        text = str(error)
        if text.partition(":")[0] not in UNANSWERED:
            return None
        # Without the specification that follows: it is long, and says what the address says.
        reason = text.partition(" [tensorstore_spec=")[0]
        return f"{reason}. {PERMISSION_CURE if "http_response_code='403'" in text else ANSWER_CURE}"


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
            ValueError: no credentials, an endpoint with keys in it, or an impossible number of attempts.
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

    async def _ask[Answer](self, key: str, request: Callable[[], Awaitable[Answer]]) -> Answer:
        # As `Bucket._ask`, for zarr-python asks asynchronously.
        with _s3_errors(f"{self._location.url(key)} cannot be read"):
            for _ in range(S3Settings.of_environment().attempts - 1):
                try:
                    return await request()
                except BaseError as error:
                    if not _is_broken_off(error):
                        raise
            return await request()

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        get = super().get
        return await self._ask(key, lambda: get(key, prototype, byte_range))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        get, wanted = super().get_partial_values, list(key_ranges)
        return await self._ask("", lambda: get(prototype, wanted))

    async def exists(self, key: str) -> bool:
        exists = super().exists
        return await self._ask(key, lambda: exists(key))
