"""Recipes: every mistake is reported, all together, with its place; overrides; environment variables; the resolved copy."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tsn_toolkit.errors import RecipeError
from tsn_toolkit.pipeline.founding import targets_of
from tsn_toolkit.recipe import dump_yaml, expand, find_recipe, list_recipes, load_recipe, resolve_recipe
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.recipe.yaml_document import parse_yaml

SMALL = """\
name: small
model:
  factory: package.module:factory
data:
  source: digits
targets: []
"""


class Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    score_rate: float = Field(0.1, gt=0)
    epochs_extra: int = 2


def strategy_config(name: str) -> type[BaseModel]:
    if name != "tsn":
        raise RecipeError(f"unknown strategy {name!r}; known: tsn.")
    return Options


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def _write(text: str) -> str:
        Path("r.yaml").write_text(text)
        return "r.yaml"

    return _write


def load(path: str, *overrides: str) -> Recipe:
    return load_recipe(path, overrides=overrides, strategy_config=strategy_config)


def problems_of(path: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(path, *overrides)
    return str(caught.value).splitlines()[1:]


def test_defaults_are_filled_in(write) -> None:
    recipe = load(write(SMALL))
    assert recipe.training.epochs == 10
    assert recipe.strategy.options == {"score_rate": 0.1, "epochs_extra": 2}
    assert (recipe.schema_version, recipe.seed, recipe.tasks.per_task) == (1, 0, 2)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]


def test_three_mistakes_are_reported_together_with_their_lines(write) -> None:
    text = SMALL + "training:\n  epochs: 0\n  learning_rat: 0.1\nplan:\n  density: 1.4\nparent: trnk\n"
    found = problems_of(write(text))
    assert found == [
        "r.yaml:8: training.epochs: must be greater than or equal to 1, got 0. Change it or remove the key (default: 10).",
        "r.yaml:9: training.learning_rat: unknown key (did you mean 'learning_rate'?), got 0.1; known keys here: epochs, batch_size, optimizer, "
        "learning_rate, momentum, weight_decay, augment, label_smoothing. Correct or remove it.",
        "r.yaml:11: plan.density: must be less than or equal to 1, got 1.4. Change it or remove the key (default: 0.3).",
        "r.yaml:12: parent: must be 'trunk', 'previous' or 'auto' (did you mean 'trunk'?), got 'trnk'. "
        "Change it or remove the key (default: 'auto').",
    ]


def test_mistakes_of_every_kind_come_in_one_pass(write) -> None:
    """A duplicate key, a wrong strategy option, a conflict between fields, a wrong type and a missing section hide nothing of each other."""
    text = "name: small\nseed: 1\nseed: 2\nmodel:\n  factory: no colon\nstrategy:\n  options:\n    score_rat: 1\n"
    text += "plan:\n  units_keep: 0.5\n  target_macs: 0.7\n"
    found = problems_of(write(text + "bench:\n  batches: 4\n"))
    starts = [
        "r.yaml:1: data: required key is missing",
        "r.yaml:3: seed: this key was already given on line 2",
        "r.yaml:5: model.factory: factory 'no colon' cannot be read",
        "r.yaml:8: strategy.options.score_rat: unknown key (did you mean 'score_rate'?), got 1",
        "r.yaml:11: plan.target_macs: is 0.7 while `plan.units_keep` is 0.5",
        "r.yaml:13: bench.batches: must be a list, got 4",
    ]
    assert len(found) == len(starts)
    for line, start in zip(sorted(found, key=lambda row: int(row.split(":")[1])), starts):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("seed", "1.5", "1.5"),
        ("seed", "true", "true"),
        ("seed", "-1", "-1"),
        ("description", "3", "3"),
        ("training.learning_rate", "fast", "'fast'"),
        ("training.learning_rate", "'0.1'", "'0.1'"),
        ("training.learning_rate", ".nan", "'.nan'"),
        ("training.augment", "[flip, flip]", "['flip', 'flip']"),
        ("data.validation", "1.0", "1.0"),
        ("data.mean", "[0.5]", "0 for 1"),
        ("data.std", "[0.0]", "0.0"),
        ("data.source", "mnist", "'mnist'"),
        ("data.options", "{a: 1}", "1"),
        ("tasks.per_task", "1", "1"),
        ("tasks.split", "permutation", "null"),
        ("tasks.split", "explicit", "0 tasks"),
        ("trunk.kind", "checkpoint", "'checkpoint'"),
        ("trunk.bit_width", "9", "9"),
        ("strategy.name", "tns", "'tns'"),
        ("reference.dense", "checkpoint", "'checkpoint'"),
        ("model.checkpoint_sha256", "abc", "'abc'"),
        ("model.reference_accuracy", "0.5", "0.5"),
        ("plan", "null", "null"),
        ("plan.layer_overrides", "{conv1: {density: 0}}", "0"),
        ("plan.layer_overrides", "{conv1: {densty: 1}}", "did you mean 'density'"),
        ("plan.granularity", "4:2", "'4:2'"),
        ("plan.granularity", "block(0)", "'block(0)'"),
        ("plan.layer_overrides", "{conv1: {granularity: '8:4'}}", "'8:4'"),
        ("targets", "[no_such_target]", "'no_such_target'"),
        ("targets", "[gone/board.yaml]", "'gone/board.yaml'"),
        ("baselines", "[er, ewc]", "names er, ewc, but a run learns one strategy"),
        ("plan.bit_tolerance", "0.1", "0.1, but only `plan.adapt_bits` reads it"),
        ("name", "Upper", "'Upper'"),
        ("schema", "2", "2"),
        ("seed.x", "1", "1"),
        ("seed", "[", "'['"),
    ],
)
def test_every_wrong_value_is_named_with_its_override(write, key: str, text: str, value: str) -> None:
    path = write(SMALL + "seed: 1\n")
    found = problems_of(path, f"{key}={text}")
    assert len(found) == 1
    assert value in found[0]
    if text not in ("permutation", "explicit", "[0.5]"):  # there the key at fault is another one than the one that was set
        assert found[0].startswith(f"--set {key}: ")


def test_variables_in_the_path_of_a_target_are_expanded(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOARDS", str(tmp_path))
    assert "target file '${BOARDS}/board.yaml' does not exist" in problems_of(write(SMALL), "targets=['${BOARDS}/board.yaml']")[0]
    target = Path(__file__).resolve().parents[2] / "hw_targets" / "cpu_onnxruntime.yaml"
    (tmp_path / "cpu_onnxruntime.yaml").write_bytes(target.read_bytes())
    recipe = load(write(SMALL), "targets=['${BOARDS}/cpu_onnxruntime.yaml']")
    assert [target.name for target in targets_of(recipe)] == ["cpu_onnxruntime"]


def test_explicit_tasks_must_not_overlap(write) -> None:
    tasks = "tasks:\n  split: explicit\n  explicit:\n    - {name: a, classes: [0, 1]}\n    - {name: a, classes: [1, 2]}\n"
    tasks += "    - {name: trunk, classes: [3, 4]}\n"
    found = problems_of(write(SMALL + tasks))
    assert [line.split(": ", 2)[:2] for line in found] == [
        ["r.yaml:11", "tasks.explicit.1.name"],
        ["r.yaml:11", "tasks.explicit.1.classes"],
        ["r.yaml:12", "tasks.explicit.2.name"],
    ]
    assert "class 1 is already in task 'a'" in found[1]


def test_overrides_win_in_order_and_keep_types(write) -> None:
    recipe = load(
        write(SMALL), "training.epochs=3", "training.learning_rate=1e-3", "training.epochs=4", "bench.batches=[8]", "plan.unit_overrides={l*: 0.5}"
    )
    assert (recipe.training.epochs, recipe.training.learning_rate, recipe.bench.batches) == (4, 0.001, (8,))
    assert recipe.plan.unit_overrides == {"l*": 0.5}
    assert load(write(SMALL), "strategy.options.epochs_extra=7").strategy.options["epochs_extra"] == 7


def test_an_override_can_mend_a_wrong_file(write) -> None:
    assert load(write(SMALL + "seed: wrong\n"), "seed=5").seed == 5


def test_what_an_override_replaces_is_not_blamed_on_the_file(write) -> None:
    path = write(SMALL + "plan:\n  unit_overrides:\n    a: 0.5\n")
    assert problems_of(path, "plan.unit_overrides={a: 2}")[0].startswith("--set plan.unit_overrides: plan.unit_overrides.a: must be less than")
    assert problems_of(path, "plan.unit_overrides.a=2")[0].startswith("--set plan.unit_overrides.a: must be less than")
    assert problems_of(path, "plan.density=0.5", "plan={density: 2}")[0].startswith("--set plan: plan.density: must be less than")
    twice = write(SMALL + "seed: 1\nseed: 2\n")
    assert problems_of(twice, "seed=3") == ["r.yaml:8: seed: this key was already given on line 7. Keep one of the two."]


def test_malformed_overrides(write) -> None:
    assert problems_of(write(SMALL), "seed") == ["--set seed: is not of the form `key=value`, for example `training.epochs=3`. Correct it."]
    assert problems_of(write(SMALL), "nope.deep=1")[0].startswith("--set nope.deep: nope: unknown key")


def test_unset_variable_is_named_with_line_and_text(write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(SMALL.replace("digits\n", "npz\n  path: ${MY_DATA}/x.npz\n"))
    monkeypatch.delenv("MY_DATA", raising=False)
    assert problems_of(path) == [
        "r.yaml:6: data.path: needs the environment variable MY_DATA, which is not set, got '${MY_DATA}/x.npz'. Set it: export MY_DATA=FOLDER."
    ]
    with pytest.raises(RecipeError, match="MY_DATA is not set"):
        expand("${MY_DATA}/x.npz")
    monkeypatch.setenv("MY_DATA", "/somewhere/${HOME}")
    recipe = load(path)
    assert recipe.data.path == "${MY_DATA}/x.npz"
    assert expand(recipe.data.path) == "/somewhere/${HOME}/x.npz"
    assert "/somewhere" not in dump_yaml(resolve_recipe(recipe))


def test_resolved_recipe_loads_to_the_same_and_is_stable(write) -> None:
    text = SMALL + "description: 'no: 1e-3'\nplan:\n  unit_overrides: {z: 1.0, a: 0.25}\ntraining:\n  learning_rate: 0.00001\n"
    recipe = load(write(text))
    resolved = dump_yaml(resolve_recipe(recipe))
    again = load(write(resolved))
    assert again == recipe
    assert dump_yaml(resolve_recipe(again)) == resolved
    assert list(resolve_recipe(recipe)) == ["schema", *list(Recipe.model_fields)[1:]]
    assert list(recipe.plan.unit_overrides) == ["z", "a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "r.yaml:1?:? ?the file is empty"),
        ("- 1\n- 2\n", "the file is a list"),
        ("name: a\nmodel: [\n", r"r\.yaml:3: not valid YAML"),
        ("name: a\n\tseed: 1\n", r"r\.yaml:2: not valid YAML"),
        ("name: !!python/object/apply:os.getcwd []\n", "tag 'tag:yaml.org,2002:python/object/apply:os.getcwd' is not allowed"),
        ("name: !!python/name:os.getcwd ''\n", "tag 'tag:yaml.org,2002:python/name:os.getcwd' is not allowed"),
        ("name: &a [*a]\n", "this value is a YAML alias"),
        ("[" * 5000, "nested hundreds of levels"),
        ("name: \x07\n", "not valid YAML"),
    ],
)
def test_unusable_files(write, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(write(text))


def test_binary_file_and_unknown_name(write, tmp_path: Path) -> None:
    Path("b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"b\.yaml: cannot be read as UTF-8"):
        load("b.yaml")
    with pytest.raises(RecipeError, match=r"no recipe 'digit': .*did you mean 'digits'.*known recipes: .*cifar100_resnet20"):
        load("digit")


def test_recipes_are_found_by_name_working_folder_first(write) -> None:
    own = find_recipe("digits")
    assert own == find_recipe("digits.yaml") == list_recipes()["digits"]
    Path("recipes").mkdir()
    Path("recipes/digits.yaml").write_text(SMALL)
    assert find_recipe("digits") == Path("recipes/digits.yaml").resolve() != own
    assert "cifar100_resnet20" in list_recipes()


@pytest.mark.parametrize("name", ["digits", "cifar100_resnet20"])
def test_own_recipes_are_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSN_DATA", "anywhere")
    recipe = load_recipe(name, overrides=["strategy.options={}"], strategy_config=strategy_config)
    assert recipe.name == name


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("no", "no"),
        ("010", "010"),
        ("1_0", "1_0"),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("~", None),
        ("-7", -7),
        (".5", 0.5),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    found = parse_yaml(f"a: {text}").data["a"]
    assert found == value
    assert type(found) is type(value)
    assert parse_yaml(dump_yaml({"a": value})).data == {"a": value}
