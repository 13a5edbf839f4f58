"""Which part answers for a task today: the newest revision that names it, else its own."""

from tsn_toolkit.errors import StoreError
from tsn_toolkit.store.manifest import TaskEntry
from tsn_toolkit.store.store import Store


def newest_part(store: Store, task: str) -> str:
    """Name of the task whose part answers for `task` today.

    Raises:
        StoreError: there is no such task, or a part is damaged.
    """
    store.entry(task)
    for entry in reversed(store.entries):
        if entry.isolation == "none" and task in store.part(entry.name).answers_for:
            return entry.name
    return task


def check_answers_for_itself(store: Store, task: str) -> None:
    """Checks that no other task's answers hang on a task, nor its own on another's part. A part that cannot be read answers for nobody.

    Raises:
        StoreError: they do.
    """
    named = {entry.name: _readable_answers(store, entry) for entry in store.entries}
    others = [other for other in named if other != task and next((name for name in reversed(named) if other in named[name]), other) == task]
    advice = "They share one network, of which no task can be taken out. Learn the tasks that shall stay into another store."
    if others:
        raise StoreError(f"{store.path}: `{task}` cannot be retired, it is the revision that answers for {others} too. {advice}")
    newer = [name for name, tasks in named.items() if name != task and task in tasks]
    if newer:
        raise StoreError(f"{store.path}: `{task}` cannot be retired, the revisions {newer} answer for it too. {advice}")


def _readable_answers(store: Store, entry: TaskEntry) -> tuple[str, ...]:
    if entry.isolation != "none":
        return ()
    try:
        return store.part(entry.name).answers_for
    except StoreError:
        return ()
