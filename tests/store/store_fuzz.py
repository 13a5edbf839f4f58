"""Damages stores and packed files, and says what a reader made of it.

A case is (file, kind, vouched, number) and always gives the same bytes. `vouched` means that every hash is computed again, so that not the hashes but
the decoder's own checks meet the damage. Cases run in a child process, each under an address-space limit of `memory_limit_bytes` and some slack. In
one of eight all that a reader may do is done; in one of 32 Python's and numpy's allocations are traced too, which is slow, and held against the limit
itself. A reader may refuse with an error that names a file of the store, or read another valid model. A traceback, a hang, a death of the process, or
more memory is a failure.
"""

import functools
import hashlib
import json
import math
import multiprocessing
import random
import re
import resource
import signal
import struct
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from tsn_toolkit.contracts import TaskWeights
from tsn_toolkit.errors import StoreError
from tsn_toolkit.store.image_file import ImageFile, Rest, image_from_bytes, image_to_bytes
from tsn_toolkit.store.inspect import inspect_store
from tsn_toolkit.store.integrity import verify_store
from tsn_toolkit.store.joint_image import JointImage
from tsn_toolkit.store.layout import MAX_LENGTH, MAX_SLOTS, Architecture
from tsn_toolkit.store.manifest import hash_bytes
from tsn_toolkit.store.part import PartError, canonical_json, read_part, write_part
from tsn_toolkit.store.store import Store
from tsn_toolkit.store.words import Words
from tsn_toolkit.vocabulary import TRUNK

KINDS = ("flip", "cut", "swap", "graft")
SLACK_BYTES = 32 << 20
SECONDS_PER_CASE = 20
SECONDS_TO_START = 60
THOROUGH_EVERY, TRACED_EVERY = 8, 32
BYTES_PER_FILE_BYTE, BYTES_PER_SLOT, CONSTANT_BYTES = 32, 32, 4 << 20

_NUMBER = re.compile(rb"-?\d+")
_EXTREMES = b"0 -1 1 2 7 9 255 65536 1048576 16777216 268435457 1000000000000 1e3 18446744073709551616".split()


def memory_limit_bytes(file_bytes: int, declared: int) -> int:
    """What reading may allocate at most: by the size of all files, and by the slots and entries that metadata declare, which have a limit too."""
    return BYTES_PER_FILE_BYTE * file_bytes + BYTES_PER_SLOT * min(declared, MAX_SLOTS + 4 * MAX_LENGTH) + CONSTANT_BYTES


# --------------------------------------------------------------------------------------------------------------------- damage


def damage(data: bytes, kind: str, draw: random.Random, donors: Sequence[bytes]) -> bytes:
    """One damaged copy of some bytes; nearly always another than they were."""
    for _ in range(8):
        changed = _damage_once(data, kind, draw, donors)
        if changed != data:
            break
    return changed


def _damage_once(data: bytes, kind: str, draw: random.Random, donors: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    if not changed:
        return b"\0" * draw.randint(1, 4)
    if kind == "flip":
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            changed[draw.randrange(len(changed))] ^= draw.choice((1 << draw.randrange(8), draw.randrange(1, 256)))
    elif kind == "cut":
        start, stop = _range(changed, draw)
        del changed[start : len(changed) if draw.random() < 0.3 else stop]
    elif kind == "swap":
        (a, b), (c, d) = sorted((_range(changed, draw), _range(changed, draw)))
        b = min(b, c)
        changed[a:d] = changed[c:d] + changed[b:c] + changed[a:b]
    else:
        donor = draw.choice([data, *donors])
        start, stop = _range(changed, draw)
        first, last = _range(donor, draw)
        changed[start : start if draw.random() < 0.3 else stop] = donor[first:last]
    return bytes(changed)


def damage_json(text: bytes, kind: str, draw: random.Random, donors: Sequence[bytes]) -> bytes:
    """One damaged copy of JSON, half of the time in a number alone, so that it often still parses."""
    numbers = list(_NUMBER.finditer(text))
    if draw.random() < 0.5 or not numbers:
        return damage(text, kind, draw, donors)
    spot = draw.choice(numbers)
    if kind == "flip":
        new = str(int(spot[0]) ^ 1 << draw.randrange(12)).encode()
    elif kind == "cut":
        new = b"" if draw.random() < 0.3 else (spot[0][:-1] or b"0")
    elif kind == "swap":
        new = draw.choice(numbers)[0]
    else:
        new = draw.choice(_EXTREMES)
    return text[: spot.start()] + new + text[spot.end() :]


def damage_part(data: bytes, kind: str, draw: random.Random, donors: Sequence[bytes]) -> bytes:
    """One damaged copy of a part: the bare bytes, or one blob or the metadata inside an intact file."""
    where = draw.random()
    if where < 0.2:
        return damage(data, kind, draw, donors)
    metadata, blobs = read_part(data)
    others = [read_part(donor) for donor in donors]
    full = sorted(name for name, blob in blobs.items() if blob)
    if where < 0.5 or not full:
        texts = [canonical_json(other).encode() for other, _ in others]
        text = damage_json(canonical_json(metadata).encode(), kind, draw, texts)
        try:
            return write_part(json.loads(text), blobs)
        except (ValueError, TypeError, AttributeError, RecursionError):
            return damage(data, kind, draw, donors)
    name = draw.choice(full)
    if kind == "graft" and draw.random() < 0.3:
        return write_part(metadata, {**blobs, name: draw.choice([other[name] for _, other in others])})
    return write_part(metadata, {**blobs, name: damage(blobs[name], kind, draw, [other[name] for _, other in others])})


def _range(data: bytes | bytearray, draw: random.Random) -> tuple[int, int]:
    """A short or, sometimes, long range of some bytes."""
    start = draw.randrange(len(data) + 1)
    length = draw.choice((1, 2, 4, draw.randint(1, 32), draw.randint(1, len(data) + 1)))
    return start, min(start + length, len(data))


# ---------------------------------------------------------------------------------------------------------------------- cases


@dataclass(frozen=True)
class Case:
    """One damaged copy: which file, how, whether hashes are computed again, and the number that seeds it."""

    file: str
    kind: str
    vouched: bool
    number: int

    def random(self) -> random.Random:
        """The case's own generator."""
        return random.Random(f"{self.file} {self.kind} {self.vouched} {self.number}")


def damage_store(pristine: dict[str, bytes], case: Case) -> dict[str, bytes]:
    """The files of a store with one of them damaged (and vouched for)."""
    draw = case.random()
    data = pristine[case.file]
    donors = [other for path, other in sorted(pristine.items()) if path not in (case.file, "manifest.json")]
    if not case.vouched:
        return {**pristine, case.file: damage(data, case.kind, draw, donors)}
    if case.file == "manifest.json":
        return {**pristine, case.file: _vouch_manifest(damage_json(_manifest_body(data), case.kind, draw, [data]), data)}
    changed = damage_part(data, case.kind, draw, donors)
    body = json.loads(pristine["manifest.json"])
    for row in (body["trunk"], *body["tasks"]):
        if row["path"] == case.file:
            row |= {"sha256": hash_bytes(changed), "size_bytes": len(changed)}
    return {**pristine, case.file: changed, "manifest.json": _with_own_hash(body)}


def _manifest_body(data: bytes) -> bytes:
    return canonical_json({key: value for key, value in json.loads(data).items() if key != "sha256"}).encode()


def _vouch_manifest(body: bytes, original: bytes) -> bytes:
    try:
        return _with_own_hash(json.loads(body))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return body or original[:-1]


def _with_own_hash(body: dict) -> bytes:
    content = {key: value for key, value in body.items() if key != "sha256"}
    return canonical_json({**content, "sha256": hash_bytes(canonical_json(content).encode())}).encode()


# -------------------------------------------------------------------------------------------------------------------- reading


def read_store(folder: Path, thorough: bool) -> None:
    """Reads the trunk and all tasks; StoreError where the store is refused, AssertionError where it gives what is no model."""
    store = Store.open(folder)
    trunk = store.trunk()
    assert set(trunk.layers) == ({layer.name for layer in store.architecture.layers} if trunk.kind == "checkpoint" else set())
    assert trunk.head is None or trunk.head.codes.shape == (len(trunk.head.scale), store.architecture.head_features)
    assert isinstance(store.recipe(TRUNK), dict)
    for entry in store.entries:
        _check_weights(store.weights(entry.name), store.architecture)
        assert isinstance(store.recipe(entry.name), dict) and isinstance(store.validation(entry.name), dict)
        revision = store.revision(entry.name)
        assert revision is None or entry.name in revision.rows
    if thorough:
        assert list(verify_store(store)) == [entry.name for entry in store.entries]
        inspect_store(store)


def _check_weights(weights: TaskWeights, architecture: Architecture) -> None:
    for layer in architecture.layers:
        q, scale = weights.q[layer.name], weights.scale[layer.name]
        assert q.shape == layer.shape and q.dtype == np.int8 and q.min(initial=0) >= -127
        assert scale.shape == layer.shape[:1] and np.isfinite(scale).all()
    assert weights.head.codes.shape == (len(weights.classes), architecture.head_features)


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Writes the files of a store over those that are there."""
    for path, data in files.items():
        (folder / path).write_bytes(data)


def declared_size(parts: Iterable[bytes]) -> int:
    """Slots, and entries of vectors, that the metadata of all parts speak of, however wrong they may be."""
    return max(sum(map(_declared_in_part, parts)), 0)


@functools.lru_cache(maxsize=64)
def _declared_in_part(part: bytes) -> int:
    """Those of one part, remembered: all parts but the damaged one are the same in every case."""
    total = 0
    try:
        metadata = read_part(part)[0]
        record = metadata.get("architecture", {"layers": []})
        total += sum(int(math.prod(shape)) for _, shape in record["layers"])
        vectors = [{**record, "layers": []}, metadata.get("norms"), metadata.get("biases")]
        total += sum(int(number) for number in _NUMBER.findall(canonical_json(vectors).encode()) if not number.startswith(b"-"))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        pass  # such a part declares nothing more and must be refused cheaply
    return total


# ---------------------------------------------------------------------------------------------------------------- child process


@dataclass
class Findings:
    """What readers made of many cases.

    Attributes:
        outcomes: `refused`, `model` (another valid one), `same` (the damage changed no byte), and failures by kind.
        failures: one line per failure.
        peak_bytes: the most that one case allocated.
        peak_share: the largest part of its limit that a case allocated.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    peak_bytes: int = 0
    peak_share: float = 0.0


@dataclass(frozen=True)
class Subject:
    """What is damaged and read.

    Attributes:
        pristine: its files.
        damage: the files of a case.
        read: reads the files from a folder that holds them, or (True) does all that a reader may do; StoreError refuses them.
        declared: `declared_size` of files.
        names: words of which an error must hold one.
    """

    pristine: dict[str, bytes]
    damage: Callable[[dict[str, bytes], Case], dict[str, bytes]]
    read: Callable[[Path, bool], None]
    declared: Callable[[dict[str, bytes]], int]
    names: tuple[str, ...]


def examine(subject: Subject, cases: Sequence[Case], folder: Path) -> Findings:
    """Runs cases in child processes; one that dies or hangs is a finding, and the next goes on behind it."""
    findings = Findings()
    context = multiprocessing.get_context("fork")
    done = 0
    while done < len(cases):
        receive, send = context.Pipe(duplex=False)
        child = context.Process(target=_run_cases, args=(subject, cases[done:], folder, send))
        child.start()
        send.close()
        try:
            while receive.poll(SECONDS_PER_CASE + SECONDS_TO_START):
                message = receive.recv()
                _count(findings, cases[done], *message)
                done += 1
        except EOFError:
            child.join(SECONDS_TO_START)
        child.kill()
        child.join()
        if done < len(cases):
            outcome = "hang" if child.exitcode in (-signal.SIGALRM, -signal.SIGKILL) else "death"
            _count(findings, cases[done], outcome, f"exit code {child.exitcode}", 0, 1)
            done += 1
    return findings


def _count(findings: Findings, case: Case, outcome: str, detail: str, peak_bytes: int, limit_bytes: int) -> None:
    if peak_bytes > limit_bytes:
        outcome, detail = "memory", f"{peak_bytes:,} bytes allocated, at most {limit_bytes:,} allowed, {outcome} {detail}"
    findings.outcomes[outcome] += 1
    findings.peak_bytes = max(findings.peak_bytes, peak_bytes)
    findings.peak_share = max(findings.peak_share, peak_bytes / limit_bytes)
    if outcome not in ("refused", "model", "same"):
        findings.failures.append(f"{outcome}: {case}: {detail}")


def _run_cases(subject: Subject, cases: Sequence[Case], folder: Path, send: Connection) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    write_files(folder, subject.pristine)
    subject.read(folder, True)  # so that caches and imports of a first time count for no case
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    address_space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for case in cases:
        files = subject.damage(subject.pristine, case)
        changed = {path: data for path, data in files.items() if data != subject.pristine[path]}
        write_files(folder, changed)
        limit_bytes = memory_limit_bytes(sum(map(len, files.values())), subject.declared(files))
        resource.setrlimit(resource.RLIMIT_AS, (address_space + limit_bytes + SLACK_BYTES, most))
        signal.alarm(SECONDS_PER_CASE)
        outcome, detail, peak_bytes = _outcome(subject, folder, case.number)
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        if outcome == "model" and not changed:
            outcome = "same"
        elif outcome == "model" and not case.vouched:
            outcome, detail = "accepted", "a changed byte was not refused"
        send.send((outcome, detail, peak_bytes, limit_bytes))
        write_files(folder, {path: subject.pristine[path] for path in changed})
    send.close()


def _outcome(subject: Subject, folder: Path, number: int) -> tuple[str, str, int]:
    """What the reader did, the error's text, and the bytes that it allocated at most (0 where they are not traced)."""
    if number % TRACED_EVERY == 0:
        tracemalloc.start()
    try:
        subject.read(folder, number % THOROUGH_EVERY == 0)
        outcome, detail = "model", ""
    except StoreError as error:
        named = any(name in str(error) for name in subject.names)
        outcome, detail = "memory" if isinstance(error.__cause__, MemoryError) else "refused" if named else "unnamed", str(error)
    except MemoryError:
        outcome, detail = "memory", traceback.format_exc()
    except BaseException:
        outcome, detail = "traceback", traceback.format_exc()
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return outcome, detail, peak_bytes


def store_subject(folder: Path) -> Subject:
    """A store as it lies in a folder."""
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    parts = [path for path in paths if path.endswith(".safetensors")]

    def declared(files: dict[str, bytes]) -> int:
        return declared_size(files[path] for path in parts)

    return Subject({path: (folder / path).read_bytes() for path in paths}, damage_store, read_store, declared, (*paths, "tasks/"))


def image_subject(file: Path) -> Subject:
    """A packed file; its folder is read."""
    name = file.name
    image = JointImage.open(file)
    parts = [path for path in image.file.rests if path != "manifest.json"]
    sections = tuple(image.file.rests) + tuple(f"layer `{layer}`" for layer in image.file.words)

    def damaged(pristine: dict[str, bytes], case: Case) -> dict[str, bytes]:
        return {name: damage_image(pristine[name], case)}

    def declared(files: dict[str, bytes]) -> int:
        try:
            rests = image_from_bytes(files[name]).rests
        except (ValueError, KeyError, TypeError, AttributeError):
            return 0
        return declared_size(rests[path].data for path in parts if path in rests)

    names = (*sections, "tasks/...", "header", "preamble", "begin with TSNIMAGE", "version", "its sections", "its layers")
    return Subject({name: file.read_bytes()}, damaged, lambda folder, thorough: read_image(folder / name, thorough), declared, names)


def read_image(file: Path, thorough: bool) -> None:
    """Reads all tasks of a packed file; StoreError where it is refused, AssertionError where it gives what is no model."""
    image = JointImage.open(file)
    store = image.store()
    for entry in image.entries:
        _check_weights(store.weights(entry.name), store.architecture)
    with suppress(StoreError):  # a changed code is another valid model, but not what the manifest vouches for
        image.files()
    if thorough:
        image.describe()
        assert all(image.decode(entry.name) for entry in image.entries)


def damage_image(data: bytes, case: Case) -> bytes:
    """A packed file with one damage: anywhere, or (vouched) in its header or in one section, all hashes of the file right."""
    draw = case.random()
    if not case.vouched:
        return damage(data, case.kind, draw, [data])
    image = image_from_bytes(data)
    where = draw.random()
    if where < 0.2:
        size = int.from_bytes(data[12:16], "little")
        header = damage_json(data[48 : 48 + size].rstrip(), case.kind, draw, [data])
        header += b" " * (-len(header) % 8)
        return data[:12] + struct.pack("<I32s", len(header), hashlib.sha256(header).digest()) + header + data[48 + size :]
    if where < 0.5:
        layer = draw.choice(sorted(image.words))
        words = image.words[layer]
        changed = damage(words.to_bytes(), case.kind, draw, [other.to_bytes() for other in image.words.values()])
        changed = (changed + words.to_bytes()[len(changed) :])[: len(words.to_bytes())]
        with suppress(PartError):
            return image_to_bytes(ImageFile({**image.words, layer: Words.from_bytes(changed, words.count, words.width)}, image.rests))
        return data
    path = draw.choice(sorted(image.rests))
    rest = image.rests[path]
    if path == "manifest.json":
        left = _vouch_manifest(damage_json(_manifest_body(rest.data), case.kind, draw, [rest.data]), rest.data)
    else:
        donors = [other.data for other_path, other in sorted(image.rests.items()) if other_path not in (path, "manifest.json")]
        left = damage_part(rest.data, case.kind, draw, donors)
    counts = rest.counts if draw.random() < 0.9 else tuple(max(0, count + draw.choice((-1, 1, 1000))) for count in rest.counts)
    return image_to_bytes(ImageFile(image.words, {**image.rests, path: Rest(left, counts)}))


def cases_of(files: Iterable[str], count: int, *, kinds: Sequence[str] = KINDS) -> Iterator[tuple[str, bool, list[Case]]]:
    """`count` cases of each kind, plain and vouched, spread evenly over the files: kind, vouched, cases."""
    order = sorted(files)
    for kind in kinds:
        for vouched in (False, True):
            yield kind, vouched, [Case(order[number % len(order)], kind, vouched, number) for number in range(count)]
