"""Everything that a store holds, decoded once."""

from tsn_toolkit.store.store import Store
from tsn_toolkit.vocabulary import TRUNK


def verify_store(store: Store) -> dict[str, str]:
    """Decodes the trunk, and of every task its weights, what its method kept, its recipe and its validation numbers.

    Args:
        store: opened with its hashes checked, as `Store.open` does.

    Returns:
        Hash of the codes by task, in order of their commits; see `Store.codes_hash`.

    Raises:
        StoreError: a part breaks the format; the message names the part. Or compiled code reads otherwise than the arrays.
    """
    store.trunk()
    store.recipe(TRUNK)
    hashes = {}
    for entry in store.entries:
        store.revision(entry.name)
        store.recipe(entry.name)
        store.validation(entry.name)
        store.check_decoders(entry.name)
        hashes[entry.name] = store.codes_hash(entry.name)
    return hashes
