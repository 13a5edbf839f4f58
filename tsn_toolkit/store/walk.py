"""Layers of one owner or of all, one layer at a time.

Every part of a chain is read up to the same layer, then the next layer of all of them: memory holds one layer of the chain, never a whole owner.
"""

from __future__ import annotations

from collections.abc import Iterator

from tsn_toolkit.store.layout import CodedLayer
from tsn_toolkit.store.lineage import Inherited, OwnerLayer, nothing
from tsn_toolkit.store.owner_part import LayerSource
from tsn_toolkit.store.part_files import PartFiles
from tsn_toolkit.vocabulary import TRUNK


def walk_chain(files: PartFiles, owner: str) -> Iterator[tuple[CodedLayer, OwnerLayer]]:
    """Every layer of the trunk or a task, in the order of the record; reads the files of its chain only.

    Raises:
        StoreError: there is no such owner, or a part of its chain is damaged; the message names the part.
    """
    chain = files.chain(owner)
    sources = {name: _begin(files, name) for name in chain}
    for layer in files.open(TRUNK).architecture.layers:
        above, last = nothing(layer), []
        for name, source in sources.items():
            with files.naming(name):
                held = source.next(layer, above)
            if name == owner:
                last.append(held)
            else:
                above = held.pass_on_()
            del held  # or it would stay until its child is decoded
        del above
        yield layer, last.pop()  # so that nothing of this layer is kept while the caller works on it
    for name, source in sources.items():
        with files.naming(name):
            source.finish()


def walk_all(files: PartFiles) -> Iterator[tuple[CodedLayer, Iterator[tuple[str, OwnerLayer]]]]:
    """Every layer, in the order of the record, with all owners in order of their commits.

    A layer's owners must be taken to their end before the next layer. Of an owner no more is kept than its children need.

    Raises:
        StoreError: a part is damaged; the message names the part.
    """
    sources = {name: _begin(files, name) for name in files.owners}
    for layer in files.open(TRUNK).architecture.layers:
        yield layer, _owners(files, sources, layer)
    for name, source in sources.items():
        with files.naming(name):
            source.finish()


def _begin(files: PartFiles, owner: str) -> LayerSource:
    part = files.open(owner)
    with files.naming(owner):
        return part.read_layers()


def _owners(files: PartFiles, sources: dict[str, LayerSource], layer: CodedLayer) -> Iterator[tuple[str, OwnerLayer]]:
    children = dict.fromkeys(files.owners, 0)
    for entry in files.manifest.entries:
        children[entry.parent] += 1
    below: dict[str, Inherited] = {}
    for name in files.owners:
        if name == TRUNK:
            above = nothing(layer)
        else:
            parent = files.task(name).parent
            children[parent] -= 1
            above = below[parent] if children[parent] else below.pop(parent)
        with files.naming(name):
            held = sources[name].next(layer, above)
        if children[name]:
            below[name] = held.below
        last = [held]
        del above, held
        yield name, last.pop()
